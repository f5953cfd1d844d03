"""Copies are found wherever they begin, cropped or mirrored; what was measured of a file is kept."""

import os
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from test_folders import NO_FACES, video

from difftalk.config.dataset import LocalSettings, Shards
from difftalk.config.gates import FrameGates
from difftalk.datasets.copies import LEAST_STEPS, Content, aligned, copies_among, frame_distance
from difftalk.datasets.demo.render import DemoSource, render_source
from difftalk.datasets.features_cache import entry_of, recall
from difftalk.datasets.file_features import FeaturesJob, file_features
from difftalk.datasets.fingerprints import STEP_S, audio_fingerprint, frame_hash
from difftalk.datasets.groups import near_duplicates
from difftalk.face.scenes import CutFinder
from difftalk.media.audio import read_audio
from difftalk.media.encode import encode_video
from difftalk.media.video import read_frames
from difftalk.runtime.cache import Cache
from difftalk.stages import plan

NOTHING = np.zeros((0, 2, 64), bool)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "films"
    path.mkdir()
    return path


def voice(seed: int, seconds: float) -> np.ndarray:
    """Noise whose bands come and go: no two seeds are alike."""
    rng = np.random.default_rng(seed)
    loud = np.interp(np.arange(round(seconds * 16_000)), np.arange(0, seconds * 16_000 + 1600, 1600),
                     rng.uniform(0.1, 1, round(seconds * 10) + 1))  # fmt: skip
    return (rng.normal(0, 3000, len(loud)) * loud).astype(np.int16)


def test_audio_agrees_where_the_copy_begins() -> None:
    whole = voice(1, 30.0)
    for start_s in (0.0, 2.53, 11.111):
        part = (whole[round(start_s * 16_000) :][: 6 * 16_000] * 0.4).astype(np.int16)
        fingerprint_of = [audio_fingerprint(a) for a in (voice(2, 20.0), whole, voice(3, 6.0), part)]
        found = list(aligned(fingerprint_of))
        assert [(one, other) for one, other, _ in found] == [(1, 3)]
        assert found[0][2] * STEP_S == pytest.approx(start_s, abs=STEP_S)


