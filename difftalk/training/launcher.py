"""The launcher: several processes on this machine that train together, signalled and ended as one.

It stays beside `torchrun`, whose workers outlive it when it gets SIGKILL, and which exits with 1 whatever
status a worker ended with (`python benchmarks/launchers.py`). The processes find each other by the same
variables, so any other launcher will do as well.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType

from difftalk.runtime import ancestors, device
from difftalk.runtime.errors import UserError
from difftalk.runtime.progress import say
from difftalk.training.signals import STOP_SIGNALS

GRACE_S = 10.0  # after one process has failed, until the others, which would wait for it, are killed
PR_SET_PDEATHSIG = 1  # Linux: the signal that a process gets when its parent dies


def rank() -> int | None:
    """Return the number of this process among those that train together; None without a launcher."""
    given = os.environ.get("RANK")
    return None if given is None else int(given)


def local_rank() -> int:
    """Return the number of this process among those of this machine; 0 without a launcher."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def world_size() -> int:
    """Return the number of processes that train together; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def check_devices(stage: str) -> None:
    """Check that each process of this machine has a GPU of its own, or that there is none here.

    Raises:
        UserError: if there are fewer GPUs than processes, or none where one is reserved.
        SystemExit: with status 2 in its place, in all but the first process of this machine, which speaks.
    """
    try:
        device.check_processes(stage, int(os.environ.get("LOCAL_WORLD_SIZE", local_rank() + 1)))
    except UserError:
        if local_rank():
            raise SystemExit(2) from None
        raise


def launch(processes: int, argv: Sequence[str], module: str = "difftalk") -> int:
    """Run a command in several processes that train together.

    SIGTERM and SIGUSR1 are forwarded to all. CPU threads (`OMP_NUM_THREADS`) are shared out among them.

    Args:
        processes: how many.
        argv: arguments of the command.
        module: the command, as `python -m` takes it.

    Returns:
        0, or the exit status of the first that failed; 128 + the signal's number where a signal ended it.
    """
    threads = max(1, int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1) // processes)
    shared = {
        "WORLD_SIZE": processes,
        "LOCAL_WORLD_SIZE": processes,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": _free_port(),
        "OMP_NUM_THREADS": threads,
    }
    children = []
    for number in range(processes):
        environment = {k: str(v) for k, v in (shared | {"RANK": number, "LOCAL_RANK": number}).items()}
        command = [sys.executable, "-m", module, *argv]
        child = subprocess.Popen(
            command,
            env=os.environ | environment,
            preexec_fn=_end_with_parent,  # noqa: PLW1509 - there are no threads yet
        )
        children.append(child)

    def forward(number: int, frame: FrameType | None) -> None:
        for child in children:
            child.send_signal(number)

    for number in STOP_SIGNALS:
        signal.signal(number, forward)
    ancestors.watch()  # now, as `preexec_fn` must not meet its thread

    failed, since = 0, 0.0
    try:
        with ancestors.time_for_checkpoint():
            while None in [child.poll() for child in children]:
                if not failed:
                    failed = next((c.returncode for c in children if c.returncode), 0)
                    since = time.monotonic()
                elif time.monotonic() - since > GRACE_S:
                    break
                time.sleep(0.1)
    finally:
        for child in children:
            child.kill()
            child.wait()
    failed = failed or next((c.returncode for c in children if c.returncode), 0)
    if failed == -signal.SIGKILL:
        say(
            f"{argv[0]}: one of {processes} processes was killed: most likely the memory was not enough. Run "
            "it with smaller batches, or more memory for the job; the same command continues"
        )
    return failed if failed >= 0 else 128 - failed


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _end_with_parent() -> None:
    """Let the kernel kill this process when its parent dies, however that happens (Linux)."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
