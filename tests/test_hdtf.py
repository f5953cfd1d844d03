"""The table of HDTF's clips: counts, splits, how annotations become rows, damaged annotations."""

import random
import re
from collections import Counter
from pathlib import Path
from typing import Literal

import pytest
from hdtf_table import main

from difftalk.config.dataset import Hdtf
from difftalk.datasets.dataset import open_dataset
from difftalk.datasets.hdtf.annotations import (
    COLUMNS,
    TABLE,
    VERDICTS,
    read_annotations,
    read_table,
    write_table,
)
from difftalk.datasets.hdtf.dataset import speakers
from difftalk.runtime.errors import UserError

# Made up, in the form of the real files and with each of their defects.
RADIO = {
    "video_url": b"Radio1 https://www.youtube.com/watch?v=aaaaaaaaaa1&t=6s\n"
    b"Radio2 https://www.youtube.com/watch?v=aaaaaaaaaa2\n",
    "annotion_time": b"Radio1.mp4 00:30-01:00 01:30-02:30\n",
    "resolution": b"Radio1.mp4 720\nRadio2.mp4 720\n",
    "crop_wh": b"Radio1_0.mp4 412 599 1 598\n",
    "crop_ratio": b"Radio1_0.mp4 1.2\n",
}
ADDRESSES = {
    "video_url": b"\xef\xbb\xbfAnnSmith2 https://www.youtube.com/watch?v=bbbbbbbbb-1\n"
    b"AnnSmith https://www.youtube.com/watch?list=x&v=bbbbbbbbb_2\n"
    b"BobJones https://youtu.be/bbbbbbbbb-1?t=5\n",
    "annotion_time": b"AnnSmith2.mp4 00:05-04:40 \nAnnSmith.mp4 10:00-10:20\nBobJones.mp4 00:05-04:40\n",
    "resolution": b"AnnSmith2.mp4 1080\nAnnSmith.mp4 0\nBobJones.mp4 1080\n",
    "crop_wh": b"AnnSmith2_0.mp4 9 99 0 99\nAnnSmith_0.mp4 412 465 0 465\nBobJones_0.mp4 9 99 0 99\n",
    "crop_ratio": b"AnnSmith2_0.mp4 1.0\nAnnSmith_0.mp4 0.95\nBobJones_0.mp4 1.2\n",
}
MORE_ADDRESSES = {
    "video_url": b"EvaDoe https://www.youtube.com/watch?v=cccccccccc1\n",
    "annotion_time": b"EvaDoe.mp4 08:10-08:30 00:33-08:53 09:00-09:10 09:20-09:30 09:40-09:50\n",
    "resolution": b"EvaDoe.mp4 714\n",
    "crop_wh": b"EvaDoe_0.mp4 300 714 0 714\nEvaDoe_2.mp4 300 700 20 700\nEvaDoe_3.mp4 1 1134 0 1134\n",
    "crop_ratio": b"EvaDoe_0.mp4 1.2\nEvaDoe_2.mp4 1.2\nEvaDoe_3.mp4 0.8\n",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for subset, files in {"RD": RADIO, "WDA": ADDRESSES, "WRA": MORE_ADDRESSES}.items():
        for kind, content in files.items():
            (tmp_path / f"{subset}_{kind}.txt").write_bytes(content)
    return tmp_path


def replace(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))


# --- the table of the package


def test_the_table_has_the_counts_of_the_dataset() -> None:
    rows = read_table()
    clips = [row for row in rows if row.index is not None]
    boxed = [row for row in clips if row.w is not None]
    assert len({(row.subset, row.name) for row in rows}) == 370
    assert len({row.youtube_id for row in rows}) == 369
    assert len(clips) == 436
    assert sum(row.seconds for row in clips) == 61453  # 17.07 h
    assert len(boxed) == 421
    assert sum(row.seconds for row in boxed) == 58863  # 16.35 h
    assert Counter(row.subset for row in clips) == {"RD": 66, "WDA": 195, "WRA": 175}
    assert len({row.speaker for row in rows if row.speaker}) == 220


