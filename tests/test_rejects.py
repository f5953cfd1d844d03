"""Rejects: every stage writes them before it judges their share; the docs explain the reasons."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, SECONDS
from drawn_clips import write_crops

from difftalk.config.crops import CropsSettings
from difftalk.config.dataset import LocalSettings
from difftalk.config.download import Download
from difftalk.config.encode import Encode
from difftalk.config.gates import GatesSettings
from difftalk.config.landmarks import LandmarksSettings
from difftalk.config.speech import Speech
from difftalk.datasets.clips import Clip, write_plan
from difftalk.face.table import landmark_writer
from difftalk.face.tracks import Track
from difftalk.media.shards import write_shard
from difftalk.models.autoencoder import build_autoencoder
from difftalk.runtime.errors import UserError
from difftalk.runtime.rejects import REASONS, Reject, RejectLog, read_rejects
from difftalk.speech.table import speech_writer
from difftalk.stages import crops, encode, fetch, gates, landmarks, speech

NOISE = np.random.default_rng(0).normal(0, 3000, 32_000).astype(np.int16)
LOST = Reject("a", "speech", "silent", "level -90 dB")


def test_the_documentation_has_every_reason_with_the_same_words() -> None:
    text = (ROOT / "docs" / "prepare.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"\| reason \| meaning \|\n\|---\|---\|\n((?:\|.*\|\n)+)", text)
    assert dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", table, re.MULTILINE)) == REASONS


# The log


def test_results_are_kept_and_rejects_written(tmp_path: Path) -> None:
    path = tmp_path / "speech" / "train-000.csv"
    with RejectLog("speech", path, 0.5, 2) as lost:
        assert list(lost.kept([("a", LOST), ("b", 1)])) == [("b", 1)]
    assert read_rejects(path) == [LOST]


def test_a_share_at_the_limit_is_tolerated_and_one_above_it_is_not(tmp_path: Path) -> None:
    path = tmp_path / "train-000.csv"
    for limit, clips in ((0.29, 100), (0.1, 30), (1.0, 1)):
        rejected = round(limit * clips)
        with RejectLog("speech", path, limit, clips) as lost:
            lost.add(*[LOST] * rejected)
        with (
            pytest.raises(UserError, match=f"{rejected + 1} of {clips}"),
            RejectLog("speech", path, limit, clips) as lost,
        ):
            lost.add(*[LOST] * (rejected + 1))


def test_rejects_of_a_stage_that_fails_for_something_else_are_there_too(tmp_path: Path) -> None:
    path = tmp_path / "train-000.csv"
    with pytest.raises(RuntimeError, match="a bug"), RejectLog("speech", path, 1.0, 3) as lost:
        lost.add(LOST)
        raise RuntimeError("a bug")
    assert not path.exists()
    assert read_rejects(tmp_path / "train-000.failed.csv") == [LOST]


def test_too_many_rejects_are_found_before_a_writer_has_finished_its_file(tmp_path: Path) -> None:
    results: list[tuple[str, dict[str, Any] | Reject]] = [("b", {"json": {}}), ("a", LOST)]
    with pytest.raises(UserError, match="1 of 2"), RejectLog("speech", tmp_path / "a.csv", 0.0, 2) as lost:
        write_shard(tmp_path / "out.tar", lost.kept(results))
    assert [p.name for p in tmp_path.iterdir()] == ["a.failed.csv"]


# The five stages


@dataclass
class Shard:
    """A stage and a shard of one clip, which it must reject or not.

    Args:
        run: the stage, given `rejects`, `max_reject_fraction`, `out` and `bad`, which asks for the reject.
        reason: of the reject.
    """

    run: Callable[..., None]
    reason: str


def clip(folder: Path, **more: Any) -> Path:
    path = folder / "clips.parquet"
    write_plan(path, [Clip("a-0", "a", 0.0, SECONDS, "a", "train", "train-000", uri="a.mp4", **more)])
    return path


@pytest.fixture
def of_fetch(tmp_path: Path, film: Path) -> Shard:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").symlink_to(film)

    def run(*, bad: bool, **common: Any) -> None:
        fetch.run(
            plan=clip(tmp_path, left_out="duplicate: of b-0" if bad else ""),
            shard="train-000",
            dataset=LocalSettings(videos=str(tmp_path / "videos")),
            download=Download(),
            store=tmp_path / "store",
            manifest=tmp_path / "manifest.csv",
            **common,
        )

    return Shard(run, "duplicate")


@pytest.fixture
def of_landmarks(tmp_path: Path, film: Path) -> Shard:
    (tmp_path / "sources").mkdir()
    (tmp_path / "sources" / "a.mp4").symlink_to(film)

    landmarks.run(
        plan=clip(tmp_path),
        shard="train-000",
        sources=tmp_path / "sources",
        settings=LandmarksSettings(),
        out=tmp_path / "landmarks.parquet",
        quality=tmp_path / "quality.csv",
        scores=tmp_path / "scores.parquet",
    )

    def run(*, bad: bool, out: Path, **common: Any) -> None:
        settings = GatesSettings(min_face_px=255 if bad else 48)
        gates.run(scores=tmp_path / "scores.parquet", settings=settings, **common)
        out.touch()  # it has no other output

    return Shard(run, "small_face")


@pytest.fixture
def of_crops(tmp_path: Path, film: Path, truth: np.ndarray) -> Shard:
    (tmp_path / "sources").mkdir()
    (tmp_path / "sources" / "a.mp4").symlink_to(film)
    count = len(truth)
    boxes, scores = np.zeros((count, 4), np.float32), np.ones(count, np.float32)
    with landmark_writer(tmp_path / "landmarks.parquet") as write:
        write("a-0", Track(np.arange(count, dtype=np.int32), boxes, truth.astype(np.float32), scores))

    def run(*, bad: bool, **common: Any) -> None:
        crops.run(
            plan=clip(tmp_path),
            shard="train-000",
            sources=tmp_path / "sources",
            landmarks=tmp_path / "landmarks.parquet",
            settings=CropsSettings(size=32, min_frames=1000 if bad else None),
            **common,
        )

    return Shard(run, "too_short")


@pytest.fixture
def of_speech(tmp_path: Path) -> Shard:
    def run(*, bad: bool, **common: Any) -> None:
        still = np.zeros((50, 32, 32, 3), np.uint8), np.zeros((50, 68, 2), np.float32)
        write_crops(tmp_path / "crops.tar", {"a-0": (*still, 0 * NOISE if bad else NOISE)})
        speech.run(crops=tmp_path / "crops.tar", settings=Speech(), **common)

    return Shard(run, "silent")


@pytest.fixture
def of_encode(tmp_path: Path) -> Shard:
    build_autoencoder((8, 16, 16), 1, 64).save_pretrained(tmp_path / "autoencoder")
    with speech_writer(tmp_path / "speech.parquet") as write:
        write("a-0", np.zeros((100, 39), np.float32))

    def run(*, bad: bool, **common: Any) -> None:
        frames = np.zeros((49 if bad else 50, 32, 32, 3), np.uint8)
        write_crops(tmp_path / "crops.tar", {"a-0": (frames, np.zeros((50, 68, 2), np.float32), NOISE)})
        encode.run(
            crops=tmp_path / "crops.tar",
            speech=tmp_path / "speech.parquet",
            autoencoder=tmp_path / "autoencoder",
            settings=Encode(),
            **common,
        )

    return Shard(run, "cannot_decode")


@pytest.mark.parametrize("stage", ["fetch", "landmarks", "crops", "speech", "encode"])
def test_a_shard_that_fails_for_too_many_rejects_says_which(
    stage: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    shard: Shard = request.getfixturevalue(f"of_{stage}")
    rejects = tmp_path / "rejects" / stage / "train-000.csv"
    failed = rejects.with_name("train-000.failed.csv")
    out = tmp_path / "out.tar"
    common = {"out": out, "rejects": rejects, "max_reject_fraction": 0.5}

    with pytest.raises(
        UserError, match=f"1 of 1 clips rejected.*most often {shard.reason}.*{re.escape(str(failed))}"
    ):
        shard.run(bad=True, **common)
    assert not out.exists()
    assert not rejects.exists()
    assert [(r.clip_id, r.stage, r.reason) for r in read_rejects(failed)] == [("a-0", stage, shard.reason)]

    shard.run(bad=False, **common)
    assert out.exists()
    assert read_rejects(rejects) == []
    assert not failed.exists()
