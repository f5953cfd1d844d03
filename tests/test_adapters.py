"""Published datasets as tables of clips: inputs in each one's documented form, all made here."""

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from difftalk.config.dataset import Hdtf, Shards, Table
from difftalk.datasets.clips import Clip, read_plan
from difftalk.datasets.table import TableDataset
from difftalk.media.encode import write_video
from difftalk.runtime.errors import UserError
from difftalk.stages import dataset, plan


def planned(table: Path, **settings: Any) -> dict[str, Clip]:
    return {c.clip_id: c for c in TableDataset(Table(table=str(table), **settings)).clips()}


def rejected(table: Path) -> dict[str, str]:
    with table.with_suffix(".rejected.csv").open() as source:
        return {row["entry"]: row["problem"] for row in csv.DictReader(source)}


@pytest.mark.parametrize("split", ["paper", "random", "identity"])
def test_hdtf_is_a_case_of_the_table(tmp_path: Path, split: Any) -> None:
    """The plan is the same clip by clip: ids, times, boxes, splits, and which stretches are duplicates."""
    settings = Hdtf(split=split)
    dataset.hdtf(out=tmp_path / "hdtf.csv", settings=settings)
    table = Table(table=str(tmp_path / "hdtf.csv"), max_frames=1500, shared_identities=split != "identity")
    for out, kind in (("table.parquet", table), ("hdtf.parquet", settings)):
        plan.run(dataset=kind, shards=Shards(train=3, test=2), out=tmp_path / out)
    found, expected = (
        # HDTF's list does not grow, so that its sources are dealt to shards in another way.
        sorted((dataclasses.replace(clip, shard="") for clip in read_plan(file)), key=lambda c: c.clip_id)
        for file in (tmp_path / "table.parquet", tmp_path / "hdtf.parquet")
    )
    assert found == expected


CELEBV_HQ = {
    "meta_info": {
        "appearance_mapping": ["blurry", "male", "young"],
        "action_mapping": ["blow", "talk"],
    },
    "clips": {
        "aaaaaaaaaa1_1": {
            "ytb_id": "aaaaaaaaaa1",
            "duration": {"start_sec": 81.62, "end_sec": 86.17},
            "bbox": {"top": 0.0, "bottom": 0.8815, "left": 0.1964, "right": 0.6922},
            "attributes": {
                "appearance": [0, 1, 1],
                "action": [0, 1],
                "emotion": {"sep_flag": False, "labels": "neutral"},
            },
            "version": "v0.1",
        },
        "_bbbbbbbbb2_0": {
            "ytb_id": "_bbbbbbbbb2",
            "duration": {"start_sec": 52.72, "end_sec": 56.1},
            "bbox": {"top": 0.0, "bottom": 0.8407, "left": 0.5271, "right": 1.0},
            "attributes": {
                "appearance": [0, 0, 1],
                "action": [0, 0],
                "emotion": {
                    "sep_flag": True,
                    "labels": [
                        {"emotion": "neutral", "start_sec": 0, "end_sec": 0.28},
                        {"emotion": "happy", "start_sec": 1.28, "end_sec": 3.28},
                    ],
                },
            },
        },
        "ends-before-it-starts": {
            "ytb_id": "aaaaaaaaaa1",
            "duration": {"start_sec": 9.0, "end_sec": 8.0},
            "bbox": {"top": 0, "bottom": 1, "left": 0, "right": 1},
        },
        "no-box": {"ytb_id": "aaaaaaaaaa1", "duration": {"start_sec": 1, "end_sec": 2}},
    },
}


def test_celebv_hq(tmp_path: Path) -> None:
    (tmp_path / "celebvhq_info.json").write_text(json.dumps(CELEBV_HQ))
    out = tmp_path / "celebv.csv"
    dataset.celebv_hq(tmp_path / "celebvhq_info.json", out=out)
    clips = planned(out)
    assert list(clips) == ["aaaaaaaaaa1_1", "_bbbbbbbbb2_0"]
    first, second = clips.values()
    assert (first.uri, first.start_s, first.end_s) == ("youtube:aaaaaaaaaa1", 81.62, 86.17)
    assert first.box == (0.1964, 0.0, 0.6922, 0.8815) and (first.box_width, first.box_height) == (1, 1)
    assert first.tags == "male;young;talk;emotion=neutral"
    assert second.tags == "young;emotion=neutral;emotion=happy"
    assert rejected(out) == {
        "ends-before-it-starts": "ends at 8 s, and starts at 9 s",
        "no-box": "no 'bbox' in it",
    }