def test_every_clip_has_one_verdict_and_a_name_of_its_own() -> None:
    rows = read_table()
    assert Counter(row.verdict.partition(":")[0] for row in rows) == {
        "ok": 415,
        "no_box": 14,
        "box_exceeds_frame": 3,
        "resolution_inferred": 2,
        "duplicate_of": 1,
        "overlaps": 1,
        "no_time": 1,
    }
    ids = {row.clip_id for row in rows}
    assert len(ids) == len(rows) == 437
    assert {row.verdict.partition(":")[2] for row in rows} - {""} <= ids
    assert all((row.verdict == "no_time") == (row.index is None) for row in rows)


@pytest.mark.parametrize(
    ("split", "train_minutes", "test_minutes"),
    [("paper", 81, 292), ("random", 96, 277), ("identity", 298, 75)],
)
def test_the_splits_have_the_minutes_of_the_documentation(
    split: Literal["paper", "random", "identity"], train_minutes: int, test_minutes: int
) -> None:
    """With the defaults of the section `dataset`; clips whose stretch is in another clip too are rejected."""
    clips = [clip for clip in open_dataset(Hdtf(split=split)).clips() if not clip.left_out]
    minutes = {s: sum(c.end_s - c.start_s for c in clips if c.split == s) / 60 for s in ("train", "test")}
    assert {s: round(m) for s, m in minutes.items()} == {"train": train_minutes, "test": test_minutes}


def test_known_defects_are_in_the_table() -> None:
    rows = {row.clip_id: row for row in read_table()}
    assert rows["RD_Radio24"].verdict == "no_time"
    assert rows["WDA_CarolynMaloney2_000"].youtube_id == "RApGxN-O9Qc"  # behind the byte order mark
    assert rows["RD_Radio2_000"].youtube_id == "uBWJJvynXpA"  # with &t=6s
    assert rows["WDA_WhipJimClyburn_000"].verdict == "duplicate_of:WDA_JamesClyburn1_000"
    assert rows["WRA_MittRomney_001"].verdict == "overlaps:WRA_MittRomney_000"
    assert [rows[f"WRA_KevinMcCarthy1_00{k}"].height for k in (0, 1)] == [720, 720]
    assert {i for i, row in rows.items() if row.verdict == "box_exceeds_frame"} == {
        "WDA_MaggieHassan_000",
        "WDA_MazieHirono1_000",
        "WRA_PeterKing_000",
    }
    odd = {i: row.height for i, row in rows.items() if row.height not in (None, 720, 1080)}
    assert odd == {
        "RD_Radio56_000": 2160,
        "WDA_DanKildee_000": 360,
        "WDA_RaulRuiz_000": 700,
        "WRA_GregWalden_000": 714,
    }


def test_attribution_stands_beside_the_table() -> None:
    assert "CC BY 4.0" in TABLE.with_name("ATTRIBUTION.md").read_text(encoding="utf-8")


# --- from annotations to rows


def test_annotations_become_rows(folder: Path) -> None:
    rows = {row.clip_id: row for row in read_annotations(folder)}
    assert list(rows) == [
        "RD_Radio1_000",
        "RD_Radio1_001",
        "RD_Radio2",
        "WDA_AnnSmith_000",
        "WDA_AnnSmith2_000",
        "WDA_BobJones_000",
        *(f"WRA_EvaDoe_00{k}" for k in range(5)),
    ]
    first = rows["RD_Radio1_000"]
    assert (first.name, first.index, first.youtube_id, first.speaker) == ("Radio1", 0, "aaaaaaaaaa1", "")
    assert (first.start_s, first.end_s, first.seconds) == (30, 60, 30)
    assert (first.x, first.y, first.w, first.h, first.height) == (412, 1, 599, 598, 720)
    assert (first.crop_ratio, first.verdict) == (1.2, "ok")
    assert rows["WDA_AnnSmith2_000"].speaker == rows["WDA_AnnSmith_000"].speaker == "AnnSmith"


