"""Where a stage runs: a reserved GPU that is missing ends it, and the log says which device it was."""

import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest
import torch
from conftest import TINY, Finished, snakemake
from small_training import difftalk_train, write_made

from difftalk.runtime import device
from difftalk.runtime.device import Found
from difftalk.runtime.errors import UserError
from difftalk.training import launcher

ASKED, INSTEAD = "train: gpu is 1", "set gpu: 0"
RESERVED = "gpu in the configuration reserves a GPU, and torch finds none: torch "


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the GPUs of this machine from the tests and their commands; nothing is reserved."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # it may have been asked before
    for name in (device.VARIABLE, "LOCAL_WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


def test_a_reserved_gpu_that_is_missing_is_an_error_of_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    assert device.default_device() == "cpu"
    monkeypatch.setenv(device.VARIABLE, "train encode")
    device.begin("encode")
    with pytest.raises(UserError, match=f"^encode: {RESERVED}.* or set gpu: 0$"):
        device.default_device()
    monkeypatch.setenv(device.VARIABLE, "train encode")
    device.begin("animate")
    assert device.default_device() == "cpu", "it is reserved for others"


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (
            Found("2.9", None),
            "torch 2.9 is built for CPUs only; no NVIDIA driver runs on this machine. "
            "Run it where one does, with a torch that is built for CUDA",
        ),
        (
            Found("2.9", "CUDA 12.8"),
            "torch 2.9 is built for CUDA 12.8; no NVIDIA driver runs on this machine. Run it where one does",
        ),
        (
            Found("2.9", None, "570.133.20", "12.8"),
            "torch 2.9 is built for CPUs only; the NVIDIA driver 570.133.20 runs CUDA up to 12.8. "
            "Install a torch that is built for CUDA 12.8 or older",
        ),
        (
            Found("2.15", "CUDA 13.2", "570.133.20", "12.8"),
            "torch 2.15 is built for CUDA 13.2; the NVIDIA driver 570.133.20 runs CUDA up to 12.8. "
            "Install a torch that is built for CUDA 12.8 or older",
        ),
        (
            Found("2.9", "CUDA 12.8", "570.133.20", None),
            "torch 2.9 is built for CUDA 12.8; the NVIDIA driver 570.133.20 is loaded, but its library "
            "libcuda.so.1 is not found. Start the container with its GPUs (docker --gpus all, "
            "apptainer --nv)",
        ),
        (
            # Minor versions of one CUDA are compatible.
            Found("2.9", "CUDA 12.8", "535.54.03", "12.2", ""),
            "torch 2.9 is built for CUDA 12.8; the NVIDIA driver 535.54.03 runs CUDA up to 12.2, and "
            "CUDA_VISIBLE_DEVICES is ''. Unset it, or name a GPU that is there",
        ),
        (
            Found("2.9", "CUDA 12.8", "570.133.20", "12.8"),
            "torch 2.9 is built for CUDA 12.8; the NVIDIA driver 570.133.20 runs CUDA up to 12.8, but shows "
            "this process no GPU. See what nvidia-smi lists; on a cluster, ask for a GPU in the profile",
        ),
        (
            Found("2.9", "ROCm 6.4"),
            "torch 2.9 is built for ROCm 6.4; no NVIDIA driver runs on this machine. Run it where one does",
        ),
    ],
)
def test_the_error_says_why_torch_finds_none_and_what_to_do(found: Found, said: str) -> None:
    assert found.sentence(ASKED, INSTEAD) == f"train: gpu is 1, and torch finds none: {said}, or set gpu: 0"


