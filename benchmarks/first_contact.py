"""First contact with a GPU: does every path run there, does it compute what the CPU does, and how fast is it?

python benchmarks/first_contact.py OUT.json [--compile] [--without PART ...]

Some five minutes on a data-centre card, and with --compile five more. At the paper's sizes: rates of matrix
products and of memory; a training step against the official formulation (`training_step.py`); sampling
against the released inference (`official_formulation.py`); first stage and landmark networks; and which
kernels a step spends its time in. Then every path that can use a GPU, once at a small size, on the GPU and,
beside it, on the CPU (`device_paths.py`). OUT.json has every figure, OUT.md the tables, both written after
each part. Without a GPU the small paths are run alone, and it is said what was left out.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import official_formulation
import torch
import training_step
from device_paths import run_paths
from face_alignment.detection.sfd.net_s3fd import s3fd
from face_alignment.models import FAN

from difftalk.face.face_alignment_backend import Networks
from difftalk.models.autoencoder import build_autoencoder, decode_latents, encode_frames
from difftalk.runtime.device import default_device

CUDA = torch.cuda.is_available()
# Largest relative difference between devices that rounding explains, root mean square: float32 with TF32
# in convolutions; where there is bf16; and what a few steps of a training make of either.
BOUNDS = {"bf16": 3e-2, "compiled": 3e-2, "landmark": 3e-2, "": 5e-3}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--compile", action="store_true", help="torch.compile too")
    parser.add_argument("--without", nargs="*", default=[], choices=[*PARTS], help="parts to leave out")
    parser.add_argument("--batch", type=int, default=64, help="of the training step; the paper's by default")
    args = parser.parse_args()

    report: dict[str, Any] = {"machine": machine()}
    print(json.dumps(report["machine"], indent=1), flush=True)
    for name, part in PARTS.items():
        if name in args.without:
            report[name] = "left out by --without"
        elif name.startswith("compiled") and not args.compile:
            report[name] = "left out without --compile"
        elif not CUDA and name != "paths":
            report[name] = "left out: no GPU"
        else:
            began = time.monotonic()
            try:
                report[name] = part(args)
            except Exception as e:  # of one part; the others are wanted all the more
                report[name] = f"{type(e).__name__}: {e}"
            if isinstance(report[name], dict):
                report[name]["seconds"] = time.monotonic() - began
            torch.cuda.empty_cache()
        print(f"\n## {name}\n\n{shown(report[name])}", flush=True)
        args.out.write_text(json.dumps(report, indent=1))
        tables = "\n\n".join(f"## {name}\n\n{shown(part)}" for name, part in report.items())
        args.out.with_suffix(".md").write_text(f"{tables}\n")


def machine() -> dict[str, Any]:
    """What it is measured on."""
    about: dict[str, Any] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "built for CUDA": torch.version.cuda,
        "cores": len(os.sched_getaffinity(0)),
    }
    if CUDA:
        free, total = torch.cuda.mem_get_info()
        driver = Path("/proc/driver/nvidia/version")
        about |= {
            "GPU": torch.cuda.get_device_name(),
            "capability": ".".join(map(str, torch.cuda.get_device_capability())),
            "memory GB": round(total / 1e9, 1),
            "free GB": round(free / 1e9, 1),
            "cuDNN": torch.backends.cudnn.version(),
            "driver": driver.read_text().split("\n")[0] if driver.is_file() else None,
        }
    return about


def rates(args: argparse.Namespace) -> dict[str, Any]:
    """TFLOP/s of large products, and TB/s of a copy."""
    found = {"bf16 TFLOP/s": training_step.matmul_rate(torch.bfloat16)}
    found["float32 TFLOP/s"] = training_step.matmul_rate(torch.float32)
    torch.set_float32_matmul_precision("high")
    found["TF32 TFLOP/s"] = training_step.matmul_rate(torch.float32)
    torch.set_float32_matmul_precision("highest")
    a = torch.empty(2 << 30, dtype=torch.uint8, device="cuda")
    b = torch.empty_like(a)
    found["copy TB/s"] = 2 * a.numel() / seconds_of(lambda: b.copy_(a)) / 1e12
    return found


def paths(args: argparse.Namespace) -> dict[str, Any]:
    """Run every path here and on the CPU, and compare."""
    with tempfile.TemporaryDirectory() as folder:
        other = Path(folder) / "cpu.npz"
        command = [sys.executable, str(Path(__file__).with_name("device_paths.py")), str(other)]
        environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "4"}
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as child:
            found, failed, seconds = run_paths()
            _, errors = child.communicate()
        expected = dict(np.load(other)) if other.is_file() else {}
    rows = [
        compared(path, took, found.get(path, {}), expected, failed.get(path))
        for path, took in seconds.items()
    ]
    return {"device": default_device(), "rows": rows, "errors of the CPU's run": errors[-2000:]}


def compared(
    path: str,
    seconds: float,
    found: dict[str, np.ndarray],
    expected: dict[str, np.ndarray],
    error: str | None,
) -> dict[str, Any]:
    """A row of the table: how far each array of a path is from the CPU's, and what that means."""
    bound = next(value for key, value in BOUNDS.items() if key in path)
    apart = {
        name: float(np.linalg.norm(array - expected[f"{path}/{name}"]))
        / max(float(np.linalg.norm(expected[f"{path}/{name}"])), 1e-12)
        for name, array in found.items()
        if f"{path}/{name}" in expected
    }
    if error is not None:
        said = error
    elif len(apart) < len(found):
        said = "failed on the CPU"
    else:
        said = "as on the CPU" if max(apart.values()) <= bound else f"more than {bound:g} apart"
    return {"path": path, "seconds": round(seconds, 2), **apart, "said": said}


