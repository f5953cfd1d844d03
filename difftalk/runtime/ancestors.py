"""End a command of the workflow when the snakemake that started it, or a shell between them, is gone.

A killed snakemake takes nothing with it: its shells and their commands would run on, a training for days,
beside those of the next run. Linux can signal a process at the death of its direct parent alone, so that
each command looks once a second whether its ancestors are still those that it began with. A command that
somebody started by hand, or by `sbatch`, has no snakemake and is left alone.
"""

import os
import platform
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from difftalk.runtime.progress import say

# How snakemake tells the commands which process it is.
VARIABLE = "DIFFTALK_SNAKEMAKE"
POLL_S = 1.0
# From SIGTERM to the hard end. A training writes a checkpoint in between (`time_for_checkpoint`).
GRACE_S, CHECKPOINT_GRACE_S = 5.0, 120.0

_grace_s = GRACE_S


def announce() -> None:
    """Let the commands that this process starts end with it; the Snakefile calls this.

    Jobs of a cluster parse the Snakefile once more where they run: they end with the snakemake there.
    """
    os.environ[VARIABLE] = f"{machine()} {os.getpid()} {_state(os.getpid())[1]}"


def watch() -> None:
    """Watch the ancestors of this process in a thread, if a snakemake on this machine started it.

    When one is gone, this process gets SIGTERM from itself, and ends hard where that does not suffice.
    """
    where, _, head = os.environ.get(VARIABLE, "").partition(" ")
    if where == machine():
        pid, _, since = head.partition(" ")
        # Who is missing from the start on, was killed while Python started.
        chain = _chain(int(pid), since)
        threading.Thread(target=_watch, args=(int(pid), since, chain), daemon=True).start()


@contextmanager
def time_for_checkpoint() -> Iterator[None]:
    """Give this process time to write a checkpoint after SIGTERM, inside the block."""
    global _grace_s
    _grace_s = CHECKPOINT_GRACE_S
    try:
        yield
    finally:
        _grace_s = GRACE_S


def _watch(head: int, started: str, chain: list[int] | None) -> None:
    while chain is not None and _chain(head, started) == chain:
        time.sleep(POLL_S)
    say("difftalk: the snakemake that started this is gone, so this ends too; the same command continues")
    since = time.monotonic()
    os.kill(os.getpid(), signal.SIGTERM)
    while time.monotonic() - since < _grace_s:
        time.sleep(0.1)
    os._exit(128 + signal.SIGTERM)


def _chain(head: int, started: str) -> list[int] | None:
    """Return the process ids from the parent of this process up to `head`; None where it is none of them."""
    chain = [os.getppid()]
    if not Path("/proc/self/stat").exists():  # no Linux: only the own parent is known
        return chain if _is_running(head) else None
    while chain[-1] != head:
        if chain[-1] <= 1:
            return None
        chain.append(_state(chain[-1])[0])
    return chain if _state(head)[1] == started else None


def _state(pid: int) -> tuple[int, str]:
    """Return the parent of a process, and when it started, in the kernel's clock; 0 and "" if unknown."""
    fields = _fields(pid)
    return (int(fields[1]), fields[19]) if fields else (0, "")


def _fields(pid: int) -> list[str]:
    """What the kernel says of a process, from its state on; nothing if unknown."""
    try:
        # The name, in parentheses, may hold anything.
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def started(pid: int) -> str:
    """Return when a process started, in the kernel's clock; empty where there is none, or it has ended."""
    if not Path("/proc/self/stat").exists():  # no Linux: a process may have the number of another
        return "unknown" if _is_running(pid) else ""
    fields = _fields(pid)
    # A zombie has ended, and its parent has not asked for it yet.
    return fields[19] if fields and fields[0] not in "ZX" else ""


def machine() -> str:
    """Name the space in which process ids are unique: a boot of a machine, or a container on it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return platform.node() or "localhost"
