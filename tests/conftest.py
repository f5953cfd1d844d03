"""What the tests share.

Snakemake in a folder of its own, one small run of the whole workflow, a drawn speaker, and the stages that
work on faces.
"""

import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pretended_cluster import Cluster, pretended_cluster

from difftalk.config.crops import CropsSettings
from difftalk.config.gates import FaceGates, FrameGates, GatesSettings
from difftalk.config.landmarks import Landmarks, LandmarksSettings
from difftalk.datasets.clips import Clip, write_plan
from difftalk.datasets.demo.render import DemoSource, render_source
from difftalk.face.tracks import Face
from difftalk.media.video import read_frames
from difftalk.runtime.rejects import Reject, read_rejects
from difftalk.stages import crops, gates, landmarks

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
    return Finished(done.returncode, done.stdout, job_counts(done.stdout))


def job_counts(said: str) -> dict[str, int]:
    """Jobs by rule: the table that follows `Job stats:`, without its total."""
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


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of SLURM that is pretended on this machine."""
    with pretended_cluster(tmp_path_factory.mktemp("cluster")) as started:
        yield started


SECONDS = 2.0


@pytest.fixture(scope="session")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A speaker of two seconds, `a.mp4`, with `a.landmarks.npy`."""
    path = tmp_path_factory.mktemp("film") / "a.mp4"
    render_source(DemoSource("a", 7, 7, 1, SECONDS, 256), path)
    return path


@pytest.fixture(scope="session")
def film_frames(film: Path) -> np.ndarray:
    """The frames of `film`, (50, 256, 256, 3) uint8 RGB."""
    return np.stack(list(read_frames(film)))


@pytest.fixture(scope="session")
def truth(film: Path) -> np.ndarray:
    """The landmarks that `film` was drawn with, (50, 68, 2)."""
    return np.load(film.with_suffix(".landmarks.npy"))


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """Let writes fail in the middle of a file, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def present(faces: Iterable[Face | None]) -> list[Face]:
    """The faces of frames that must all have one."""
    found = list(faces)
    there = [face for face in found if face is not None]
    assert len(there) == len(found), f"{len(found) - len(there)} frames without a face"
    return there


class Stage:
    """Run `landmarks`, `gates` and `crops` on video files laid out as a shard.

    Each gives the reasons of the rejects by source; the rejects themselves are in `lost`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clips: list[Clip] = []
        self.lost: dict[str, Reject] = {}
        (folder / "sources").mkdir()

    def add(
        self, name: str, video: bytes | Path, start_s: float = 0.0, end_s: float = SECONDS, **clip: Any
    ) -> None:
        path = self.folder / "sources" / f"{name}.mp4"
        if isinstance(video, Path):
            path.symlink_to(video)
            path.with_suffix(".landmarks.npy").symlink_to(video.with_suffix(".landmarks.npy"))
        else:
            path.write_bytes(video)
        self.clips.append(Clip(f"{name}-0", name, start_s, end_s, name, "train", "train-000", **clip))

    def _common(self, shard: str, workers: int) -> dict[str, Any]:
        write_plan(self.folder / "clips.parquet", self.clips, ["train-000", "test-000"])
        return {
            "plan": self.folder / "clips.parquet",
            "shard": shard,
            "sources": self.folder / "sources",
            "workers": workers,
        }

    def landmarks(
        self,
        shard: str = "train-000",
        workers: int = 1,
        gates: FrameGates = FrameGates(),  # noqa: B008 - frozen
        early: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> dict[str, str]:
        """Measure, and apply the gates: those of `gates` and of the section `landmarks`.

        `early` has the settings to crop with at once, if any: `crops` and `gates`.
        """
        section = Landmarks(**settings)
        landmarks.run(
            **self._common(shard, workers),
            settings=LandmarksSettings.of(section),
            out=self.folder / "landmarks.parquet",
            quality=self.folder / "quality.csv",
            scores=self.folder / "scores.parquet",
            **(early or {}),
        )
        of_face = {key: getattr(section, key) for key in FaceGates.model_fields}
        return self.gates(**of_face, **gates.as_dict())

    def gates(self, **settings: Any) -> dict[str, str]:
        """Apply other gates to what was measured."""
        gates.run(
            scores=self.folder / "scores.parquet",
            settings=GatesSettings(**settings),
            rejects=self.folder / "landmarks.csv",
            max_reject_fraction=1.0,
        )
        return self._reasons("landmarks")

    def crops(
        self,
        shard: str = "train-000",
        workers: int = 1,
        syncnet: Path | None = None,
        cache: Path | None = None,
        **settings: Any,
    ) -> dict[str, str]:
        crops.run(
            **self._common(shard, workers),
            landmarks=self.folder / "landmarks.parquet",
            rejects=self.folder / "crops.csv",
            max_reject_fraction=1.0,
            rejected=self.folder / "landmarks.csv",
            settings=CropsSettings(**{"size": 64, "min_frames": 10, **settings}),
            out=self.folder / "crops.tar",
            syncnet=syncnet,
            cache=cache,
        )
        return self._reasons("crops")

    def _reasons(self, stage: str) -> dict[str, str]:
        self.lost = {r.clip_id[:-2]: r for r in read_rejects(self.folder / f"{stage}.csv")}
        return {source: r.reason for source, r in self.lost.items()}


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)