def test_verdicts(folder: Path) -> None:
    rows = {row.clip_id: row for row in read_annotations(folder)}
    assert {i: (row.verdict, row.height) for i, row in rows.items()} == {
        "RD_Radio1_000": ("ok", 720),
        "RD_Radio1_001": ("no_box", None),
        "RD_Radio2": ("no_time", None),
        "WDA_AnnSmith_000": ("resolution_inferred", 720),
        "WDA_AnnSmith2_000": ("ok", 1080),
        "WDA_BobJones_000": ("duplicate_of:WDA_AnnSmith2_000", 1080),
        "WRA_EvaDoe_000": ("ok", 714),
        "WRA_EvaDoe_001": ("overlaps:WRA_EvaDoe_000", None),
        "WRA_EvaDoe_002": ("box_exceeds_frame", 720),
        "WRA_EvaDoe_003": ("box_exceeds_frame", 1080),
        "WRA_EvaDoe_004": ("no_box", None),
    }
    assert {row.verdict.partition(":")[0] for row in rows.values()} == set(VERDICTS)


def test_line_ends_blank_lines_and_order_do_not_matter(folder: Path) -> None:
    expected = read_annotations(folder)
    for path in folder.glob("*.txt"):
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines()
        path.write_bytes(b"\xef\xbb\xbf" + b"  \r\n\r\n".join(reversed(lines)))
    assert read_annotations(folder) == expected


def test_the_table_is_read_as_it_was_written(folder: Path) -> None:
    rows = read_annotations(folder)
    write_table(folder / "clips.csv", rows)
    assert read_table(folder / "clips.csv") == rows
    write_table(folder / "again.csv", read_table())
    assert (folder / "again.csv").read_bytes() == TABLE.read_bytes()


def test_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(folder), "--out", str(folder / "clips.csv")]) == 0
    assert capsys.readouterr().out.startswith("6 videos, 5 ids, 10 clips of 0.34 h, 7 with boxes of 0.18 h")
    assert read_table(folder / "clips.csv") == read_annotations(folder)
    (folder / "RD_crop_wh.txt").unlink()
    assert main([str(folder), "--out", str(folder / "none.csv")]) == 2
    error = capsys.readouterr().err
    assert "RD_crop_wh.txt: cannot be read (No such file or directory)" in error and error.count("\n") == 1
    assert not (folder / "none.csv").exists()


# --- damaged lines

