"""A folder of your own videos: every entry is accounted for; copies, one person's videos, cuts are found."""

import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import ROOT, Workflow
from test_plan import described, run_fetch, speech

from difftalk.config.dataset import LocalSettings, Shards
from difftalk.config.gates import FrameGates
from difftalk.datasets.clips import Clip, clips_with_sources, read_plan, write_plan
from difftalk.datasets.demo.render import DemoSource, render_source
from difftalk.datasets.local import LocalDataset, cut_scenes
from difftalk.datasets.sides import require_both_sides
from difftalk.datasets.split import split_groups
from difftalk.datasets.survey import Survey
from difftalk.face.scenes import CutFinder
from difftalk.media.audio import read_audio
from difftalk.media.encode import encode_video
from difftalk.media.video import read_frames
from difftalk.runtime.errors import UserError
from difftalk.runtime.files import read_csv
from difftalk.runtime.rejects import Reject, read_rejects, write_rejects
from difftalk.runtime.video_folder import from_uri, list_videos, to_uri
from difftalk.stages import plan

NO_FACES: dict[str, Any] = {"same_person_distance": None}


def scene(seed: int, seconds: float) -> np.ndarray:
    """Smooth random colours that drift to and fro: frames (T, 64, 64, 3) that look like no other seed's."""
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 6, 3)).astype(np.uint8)
    image = cv2.resize(coarse, (128, 64), interpolation=cv2.INTER_CUBIC)
    at = [abs(64 - k % 128) for k in range(round(seconds * 25))]
    return np.stack([image[:, x : x + 64] for x in at])


def video(seed: int, seconds: float = 2.4, audio: bool = True) -> bytes:
    noise = np.random.default_rng(seed).normal(0, 3000, round(seconds * 16_000)).astype(np.int16)
    return encode_video(scene(seed, seconds), audio=noise if audio else None, crf=30, preset="ultrafast")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "films"
    path.mkdir()
    return path


def survey(folder: Path, **settings: Any) -> Survey:
    return LocalDataset(LocalSettings(videos=str(folder), **{**NO_FACES, **settings})).survey()


def splits(found: Survey) -> dict[str, str]:
    return {from_uri(clip.uri): clip.split for clip in found.clips}


def fill_from_hell(folder: Path) -> None:
    """Good videos under any name, bad ones, and what is no video."""
    folder.joinpath("Ann").mkdir()
    names = [
        b"plain.mp4",
        b"na\xefve.VOB",
        b"{x} %d $(touch owned) 'q\".qt",
        b"line\nbreak.f4v",
        b"Ann/1.mpe",
    ]
    for seed, name in enumerate(names):
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(video(seed))
    (folder / "zz again.asf").write_bytes((folder / "plain.mp4").read_bytes())
    (folder / "link.mkv").symlink_to("plain.mp4")
    (folder / "mute.mp4").write_bytes(video(9, audio=False))
    (folder / "empty.wmv").write_bytes(b"")
    (folder / "text.mp4").write_text("no video")
    (folder / "dangling.mp4").symlink_to("gone.mp4")
    (folder / "circle.mp4").symlink_to("circle.mp4")
    os.mkfifo(folder / "pipe.mp4")
    (folder / ".hidden.mp4").write_bytes(b"1")
    (folder / "folder.mp4").mkdir()
    (folder / "Ann" / "deeper").mkdir()
    (folder / "notes.txt").write_text("x")
    (folder / "README").write_text("x")
    (folder / "results" / "videos").mkdir(parents=True)


