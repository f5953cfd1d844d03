"""What was made of a clip is taken from the cache by its content, and made again where that differs."""

import os
import stat
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Stage
from drawn_clips import speaker, write_crops

import difftalk
from difftalk.cli import main
from difftalk.config.crops import CropsSettings
from difftalk.config.encode import Encode
from difftalk.config.gates import GatesSettings
from difftalk.config.speech import Speech
from difftalk.runtime import arguments
from difftalk.runtime.cache import Arrays, Cache, Keeping, map_kept
from difftalk.runtime.errors import ClipError
from difftalk.runtime.rejects import Reject
from difftalk.speech.table import read_speech, speech_writer
from difftalk.stages import encode, speech

AUTOENCODER = Path(difftalk.__file__).parent / "assets" / "autoencoder"
ONE = {"values": np.array([1.0, np.nan]), "text": np.frombuffer(b"a", np.uint8)}


def test_what_is_kept_is_not_made_again_until_something_changes(tmp_path: Path) -> None:
    count = 0

    def make() -> Arrays:
        nonlocal count
        count += 1
        return ONE

    cache = Cache(tmp_path, "score")
    for _ in range(2):
        found = cache.made({"code": "a"}, make)
    assert count == 1
    np.testing.assert_array_equal(found["values"], ONE["values"])
    cache.made({"code": "b"}, make)
    Cache(tmp_path, "speech").made({"code": "a"}, make)
    assert count == 3, "by what it depends on, and by stage"
    Cache(None, "score").made({"code": "a"}, make)
    assert count == 4, "without a folder nothing is kept"


@pytest.mark.parametrize("damage", [b"", b"0" * 64 + b"\n", b"\0" * 200])
def test_a_damaged_entry_is_made_again(tmp_path: Path, damage: bytes) -> None:
    cache = Cache(tmp_path, "score")
    entry = cache.entry({"a": 1})
    cache.write(entry, ONE)
    assert entry is not None and cache.read(entry) is not None
    entry.chmod(0o644)
    entry.write_bytes(damage or entry.read_bytes()[:-3])
    assert cache.read(entry) is None
    cache.write(entry, ONE)
    assert cache.read(entry) is not None


def test_what_cannot_be_kept_is_made_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "blocked").write_text("a file where the folder should be")
    assert Cache(tmp_path / "blocked", "score").made({}, lambda: ONE) is ONE


