"""A million clips, thousands of shards: what one job reads, and how names are found, grows with its share."""

import random
import re
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from difftalk.config import own_files
from difftalk.config.dataset import Shards
from difftalk.datasets.clips import Clip, read_plan, write_plan
from difftalk.datasets.disjoint_sets import DisjointSets
from difftalk.datasets.split import assign_shards
from difftalk.datasets.table import _is_same, clip_ids, mark_shared_stretches
from difftalk.datasets.table_file import Row
from difftalk.runtime import fingerprint as fingerprints
from difftalk.runtime import remembered
from difftalk.runtime.checksums import record_of
from difftalk.runtime.errors import UserError
from difftalk.runtime.video_folder import videos_by_stem


def clips_of(shards: int, each: int) -> list[Clip]:
    return [
        Clip(
            f"c{s:04d}-{k}",
            f"s{s}",
            float(k),
            k + 1.0,
            f"i{s}",
            "train",
            f"train-{s:04d}",
            box=(0.0, 1.0, 2.0, 3.0),
        )
        for s in range(shards)
        for k in range(each)
    ]


def test_one_shard_is_read_from_its_rows_alone(tmp_path: Path) -> None:
    """Damage to the rows of other shards is not met; a reader of all of them meets it."""
    plan = tmp_path / "clips.parquet"
    clips = clips_of(shards=10, each=2500)
    write_plan(plan, clips, ["train-9999"])
    assert read_plan(plan) == clips
    record_of(plan).unlink()
    with pq.ParquetFile(plan) as file:
        assert file.num_row_groups == 4
        page = file.metadata.row_group(3).column(0).data_page_offset
    content = bytearray(plan.read_bytes())
    content[page + 2000] ^= 0xFF
    plan.write_bytes(content)
    assert read_plan(plan, "train-0001") == clips[2500:5000]
    assert read_plan(plan, "train-9999") == []
    with pytest.raises(UserError, match="no shard train-0010; did you mean"):
        read_plan(plan, "train-0010")
    with pytest.raises(UserError, match="is no table"):
        read_plan(plan)


def test_names_of_many_shards_are_in_order() -> None:
    """A shard's number has as many digits as the last one's, so that a sorted list is in order."""
    for count in (1, 1000, 1001, 12345):
        names = Shards(train=count).names("train")
        assert names == sorted(names) and len(set(names)) == count
    assert Shards(train=1000).names("train")[-1] == "train-999"
    assert Shards(train=1001).names("train")[-1] == "train-1000"
    placed = assign_shards(
        [Clip("a", "a", 0, 1, "a", "train"), Clip("b", "b", 0, 1, "b", "test")], Shards(train=2000)
    )
    assert {len(clip.shard) for clip in placed} == {len("test-000"), len("train-0000")}


def test_shared_stretches_are_those_that_a_look_at_every_pair_finds() -> None:
    """Among many clips of one source, the first that is the same names the duplicate."""
    draw = random.Random(1)
    clips = []
    for k in range(400):
        start = draw.choice([draw.uniform(0, 300), float(draw.randrange(60))])
        box = draw.choice([None, (0.0, 0.0, 9.0, 9.0), (90.0, 0.0, 99.0, 9.0)])
        clips.append(
            Clip(f"c{k}", "s", start, start + draw.choice([0.0, 0.03, 1.0, 5.0, 40.0]), "i", "train", box=box)
        )
    kept: list[Clip] = []
    for clip, marked in zip(clips, mark_shared_stretches(clips), strict=True):
        same = [other for other in kept if _is_same(clip, other)]
        said = f"duplicate: shows a stretch that is in {same[0].clip_id} too" if same else ""
        assert marked.left_out == said
        kept += [] if same else [clip]
    assert 100 < len(kept) < 400


def test_rows_with_one_name_are_numbered_without_a_search() -> None:
    """100,000 rows of one clip id have ids of their own, the same as one after the other gets."""
    rows = [Row(url="https://example.org/a", end_s=1.0, clip_id="a")] * 100_000
    ids = clip_ids(rows, ["s"] * len(rows))
    assert ids[:3] == ["a", "a-2", "a-3"] and ids[-1] == "a-100000"