def test_every_entry_is_a_clip_or_a_reject_or_named(tmp_path: Path, folder: Path) -> None:
    fill_from_hell(folder)
    table = tmp_path / "clips.parquet"
    plan.run(
        dataset=LocalSettings(videos=str(folder), **NO_FACES),
        shards=Shards(train=1, test=1),
        out=table,
        not_videos=tmp_path / "not_videos.csv",
        identities=tmp_path / "identities.csv",
    )
    clips = read_plan(table)
    others = {row["name"]: row["why"] for row in read_csv(tmp_path / "not_videos.csv")}
    entries = {p.relative_to(folder) for p in [*folder.iterdir(), *(folder / "Ann").iterdir()]}
    assert {Path(from_uri(c.uri)) for c in clips} | {Path(from_uri(n)) for n in others} == entries - {
        Path("Ann")
    }
    assert others == {
        ".hidden.mp4": "hidden",
        "Ann/deeper": "folder",
        "README": "no suffix",
        "circle.mp4": "dangling link",
        "dangling.mp4": "dangling link",
        "folder.mp4": "folder without videos",
        "notes.txt": "unknown suffix .txt",
        "pipe.mp4": "no regular file",
        "results": "folder without videos",
    }
    reasons: dict[str, str] = {}
    kept: set[str] = set()
    for shard in ("train-000", "test-000"):
        sources = run_fetch(tmp_path, shard, described(folder, **NO_FACES))
        reasons |= {r.clip_id: r.reason for r in read_rejects(tmp_path / "rejects" / f"{shard}.csv")}
        kept |= {c.clip_id for c, _ in clips_with_sources(table, shard, sources)}
    assert reasons == {
        "empty-000": "cannot_decode",
        "text-000": "cannot_decode",
        "mute-000": "no_audio",
        "plain-000": "duplicate",
        "zz_again-000": "duplicate",
    }
    assert len(kept) == 5 and not kept & set(reasons)
    assert len({c.identity for c in clips if c.clip_id in kept}) == 5


@pytest.mark.parametrize(
    "name", [b"a b.mp4", b"\xff\xfe.mp4", b"{x}.mp4", b"a\nb.mp4", b"100%25.mp4", b"bytes:%41"]
)
def test_any_name_is_written_as_text_and_read_back(name: bytes) -> None:
    written = to_uri(os.fsdecode(name))
    assert written.isprintable() and written.encode("utf-8")
    assert os.fsencode(from_uri(written)) == name


def test_the_same_bytes_are_rejected_and_name_the_first(folder: Path) -> None:
    for seed, name in [(1, "a.mp4"), (1, "b.mp4"), (2, "c.mp4"), (1, "d.mov")]:
        (folder / name).write_bytes(video(seed))
    left_out = {clip.uri: clip.left_out for clip in survey(folder).clips}
    said = "duplicate: the same bytes as a.mp4"
    assert left_out == {"a.mp4": "", "b.mp4": said, "c.mp4": "", "d.mov": said}