@pytest.mark.parametrize("kind", ["x86_64 Kernel Module", "Open Kernel Module for x86_64"])
def test_the_version_of_the_driver(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "version"
    file.write_text(
        f"NVRM version: NVIDIA UNIX x86_64 {kind}  570.133.20  Sun Mar 30 2026\nGCC version: 12.3.0\n"
    )
    assert device.driver_version(file) == "570.133.20"
    assert device.driver_version(tmp_path / "none") is None


def test_what_is_compiled_and_why_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def said(choice: "bool | str", of: str = "cuda:0") -> str:
        compiled, words = device.compiles(choice, of, "training.compile")  # type: ignore[arg-type]
        assert compiled == (words == "compiled")
        return words

    assert said(True, "cpu") == "compiled"
    assert said(False) == "not compiled (training.compile: false)"
    assert said("auto", "cpu") == "not compiled: there is no GPU (training.compile: auto)"
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setenv("CC", "cc")
    assert said("auto") == "compiled"
    (tmp_path / "Python.h").unlink()
    assert said("auto").startswith("not compiled: there are no headers of Python 3")
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert said("auto") == "not compiled: there is no C compiler (training.compile: auto)"


def test_the_log_says_the_name_of_the_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H200")
    device.tell("train", torch.device("cuda", 0), "bf16", "compiled")
    device.tell("encode", "cpu", "float32")
    assert capsys.readouterr().err == "train: on NVIDIA H200, bf16, compiled\nencode: on the CPU, float32\n"


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    launcher.check_devices("train")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    launcher.check_devices("train")  # on CPUs as many as one likes
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    with pytest.raises(UserError) as raised:
        launcher.check_devices("train")
    assert str(raised.value) == (
        "train: 4 processes, each of which needs a GPU of its own, and torch finds 2 here "
        "(CUDA_VISIBLE_DEVICES is '2,3'): set training_processes: 2 or fewer, or run it where there are more"
    )
    monkeypatch.setenv("LOCAL_RANK", "3")
    with pytest.raises(SystemExit) as ended:
        launcher.check_devices("train")
    assert ended.value.code == 2, "the first speaks for all"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")
    launcher.check_devices("train")


def test_a_training_says_its_device_in_the_log_alone(tmp_path: Path) -> None:
    made = write_made(tmp_path)
    done = subprocess.run(difftalk_train(made, "told", 2), capture_output=True, text=True, check=True)
    lines = (made / "told.log").read_text().splitlines()
    assert lines[0] == (
        "train told: on the CPU, float32, not compiled: there is no GPU (training.compile: auto), 2 processes"
    )
    assert "on the CPU" not in done.stderr


def test_one_process_of_a_training_says_that_its_gpu_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = write_made(tmp_path)
    monkeypatch.setenv(device.VARIABLE, "encode train")
    done = subprocess.run(difftalk_train(made, "none", 2), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"difftalk train: train: {RESERVED}") and done.stderr.count("\n") == 1
    assert (made / "none.log").read_text() == done.stderr
    assert not list((made / "state-none").glob("*.pt"))


# Of the workflow.


def encode_again(folder: Path, *arguments: str) -> Finished:
    """Encode the test shard of a tiny run anew."""
    shard = "results/tiny/shards/test-000.tar"
    return snakemake(shard, "--configfile", TINY, "--forcerun", "encode", *arguments, directory=folder)


def test_a_job_that_reserved_a_gpu_does_not_fall_to_the_cpu(tiny_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(tiny_run, folder, symlinks=True)

    def ended(*arguments: str) -> int:
        done = encode_again(folder, *arguments)
        refused = f"difftalk encode: encode: {RESERVED}" in done.said
        log = (folder / "results/tiny/logs/encode/test-000.log").read_text()
        assert refused == (f"encode: {RESERVED}" in log) == (done.status != 0), done.said
        assert refused or log.startswith("encode: on the CPU, float32\n")
        return done.status

    assert ended("--config", "gpu=1") == 1
    assert ended() == 0
    # A profile may take a GPU off a stage, and may ask for it in another way.
    assert ended("--config", "gpu=1", "--set-resources", "encode:gpu=0") == 0
    by_gres = ("encode:gpu=0", "encode:gres='gpu:1'")
    assert ended("--config", "gpu=1", "--set-resources", *by_gres) == 1


def test_what_is_copied_needs_no_gpu(tmp_path: Path) -> None:
    targets = ("results/demo/models/autoencoder", "results/demo/models/syncnet")
    done = snakemake(*targets, "--config", "gpu=1", directory=tmp_path)
    assert done.status == 0, done.said
