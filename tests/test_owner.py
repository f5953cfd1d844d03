"""One writer of a folder: a live owner is waited for or named, a dead one is taken over from."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from conftest import ROOT

from difftalk.runtime import ancestors
from difftalk.runtime.errors import UserError
from difftalk.runtime.owner import RECORD, Owner, owned, owner_of

WORK = """
import sys, time
from pathlib import Path
from difftalk.runtime.errors import UserError
from difftalk.runtime.owner import owned
folder, name = Path(sys.argv[1]), sys.argv[2]
try:
    with owned(folder / "state", name):
        with (folder / "order").open("a") as order:
            order.write(f"{name} begins\\n")
        (folder / f"{name}.works").touch()
        while not (folder / f"{name}.end").exists():
            time.sleep(0.02)
        with (folder / "order").open("a") as order:
            order.write(f"{name} ends\\n")
except UserError as e:
    print(e)
    sys.exit(2)
"""


@pytest.fixture(autouse=True)
def by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [ancestors.VARIABLE, *(name for name in os.environ if name.startswith("SLURM"))]:
        monkeypatch.delenv(name, raising=False)


def start(folder: Path, name: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WORK, str(folder), name],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def until(*files: Path) -> None:
    deadline = time.monotonic() + 60
    while not all(file.exists() for file in files):
        assert time.monotonic() < deadline, files
        time.sleep(0.02)


def write_owner(folder: Path, **changes: str) -> Owner:
    owner = replace(Owner.this(), **changes)  # type: ignore[arg-type]
    folder.mkdir(exist_ok=True)
    (folder / f"{RECORD}-3.json").write_text(json.dumps(asdict(owner)))
    return owner


def test_a_second_command_is_refused_with_who_works_there_and_goes_on_after_it(tmp_path: Path) -> None:
    first = start(tmp_path, "a")
    until(tmp_path / "a.works")
    second = start(tmp_path, "b")
    said = second.communicate(timeout=60)[0]
    assert second.returncode == 2
    assert f"belongs to process {first.pid} on " in said and "wait until it is done, or end it" in said
    (tmp_path / "a.end").touch()
    assert first.wait(timeout=60) == 0
    assert owner_of(tmp_path / "state") is None
    (tmp_path / "b.end").touch()
    assert start(tmp_path, "b").wait(timeout=60) == 0


def test_a_job_of_the_workflow_waits_for_the_one_before(tmp_path: Path) -> None:
    first = start(tmp_path, "a")
    until(tmp_path / "a.works")
    second = start(tmp_path, "b", **{ancestors.VARIABLE: "elsewhere 1 1"})
    time.sleep(1)
    (tmp_path / "b.end").touch()
    (tmp_path / "a.end").touch()
    said = second.communicate(timeout=60)[0]
    assert f"b: waits for process {first.pid} on " in said
    order = (tmp_path / "order").read_text().splitlines()
    assert order == ["a begins", "a ends", "b begins", "b ends"]


def test_what_a_killed_owner_left_is_taken_over(tmp_path: Path) -> None:
    first = start(tmp_path, "a")
    until(tmp_path / "a.works")
    first.send_signal(signal.SIGKILL)
    (tmp_path / "b.end").touch()
    second = start(tmp_path, "b")  # the first is not even asked for by its parent yet
    assert second.wait(timeout=60) == 0
    assert "is gone: taken over" in second.communicate()[0]
    first.wait()


def test_of_many_that_start_at_once_after_a_dead_owner_one_works_at_a_time(tmp_path: Path) -> None:
    write_owner(tmp_path / "state", pid="999999999")
    names = "abcdef"
    for name in names:
        (tmp_path / f"{name}.end").touch()
    jobs = [start(tmp_path, name, **{ancestors.VARIABLE: "elsewhere 1 1"}) for name in names]
    assert [job.wait(timeout=120) for job in jobs] == [0] * len(names)
    order = (tmp_path / "order").read_text().splitlines()
    assert len(order) == 2 * len(names)
    for begins, ends in zip(order[::2], order[1::2], strict=True):
        assert (begins.split()[0], "begins") == (ends.split()[0], begins.split()[1])


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 1}', "[" * 100_000])
def test_a_damaged_record_belongs_to_nobody(tmp_path: Path, content: str) -> None:
    (tmp_path / f"{RECORD}-1.json").write_text(content)
    with owned(tmp_path, "train"):
        assert owner_of(tmp_path) == replace(Owner.this(), since=getattr(owner_of(tmp_path), "since", ""))
        assert [path.name for path in tmp_path.iterdir()] == [f"{RECORD}-2.json"]
    assert owner_of(tmp_path) is None


def squeue(folder: Path, monkeypatch: pytest.MonkeyPatch, answer: str, status: int = 0) -> None:
    """SLURM's program, which says of each job the same."""
    program = folder / "bin" / "squeue"
    program.parent.mkdir(exist_ok=True)
    stream = ">&2" if status else ""
    program.write_text(f"#!/bin/sh\necho {answer} {stream}\nexit {status}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


@pytest.mark.parametrize(
    ("answer", "status", "lives"),
    [
        ("RUNNING", 0, True),
        ("COMPLETING", 0, True),
        ("PENDING", 0, False),
        ("", 0, False),
        ("slurm_load_jobs error: Invalid job id specified", 1, False),
        ("slurm_load_jobs error: Unable to contact slurm controller", 1, None),
    ],
)
def test_slurm_says_whether_an_owner_on_another_node_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, status: int, lives: bool | None
) -> None:
    squeue(tmp_path, monkeypatch, f"'{answer}'", status)
    owner = write_owner(tmp_path / "state", machine="another", host="n2", job="17")
    assert owner.lives() is lives
    if lives is False:
        with owned(tmp_path / "state", "train"):
            pass
    else:
        with pytest.raises(UserError, match="belongs to process .* on n2, SLURM job 17"):
            owned(tmp_path / "state", "train").__enter__()


def test_an_owner_on_another_machine_without_slurm_cannot_be_told_dead(tmp_path: Path) -> None:
    owner = write_owner(tmp_path / "state", machine="another", host="n2")
    assert owner.lives() is None
    with pytest.raises(UserError, match="nobody here can tell whether that runs: if it does not, delete .*"):
        owned(tmp_path / "state", "train").__enter__()


def test_a_job_that_slurm_starts_again_takes_over_from_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    write_owner(tmp_path / "state", machine="another", job="17", restarts="0")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    with owned(tmp_path / "state", "train"):
        pass