def training(args: argparse.Namespace) -> dict[str, Any]:
    """A training step at the paper's size, ours and the official formulation."""
    return steps_of(args, "official formulation", "ours")


def compiled_training(args: argparse.Namespace) -> dict[str, Any]:
    """The same step of ours under torch.compile, beside the uncompiled one."""
    return steps_of(args, "ours", "ours, compiled")


def steps_of(args: argparse.Namespace, *wanted: str) -> dict[str, Any]:
    """Take steps of these recipes in turn; `times official` of the table is against the first one."""
    sizes = training_step.Sizes(batch=args.batch, repeats=4)
    recipes = [recipe for recipe in training_step.RECIPES if recipe.name in wanted]
    began = time.monotonic()
    gigaflop, runners = training_step.compare(sizes, recipes)
    rate = training_step.matmul_rate(torch.bfloat16)
    return {
        "GFLOP per image": gigaflop,
        "bf16 TFLOP/s": rate,
        "seconds with compilation": time.monotonic() - began,
        "table": training_step.table(sizes, gigaflop, runners, rate),
        "steps": {r.recipe.name: {"seconds": r.seconds, "peak bytes": r.peak} for r in runners},
        "kernels": {r.recipe.name: kernels(partial(r.step, 9)) for r in runners[1:]},
    }


def sampling(args: argparse.Namespace) -> dict[str, Any]:
    """Sampling at the paper's size: 20 steps for the ratio, ours with 200 and 10 steps for the rate."""
    return sampled(released_steps=(200,), steps=(200, 10), compile=False)


def compiled_sampling(args: argparse.Namespace) -> dict[str, Any]:
    """The same in bf16 under torch.compile, as the stage has it where there is a compiler."""
    return sampled(released_steps=(), steps=(200, 10), compile=True)


