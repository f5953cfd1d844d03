"""GPUs of one machine: each job has its own, also where its owner was killed. No GPU is needed for it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT

from difftalk.runtime.lease import visible

# A job as the workflow starts it, which says which GPUs it has, and keeps them until a file appears.
JOB = """
import os, sys, time
from pathlib import Path
from difftalk.runtime import device, lease
folder, name, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
device.begin("train")
lease.lease("train", count, folder / "locks")
(folder / f"{name}.has").write_text(os.environ["CUDA_VISIBLE_DEVICES"])
while not (folder / "end").exists() and not (folder / f"{name}.end").exists():
    time.sleep(0.02)
"""


def start(folder: Path, name: str, count: int = 1, **changes: str) -> subprocess.Popen[str]:
    (folder / "locks").mkdir(exist_ok=True)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "CUDA"))}
    environment |= {
        "PYTHONPATH": str(ROOT),
        "DIFFTALK_GPU": "train sample",
        "CUDA_VISIBLE_DEVICES": "0,1,2,3",
    }
    command = [sys.executable, "-c", JOB, str(folder), name, str(count)]
    return subprocess.Popen(
        command, env=environment | changes, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def has(folder: Path, names: str, count: int) -> dict[str, str]:
    """What jobs have, once `count` of them have some."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = {n: file.read_text() for n in names if (file := folder / f"{n}.has").is_file()}
        if len(found) >= count and all(found.values()):
            return found
        time.sleep(0.05)
    raise AssertionError(f"{count} jobs with a GPU were expected")


def test_eight_jobs_on_four_gpus_run_four_at_a_time_one_each(tmp_path: Path) -> None:
    names = "abcdefgh"
    jobs = {name: start(tmp_path, name) for name in names}
    first = has(tmp_path, names, 4)
    time.sleep(1.5)  # longer than they wait between two looks
    assert has(tmp_path, names, 4) == first
    assert sorted(first.values()) == ["0", "1", "2", "3"]
    # One ends, one is killed: two others take over what they had.
    ended, killed = sorted(first)[:2]
    (tmp_path / f"{ended}.end").touch()
    jobs[killed].send_signal(signal.SIGKILL)
    later = has(tmp_path, names, 6)
    assert sorted(later[n] for n in later.keys() - first.keys()) == sorted([first[ended], first[killed]])
    (tmp_path / "end").touch()
    said = "".join(job.communicate(timeout=60)[0] for job in jobs.values())
    assert said.count("train: waits for 1 of the GPUs 0, 1, 2, 3: other jobs have them") == 4
    assert len(has(tmp_path, names, 8)) == 8


def test_a_training_of_several_processes_has_as_many_and_takes_none_before(tmp_path: Path) -> None:
    one = start(tmp_path, "a")
    has(tmp_path, "a", 1)
    three = start(tmp_path, "b", 3)
    assert sorted("".join(has(tmp_path, "ab", 2).values()).replace(",", "")) == ["0", "1", "2", "3"]
    # Two wait for two each: while one is free, neither holds it.
    waiting = [start(tmp_path, name, 2) for name in "cd"]
    (tmp_path / "a.end").touch()
    one.wait(timeout=60)
    assert has(tmp_path, "e", 0) == {}
    other = start(tmp_path, "e")
    assert set(has(tmp_path, "e", 1)["e"]) <= set("0123")
    (tmp_path / "end").touch()
    for job in (three, *waiting, other):
        assert job.wait(timeout=60) == 0


@pytest.mark.parametrize(
    "changes",
    [{"SLURM_JOB_ID": "7"}, {"DIFFTALK_GPU": "sample"}, {"CUDA_VISIBLE_DEVICES": ""}],
    ids=["SLURM gives them", "none is reserved", "there is none"],
)
def test_no_lease_is_taken_where_none_is_needed(tmp_path: Path, changes: dict[str, str]) -> None:
    (tmp_path / "end").touch()
    job = start(tmp_path, "a", 1, **changes)
    assert job.wait(timeout=60) == 0
    given = changes.get("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    assert (tmp_path / "a.has").read_text() == given
    assert not list((tmp_path / "locks").iterdir())


def test_gpus_are_those_that_cuda_would_see(tmp_path: Path) -> None:
    assert visible({"CUDA_VISIBLE_DEVICES": "2, GPU-1f,-1,3"}) == ["2", "GPU-1f"]
    assert visible({"CUDA_VISIBLE_DEVICES": ""}) == []
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert visible({}, tmp_path) == ["0", "1"]