TALKVID = [
    {
        "id": "videovideoaaaaaaaaaa1-scene1-scene1",
        "height": 1080, "width": 1920, "fps": 24.0,
        "start-time": 0.1, "start-frame": 0, "end-time": 5.141666666666667, "end-frame": 121,
        "durations": "5.042s",
        "info": {
            "Person ID": "597", "Ethnicity": "White", "Age Group": "60+", "Gender": "Male",
            "Video Link": "https://www.youtube.com/watch?v=aaaaaaaaaa1", "Language": "English",
            "Video Category": "Personal Experience",
        },
        "description": "words; and more",
        "dover_scores": 8.9,
    },
    {"id": "other", "start-time": 0, "end-time": 3,
     "info": {"Video Link": "https://www.youtube.com/watch?v=bbbbbbbbb-2", "Person ID": "12"}},
    {"id": "no-link", "start-time": 0, "end-time": 3, "info": {}},
    "no clip",
]  # fmt: skip


def test_talkvid(tmp_path: Path) -> None:
    (tmp_path / "clips.json").write_text(json.dumps(TALKVID))
    out = tmp_path / "talkvid.csv"
    dataset.talkvid(tmp_path / "clips.json", out=out)
    clips = planned(out)
    first = clips["videovideoaaaaaaaaaa1-scene1-scene1"]
    assert (first.source_id, first.identity) == ("aaaaaaaaaa1", "person-597")
    assert first.start_s == 0.1 and first.end_s == pytest.approx(5.141666666666667, abs=1e-9)
    assert first.tags == ("gender=Male;age=60+;ethnicity=White;language=English;category=Personal Experience")
    assert clips["other"].tags == ""
    assert list(rejected(out)) == ["no-link", "entry 4"]


def test_vfhq(tmp_path: Path) -> None:
    meta = tmp_path / "meta_info" / "train"
    meta.mkdir(parents=True)
    text = "CLIP Clip+x\nH 1080\nW 1920\nFPS 30.0\nCROP 574 0 1286 712\n"
    for person, crop in ((0, "574 0 1286 712"), (1, "20 10 420 410")):
        (meta / f"Clip+aaaaa_aaaa1+P{person}+C0+F1234-1500.txt").write_text(
            text.replace("574 0 1286 712", crop)
        )
    (meta / "Clip+bbbbbbbbb-2+P0+C1+F0-90.txt").write_text(text.replace("FPS 30.0", "FPS 29.97"))
    (meta / "Clip+ccccccccccc+P0+C0+F5-99.txt").write_text("H 1080\n")
    (meta / "readme.txt").write_text("no clip")
    out = tmp_path / "vfhq.csv"
    dataset.vfhq(tmp_path / "meta_info", out=out)
    clips = planned(out)
    first, second, third = clips.values()
    assert (first.source_id, first.identity) == ("aaaaa_aaaa1", "aaaaa_aaaa1_P0")
    # Frames 1235 to 1499, counted from 0.
    assert first.start_s == pytest.approx(1235 / 30) and first.end_s == 50.0
    assert first.box == (574.0, 0.0, 1286.0, 712.0)
    assert (first.box_width, first.box_height) == (1920, 1080)
    assert (second.identity, second.split, second.left_out) == ("aaaaa_aaaa1_P1", first.split, "")
    assert third.end_s == pytest.approx(90 / 29.97)
    assert set(rejected(out)) == {"Clip+ccccccccccc+P0+C0+F5-99.txt", "readme.txt"}
    assert rejected(out)["Clip+ccccccccccc+P0+C0+F5-99.txt"] == "no 'FPS' in it"


def utterance(identity: str, video: str, frames: list[str]) -> str:
    head = f"Identity  : \t{identity}\nReference : \t{video}\nOffset    : \t-2\n"
    head += "FV Conf   : \t16.140\t(1)\nASD Conf  : \t5.142\n\nFRAME \tX \tY \tW \tH \n"
    return head + "".join(f"{frame} \n" for frame in frames)


def test_voxceleb2(tmp_path: Path) -> None:
    folder = tmp_path / "txt"
    for identity, video, name, frames in [
        ("id00017", "_aaaaaaaaa1", "00001", ["000250 \t0.1 \t0.2 \t0.3 \t0.4", "000251 \t0.2 0.1 0.3 0.4"]),
        ("id00017", "_aaaaaaaaa1", "00002", ["001000 \t0.1 \t0.2 \t0.3 \t0.4"] * 2),
        ("id00018", "bbbbbbbbb-2", "00001", ["000000 \t0.1 \t0.2 \t0.3 \t0.4"]),
        ("id00019", "ccccccccccc", "00001", []),
    ]:  # fmt: skip
        file = folder / identity / video / f"{name}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(utterance(identity, video, frames))
    meta = tmp_path / "vox2_meta.csv"
    meta.write_text(
        "VoxCeleb2 ID ,VGGFace2 ID ,Gender ,Set \nid00017 ,n000017 ,m ,test \nid00018 ,n000018 ,f ,dev \n"
    )
    out = tmp_path / "vox.csv"
    dataset.voxceleb2(folder, out=out, meta=meta)
    clips = planned(out)
    first = clips["id00017__aaaaaaaaa1_00001"]
    assert (first.identity, first.uri) == ("id00017", "youtube:_aaaaaaaaa1")
    assert (first.start_s, first.end_s, first.frames) == (10.0, 10.08, 2)  # 25 frames a second
    assert first.box == pytest.approx((0.1, 0.1, 0.5, 0.6)) and (first.box_width, first.box_height) == (1, 1)
    assert (first.split, first.tags) == ("test", "gender=male")
    other = clips["id00018_bbbbbbbbb-2_00001"]
    assert (other.split, other.tags) == ("train", "gender=female")
    assert rejected(out) == {"id00019/ccccccccccc/00001.txt": "no line with FRAME X Y W H"}
    dataset.voxceleb2(folder, out=out)
    assert {c.split for c in planned(out).values()} == {"train", "test"}, "drawn, without the list"