def sampled(released_steps: Sequence[int], steps: Sequence[int], **common: Any) -> dict[str, Any]:
    """Time the released inference, and ours with `common` settings, from pixels to pixels."""
    # Two full passes of ours, and two batches of the released one.
    sizes = official_formulation.Sizes(32, 256, (256, 512, 768, 1024), 2, 32, (128, 256, 512), 8192)
    released = official_formulation.RELEASED | {"steps": 20} | common
    named: dict[str, dict[str, Any]] = {"ours, bf16": {**released, "precision": "bf16"}}
    if not common.get("compile"):
        named["ours, the same latents"] = released
    for number in steps:
        named[f"ours, bf16, {number} steps"] = {"steps": number, "precision": "bf16", **common}
    rows = official_formulation.compare(sizes, 20, named, 1, "cuda")
    batch = official_formulation.Sizes(**{**vars(sizes), "frames": official_formulation.BATCH})
    clip, pipeline = official_formulation.Clip(batch.frames, batch.size), batch.pipeline("cuda")
    for number in released_steps:
        began = time.monotonic()
        official_formulation.official(pipeline, clip, number, "cuda")
        took = 1000 * (time.monotonic() - began) / batch.frames
        rows.append({"way": f"released inference, {number} steps", "ms": took})
    return {"rows": rows}


def kernels(call: Callable[[], object]) -> dict[str, float]:
    """Milliseconds on the GPU of the fifteen kernels that take longest in a call, of all, and of the host."""
    kinds = torch.profiler.ProfilerActivity
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[kinds.CPU, kinds.CUDA]) as profile:
        began = time.monotonic()
        call()
        torch.cuda.synchronize()
        took = 1000 * (time.monotonic() - began)
    found = Counter[str]()
    for event in profile.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            found[event.name[:100]] += event.self_device_time_total / 1000
    return {
        "call, with the profiler": took,
        "all kernels": sum(found.values()),
        **dict(found.most_common(15)),
    }


def stages(args: argparse.Namespace) -> dict[str, Any]:
    """Frames a second of the first stage at 256 px and of the landmark networks, as the stages run them."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (64, 256, 256, 3), dtype=np.uint8)
    model = build_autoencoder((128, 256, 512), 2, 8192).eval().requires_grad_(False).to("cuda")
    found = encode_frames(model, frames)
    nets = Networks(s3fd(), FAN(4), "cuda")
    scene = [rng.integers(0, 256, (1080, 1920, 3), dtype=np.uint8)] * 32
    boxes = [np.array([60.0, 60, 200, 200])] * 32
    ways: dict[str, tuple[int, Callable[[], object]]] = {
        "encode": (64, lambda: encode_frames(model, frames)),
        "decode": (64, lambda: decode_latents(model, found)),
        "detect faces in 1080p": (32, lambda: nets.detect(scene, 64)),
        "landmarks": (32, lambda: nets.landmarks(scene, boxes)),
    }
    return {f"{name}, frames/s": count / seconds_of(way, 3) for name, (count, way) in ways.items()}


def seconds_of(call: Callable[[], object], repeats: int = 10) -> float:
    """The median time of a call after two others."""
    taken = []
    for _ in range(repeats + 2):
        torch.cuda.synchronize()
        began = time.monotonic()
        call()
        torch.cuda.synchronize()
        taken.append(time.monotonic() - began)
    return statistics.median(taken[2:])


def shown(part: Any) -> str:
    """A part of the report in Markdown."""
    if not isinstance(part, dict):
        return str(part)
    lines = [
        f"- {k}: {_number(v)}" for k, v in part.items() if isinstance(v, str | int | float) and k != "table"
    ]
    if "table" in part:
        lines += ["", part["table"]]
    for name, of in part.get("kernels", {}).items():
        lines += ["", f"{name}, ms of kernels:"] + [f"- {_number(ms)}: {kernel}" for kernel, ms in of.items()]
    for row in part.get("rows", []):
        lines.append("- " + ", ".join(f"{k} {_number(v)}" for k, v in row.items()))
    return "\n".join(lines)


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "rates": rates,
    "training": training,
    "sampling": sampling,
    "compiled_training": compiled_training,
    "compiled_sampling": compiled_sampling,
    "stages": stages,
    "paths": paths,
}

if __name__ == "__main__":
    main()