def test_a_folder_of_a_group_is_one_for_all_of_it_and_entries_are_for_reading(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        shared, own = tmp_path / "shared", tmp_path / "own"
        shared.mkdir()
        shared.chmod(0o2770)
        for folder in (shared, own):
            cache = Cache(folder, "score")
            cache.write(cache.entry({}), ONE)
    finally:
        os.umask(before)
    modes = {p.name[:5]: stat.S_IMODE(p.stat().st_mode) for p in shared.rglob("*")}
    assert set(modes.values()) == {0o2770, 0o440}
    assert {stat.S_IMODE(p.stat().st_mode) for p in own.rglob("*")} == {0o700, 0o400}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_of_others_is_of_use_without_the_permission_to_write_in_it(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", "score")
    cache.write(cache.entry({"a": 1}), ONE)
    for folder in (tmp_path / "cache" / "score", tmp_path / "cache"):
        folder.chmod(0o500)
    try:
        arguments.check_path(arguments.CACHE_FOLDER, tmp_path / "cache", "--cache")
        assert cache.made({"a": 1}, lambda: pytest.fail("made again")).keys() == ONE.keys()
        assert cache.made({"a": 2}, lambda: ONE) is ONE and cache.read(cache.entry({"a": 2})) is None
    finally:
        for folder in (tmp_path / "cache", tmp_path / "cache" / "score"):
            folder.chmod(0o700)


def test_writers_at_the_same_time_leave_one_whole_entry(tmp_path: Path) -> None:
    cache = Cache(tmp_path, "score")
    arrays = {"values": np.arange(100_000)}
    writers = [threading.Thread(target=cache.write, args=(cache.entry({}), arrays)) for _ in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    (file,) = (p for p in tmp_path.rglob("*") if p.is_file())
    found = cache.read(file)
    assert found is not None and (found["values"] == arrays["values"]).all()


def work(job: str) -> str:
    if job == "bad":
        raise ClipError("cannot_decode", "bad")
    return job.upper()


def pack(found: str) -> Arrays:
    return {"text": np.frombuffer(found.encode(), np.uint8)}


def unpack(clip_id: str, arrays: Arrays) -> str:
    return arrays["text"].tobytes().decode()


@pytest.mark.parametrize("workers", [1, 2])
def test_clips_keep_their_order_rejects_are_not_kept_and_what_is_lost_is_made_again(
    tmp_path: Path, workers: int, capsys: pytest.CaptureFixture[str]
) -> None:
    keeping = Keeping(Cache(tmp_path, "speech"), work, pack)

    def run(*names: str) -> list[tuple[str, Any]]:
        entries = [keeping.cache.entry({"name": name}) for name in names]
        jobs = [(name, name) for name in names]
        done = map_kept(keeping, unpack, jobs, entries, stage="speech", workers=workers)
        return [(name, found.reason if isinstance(found, Reject) else found) for name, found in done]

    assert run("b", "bad", "d") == [("b", "B"), ("bad", "cannot_decode"), ("d", "D")]
    assert len([p for p in tmp_path.rglob("*") if p.is_file()]) == 2
    entry = keeping.cache.entry({"name": "d"})
    assert entry is not None
    entry.chmod(0o644)
    entry.write_bytes(b"damaged")
    capsys.readouterr()
    expected = [("a", "A"), ("b", "B"), ("bad", "cannot_decode"), ("c", "C"), ("d", "D")]
    assert run("a", "b", "bad", "c", "d") == expected
    assert "speech: 2 of 5 clips are in the cache" in capsys.readouterr().err
    assert run("a", "b", "bad", "c", "d") == expected and "4 of 5" in capsys.readouterr().err


# The stages


def test_landmarks_from_the_cache_are_those_that_were_found(
    stage: Stage, film: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage.add("a", film)
    cache = tmp_path / "cache"
    stage.landmarks(early={"cache": cache})
    names = ("landmarks.parquet", "quality.csv", "scores.parquet")
    first = [(tmp_path / name).read_bytes() for name in names]
    stage.landmarks()
    assert first == [(tmp_path / name).read_bytes() for name in names], "as without a cache"

    stage.landmarks(early={"cache": cache})
    assert first == [(tmp_path / name).read_bytes() for name in names]
    assert "landmarks: 1 of 1 clips are in the cache" in capsys.readouterr().err
    stage.landmarks(early={"cache": cache}, detect_every=3)
    assert "in the cache" not in capsys.readouterr().err, "other settings"


@pytest.mark.parametrize("early", [False, True])
def test_crops_from_the_cache_are_those_that_were_cut(
    stage: Stage, film: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], early: bool
) -> None:
    stage.add("a", film)
    size = CropsSettings(size=64, min_frames=10)
    stage.landmarks(early={"crops": size, "gates": GatesSettings()} if early else None)
    assert (tmp_path / "landmarks.crops.tar").exists() == early
    stage.crops(cache=tmp_path / "cache")
    first = (tmp_path / "crops.tar").read_bytes()
    stage.crops(cache=tmp_path / "cache")
    assert "crops: 1 of 1 clips are in the cache" in capsys.readouterr().err
    assert (tmp_path / "crops.tar").read_bytes() == first
    stage.crops(cache=tmp_path / "cache", crf=20)
    assert "in the cache" not in capsys.readouterr().err and (tmp_path / "crops.tar").read_bytes() != first


def test_latents_from_the_cache_are_those_that_were_encoded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames, landmarks, audio = speaker(1)
    count = len(frames) // 2
    clip = (frames[:count], landmarks[:count], audio[: count * 640])
    write_crops(tmp_path / "crops.tar", {"a": clip})
    with speech_writer(tmp_path / "speech.parquet") as write:
        write("a", np.zeros((2 * count, 39), np.float32))

    def run(settings: Encode, cache: Path | None) -> bytes:
        encode.run(
            crops=tmp_path / "crops.tar",
            speech=tmp_path / "speech.parquet",
            autoencoder=AUTOENCODER,
            settings=settings,
            out=tmp_path / "shard.tar",
            rejects=tmp_path / "rejects.csv",
            max_reject_fraction=0.0,
            cache=cache,
        )
        return (tmp_path / "shard.tar").read_bytes()

    def entries() -> list[float]:
        return sorted(p.stat().st_ctime_ns for p in (tmp_path / "cache").rglob("*") if p.is_file())

    without = run(Encode(), None)
    assert run(Encode(), tmp_path / "cache") == without
    before = entries()
    assert "in the cache" not in capsys.readouterr().err
    assert run(Encode(), tmp_path / "cache") == without and entries() == before
    assert "encode: 1 of 1 clips were in the cache" in capsys.readouterr().err
    run(Encode(dtype="float32"), tmp_path / "cache")
    assert len(entries()) == 2


def test_speech_is_kept_by_the_audio_whatever_the_size_of_the_crop(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames, landmarks, audio = speaker(1)
    count = len(frames) // 2
    samples = audio[: count * 640]
    write_crops(tmp_path / "a.tar", {"a": (frames[:count], landmarks[:count], samples)})
    small = np.ascontiguousarray(frames[:count, ::2, ::2])
    write_crops(tmp_path / "b.tar", {"other": (small, landmarks[:count] / 2, samples)})

    def run(name: str) -> None:
        speech.run(
            crops=tmp_path / f"{name}.tar",
            settings=Speech(),
            out=tmp_path / f"{name}.parquet",
            rejects=tmp_path / f"{name}.csv",
            max_reject_fraction=0.0,
            cache=tmp_path / "cache",
        )

    run("a")
    run("b")
    assert "speech: 1 of 1 clips are in the cache" in capsys.readouterr().err
    a, b = (read_speech(tmp_path / f"{name}.parquet") for name in "ab")
    np.testing.assert_array_equal(a["a"], b["other"])


# The command


def test_a_cache_is_shown_and_pruned_by_age_and_by_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "cache"
    cache = Cache(folder, "landmarks")
    for days in range(5):
        entry = cache.entry({"days": days})
        cache.write(entry, {"values": np.zeros(25_000)})
        assert entry is not None
        os.utime(entry, (time.time() - days * 86_400.0 - 60,) * 2)
    (folder / "notes.txt").write_text("a person's own")
    assert entry is not None
    left = entry.with_name(".12345678-abc.part")
    left.write_bytes(b"half")
    os.utime(left, (0, 0))
    assert main(["cache", "show", "--folder", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "landmarks     5        1.0  0 to 4" in said and "(unfinished)  1" in said

    def prune(*flags: str) -> str:
        assert main(["cache", "prune", "--folder", str(folder), *flags]) == 0
        return capsys.readouterr().out

    assert "3 of 6 entries would be deleted, 0.4 MB" in prune("--older-than", "2.5", "--dry-run", "1")
    assert "3 of 6 entries deleted" in prune("--older-than", "2.5")
    assert "2 of 3 entries deleted" in prune("--max-gb", "0.0003")
    assert cache.read(cache.entry({"days": 0})) is not None
    assert (folder / "notes.txt").is_file()
    assert main(["cache", "prune", "--folder", str(folder)]) == 2