DAMAGED = [
    # file, what is replaced, by what, line, a part of the message
    (
        "RD_video_url",
        b" https://www.youtube.com/watch?v=aaaaaaaaaa2",
        b"",
        2,
        "0 fields after the name, 1 expected",
    ),
    ("RD_video_url", b"aaaaaaaaaa2", b"aaaaaaaaaa2 x", 2, "2 fields after the name, 1 expected"),
    ("RD_video_url", b"aaaaaaaaaa2", b"aaaaaaaaa", 2, "no YouTube URL with a video id of 11 characters"),
    (
        "RD_video_url",
        b"aaaaaaaaaa2",
        "aaaaaaaaaaé".encode(),
        2,
        r"'https://www.youtube.com/watch?v=aaaaaaaaaa\xe9'",
    ),
    ("RD_video_url", b"https://www.youtube.com/watch?v=aaaaaaaaaa2", b"http://[", 2, "no YouTube URL"),
    ("RD_video_url", b"Radio2", b"Radio1", 2, "a second line of 'Radio1'"),
    ("RD_video_url", b"Radio2", "Rádio2".encode(), 2, r"'R\xe1dio2' is no name"),
    ("RD_video_url", b"Radio2", "\ufeffRadio2".encode(), 2, r"'\ufeffRadio2' is no name"),
    ("RD_video_url", b"Radio2", b"../Radio2", 2, "'../Radio2' is no name"),
    ("RD_video_url", b"Radio2", b"Radio\xff", 2, "not UTF-8"),
    ("RD_video_url", b"Radio2", b"Radio\x00", 2, "is no name"),
    ("RD_annotion_time", b"Radio1.mp4", b"Radio1", 1, "'Radio1' is no name"),
    ("RD_annotion_time", b"Radio1.mp4", b"Radio9.mp4", 1, "'Radio9' is no video of RD_video_url.txt"),
    (
        "RD_annotion_time",
        b"Radio1.mp4 00:30-01:00 01:30-02:30",
        b"Radio1.mp4",
        1,
        "0 fields after the name, one or",
    ),
    ("RD_annotion_time", b"00:30-01:00", b"01:00-00:30", 1, "01:00-00:30 ends before it starts"),
    ("RD_annotion_time", b"00:30-01:00", b"00:30-00:30", 1, "00:30-00:30 ends before it starts, or where"),
    ("RD_annotion_time", b"00:30-01:00", b"00:30-00:60", 1, "'00:30-00:60' is no interval"),
    ("RD_annotion_time", b"00:30-01:00", b"00:30 01:00", 1, "'00:30' is no interval"),
    ("RD_annotion_time", b"00:30-01:00", b"00:30-", 1, "'00:30-' is no interval"),
    ("RD_annotion_time", b"00:30-01:00", b"-0:30-01:00", 1, "is no interval"),
    ("RD_annotion_time", b"00:30-01:00", "00:30–01:00".encode(), 1, r"'00:30\u201301:00' is no interval"),
    ("RD_annotion_time", b"00:30-01:00", "00:3٠-01:00".encode(), 1, "is no interval"),
    ("RD_annotion_time", b"00:30-01:00", b"00:30-" + b"9" * 5000 + b":00", 1, "is no interval"),
    ("WDA_annotion_time", b"10:00-10:20", b"10:20-10:00", 2, "ends before it starts"),
    ("RD_resolution", b"Radio2.mp4 720", b"Radio2.mp4 720p", 2, "'720p' is no whole number"),
    ("RD_resolution", b"Radio2.mp4 720", b"Radio2.mp4 -720", 2, "'-720' is no whole number"),
    ("RD_resolution", b"Radio2.mp4 720", "Radio2.mp4 ７２０".encode(), 2, "is no whole number"),
    ("RD_resolution", b"Radio2.mp4 720", b"Radio3.mp4 720", 2, "'Radio3' is no video"),
    ("WDA_resolution", b"BobJones.mp4 1080", b"", 3, "no height of 'BobJones' in WDA_resolution.txt"),
    ("WDA_crop_wh", b"412 465 0 465", b"412 465 0", 2, "3 fields after the name, 4 expected"),
    ("WDA_crop_wh", b"412 465 0 465", b"412 465 0 465 1", 2, "5 fields after the name, 4 expected"),
    ("WDA_crop_wh", b"412 465 0 465", b"412 465 0 46.5", 2, "'46.5' is no whole number"),
    ("WDA_crop_wh", b"412 465 0 465", b"412 465 nan 465", 2, "'nan' is no whole number"),
    ("WDA_crop_wh", b"412 465 0 465", b"412 465 465 0", 2, "a box 465 wide and 0 high"),
    ("WDA_crop_wh", b"AnnSmith_0", b"AnnSmith_1", 2, "'AnnSmith_1' is no clip of WDA_annotion_time.txt"),
    ("WDA_crop_ratio", b"0.95", b"0,95", 2, "'0,95' is no crop ratio"),
    ("WDA_crop_ratio", b"0.95", b"0.0", 2, "'0.0' is no crop ratio"),
    ("WDA_crop_ratio", b"0.95", b"inf", 2, "'inf' is no crop ratio"),
    ("WDA_crop_ratio", b"AnnSmith_0", b"AnnSmith", 2, "'AnnSmith' is no clip"),
]


@pytest.mark.parametrize(("file", "old", "new", "line", "message"), DAMAGED)
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"], ids=["lf", "crlf"])
def test_a_damaged_line_is_named(
    folder: Path, file: str, old: bytes, new: bytes, line: int, message: str, line_end: bytes
) -> None:
    replace(folder / f"{file}.txt", old, new)
    for path in folder.glob("*.txt"):
        path.write_bytes(path.read_bytes().replace(b"\n", line_end))
    # A clip without its height is the fault of the line with its box.
    blamed = "WDA_crop_wh" if file == "WDA_resolution" else file
    with pytest.raises(UserError) as error:
        read_annotations(folder)
    assert str(error.value).startswith(f"{folder / blamed}.txt:{line}: ")
    assert message in str(error.value)


@pytest.mark.parametrize("content", [b"", b"\n", b"\xef\xbb\xbf", b" \r\n\r\n"])
@pytest.mark.parametrize("kind", list(RADIO))
def test_an_empty_file_is_named(folder: Path, kind: str, content: bytes) -> None:
    path = folder / f"WDA_{kind}.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(f"{path}:1: empty file")):
        read_annotations(folder)