def test_sets_that_are_joined_in_the_worst_order_stay_shallow() -> None:
    """Each join puts a set below an earlier name: without shorter ways a look-up would pass all of them."""
    names = [f"{k:06d}" for k in range(100_000)]
    groups = DisjointSets(names)
    for before, after in zip(reversed(names[:-1]), reversed(names[1:]), strict=True):
        groups.join(before, after)
    assert groups.sizes(names) == {names[0]: len(names)}


def test_a_folder_of_files_is_listed_once(tmp_path: Path) -> None:
    """Every source asks for its file; the folder is listed again where something was added to it."""
    (tmp_path / "a.mp4").touch()
    (tmp_path / "a.mov").touch()
    (tmp_path / "a.txt").touch()
    found = videos_by_stem(tmp_path)
    assert found == {"a": tmp_path / "a.mov"}
    assert videos_by_stem(tmp_path) is found
    (tmp_path / "b.MP4").touch()
    assert videos_by_stem(tmp_path) == {"a": tmp_path / "a.mov", "b": tmp_path / "b.MP4"}


@pytest.mark.parametrize("count", [1, 7, 10, 20, 999, 1000, 1001, 1234, 3600, 10_000, 20_500])
def test_the_pattern_of_shards_fits_their_names_alone(count: int) -> None:
    shards = Shards(train=count, test=3)
    pattern = re.compile(shards.pattern())
    digits = len(shards.names("train")[0]) - len("train-")
    found = [number for number in range(10**digits) if pattern.fullmatch(f"train-{number:0{digits}d}")]
    assert found == list(range(count))
    assert not any(map(pattern.fullmatch, ("test-003", "train-00", "train-0000000", "train-", "test-000x")))
    assert len(shards.pattern()) < 200


def test_what_was_computed_of_code_and_files_is_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second reading of the workflow parses no module and hashes no weights; the values are the same."""
    weights = tmp_path / "weights"
    weights.write_bytes(b"1")
    known = tmp_path / "known.json"

    def both() -> tuple[str, str]:
        fingerprints._read.cache_clear()
        remembered.use_file(known)
        found = fingerprints.fingerprint("difftalk.stages.encode"), fingerprints.fingerprint_files(weights)
        remembered.save()
        return found

    try:
        plain = fingerprints.fingerprint("difftalk.stages.encode"), fingerprints.fingerprint_files(weights)
        assert both() == plain
        asked: list[str] = []
        sys.addaudithook(lambda event, _: asked.append(event) if event == "compile" else None)
        assert both() == plain
        assert not asked
        weights.write_bytes(b"22")
        assert both()[1] != plain[1]
        known.write_text("damaged")
        assert both()[0] == plain[0]
    finally:
        remembered.use_file(None)
        fingerprints._read.cache_clear()


def test_a_large_folder_is_listed_again_when_one_of_its_folders_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hash over its files is remembered as long as nothing is added, removed or renamed."""
    monkeypatch.setattr(own_files, "LOOKED_AT", 3)
    monkeypatch.setattr(own_files, "SETTLED_S", 0.0)
    (tmp_path / "videos" / "ann").mkdir(parents=True)
    for name in ("a.mp4", "b.mp4", "ann/c.mp4", "ann/d.mp4"):
        (tmp_path / "videos" / name).touch()
    try:
        remembered.use_file(tmp_path / "known.json")
        before = own_files.folder_digest(tmp_path / "videos")
        remembered.save()
        remembered.use_file(tmp_path / "known.json")
        listed: list[str] = []
        sys.addaudithook(lambda event, of: listed.append(str(of[0])) if event == "os.scandir" else None)
        assert own_files.folder_digest(tmp_path / "videos") == before
        assert not [name for name in listed if "videos" in name]
        (tmp_path / "videos" / "ann" / "e.mp4").touch()
        assert own_files.folder_digest(tmp_path / "videos") != before
        remembered.use_file(None)
        assert own_files.folder_digest(tmp_path / "videos") != before
    finally:
        remembered.use_file(None)
