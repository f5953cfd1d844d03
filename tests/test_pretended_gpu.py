"""Every path that can use a GPU, on a pretended one: no tensor is on the wrong device, and few waits for it.

The paths are those of `benchmarks/device_paths.py`, which `benchmarks/first_contact.py` runs on a real one.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
# Compilation is of kernels, which are not pretended.
PATHS = (
    "latents", "sampled", "sampled_dpm", "sampled_unipc", "sampled_eta", "sampled_bf16",
    "sampled_progressively", "sampled_through_pixels", "denoiser_float32", "denoiser_bf16",
    "first_stage", "first_stage_bf16", "sync_expert", "landmark_networks", "deepspeech",
    "sync_network", "metric_networks",
)  # fmt: skip
STEPS = 8  # of the trainings
READ_AT_LOGS = (
    "check_loss",
    "<dictcomp>",
    "log",
    "codes_in_use",
    "codebook_use",
    "measure",
    "to_frames",
    "finish",
)


def environment() -> dict[str, str]:
    folders = os.pathsep.join([str(ROOT), str(ROOT / "benchmarks"), str(ROOT / "tests")])
    return os.environ | {"PYTHONPATH": folders, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Any, Any]:
    """What is said of each path on the pretended GPU, what it computed, and what the CPU did."""
    folder = tmp_path_factory.mktemp("paths")
    on_the_cpu = [sys.executable, f"{ROOT}/benchmarks/device_paths.py", f"{folder}/cpu.npz", *PATHS]
    pretended = [sys.executable, f"{ROOT}/tests/pretended_gpu.py", str(folder), *PATHS]
    with subprocess.Popen(on_the_cpu, env=environment(), stderr=subprocess.PIPE) as other:
        run = subprocess.run(pretended, env=environment(), capture_output=True, text=True)
        _, errors = other.communicate()
    assert run.returncode == 0, run.stderr[-3000:]
    assert other.returncode == 0, errors.decode()[-3000:]
    report = json.loads((folder / "waits.json").read_text())
    assert not {name: of["error"] for name, of in report.items() if "error" in of}, run.stderr[-5000:]
    return report, np.load(folder / "found.npz"), np.load(folder / "cpu.npz")


@pytest.mark.parametrize("path", PATHS)
def test_a_path_computes_there_what_it_computes_on_the_cpu(path: str, ran: Any) -> None:
    report, found, expected = ran
    assert report[path]["operations"] > 50, "it did not run there"
    names = [name for name in expected.files if name.startswith(f"{path}/")]
    assert names
    for name in names:
        # Passes are larger there, and some operations have another order.
        apart = np.linalg.norm(found[name] - expected[name]) / np.linalg.norm(expected[name])
        assert apart < (3e-2 if "bf16" in path or path == "landmark_networks" else 1e-3), name


def test_the_denoisers_training_and_the_steps_of_sampling_wait_for_nothing(ran: Any) -> None:
    report, _, _ = ran
    for path in ("denoiser_float32", "denoiser_bf16"):
        assert report[path]["waits"] == {}
    result = "copied to the CPU at sampling/frame_sampler.py:sample"
    for path in ("sampled", "sampled_dpm", "sampled_unipc", "sampled_eta", "sampled_bf16"):
        assert report[path]["waits"] == {result: 1}
    # Each frame is the reference of the next one, and in pixels both ways through the first stage.
    assert report["sampled_progressively"]["waits"] == {result: 3}
    assert report["sampled_through_pixels"]["waits"] == {
        result: 3,
        "copied to the CPU at models/autoencoder.py:to_frames": 2,
        "copied to the CPU at models/autoencoder.py:encode_frames": 2,
    }


def test_other_trainings_wait_for_what_they_log(ran: Any) -> None:
    report, _, _ = ran
    for path in ("first_stage", "first_stage_bf16"):
        waits = report[path]["waits"]
        rest = {where: n for where, n in waits.items() if where.rsplit(":", 1)[1] not in READ_AT_LOGS}
        assert rest == {"size depends on data at training/first_stage.py:redraw_unused": 1}
    waits = report["sync_expert"]["waits"]
    assert waits["numbers read at training/sync_expert.py:train_syncnet"] == STEPS


def test_passes_wait_for_their_results_only(ran: Any) -> None:
    report, _, _ = ran
    assert report["latents"]["waits"] == {
        "copied to the CPU at models/autoencoder.py:encode_frames": 3,
        "copied to the CPU at models/autoencoder.py:to_frames": 3,
    }
    assert report["sync_network"]["waits"] == {
        "copied to the CPU at models/syncnet.py:audio_embeddings": 1,
        "copied to the CPU at models/syncnet.py:video_embeddings": 1,
    }
    assert report["deepspeech"]["waits"] == {"copied to the CPU at elsewhere": 1}
    assert report["landmark_networks"]["waits"] == {
        "copied to the CPU at elsewhere": 2,
        "copied to the CPU at face/face_alignment_backend.py:<genexpr>": 2,  # a batch of heat maps each
        "copied to the CPU at face/face_alignment_backend.py:_detect": 4,
        "size depends on data at face/face_alignment_backend.py:_boxes": 12,  # of six resolutions
    }
    assert report["metric_networks"]["waits"] == {
        "copied to the CPU at models/networks.py:gather": 5,
        "copied to the CPU at evaluation/st_lpips.py:__call__": 1,
    }


def pretended(code: str) -> str:
    """What `code` prints in a process with a pretended GPU."""
    text = f"import pretended_gpu as p\np.install()\nimport torch\n{code}"
    run = subprocess.run([sys.executable, "-c", text], env=environment(), capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    return run.stdout


def test_the_instrument_refuses_and_counts_what_a_gpu_would() -> None:
    said = pretended(
        """
