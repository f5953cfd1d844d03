"""A killed job and then the same command give the outputs of an uninterrupted run."""

import csv
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from conftest import TINY, command, snakemake

RUN = Path("results", "tiny")
# Columns of a training log that depend on the machine's speed.
SPEEDS = {"images_per_s", "data_wait", "seconds"}


@dataclass
class Case:
    """A stage to kill: the outputs to ask snakemake for, and files that show that work has begun."""

    stage: str
    outputs: list[str]
    begun: Callable[[Path], Iterable[Path]]


CASES = [
    Case(
        "landmarks",
        [
            "landmarks/train-000.parquet",
            "landmarks/train-000.quality.csv",
            "landmarks/train-000.scores.parquet",
        ],
        lambda run: (run / "landmarks").glob(".train-000*"),
    ),
    Case(
        "encode",
        ["shards/train-000.tar", "rejects/encode/train-000.csv"],
        lambda run: (run / "shards").glob(".train-000*"),
    ),
    Case(
        "train",
        ["models/difftalk"],
        lambda run: (run / "state" / "difftalk").glob("step-*.pt"),
    ),
    Case(
        "sample",
        ["samples/difftalk/test-000"],
        lambda run: (run / "state" / "samples" / "difftalk" / "test-000").glob("*.mp4"),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stage)
def test_a_killed_job_is_done_by_the_next_run(case: Case, tiny_run: Path, tmp_path: Path) -> None:
    here = tmp_path / "run"
    shutil.copytree(tiny_run, here, symlinks=True)
    for name in case.outputs:
        remove(here / RUN / name)
    shutil.rmtree(here / RUN / "state")  # or else a finished model would be restored
    asked: list[str | Path] = [*(str(RUN / name) for name in case.outputs), "--configfile", TINY]

    with subprocess.Popen(
        command(*asked, directory=here), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as running:
        kill(running, case, here / RUN)
        assert running.wait(60) != 0
    assert not any((here / RUN / name).exists() for name in case.outputs)

    again = snakemake(*asked, directory=here)
    assert again.status == 0, again.said
    for name in case.outputs:
        assert content(here / RUN / name) == content(tiny_run / RUN / name), name
    hidden = [p for name in case.outputs for p in (here / RUN / name).parent.glob(".*")]
    left = [p for p in hidden if p.suffix != ".sha256"]
    assert left == []


def kill(snakemake: subprocess.Popen[bytes], case: Case, run: Path) -> None:
    """Kill the stage's process, with no chance to clean up, once it has begun to write."""
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        assert snakemake.poll() is None, "the job ended before it could be killed"
        if any(case.begun(run)):
            for process in psutil.Process(snakemake.pid).children(recursive=True):
                if process.cmdline()[1:4] == ["-m", "difftalk", case.stage]:
                    process.kill()
                    return
        time.sleep(0.01)
    pytest.fail("the job never began")


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def content(path: Path) -> dict[str, object]:
    """The content of a file or a folder of files, without the speeds of a training or of samples."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    return {str(file.relative_to(path)): _content(file) for file in files}


def _content(file: Path) -> object:
    if file.name == "SHA256SUMS":  # the speeds are in the files that it lists
        listed = file.read_text().splitlines()
        return [line for line in listed if not line.endswith((".jsonl", "timing.csv"))]
    if file.name == "timing.csv":
        return [row["clip_id"] for row in csv.DictReader(file.read_text().splitlines())]
    if file.suffix == ".jsonl":
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        return [{key: value for key, value in line.items() if key not in SPEEDS} for line in lines]
    return file.read_bytes()