PIECES = [
    b"",
    b" ",
    b"\n",
    b"\r\n",
    b"\r",
    b"\t",
    b"\x00",
    b"\xff",
    b"\xef\xbb\xbf",
    b"-",
    b":",
    b"_",
    b".mp4",
]
PIECES += [b"0", b"9" * 5000, b"%", b"[", "é".encode(), "\u2028".encode(), "\u00a0".encode(), "٣".encode()]


def damage(content: bytes, rng: random.Random) -> bytes:
    """The content with a stretch of it replaced, deleted, doubled or swapped with the next."""
    start = rng.randrange(len(content))
    end = min(len(content), start + rng.choice([0, 1, 1, 2, 5, 20, 200]))
    kind = rng.randrange(4)
    if kind == 0:
        return content[:start] + rng.choice(PIECES) + content[end:]
    if kind == 1:
        return content[:start] + bytes(rng.randrange(256) for _ in range(end - start)) + content[end:]
    if kind == 2:
        return content[:end] + content[start:]
    fields = content.split(b" ")
    k = rng.randrange(len(fields) - 1)
    fields[k], fields[k + 1] = fields[k + 1], fields[k]
    return b" ".join(fields)


@pytest.mark.parametrize(
    "file", [f"{subset}_{kind}.txt" for subset in ("RD", "WDA", "WRA") for kind in RADIO]
)
def test_any_damage_is_either_read_or_named_with_file_and_line(folder: Path, file: str) -> None:
    rng = random.Random(file)
    path = folder / file
    whole = path.read_bytes()
    refused = 0
    for _ in range(50):
        path.write_bytes(damage(whole, rng))
        try:
            rows = read_annotations(folder)
        except UserError as error:
            refused += 1
            assert re.match(rf"{re.escape(str(folder))}/(RD|WDA|WRA)_[a-z_]+\.txt:[1-9]\d*: \S", str(error))
            assert "\n" not in str(error)
        else:
            assert len({row.clip_id for row in rows}) == len(rows)
            assert all(row.verdict.partition(":")[0] in VERDICTS for row in rows)
            assert all((row.seconds > 0) == (row.verdict != "no_time") for row in rows)
    # Most damage is noticed; some is another valid annotation, such as another digit.
    assert refused > 15


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        (",".join(COLUMNS), "a,b", 1, "the header is not"),
        ("RD_Radio2,aaaaaaaaaa2,,", "RD_Radio2,aaaaaaaaaa2,", 4, "14 fields, 15 expected"),
        ("RD,Radio2,,", "RD,Radio2,x,", 4, "index 'x' is no whole number"),
        ("no_time", "no_tim", 4, "'no_tim' is none of the verdicts"),
        ("0.95", "-1", 5, "'-1' is no crop ratio"),
    ],
)
def test_a_damaged_line_of_the_table_is_named(
    folder: Path, old: str, new: str, line: int, message: str
) -> None:
    path = folder / "clips.csv"
    write_table(path, read_annotations(folder))
    replace(path, old.encode(), new.encode())
    with pytest.raises(UserError) as error:
        read_table(path)
    assert str(error.value).startswith(f"{path}:{line}: ")
    assert message in str(error.value)


def test_what_the_names_alone_say_of_speakers_on_both_sides() -> None:
    rows = [row for row in read_table() if row.index is not None]
    of = speakers(rows)
    assert len(of) == 436 and len(set(of.values())) == 275
    assert len({of[row.clip_id] for row in rows if row.subset == "RD"}) == 56
    names: dict[str, set[str]] = {}
    subsets: dict[str, set[str]] = {}
    for row in rows:
        names.setdefault(of[row.clip_id], set()).add(row.speaker or of[row.clip_id])
        subsets.setdefault(of[row.clip_id], set()).add(row.subset)
    assert [found for found in names.values() if len(found) > 1] == [{"JamesClyburn", "WhipJimClyburn"}]
    assert all(len(found) == 1 for found in subsets.values())
    both = {}
    splits: tuple[Literal["paper", "random", "identity"], ...] = ("paper", "random", "identity")
    for split in splits:
        clips = open_dataset(Hdtf(split=split)).clips()
        tested = {clip.identity for clip in clips if clip.split == "test"}
        training = [clip.identity in tested for clip in clips if clip.split == "train"]
        both[split] = sum(training), len(training)
    assert both == {"paper": (25, 98), "random": (45, 110), "identity": (0, 348)}