# Copies and people


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two films of one drawn speaker, a copy of one of them, and a film each of two others."""
    folder = tmp_path_factory.mktemp("drawn")
    for name, face, text in [("ann1", 7, 7), ("ann2", 7, 8), ("bob", 9, 9), ("cid", 11, 11)]:
        render_source(DemoSource(name, face, text, 1, 2.4, 256), folder / f"{name}.mp4")
    frames = [cv2.resize(f, (160, 160)) for f in read_frames(folder / "ann1.mp4")]
    audio = (read_audio(folder / "ann1.mp4") * 0.5).astype(np.int16)
    (folder / "copy.mkv").write_bytes(encode_video(frames, audio=audio, crf=34))
    return folder


def test_copies_are_found_by_frames_and_sound_and_stay_together(drawn: Path) -> None:
    for seed in range(1, 7):
        found = survey(drawn, seed=seed)
        assert {row[1]: row[-1] for row in found.identities if row[-1]} == {"copy.mkv": "ann1.mp4"}
        sides = splits(found)
        assert sides["ann1.mp4"] == sides["copy.mkv"] and set(sides.values()) == {"train", "test"}
    rejected = {c.uri: c.left_out for c in survey(drawn, near_duplicates="reject").clips if c.left_out}
    assert rejected == {"copy.mkv": "duplicate: the same frames and audio as ann1.mp4"}


def test_videos_of_one_face_stay_together_and_are_one_identity(drawn: Path) -> None:
    # Drawn faces are nearer to each other than people's, so that 0.3 tells them apart.
    found = survey(drawn, same_person_distance=0.3, near_duplicates="ignore")
    identity = {clip.uri: clip.identity for clip in found.clips}
    assert identity["ann1.mp4"] == identity["ann2.mp4"] == identity["copy.mkv"] == "ann1"
    assert len(set(identity.values())) > 1
    rows = {row[1]: row for row in found.identities}
    assert rows["ann2.mp4"][4] in ("ann1.mp4", "copy.mkv") and float(rows["ann2.mp4"][5]) < 0.3
    sides = splits(found)
    assert len({sides[name] for name in ("ann1.mp4", "ann2.mp4", "copy.mkv")}) == 1


def test_where_all_faces_are_one_the_split_is_by_file_and_says_so(
    drawn: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert set(splits(survey(drawn, same_person_distance=5.0)).values()) == {"train", "test"}
    assert "by their faces, one person speaks in all videos" in capsys.readouterr().err


def test_a_group_is_on_one_side_whatever_its_size() -> None:
    sizes = {"big": 8, "a": 1, "b": 1}
    for seed in range(10):
        split = split_groups(sizes, 0.25, seed)
        assert split["big"] == "train" and "test" in split.values()
    assert sorted(split_groups({"a": 3, "b": 5}, 0.1, 1).items()) == [("a", "test"), ("b", "train")]


# Who is who


def test_sub_folders_and_the_table_say_who_speaks(folder: Path) -> None:
    for seed, name in enumerate(["Ann Lee/1.mp4", "Ann Lee/2.mp4", "carl/1.mp4", "x.mp4", "y.mp4"]):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(video(seed))
    identity = {clip.uri: clip.identity for clip in survey(folder).clips}
    assert identity == {
        "Ann Lee/1.mp4": "Ann_Lee", "Ann Lee/2.mp4": "Ann_Lee", "carl/1.mp4": "carl", "x.mp4": "x",
        "y.mp4": "y",
    }  # fmt: skip
    (folder / "speakers.csv").write_text("file,speaker\nx.mp4,Ann Lee\ny.mp4,carl\nAnn Lee/2.mp4,Zoe\n")
    for seed in range(1, 5):
        found = survey(folder, seed=seed)
        sides, identity = splits(found), {clip.uri: clip.identity for clip in found.clips}
        assert identity["x.mp4"] == identity["Ann Lee/1.mp4"] == "Ann_Lee"
        assert identity["Ann Lee/2.mp4"] == "Zoe"
        assert sides["x.mp4"] == sides["Ann Lee/1.mp4"] and sides["y.mp4"] == sides["carl/1.mp4"]
        assert set(sides.values()) == {"train", "test"}


def test_the_same_bytes_are_one_speakers_whichever_of_them_is_named(folder: Path) -> None:
    for seed, name in enumerate(["1.mp4", "Ann/2.mp4", "other.mp4"]):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(video(seed))
    (folder / "Ann/1.mp4").write_bytes((folder / "1.mp4").read_bytes())
    for seed in range(1, 5):
        sides = splits(survey(folder, seed=seed))
        assert sides["1.mp4"] == sides["Ann/2.mp4"] != sides["other.mp4"]


def test_a_file_that_is_called_as_a_speaker_is_another_one(folder: Path) -> None:
    for seed, name in enumerate(["Ann/1.mp4", "Ann.mp4", "c.mp4"]):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(video(seed))
    for seed in range(1, 5):
        identity = {clip.uri: clip.identity for clip in survey(folder, seed=seed).clips}
        assert len(set(identity.values())) == 3 and identity["Ann/1.mp4"] == "Ann"


def test_silence_in_two_files_makes_them_no_copies(folder: Path) -> None:
    frames = scene(1, 6.0)
    for seed in (1, 2):
        noise = np.random.default_rng(seed).normal(0, 3000, 96_000).astype(np.int16)
        noise[:64_000] = 0
        (folder / f"{seed}.mp4").write_bytes(encode_video(frames, audio=noise, crf=30, preset="ultrafast"))
    assert not [clip for clip in survey(folder, near_duplicates="reject").clips if clip.left_out]


def test_a_folder_with_a_colon_is_no_protocol(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "12:30").mkdir()
    for seed in (1, 2):
        (folder / "12:30" / f"{seed}.mp4").write_bytes(video(seed))
    monkeypatch.chdir(folder)
    assert set(splits(survey(Path("12:30"))).values()) == {"train", "test"}


def test_the_table_of_speakers_may_be_a_spreadsheets(folder: Path) -> None:
    for seed in (1, 2):
        (folder / f"{seed}.mp4").write_bytes(video(seed))
    (folder / "speakers.csv").write_text("speaker,note,file\nAnn,,1.mp4\n", encoding="utf-8-sig")
    assert {clip.uri: clip.identity for clip in survey(folder).clips} == {"1.mp4": "Ann", "2.mp4": "2"}


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("file,speaker\nb.mp4,Ann\n", r"speakers\.csv:2: no video 'b.mp4' in the folder"),
        ("file,speaker\na.mp4,\n", r"speakers\.csv:2: a.mp4 has no speaker"),
        ("file,speaker\na.mp4,Ann\na.mp4,Bo\n", r"speakers\.csv:3: a.mp4 has two speakers, Ann and Bo"),
        ("name,who\na.mp4,Ann\n", "the columns are not file,speaker"),
        ("file,speaker\n\na.mp4,Ann, Smith\n", r"speakers\.csv:3: 3 fields, 2 expected"),
    ],
)
def test_a_wrong_table_of_speakers_is_one_line(folder: Path, lines: str, said: str) -> None:
    (folder / "a.mp4").write_bytes(b"1")
    (folder / "speakers.csv").write_text(lines)
    with pytest.raises(UserError, match=said):
        survey(folder)


# The split


def test_files_that_will_be_lost_do_not_make_up_the_test_side(folder: Path) -> None:
    good = {"a.mp4", "f.mp4", "k.mp4"}
    for seed, name in enumerate("abcdefghijk"):
        (folder / f"{name}.mp4").write_bytes(video(seed, audio=f"{name}.mp4" in good))
    for seed in range(1, 9):
        sides = splits(survey(folder, seed=seed))
        assert {sides[name] for name in good} == {"train", "test"}


def test_too_few_usable_files_stop_the_run_with_what_is_wrong_with_the_others(folder: Path) -> None:
    (folder / "a.mp4").write_bytes(video(1))
    (folder / "b.mp4").write_bytes(video(1))
    (folder / "c.mp4").write_bytes(video(2, audio=False))
    (folder / "d.mp4").write_bytes(b"")
    with pytest.raises(UserError, match="of 4 video files in .* 1 can be used") as raised:
        survey(folder)
    for said in (
        "no_audio 1 (c.mp4)",
        "cannot_decode 1 (d.mp4)",
        "duplicate 1 (b.mp4)",
        "at least one more video",
    ):
        assert said in str(raised.value)


def test_a_side_without_a_clip_left_stops_the_run_with_the_funnel(tmp_path: Path) -> None:
    clips = [Clip(f"{s}-{k}", s, 0, 1, s, s, f"{s}-000") for s in ("train", "test") for k in range(2)]
    write_plan(tmp_path / "clips.parquet", clips)
    lost = [Reject("test-0", "fetch", "no_audio"), Reject("test-1", "landmarks", "no_face")]
    write_rejects(tmp_path / "a.csv", lost[:1])
    require_both_sides("train", tmp_path / "clips.parquet", [tmp_path / "a.csv"])
    write_rejects(tmp_path / "b.csv", lost[1:])
    with pytest.raises(UserError, match="no clip is left on the test side of the split: 2 plan") as raised:
        require_both_sides("train", tmp_path / "clips.parquet", [tmp_path / "a.csv", tmp_path / "b.csv"])
    assert "fetch no_audio 1, landmarks no_face 1" in str(raised.value)


# Cuts


def test_a_clip_ends_at_a_cut_and_a_rest_that_is_too_short_is_a_row(folder: Path) -> None:
    frames = np.concatenate([scene(1, 3.0), scene(2, 1.0), scene(3, 6.0)])
    (folder / "cut.mp4").write_bytes(encode_video(frames, audio=speech(10), crf=20))
    (folder / "whole.mp4").write_bytes(video(4, 3.0))

    def clips(**settings: Any) -> list[tuple[float, float, str]]:
        chosen = LocalSettings(videos=str(folder), **NO_FACES, **settings)
        found = LocalDataset(chosen, monitor).clips()
        return [(c.start_s, c.end_s, c.left_out) for c in found if c.uri == "cut.mp4"]

    assert clips() == [
        (0.0, 3.0, ""),
        (3.0, 4.0, "too_short: 1.00 s between cuts at 3.00 s and 4.00 s"),
        (4.0, 10.0, ""),
    ]
    assert [c[:2] for c in clips(clip_seconds=2.5)] == [
        (0, 2.5),
        (2.5, 3),
        (3, 4),
        (4, 6.5),
        (6.5, 9),
        (9, 10),
    ]
    assert clips(clip_at_cuts=False) == [(0.0, 10.0, "")]


def monitor() -> CutFinder:
    return CutFinder(FrameGates.model_fields["scene_cut_ratio"].default)


def test_by_time_every_video_trains_and_its_end_is_the_test(folder: Path) -> None:
    for name, seconds in (("ann.mp4", 12.0), ("bob.mp4", 4.0)):
        (folder / name).write_bytes(video(len(name) + round(seconds), seconds))
    (folder / "copy.mp4").write_bytes((folder / "ann.mp4").read_bytes())
    found = survey(folder, split="time", test_fraction=0.25, clip_seconds=6.0, near_duplicates="ignore")
    sides = [(c.source_id, c.start_s, c.end_s, c.split, c.left_out.split(":")[0]) for c in found.clips]
    assert sides == [
        ("ann", 0.0, 6.0, "train", ""),
        ("ann", 6.0, 9.0, "train", ""),
        ("ann", 9.0, 12.0, "test", ""),
        ("bob", 0.0, 3.0, "train", ""),
        ("bob", 3.0, 4.0, "test", "too_short"),
        ("copy", 0.0, 6.0, "train", "duplicate"),
        ("copy", 6.0, 9.0, "train", "duplicate"),
        ("copy", 9.0, 12.0, "test", "duplicate"),
    ]
    assert [row[3] for row in found.identities] == ["both"] * 3
    planned = {
        "dataset": LocalSettings(videos=str(folder), split="time", **NO_FACES),
        "shards": Shards(train=1),
    }
    plan.run(**planned, out=folder.parent / "clips.parquet")  # type: ignore[arg-type]
    assert {c.shard for c in read_plan(folder.parent / "clips.parquet")} == {"train-000", "test-000"}


def test_one_video_alone_is_split_by_time_and_by_identity_refused(folder: Path) -> None:
    (folder / "ann.mp4").write_bytes(video(1, 8.0))
    assert {c.split for c in survey(folder, split="time").clips} == {"train", "test"}
    with pytest.raises(UserError, match="too few for train and test, which share no speaker"):
        survey(folder)
    (folder / "ann.mp4").write_bytes(video(1, 8.0, audio=False))
    with pytest.raises(UserError, match=r"0 can be used, of 0 speaker\(s\); lost"):
        survey(folder, split="time")


def test_by_time_copies_are_rejected_whatever_they_are_called(drawn: Path) -> None:
    found = survey(drawn, split="time", near_duplicates="together")
    assert any(c.left_out.startswith("duplicate: the same frames") for c in found.clips)


def test_scenes_and_rests_fill_a_source() -> None:
    for cuts in ([], [40], [75, 100], [10, 20, 130]):
        clips = cut_scenes(8.0, cuts, 3.0)
        assert clips[0][0] == 0 and clips[-1][1] == 8.0
        assert all(a[1] == pytest.approx(b[0]) for a, b in zip(clips[:-1], clips[1:], strict=True))
        assert all((end - start < 2) == bool(why) for start, end, why in clips)


# The workflow


def test_a_second_run_does_nothing_and_neither_does_a_note(workflow: Workflow, tmp_path: Path) -> None:
    """The folder holds the run's own results, too."""
    fill_from_hell(tmp_path)
    targets = [f"results/007/rejects/fetch/{shard}.csv" for shard in ("train-000", "test-000")]
    common = (*targets, "--configfile", ROOT / "config/videos.yaml", "--config", "videos=.", "run=007")
    faceless = "dataset={same_person_distance: null}"
    failed = workflow(*common, faceless, "max_reject_fraction=0")
    run = tmp_path / "results" / "007"
    assert failed.status != 0 and (run / "plan" / "clips.parquet").is_file()
    rows = {(r["stage"], r["reason"]): int(r["clips"]) for r in read_csv(run / "funnel.csv")}
    assert rows["planned", ""] == 10 == sum(n for (stage, _), n in rows.items() if stage != "planned")
    assert rows["fetch", "duplicate"] == 2 and "unfinished" in {stage for stage, _ in rows}
    page = (run / "funnel.html").read_text()
    assert "mute.mp4" in page and "0.0–2.4" in page and "Not a video: " in page

    assert workflow(*common, faceless).status == 0
    (tmp_path / "another note.txt").write_text("x")
    (tmp_path / "results" / "videos" / "b.mp4").write_bytes(video(3))
    again = workflow(*common, faceless, "-n")
    assert again.idle, again.said
    (tmp_path / "new.mp4").write_bytes(video(3))
    # Which shards have other rows is known when the plan is made.
    assert workflow(*common, faceless, "-n").jobs == {"plan": 1}
    assert workflow(*common, faceless).status == 0
    rejects = [file.read_text() for file in (run / "rejects" / "fetch").glob("*.csv")]
    assert sum("new-000,fetch,duplicate" in text for text in rejects) == 1
    assert workflow(*common, faceless, "-n").idle


def test_the_listing_opens_no_file(folder: Path) -> None:
    (folder / "a.mp4").write_bytes(b"1")
    (folder / "a.mp4").chmod(0)
    assert list_videos(folder).videos == ("a.mp4",)
