"""One writer of a folder: a record of who works on it, which others take over from a dead owner.

A lock of the kernel ends with its process, but not every shared file system has such locks, and none of them
says who holds it. So the owner writes down who it is; whoever finds that asks the machine, or SLURM, whether
the owner lives.
"""

import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from difftalk.runtime import ancestors
from difftalk.runtime.errors import UserError
from difftalk.runtime.files import atomic_file
from difftalk.runtime.progress import say

RECORD = "owner"
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
        folder: made where it is missing.
        name: of what works on it, for the log.

    Raises:
        UserError: if another process works on it, or it cannot be told whether it lives.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mine, waits = Owner.this(), False
    while (taken := _take(folder, mine)) is not True:
        record, other = taken
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
        for _, record in _records(folder):
            if _read(record) == mine:
                # Not deleted: numbers rise, so that nobody can take the number of a record that is gone.
                with atomic_file(record) as tmp:
                    tmp.write_text("{}")


def owner_of(folder: Path) -> Owner | None:
    """Return the owner of a folder, whether it lives or not; None where there is none."""
    records = _records(folder)
    return _read(records[-1][1]) if records else None


def _take(folder: Path, mine: Owner) -> Literal[True] | tuple[Path, Owner]:
    """Write a record above that of a dead owner; or return the record and the owner that is in the way.

    Of several that try at once one succeeds: the next number is linked, which fails where it exists, on NFS
    too. No lock is needed.
    """
    while True:
        records = _records(folder)
        last, newest = records[-1] if records else (0, None)
        other = _read(newest) if newest is not None else None
        if newest is not None and other is not None and other.lives() is not False:
            return newest, other
        record = folder / f"{RECORD}-{last + 1}.json"
        written = folder / f".{record.name}.{mine.pid}"
        written.write_text(json.dumps(asdict(mine)), encoding="utf-8")
        try:
            os.link(written, record)
        except FileExistsError:
            continue
        finally:
            written.unlink()
        # Linking has shown this machine the folder as it is.
        if _records(folder)[-1][1] != record:
            record.unlink()
            continue
        if other is not None:
            say(f"{folder}: its owner, {other}, is gone: taken over")
        for _, older in records:
            older.unlink(missing_ok=True)
        return True


def _records(folder: Path) -> list[tuple[int, Path]]:
    """The records of a folder by their number, the newest last."""
    found = ((re.fullmatch(rf"{RECORD}-(\d+)\.json", path.name), path) for path in folder.glob(f"{RECORD}-*"))
    return sorted((int(match[1]), path) for match, path in found if match)


def _read(record: Path) -> Owner | None:
    """The owner in a record; None where it is done, or the record is damaged."""
    try:
        values: Any = json.loads(record.read_text(encoding="utf-8"))
        if not isinstance(values["job"], str):
            return None
        return Owner(**values)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
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
