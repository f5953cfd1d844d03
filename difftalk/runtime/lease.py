"""A GPU for each job of one machine: who takes one holds its lock, and others take another or wait.

Snakemake counts GPUs (`--resources gpu=4`) and hands out none: without a lease all jobs would run on the
first. Under SLURM, which gives each job its own, none is needed.
"""

import os
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from difftalk.runtime import device
from difftalk.runtime.errors import UserError
from difftalk.runtime.lock import file_lock
from difftalk.runtime.progress import say

VISIBLE = "CUDA_VISIBLE_DEVICES"
POLL_S = 1.0

# Held until this process ends, however that happens: the kernel gives the locks back.
_held = ExitStack()


def visible(environment: Mapping[str, str] = os.environ, devices: Path = Path("/dev")) -> list[str]:
    """Return the names of the GPUs that this process may use, without asking CUDA.

    Those in CUDA_VISIBLE_DEVICES, or else the numbers of all that have a file in `/dev`.

    Args:
        environment: of the process.
        devices: the folder of device files.
    """
    if (given := environment.get(VISIBLE)) is not None:
        names = [name.strip() for name in given.split(",")]
        # As CUDA reads it: up to the first that names nothing.
        end = next((i for i, name in enumerate(names) if name in ("", "-1")), len(names))
        return names[:end]
    files = [path for path in devices.glob("nvidia*") if re.fullmatch(r"nvidia\d+", path.name)]
    return [str(number) for number in range(len(files))]


def lease(stage: str, count: int, folder: Path | None = None) -> None:
    """Take GPUs of this machine for this process and its children, if some are reserved for its stage.

    CUDA_VISIBLE_DEVICES names them from then on. While too few are free, this waits.

    Args:
        stage: of the command, for which `device.begin` was called.
        count: how many GPUs.
        folder: of the locks; by default one of this user's in /tmp, the same for all runs.

    Raises:
        UserError: if the folder of the locks cannot be made, or is somebody else's.
    """
    names = visible()
    if os.environ.get(device.VARIABLE) != stage or "SLURM_JOB_ID" in os.environ or len(names) < count:
        return  # more than there are is refused when the stage looks for them
    folder = folder or _own_folder()
    waits = False
    while (taken := _free(names, count, folder)) is None:
        if not waits:
            say(f"{stage}: waits for {count} of the GPUs {', '.join(names)}: other jobs have them")
            waits = True
        time.sleep(POLL_S)
    os.environ[VISIBLE] = ",".join(taken)
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # else numbers are by speed


def _free(names: Sequence[str], count: int, folder: Path) -> list[str] | None:
    """Lock `count` of the GPUs and return their names; None, and no lock, where fewer are free."""
    taken: list[str] = []
    with ExitStack() as locks:
        for name in names:
            if len(taken) == count:
                break
            try:
                locks.enter_context(file_lock(folder / re.sub(r"\W", "_", name), wait=False))
            except UserError:
                continue
            except OSError as e:
                raise UserError(
                    f"{folder}: the lock of GPU {name} cannot be opened ({e.strerror}): delete it"
                ) from e
            taken.append(name)
        if len(taken) < count:
            return None
        _held.enter_context(locks.pop_all())
    return taken


def _own_folder() -> Path:
    """The folder of this user's locks on this machine, made where it is missing."""
    folder = Path("/tmp", f"difftalk-gpus-{os.getuid()}")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        about = folder.lstat()
    except OSError as e:
        raise UserError(f"{folder}: no locks for GPUs can be kept there: {e.strerror}") from None
    if about.st_uid != os.getuid() or not folder.is_dir() or folder.is_symlink():
        raise UserError(
            f"{folder} is not a folder of yours, so that no locks for GPUs can be kept: remove it"
        )
    return folder