x = torch.arange(6.0, device="cuda").view(2, 3)
print(x.device, x.is_cuda, (x + 1).device, x[:, 1].cpu().device)
for mixed in (lambda: x + torch.ones(3), lambda: torch.cat([x, torch.ones(1, 3)]), lambda: x.numpy()):
    try:
        mixed()
        print("not refused")
    except (p.DeviceMismatch, TypeError) as e:
        print(type(e).__name__)
print((x + torch.tensor(1.0)).sum().device, x[torch.tensor([0])].device)
p.waits.clear()
x.sum().item(), x.tolist(), x.cpu(), (x > 1).nonzero(), x[x > 1], bool(x.any())
copied = x.to("cpu", non_blocking=True)
x * 2, x.argmax(), x.clamp_(min=0)
print(p.waits.total(), float(copied.sum()), torch.cuda.Event().synchronize(), float(copied.sum()))
try:
    x[torch.tensor([0])] = torch.ones(1, 3)
    print("not refused")
except p.DeviceMismatch:
    print("refused")
"""
    )
    assert said.splitlines() == [
        "cuda:0 True cuda:0 cpu", "DeviceMismatch", "DeviceMismatch", "TypeError", "cuda:0 cuda:0",
        "6 0.0 None 15.0", "refused",
    ]  # fmt: skip


def test_the_instrument_trains_as_the_cpu_does() -> None:
    said = pretended(
        """
def trained(device):
    torch.manual_seed(0)
    convolution, norm = torch.nn.Conv2d(3, 8, 3), torch.nn.GroupNorm(2, 8)
    net = torch.nn.Sequential(convolution, norm, torch.nn.Flatten(), torch.nn.Linear(288, 1)).to(device)
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-2)
    for step in range(5):
        images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(step)).to(device)
        loss = net(images).square().mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
    return [x.detach().cpu() for x in net.parameters()], loss.device
(a, here), (b, there) = trained("cpu"), trained("cuda")
print(here, there, all(torch.equal(x, y) for x, y in zip(a, b)))
"""
    )
    assert said == "cpu cuda:0 True\n"