def test_hallo3(tmp_path: Path, film_frames: Any) -> None:
    for name in ("0001", "0002"):
        write_video(tmp_path / "hallo3" / "videos" / f"{name}.mp4", film_frames[:25])
    (tmp_path / "hallo3" / "videos" / "list.txt").write_text("no video")
    (tmp_path / "hallo3" / "videos" / "gone.mp4").symlink_to("nowhere.mp4")
    out = tmp_path / "hallo3.csv"
    dataset.hallo3(tmp_path / "hallo3", out=out)
    clips = planned(out, root=str(tmp_path / "hallo3"))
    assert {c.uri: (c.start_s, c.end_s) for c in clips.values()} == {
        "file:videos/0001.mp4": (0.0, 1.0),
        "file:videos/0002.mp4": (0.0, 1.0),
    }
    assert {c.split for c in clips.values()} == {"train", "test"}
    assert rejected(out) == {
        "videos/gone.mp4": "a link to no file",
        "videos/list.txt": "no video by its suffix",
    }


def test_what_is_none_of_a_dataset_is_one_line(tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text("{}")
    out = tmp_path / "out.csv"
    for action, words in (
        (dataset.celebv_hq, "no `clips` in it"),
        (dataset.talkvid, "no list of clips"),
        (dataset.vfhq, "give the folder meta_info of VFHQ"),
        (dataset.voxceleb2, "give the folder txt of VoxCeleb2"),
        (dataset.hallo3, "unpack the archives"),
    ):
        with pytest.raises(UserError, match=words):
            action(other, out=out)
    other.write_text("[}")
    with pytest.raises(UserError, match="not JSON"):
        dataset.talkvid(other, out=out)
    other.write_text('[{"id": "x"}]')
    with pytest.raises(UserError, match="no clip can be used: x: no 'info' in it"):
        dataset.talkvid(other, out=out)
    with pytest.raises(UserError, match="copies at hand belong into dataset.files"):
        dataset.hdtf(out=out, settings=Hdtf(files="mine"))
    assert not out.exists()


def test_a_list_without_clips_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty.json").write_text("[]")
    with pytest.raises(UserError, match="it lists no clip"):
        dataset.talkvid(tmp_path / "empty.json", out=tmp_path / "clips.csv")


def test_a_second_entry_of_one_id_is_rejected(tmp_path: Path) -> None:
    info = {"Person ID": 0, "Video Link": "https://www.youtube.com/watch?v=aaaaaaaaaa1"}
    other = {"Person ID": 1, "Video Link": "https://www.youtube.com/watch?v=aaaaaaaaaa2"}
    clip = {"id": "a", "start-time": 0, "end-time": 3, "info": info}
    entries = [clip, {**clip, "start-time": 1}, {**clip, "id": "b", "info": other}]
    (tmp_path / "two.json").write_text(json.dumps(entries))
    dataset.talkvid(tmp_path / "two.json", out=tmp_path / "clips.csv")
    identity = {name: clip.identity for name, clip in planned(tmp_path / "clips.csv").items()}
    assert identity == {"a": "person-0", "b": "person-1"}
    assert rejected(tmp_path / "clips.csv") == {"a": "an earlier entry has its id 'a'"}


def test_a_later_run_takes_the_list_of_rejected_entries_away(tmp_path: Path) -> None:
    file, out = tmp_path / "clips.json", tmp_path / "out.csv"
    file.write_text(json.dumps(TALKVID))
    dataset.talkvid(file, out=out)
    assert out.with_suffix(".rejected.csv").exists()
    file.write_text(json.dumps(TALKVID[:2]))
    dataset.talkvid(file, out=out)
    assert not out.with_suffix(".rejected.csv").exists()
    again = [dataclasses.replace(clip) for clip in planned(out).values()]
    assert len(again) == 2
