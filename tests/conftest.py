"""A snakemake to run in a folder of its own, and one small run of the whole workflow that the tests share."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

# Before torch is imported: threads that wait for one another take longer over small networks than one alone.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parents[1]
TINY = ROOT / "tests" / "config" / "tiny.yaml"


@dataclass
class Finished:
    """A snakemake that has ended: its exit status, all it printed, and its jobs by rule."""

    status: int
    said: str
    jobs: dict[str, int]

    @property
    def idle(self) -> bool:
        return "Nothing to be done" in self.said


Workflow = Callable[..., Finished]


def command(*arguments: str | Path, directory: Path, checkout: Path = ROOT) -> list[str]:
    """The command line of a snakemake that runs the workflow of `checkout` in `directory`."""
    snakefile = checkout / "workflow" / "Snakefile"
    where = ["--snakefile", snakefile, "--directory", directory]
    return [sys.executable, "-m", "snakemake", "--cores", "2", *map(str, [*where, *arguments])]


def snakemake(*arguments: str | Path, directory: Path, checkout: Path = ROOT) -> Finished:
    done = subprocess.run(
        command(*arguments, directory=directory, checkout=checkout),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=directory,
        check=False,
    )
    return Finished(done.returncode, done.stdout, _jobs(done.stdout))


def _jobs(said: str) -> dict[str, int]:
    """The table that follows `Job stats:`, without its total."""
    table = re.search(r"^Job stats:\njob +count\n[- ]+\n((?:\w+ +\d+\n)+)", said, re.MULTILINE)
    rows = (line.split() for line in table[1].splitlines()) if table else ()
    return {rule: int(count) for rule, count in rows if rule != "total"}


@pytest.fixture
def workflow(tmp_path: Path) -> Workflow:
    """`workflow("train_all", "-n")` runs snakemake in an empty folder."""
    return lambda *arguments: snakemake(*arguments, directory=tmp_path)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the code that a test may edit."""
    copy = tmp_path / "checkout"
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("difftalk", "workflow"):
        shutil.copytree(ROOT / name, copy / name, ignore=ignored)
    shutil.copy(ROOT / "config.yaml", copy)
    return copy


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the whole workflow has run once on a tiny demo; read it, do not change it."""
    folder = tmp_path_factory.mktemp("tiny")
    done = snakemake("--configfile", TINY, directory=folder)
    assert done.status == 0, done.said
    return folder
