"""Content and persons on both sides of a split are found after the crops, and kept off the training side."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT

from difftalk.config.gates import OverlapSettings
from difftalk.config.workflow import load, read_yaml, stage_settings
from difftalk.datasets.clips import Clip, write_plan
from difftalk.datasets.copies import Content
from difftalk.datasets.overlap import find_overlap, read_contents, read_overlap, write_contents
from difftalk.runtime.errors import UserError
from difftalk.runtime.rejects import read_rejects
from difftalk.stages import overlap

NO_FRAMES = np.zeros((0, 2, 64), bool)


def clip(name: str, split: str, identity: str = "", source: str = "") -> Clip:
    source = source or name
    return Clip(name, source, 0.0, 3.0, identity or source, split, f"{split}-000")


def content(audio: int, face: float) -> Content:
    """Audio of a seed, and a face that is so far from that of 0."""
    bits = np.random.default_rng(audio).integers(0, 1 << 16, 90).astype(np.uint32)
    return Content(bits | np.uint32(1 << 16), NO_FRAMES, np.eye(1, 128)[0] * face)


def found(clips: list[Clip], contents: list[Content], **settings: Any) -> dict[str, tuple[str, str, str]]:
    of = {c.clip_id: content for c, content in zip(clips, contents, strict=True)}
    rows = find_overlap(clips, of, OverlapSettings(**settings))
    return {row.clip_id: (row.on_both_sides, row.nearest, row.copy_of) for row in rows}


def test_content_is_found_under_other_names_and_told_apart_from_people() -> None:
    clips = [clip("a", "train"), clip("b", "test"), clip("c", "train"), clip("d", "train")]
    rows = found(clips, [content(1, 0.0), content(1, 0.1), content(2, 5.0), content(2, 5.0)])
    assert rows == {
        "a": ("content", "b", ""), "b": ("content", "a", "a"), "c": ("", "b", ""), "d": ("", "b", "c"),
    }  # fmt: skip


def test_a_person_is_found_by_face_and_with_it_all_clips_of_that_speaker() -> None:
    clips = [clip("a1", "train", "ann"), clip("a2", "train", "ann"), clip("b", "train"), clip("x", "test")]
    contents = [content(1, 0.5), content(2, 0.9), content(3, 3.0), content(4, 0.0)]
    assert {k: v[0] for k, v in found(clips, contents).items()} == {
        "a1": "person", "a2": "person", "b": "", "x": "person"
    }  # fmt: skip
    nobody = {"a1": "", "a2": "", "b": "", "x": ""}
    assert {k: v[0] for k, v in found(clips, contents, same_person_distance=None).items()} == nobody
    assert {k: v[0] for k, v in found(clips, contents, same_person_distance=0.4).items()} == nobody


def test_speakers_whom_the_dataset_names_are_told_apart_by_their_names() -> None:
    clips = [clip("a", "train", "Ann"), clip("b", "test", "Bob"), clip("u", "train")]
    contents = [content(1, 0.1), content(2, 0.0), content(3, 0.2)]
    named = {k: v[0] for k, v in found(clips, contents, named_speakers=True).items()}
    assert named == {"a": "", "b": "person", "u": "person"}
    assert found(clips, contents)["a"][0] == "person"
    again = [clip("a", "train", "Ann"), clip("b", "test", "Ann")]
    assert found(again, [content(1, 0.0), content(2, 9.0)], named_speakers=True)["a"][0] == "person"


def test_training_clips_are_rejected_and_test_clips_stay(tmp_path: Path) -> None:
    clips = [clip("a", "train"), clip("b", "test"), clip("c", "train"), clip("gone", "train")]
    write_plan(tmp_path / "clips.parquet", clips)
    for split in ("train", "test"):
        of = {"a": content(1, 0.0), "b": content(1, 0.0), "c": content(3, 0.5)}
        rows = [(c.clip_id, of[c.clip_id]) for c in clips if c.split == split and c.clip_id in of]
        write_contents(tmp_path / f"{split}.parquet", rows)
    stored = read_contents([tmp_path / "train.parquet"])["a"]
    assert stored.face is not None and not stored.face.any()
    assert np.array_equal(stored.audio, content(1, 0.0).audio)

    def run(fraction: float = 1.0, **settings: Any) -> dict[str, str]:
        rejects = [tmp_path / "rejects" / f"{split}-000.csv" for split in ("train", "test")]
        overlap.run(
            plan=tmp_path / "clips.parquet",
            descriptors=[tmp_path / "train.parquet", tmp_path / "test.parquet"],
            settings=OverlapSettings(**settings),
            out=tmp_path / "overlap.csv",
            rejects=rejects,
            max_reject_fraction=fraction,
        )
        return {reject.clip_id: reject.reason for path in rejects for reject in read_rejects(path)}

    assert run(overlap="reject") == {"a": "duplicate", "c": "shared_speaker"}
    assert run(overlap="report") == {}
    written = read_overlap(tmp_path / "overlap.csv")
    assert written["c"].detail == "the face is 0.500 from that of b in b" and set(written) == {"a", "b", "c"}
    with pytest.raises(UserError, match="overlap: 2 of 2 clips rejected, more than max_reject_fraction=0.5"):
        run(0.5, overlap="reject")


@pytest.mark.parametrize(
    ("dataset", "becomes"),
    [
        ({"name": "hdtf"}, "report"),
        ({"name": "hdtf", "split": "random"}, "report"),
        ({"name": "hdtf", "split": "identity"}, "reject"),
        ({"name": "table", "table": "clips.csv"}, "reject"),
        ({"name": "table", "table": "clips.csv", "shared_identities": True}, "report"),
        ({"name": "demo"}, "ignore"),
        ({"name": "local"}, "ignore"),
    ],
)
def test_what_is_rejected_by_default_is_what_the_split_promises(
    dataset: dict[str, Any], becomes: str
) -> None:
    default = read_yaml(ROOT / "config.yaml")
    config = load(default | {"dataset": dataset, "videos": None})
    assert stage_settings(config, "overlap").as_dict()["overlap"] == becomes
    if becomes != "ignore":
        chosen = load(default | {"dataset": dataset, "gates": {"overlap": "report"}})
        assert stage_settings(chosen, "overlap").as_dict()["overlap"] == "report"