def test_an_index_of_a_part_of_the_keys_finds_them_too() -> None:
    whole = voice(1, 30.0)
    fingerprints = [audio_fingerprint(a) for a in (whole, voice(2, 20.0), whole[80_000:])]
    steps = sum(map(len, fingerprints))
    assert [pair[:2] for pair in aligned(fingerprints, most_keys=steps // 6)] == [(0, 2)]


def test_a_jingle_in_two_videos_and_silence_make_them_no_copies() -> None:
    jingle = voice(9, 3.0)
    a, b = (np.concatenate([jingle, voice(seed, 9.0)]) for seed in (1, 2))
    quiet = [np.concatenate([np.zeros(96_000, np.int16), voice(seed, 1.0)]) for seed in (3, 4)]
    assert not list(aligned([audio_fingerprint(x) for x in (a, b, *quiet)]))
    assert len(audio_fingerprint(jingle)) > LEAST_STEPS


def test_a_hash_knows_its_mirror_image() -> None:
    rng = np.random.default_rng(0)
    frame = cv2.resize(rng.integers(0, 255, (6, 6, 3), np.uint8), (32, 32), interpolation=cv2.INTER_CUBIC)
    plain, mirrored = frame_hash(frame), frame_hash(np.ascontiguousarray(frame[:, ::-1]))
    assert np.mean(plain[0] != mirrored[1]) < 0.05 and np.mean(plain[0] != mirrored[0]) > 0.2
    assert frame_distance(plain[None], mirrored[None]) < 0.05
    assert frame_distance(plain[None], plain[None], shift_s=3.0) == 1.0, "no frame in common"


def test_the_same_audio_is_no_copy_without_the_same_frames_or_face() -> None:
    audio = audio_fingerprint(voice(1, 6.0))
    rng = np.random.default_rng(1)
    hashes = [rng.random((6, 2, 64)) < 0.5 for _ in range(2)]
    ann, bob = rng.normal(0, 0.1, (2, 128))
    assert list(copies_among([Content(audio, hashes[0], ann), Content(audio, hashes[1], bob)])) == []
    assert list(copies_among([Content(audio, hashes[0], ann), Content(audio, hashes[0], bob)])) == [(0, 1)]
    assert list(copies_among([Content(audio, NOTHING, ann), Content(audio, hashes[1], ann + 0.01)])) == [
        (0, 1)
    ]


def test_a_copy_that_begins_later_is_cropped_and_mirrored_is_found(tmp_path: Path) -> None:
    for name, text in (("long", 1), ("other", 2)):
        render_source(DemoSource(name, 7, text, 1, 4.0, 256), tmp_path / f"{name}.mp4")
    frames = [f[30:226, 226:30:-1] for f in read_frames(tmp_path / "long.mp4", 1.21)]
    audio = read_audio(tmp_path / "long.mp4", 1.21)
    (tmp_path / "part.mp4").write_bytes(encode_video(frames, audio=audio, crf=28))
    looks = {
        name: file_features(FeaturesJob(tmp_path / f"{name}.mp4", faces=True, compare=True))
        for name in ("long", "other", "part")
    }
    assert near_duplicates(looks) == {"part": "long"}


# What was measured of a file is kept


def planned(videos: Path, out: Path, cache: Path | None, **settings: Any) -> list[bytes]:
    plan.run(
        dataset=LocalSettings(videos=str(videos), **{**NO_FACES, **settings}),
        shards=Shards(train=1, test=1),
        out=out / "clips.parquet",
        not_videos=out / "others.csv",
        identities=out / "identities.csv",
        cache=cache,
    )
    return [file.read_bytes() for file in sorted(out.iterdir())]


def entries(cache: Path) -> dict[str, int]:
    """When each entry was written."""
    return {str(entry): entry.stat().st_mtime_ns for entry in cache.glob("plan/*/*")}


def test_a_folder_with_one_more_file_costs_the_look_at_that_one(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    for seed, name in enumerate([b"a.mp4", b"b.mp4", b"\xff{x}.mp4"]):
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(video(seed))
    (folder / "damaged.mp4").write_bytes(b"1")
    first = planned(folder, tmp_path / "1", cache)
    before = entries(cache)
    assert len(before) == 4
    assert planned(folder, tmp_path / "2", cache) == first and entries(cache) == before
    (folder / "new.mp4").write_bytes(video(7))
    with_new = planned(folder, tmp_path / "3", cache)
    after = entries(cache)
    assert len(after) == 5 and before.items() <= after.items()
    assert planned(folder, tmp_path / "4", None) == with_new


def test_a_changed_file_other_settings_and_a_damaged_entry_are_looked_at_again(
    folder: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    for seed in (1, 2):
        (folder / f"{seed}.mp4").write_bytes(video(seed))
    planned(folder, tmp_path / "1", cache)
    (folder / "2.mp4").write_bytes(video(3))
    first = planned(folder, tmp_path / "2", cache)
    assert len(entries(cache)) == 3
    planned(folder, tmp_path / "3", cache, near_duplicates="ignore")
    before = entries(cache)
    assert len(before) == 5
    for entry in cache.glob("plan/*/*"):
        entry.chmod(0o644)
        entry.write_bytes(entry.read_bytes()[:-20] + bytes(20))
    assert planned(folder, tmp_path / "4", cache) == first
    whole = {name for name in before if recall(Cache(cache, "plan"), Path(name)) is not None}
    assert len(whole) == 2, "written again, those that were asked for"


def test_an_entry_is_that_of_one_file_and_way_to_look(folder: Path, tmp_path: Path) -> None:
    (folder / "a.mp4").write_bytes(video(1))
    cuts = partial(CutFinder, FrameGates.model_fields["scene_cut_ratio"].default)
    jobs = [FeaturesJob(folder / "a.mp4", faces, monitor=m) for faces in (False, True) for m in (None, cuts)]
    kept = Cache(tmp_path, "plan")
    assert len({entry_of(kept, job) for job in jobs}) == 4
    (tmp_path / "link").symlink_to(folder, target_is_directory=True)
    assert entry_of(kept, FeaturesJob(tmp_path / "link/a.mp4")) == entry_of(kept, jobs[0])
