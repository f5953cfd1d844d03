"""A folder with one more video, or a changed one, reruns the jobs of its shard, and no other's."""

import re
import shutil
from pathlib import Path

import numpy as np
from conftest import Finished, snakemake

from difftalk.datasets.clips import read_plan
from difftalk.media.encode import encode_video

CONFIG = (
    "dataset={name: local, same_person_distance: null, near_duplicates: ignore, clip_at_cuts: false}",
    "shards={train: 4, test: 2}",
)
SHARDS = [*(f"train-00{k}" for k in range(4)), "test-000", "test-001"]


def video(seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    frames = [rng.integers(0, 255, (48, 64, 3), np.uint8) for _ in range(5)]
    return encode_video(frames, audio=rng.normal(0, 3000, 3200).astype(np.int16), crf=30)


def fetched(done: Finished) -> set[str]:
    """The shards whose sources were fetched."""
    assert done.status == 0, done.said
    return set(re.findall(r"^Job \d+: Fetch the sources of (\S+)", done.said, re.MULTILINE))


def test_one_more_video_and_a_changed_one(tmp_path: Path) -> None:
    folder = tmp_path / "films"
    folder.mkdir()
    for k in range(24):
        (folder / f"{k}.mp4").write_bytes(video(k))
    targets = [f"results/videos/sources/{shard}.csv" for shard in SHARDS]

    def run() -> Finished:
        config = ("--config", "run=videos", "videos=films", *CONFIG)
        return snakemake(*targets, *config, directory=tmp_path)

    def shards() -> dict[str, str]:
        return {
            clip.source_id: clip.shard for clip in read_plan(tmp_path / "results/videos/plan/clips.parquet")
        }

    assert fetched(run()) == set(SHARDS)
    before = shards()
    assert run().idle
    (folder / "new.mp4").write_bytes(video(99))
    ran, after = fetched(run()), shards()
    moved = {
        shard
        for name in after
        for shard in (before.get(name), after[name])
        if before.get(name) != after[name]
    }
    assert ran == moved - {None} and len(ran) < len(SHARDS) / 2
    assert run().idle
    (folder / "7.mp4").write_bytes(video(100))
    assert fetched(run()) == {after["7"]}
    shutil.copy(folder / "7.mp4", tmp_path / "films/notes.txt")
    assert fetched(run()) == set()
