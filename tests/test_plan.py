"""The clips of a dataset, their splits and shards; sources are fetched once, and bad ones rejected."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from difftalk.config.dataset import DatasetSettings, Shards
from difftalk.config.download import Download
from difftalk.config.section import from_dict
from difftalk.datasets import local
from difftalk.datasets.clips import Clip, clips_with_sources, read_plan, source_files
from difftalk.datasets.ids import safe_ids
from difftalk.datasets.split import (
    assign_shards,
    placed,
    refuse_shared_identities,
    split_groups,
    split_identities,
)
from difftalk.media.encode import encode_video
from difftalk.runtime.errors import UserError
from difftalk.runtime.rejects import read_rejects
from difftalk.stages import fetch, plan

DEMO: dict[str, Any] = {
    "name": "demo",
    "identities": {"train": 5, "test": 2},
    "clips_per_identity": 2,
    "clip_seconds": 0.4,
    "size": 128,
    "seed": 1,
}


def speech(seconds: float) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 3000, round(seconds * 16_000)).astype(np.int16)


def frames(seconds: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (round(seconds * 25), 32, 32, 3)).astype(np.uint8)


@pytest.fixture(scope="session")
def good_video() -> bytes:
    return encode_video(frames(3), audio=speech(3), crf=30)


@pytest.fixture
def videos(tmp_path: Path, good_video: bytes) -> Path:
    """A folder with good files, damaged ones and others that are no videos."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for seed, name in enumerate(["Ann B.mp4", "Ann_B.MP4", "carl.mp4", "dora.mp4"]):
        (folder / name).write_bytes(encode_video(frames(3, seed), audio=speech(3), crf=30))
    (folder / "broken.mp4").write_bytes(good_video[: len(good_video) // 5])
    (folder / "mute.mp4").write_bytes(encode_video(frames(2.4), crf=30))
    (folder / "notes.txt").write_text("not a video")
    (folder / ".hidden.mp4").write_bytes(good_video)
    (folder / "folder.mp4").mkdir()
    return folder


def described(videos: Path, **more: Any) -> dict[str, Any]:
    return {"name": "local", "videos": str(videos), **more}


def settings_of(dataset: dict[str, Any]) -> DatasetSettings:
    """Read what JSON on the command line would hold."""
    kind: Any = DatasetSettings  # a union of three, which is no `type`
    settings: DatasetSettings = from_dict(kind, dataset, "dataset")
    return settings


def run_plan(dataset: dict[str, Any], shards: dict[str, Any], out: Path) -> None:
    plan.run(dataset=settings_of(dataset), shards=from_dict(Shards, shards, "shards"), out=out)


def run_fetch(tmp_path: Path, shard: str, dataset: dict[str, Any], **more: Any) -> Path:
    out = tmp_path / "sources" / shard
    fetch.run(
        plan=tmp_path / "clips.parquet",
        shard=shard,
        dataset=settings_of(dataset),
        download=Download(),
        store=tmp_path / "store",
        out=out,
        manifest=tmp_path / "sources" / f"{shard}.csv",
        rejects=tmp_path / "rejects" / f"{shard}.csv",
        **{"max_reject_fraction": 1.0, "workers": 1, **more},
    )
    return out


def test_every_video_file_is_planned_readable_or_not(tmp_path: Path, videos: Path) -> None:
    run_plan(described(videos), {"train": 2, "test": 1}, tmp_path / "clips.parquet")
    clips = read_plan(tmp_path / "clips.parquet")
    assert {c.uri for c in clips} == {
        "Ann B.mp4", "Ann_B.MP4", "carl.mp4", "dora.mp4", "broken.mp4", "mute.mp4"
    }  # fmt: skip
    assert len({c.clip_id for c in clips}) == len({c.source_id for c in clips}) == 6
    by_uri = {c.uri: c for c in clips}
    assert (by_uri["carl.mp4"].start_s, by_uri["carl.mp4"].end_s) == (0, 3.0)
    assert (by_uri["broken.mp4"].start_s, by_uri["broken.mp4"].end_s) == (0, 0)


def test_planning_twice_gives_the_same_bytes(tmp_path: Path, videos: Path) -> None:
    for name in ["1", "2"]:
        run_plan(described(videos), {"train": 2, "test": 1}, tmp_path / name)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_ids_are_safe_and_unique() -> None:
    names = ["a.mp4", "a.mov", "A.mp4", "Иван.mp4", "é.mp4", "x" * 200 + ".mp4", "../b c.mp4", "b.c.mp4"]
    ids = safe_ids(names)
    assert len({i.lower() for i in ids.values()}) == len(names)
    for source_id in ids.values():
        assert source_id
        assert all(c.isascii() and (c.isalnum() or c in "-_") for c in source_id)
        assert len(source_id) <= 70, "tar names end at 100 characters"


@pytest.mark.parametrize(
    ("length_s", "expected"),
    [
        (0.0, [(0, 0)]),
        (3.0, [(0, 3)]),
        (10.0, [(0, 10)]),
        (11.96, [(0, 10)]),
        (12.0, [(0, 10), (10, 12)]),
        (30.0, [(0, 10), (10, 20), (20, 30)]),
    ],
)
def test_long_sources_are_cut_and_rests_of_two_seconds_kept(
    length_s: float, expected: list[tuple[float, float]]
) -> None:
    assert local.cut(length_s, 10.0) == expected


def test_no_identity_is_on_both_sides_and_both_have_one() -> None:
    for count in range(2, 20):
        splits = split_identities([f"i{k}" for k in range(count)], 0.25, seed=3)
        tests = sum(s == "test" for s in splits.values())
        assert 1 <= tests <= count - 1
        assert abs(tests - 0.25 * count) <= 1


def test_shards_are_balanced_and_keep_sources_whole() -> None:
    clips = [
        Clip(f"{split}{s}-{k}", f"{split}{s}", 0, 1, f"{split}{s}", split)
        for split, count in [("train", 24), ("test", 6)]
        for s in range(count)
        for k in range(2)
    ]
    placed = assign_shards(clips, Shards(train=5, test=6))
    shards_of: dict[str, set[str]] = {}
    for clip in placed:
        assert clip.shard.startswith(clip.split)
        shards_of.setdefault(clip.source_id, set()).add(clip.shard)
    assert all(len(shards) == 1 for shards in shards_of.values())
    sizes = {s: sum(c.shard == s for c in placed) // 2 for s in {c.shard for c in placed}}
    assert sorted(v for s, v in sizes.items() if s.startswith("train")) == [4, 5, 5, 5, 5]
    assert sorted(s for s in sizes if s.startswith("test")) == [f"test-{k:03d}" for k in range(6)]


@pytest.mark.parametrize(("sources", "shards"), [(40, 8), (64, 56), (300, 20), (3, 5)])
def test_a_list_that_grows_leaves_sources_in_their_shards(sources: int, shards: int) -> None:
    names = [f"v{k}" for k in range(sources)]
    before = placed(names, shards)
    loads = Counter(before.values())
    assert max(loads.values()) <= math.ceil(1.25 * sources / shards)
    assert len(loads) == min(sources, shards)
    moved = [
        sum(
            before[name] != number
            for name, number in placed([*names, f"new{k}"], shards).items()
            if name in before
        )
        for k in range(20)
    ]
    assert np.mean(moved) < 3, "dealt by rank, half of them move"


def test_a_list_that_grows_leaves_groups_on_their_side() -> None:
    moved = []
    for k in range(20):
        sizes = {f"g{k}-{number}": 1 + number % 3 for number in range(40)}
        before, after = split_groups(sizes, 0.25, 1), split_groups({**sizes, "new": 1}, 0.25, 1)
        tests = sum(size for group, size in sizes.items() if before[group] == "test")
        assert 0.75 * 0.25 <= tests / sum(sizes.values()) <= 1.25 * 0.25
        moved.append(sum(before[group] != after[group] for group in sizes))
    assert np.mean(moved) < 0.3


def test_a_source_that_the_split_cuts_through_has_a_shard_on_each_side() -> None:
    clips = [Clip("a-0", "a", 0, 1, "a", "train"), Clip("a-1", "a", 1, 2, "a", "test")]
    placed = assign_shards(clips, Shards(train=1, test=1))
    assert {c.clip_id: c.shard for c in placed} == {"a-0": "train-000", "a-1": "test-000"}
    with pytest.raises(UserError, match="on both sides of the split: identity a, source a"):
        refuse_shared_identities(clips)


def test_users_mistakes_are_one_line(tmp_path: Path, videos: Path, good_video: bytes) -> None:
    empty, single = tmp_path / "empty", tmp_path / "single"
    empty.mkdir()
    single.mkdir()
    (single / "a.mp4").write_bytes(good_video)
    shards = {"train": 1, "test": 1}
    refused: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        (described(empty), shards, "no video file"),
        (described(tmp_path / "nowhere"), shards, "does not exist"),
        (described(single), shards, "at least one more video"),
        (described(videos, clip_secnds=3), shards, "did you mean clip_seconds"),
        (described(videos, clip_seconds=0.5), shards, "clip_seconds must be at least 2"),
        ({"name": "hdft"}, shards, "not one of demo, local, hdtf"),
        (described(videos), {"train": 1, "test": 2.5}, "test is 2.5, not a whole number"),
        (described(videos), {"train": 0, "test": 1}, "train is 0, but has to be at least 1"),
        (
            {**DEMO, "identities": {"train": 3, "test": 0}},
            shards,
            "identities.test is 0, but has to be at least 1",
        ),
    ]
    for dataset, wanted, message in refused:
        with pytest.raises(UserError, match=message) as caught:
            run_plan(dataset, wanted, tmp_path / "clips.parquet")
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "clips.parquet").exists()


def test_local_sources_are_linked_and_the_bad_ones_rejected_with_a_reason(
    tmp_path: Path, videos: Path
) -> None:
    dataset = described(videos, clip_seconds=2.0)
    run_plan(dataset, {"train": 1, "test": 1}, tmp_path / "clips.parquet")
    rejects: dict[str, str] = {}
    kept: set[str] = set()
    for shard in ["train-000", "test-000"]:
        sources = run_fetch(tmp_path, shard, dataset)
        rejects |= {r.clip_id: r.reason for r in read_rejects(tmp_path / "rejects" / f"{shard}.csv")}
        kept |= {c.clip_id for c, _ in clips_with_sources(tmp_path / "clips.parquet", shard, sources)}
    assert rejects == {"broken-000": "cannot_decode", "mute-000": "no_audio"}
    assert kept | set(rejects) == {c.clip_id for c in read_plan(tmp_path / "clips.parquet")}
    assert not kept & set(rejects)


def test_a_mute_file_that_is_damaged_too_is_called_damaged(tmp_path: Path, good_video: bytes) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / "a.mp4").write_bytes(good_video)
    data = bytearray(encode_video(frames(4), crf=10))
    data[len(data) // 2 : len(data) // 2 + 3000] = speech(1).tobytes()[:3000]
    (folder / "b.mp4").write_bytes(data)
    (folder / "c.mp4").write_bytes(encode_video(frames(3, 1), audio=speech(3), crf=30))
    run_plan(described(folder), {"train": 1, "test": 1}, tmp_path / "clips.parquet")
    (shard,) = {c.shard for c in read_plan(tmp_path / "clips.parquet") if c.source_id == "b"}
    run_fetch(tmp_path, shard, described(folder))
    (reject,) = read_rejects(tmp_path / "rejects" / f"{shard}.csv")
    assert reject.reason == "cannot_decode"


def test_too_many_lost_clips_fail_the_stage(tmp_path: Path, videos: Path) -> None:
    for name in ["carl.mp4", "dora.mp4"]:
        (videos / name).unlink()
    run_plan(described(videos), {"train": 1, "test": 1}, tmp_path / "clips.parquet")
    with pytest.raises(UserError, match="2 of 3 clips rejected"):
        run_fetch(tmp_path, "train-000", described(videos), max_reject_fraction=0.5)
    assert not (tmp_path / "sources" / "train-000").exists()


def test_an_empty_shard_is_a_folder_and_a_header(tmp_path: Path) -> None:
    run_plan(DEMO, {"train": 7, "test": 1}, tmp_path / "clips.parquet")
    sources = run_fetch(tmp_path, "train-006", DEMO)
    assert sorted(p.name for p in sources.iterdir()) == [".clips", "SHA256SUMS"]
    assert read_rejects(tmp_path / "rejects" / "train-006.csv") == []


def test_demo_sources_are_rendered_once_with_their_truth(tmp_path: Path) -> None:
    run_plan(DEMO, {"train": 2, "test": 2}, tmp_path / "clips.parquet")
    clips = read_plan(tmp_path / "clips.parquet")
    assert {c.shard for c in clips} == {"train-000", "train-001", "test-000", "test-001"}
    assert sum(c.split == "test" for c in clips) == 4
    assert all(math.isclose(c.end_s - c.start_s, 0.4) for c in clips)

    sources = run_fetch(tmp_path, "test-000", DEMO)
    ((source_id),) = {c.source_id for c in clips if c.shard == "test-000"}
    film = source_files(sources).get(source_id)
    assert film is not None
    assert film.is_symlink()
    assert np.load(sources / f"{source_id}.landmarks.npy").shape == (20, 68, 2)
    made = film.resolve().stat().st_mtime_ns
    run_fetch(tmp_path, "test-000", DEMO)
    assert film.resolve().stat().st_mtime_ns == made

    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ["sources", "store"]:
        (tmp_path / name).rename(moved / name)
    assert (moved / "sources" / "test-000" / film.name).read_bytes()


def test_a_changed_demo_is_rendered_again(tmp_path: Path) -> None:
    for size in [128, 160]:
        dataset = {**DEMO, "size": size}
        run_plan(dataset, {"train": 1, "test": 2}, tmp_path / "clips.parquet")
        run_fetch(tmp_path, "test-000", dataset)
    assert len(list((tmp_path / "store" / "sources").glob("*.mp4"))) == 2
