"""One stage in several processes on this machine, that train together: started, signalled and ended as one.

In place of `torchrun`, whose processes outlive it when it is killed, which SIGUSR1 ends on the spot, and which tells of
every failure as status 1. The processes find each other by the same variables, so any other launcher will do as well.
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

LAST_WORDS_S = 10.0  # between the end of one process in failure and that of the others, who would wait for it
PR_SET_PDEATHSIG = 1  # Linux: the signal that a process gets when its parent dies


def rank() -> int | None:
    """The number of this process among those that train together; None where none was launched."""
    given = os.environ.get("RANK")
    return None if given is None else int(given)


def launch(processes: int, argv: Sequence[str]) -> int:
    """Run `difftalk ARGV` in `processes` processes and return 0, or the exit status of the first that failed.

    SIGTERM and SIGUSR1 are handed on to all. CPU threads (`OMP_NUM_THREADS`) are shared out among them.
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
        command = [sys.executable, "-m", "difftalk", *argv]
        children.append(
            subprocess.Popen(command, env=os.environ | environment, preexec_fn=_end_with_parent)  # noqa: PLW1509
        )

    def hand_on(number: int, frame: FrameType | None) -> None:
        for child in children:
            child.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, hand_on)

    failed, since = 0, 0.0
    try:
        while None in [child.poll() for child in children]:
            if not failed:
                failed = next((c.returncode for c in children if c.returncode), 0)
                since = time.monotonic()
            elif time.monotonic() - since > LAST_WORDS_S:
                break
            time.sleep(0.1)
    finally:
        for child in children:
            child.kill()
            child.wait()
    failed = failed or next((c.returncode for c in children if c.returncode), 0)
    return failed if failed >= 0 else 128 - failed


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
