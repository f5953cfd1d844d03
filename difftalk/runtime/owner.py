"""One writer of a folder: a record of who works on it, which others take over from a dead owner.

A lock of the kernel ends with its process, but not every shared file system has such locks, and none of them
says who holds it. So the owner writes down who it is; whoever finds that asks the machine, or SLURM, whether
the owner lives.
"""

import json
import os
import platform
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from difftalk.runtime import ancestors
from difftalk.runtime.errors import UserError
from difftalk.runtime.lock import file_lock
from difftalk.runtime.progress import say

RECORD, GUARD = "owner.json", ".owner.lock"
POLL_S = 2.0
TIMEOUT_S = 30.0  # of SLURM's answer


@dataclass(frozen=True)
class Owner:
    """A process that works on a folder.

    Attributes:
        host: name of its machine, for people.
        machine: a boot of it, or a container there, in which process ids are unique.
        pid: of the process.
        started: when that process started, in the kernel's clock.
        job: SLURM's number of the job, empty outside of SLURM.
        restarts: how often SLURM had put that job back into the queue.
        since: date and time, for people.
    """

    host: str
    machine: str
    pid: int
    started: str
    job: str
    restarts: str
    since: str

    @classmethod
    def this(cls, environment: Mapping[str, str] = os.environ) -> "Owner":
        """Return this process."""
        return cls(
            host=platform.node(),
            machine=ancestors.machine(),
            pid=os.getpid(),
            started=ancestors.started(os.getpid()),
            job=environment.get("SLURM_JOB_ID", ""),
            restarts=environment.get("SLURM_RESTART_COUNT", "0"),
            since=datetime.now().astimezone().isoformat(" ", "seconds"),
        )

    def lives(self) -> bool | None:
        """Return whether the process runs; None where nobody here can tell."""
        if self.machine == ancestors.machine():
            return bool(self.started) and ancestors.started(self.pid) == self.started
        if not self.job:
            return None
        mine = Owner.this()
        if self.job == mine.job and self.restarts != mine.restarts:
            return False  # the same job, before SLURM put it back into the queue
        return _job_runs(self.job)

    def __str__(self) -> str:
        job = f", SLURM job {self.job}" if self.job else ""
        return f"process {self.pid} on {self.host}{job}, since {self.since}"


@contextmanager
def owned(folder: Path, name: str) -> Iterator[None]:
    """Be the one that works on a folder, inside the block.

    A job of the workflow waits for another owner: it may be one whose snakemake was killed, and which saves.
    A command by hand is refused. An owner that is dead, or a record that is damaged, is taken over from.

    Args:
        folder: made where it is missing; it may be deleted inside the block.
        name: of what works on it, for the log.

    Raises:
        UserError: if another process works on it, or it cannot be told whether it lives.
    """
    folder.mkdir(parents=True, exist_ok=True)
    record, mine = folder / RECORD, Owner.this()
    waits = False
    while (other := _take(folder, mine)) is not None:
        lives = other.lives()
        if lives is None:
            raise UserError(
                f"{name}: {folder} belongs to {other}, and nobody here can tell whether that runs: if it "
                f"does not, delete {record}"
            )
        if lives and ancestors.VARIABLE not in os.environ:
            raise UserError(
                f"{name}: {folder} belongs to {other}: wait until it is done, or end it; the same command "
                "continues then"
            )
        if lives and not waits:
            say(f"{name}: waits for {other}, which works on {folder}")
            waits = True
        if lives:
            time.sleep(POLL_S)
    try:
        yield
    finally:
        if _read(record) == mine:
            record.unlink(missing_ok=True)


def _take(folder: Path, mine: Owner) -> Owner | None:
    """Write the record, over that of a dead owner; return the owner that is in the way, if there is one."""
    record = folder / RECORD
    # The guard is held for a moment. Where the file system has no locks, the link below decides alone.
    with _guarded(folder / GUARD):
        other = _read(record)
        if other is not None and other.lives() is not False:
            return other
        if record.exists():
            if other is not None:
                say(f"{folder}: its owner, {other}, is gone: taken over")
            record.unlink(missing_ok=True)
        written = folder / f".{RECORD}.{mine.pid}.{mine.started or time.monotonic_ns()}"
        written.write_text(json.dumps(asdict(mine)), encoding="utf-8")
        try:
            os.link(written, record)  # one of several succeeds, on NFS too
        except FileExistsError:
            return _read(record) or mine
        finally:
            written.unlink(missing_ok=True)
    return None


@contextmanager
def _guarded(guard: Path) -> Iterator[None]:
    """Hold the guard, if the file system has locks."""
    held = file_lock(guard)
    try:
        held.__enter__()
    except OSError:
        yield
        return
    try:
        yield
    finally:
        held.__exit__(None, None, None)


def _read(record: Path) -> Owner | None:
    """The owner in a record; None where there is none, or it is damaged."""
    try:
        values: Any = json.loads(record.read_text(encoding="utf-8"))
        return Owner(**values)
    except (OSError, ValueError, TypeError):
        return None


def _job_runs(job: str) -> bool | None:
    """Whether SLURM has a job that runs or waits; None where it does not answer."""
    try:
        asked = subprocess.run(
            ["squeue", "--noheader", "--jobs", job, "--format", "%T"],
            capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    if asked.returncode:
        return False if "Invalid job id" in asked.stderr else None
    return bool(set(asked.stdout.split()) & {"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING"})
