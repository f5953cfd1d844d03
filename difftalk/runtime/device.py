"""The device that a stage runs on: chosen in one place, refused where a reserved GPU is missing, and said."""

import ctypes
import os
import re
import shutil
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from difftalk.runtime.errors import UserError
from difftalk.runtime.progress import note

# Names of stages: as the workflow gives it to each command, those whose jobs have a GPU; from `begin` on, the
# command's own or none.
VARIABLE = "DIFFTALK_GPU"
# The key `precision` of a section, in words.
PRECISIONS = {"no": "float32", "bf16": "bf16"}
# Written by NVIDIA's kernel module, whatever a container or a job may use of it.
DRIVER = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True)
class Found:
    """What bears on why torch finds no GPU.

    Args:
        torch: its version.
        built: what it was built for, such as `CUDA 12.8` or `ROCm 6.4`; None: for CPUs only.
        driver: version of NVIDIA's kernel module; None where none is loaded.
        takes: the newest CUDA that the driver takes, by its library; None without the library.
        shown: CUDA_VISIBLE_DEVICES; None where it is not set.
    """

    torch: str
    built: str | None
    driver: str | None = None
    takes: str | None = None
    shown: str | None = None

    @classmethod
    def here(cls) -> "Found":
        """Look at this process and machine."""
        import torch

        versions = {"CUDA": torch.version.cuda, "ROCm": torch.version.hip}
        built = next((f"{platform} {version}" for platform, version in versions.items() if version), None)
        shown = os.environ.get("CUDA_VISIBLE_DEVICES")
        return cls(torch.__version__, built, driver_version(), _cuda_of_driver(), shown)

    def sentence(self, asked: str, instead: str) -> str:
        """Say that torch finds no GPU, what it was built for, what the driver has, and what to do.

        Args:
            asked: what asks for one, such as `score: evaluation.device is cuda`.
            instead: what to do without one, such as `set gpu: 0`.
        """
        wheel = f"torch {self.torch} is built for {self.built or 'CPUs only'}"
        has, then = self._driver_and_advice()
        return f"{asked}, and torch finds none: {wheel}; {has}. {then}, or {instead}"

    def _driver_and_advice(self) -> tuple[str, str]:
        if self.driver is None:
            other = "" if self.built else ", with a torch that is built for CUDA"
            return "no NVIDIA driver runs on this machine", f"Run it where one does{other}"
        known = f"the NVIDIA driver {self.driver} runs CUDA up to {self.takes}"
        if self.takes is None:
            return (
                f"the NVIDIA driver {self.driver} is loaded, but its library libcuda.so.1 is not found",
                "Start the container with its GPUs (docker --gpus all, apptainer --nv)",
            )
        if self.built is None or _major(self.built.removeprefix("CUDA ")) > _major(self.takes):
            return known, f"Install a torch that is built for CUDA {self.takes} or older"
        if self.shown is not None:
            return (
                f"{known}, and CUDA_VISIBLE_DEVICES is {self.shown!r}",
                "Unset it, or name a GPU that is there",
            )
        return (
            f"{known}, but shows this process no GPU",
            "See what nvidia-smi lists; on a cluster, ask for a GPU in the profile",
        )


def begin(stage: str) -> None:
    """Keep for this process, and for those that it starts, what is reserved for its stage alone."""
    reserved = os.environ.pop(VARIABLE, "").split()
    if stage in reserved:
        os.environ[VARIABLE] = stage


def default_device() -> str:
    """Return `cuda` where torch can use a GPU, else `cpu`.

    Raises:
        UserError: if a GPU is reserved for this stage, and torch finds none.
    """
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if stage := os.environ.get(VARIABLE):
        raise UserError(
            Found.here().sentence(f"{stage}: gpu in the configuration reserves a GPU", "set gpu: 0")
        )
    return "cpu"


def require_cuda(asked: str, instead: str) -> None:
    """Check that torch can use a GPU.

    Args:
        asked: what asks for one, such as `score: evaluation.device is cuda`.
        instead: what to do without one.

    Raises:
        UserError: if it cannot; with both, and why.
    """
    import torch

    if not torch.cuda.is_available():
        raise UserError(Found.here().sentence(asked, instead))


def check_processes(stage: str, processes: int) -> None:
    """Check that each process of a stage on this machine has a GPU of its own, or that none has one.

    Raises:
        UserError: if there are fewer GPUs than processes; as `default_device`.
    """
    import torch

    count = torch.cuda.device_count() if default_device() == "cuda" else 0
    if 0 < count < processes:
        shown = os.environ.get("CUDA_VISIBLE_DEVICES")
        only = "" if shown is None else f" (CUDA_VISIBLE_DEVICES is {shown!r})"
        raise UserError(
            f"{stage}: {processes} processes, each of which needs a GPU of its own, and torch finds {count} "
            f"here{only}: set training_processes: {count} or fewer, or run it where there are more"
        )


def name_of(device: object) -> str:
    """Return the name of a device for people: that of the GPU, or `the CPU`."""
    import torch

    found = torch.device(str(device))
    return torch.cuda.get_device_name(found) if found.type == "cuda" else "the CPU"


def tell(stage: str, device: object, *facts: str) -> None:
    """Write into the log on which device a stage computes, and how.

    >>> tell("encode", "cpu", "float32")  # on stderr: encode: on the CPU, float32
    """
    note(f"{stage}: {', '.join([f'on {name_of(device)}', *facts])}")


def compiles(choice: Literal["auto"] | bool, device: object, key: str) -> tuple[bool, str]:
    """Return whether a network is compiled by torch.compile, and in words whether, and why not.

    `auto` compiles on a GPU, if there is what torch.compile needs there.

    Args:
        choice: the setting.
        device: of the network.
        key: of the setting, such as `training.compile`.
    """
    if choice != "auto":
        return choice, "compiled" if choice else f"not compiled ({key}: false)"
    lacking = "there is no GPU" if str(device).partition(":")[0] != "cuda" else _lacking_to_compile()
    return not lacking, f"not compiled: {lacking} ({key}: auto)" if lacking else "compiled"


def _lacking_to_compile() -> str:
    """What Triton would miss, which compiles a piece of C for each kernel; empty if nothing."""
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "there is no C compiler"
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        return f"there are no headers of Python {sysconfig.get_python_version()} (python3-dev)"
    return ""


def driver_version(file: Path = DRIVER) -> str | None:
    """Return the version of NVIDIA's kernel module, such as `570.133.20`; None where none is loaded."""
    try:
        said = file.read_text(errors="replace")
    except OSError:
        return None
    found = re.search(r"\b\d{3}\.\d+(\.\d+)*\b", said)
    return found[0] if found else "of an unknown version"


def _cuda_of_driver() -> str | None:
    """The newest CUDA that the driver takes, such as `12.8`; None without its library."""
    version = ctypes.c_int(0)
    try:
        status = ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return None
    return None if status or not version.value else f"{version.value // 1000}.{version.value % 1000 // 10}"


def _major(version: str) -> int:
    """The first number of a version; 0 of one that begins with a word."""
    first = version.partition(".")[0]
    return int(first) if first.isdigit() else 0
