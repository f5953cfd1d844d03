"""A dataset as a table: rows become clips or errors with a line, sources are fetched once, splits hold."""

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT, snakemake
from video_site import Site, fails, plays, running

from difftalk.config.dataset import Shards, Table
from difftalk.config.download import Download
from difftalk.config.workflow import dataset_files, load, read_yaml
from difftalk.datasets.clips import Clip, read_plan
from difftalk.datasets.demo.render import DemoSource, render_source
from difftalk.datasets.frozen import read_frozen, write_frozen
from difftalk.datasets.table import TableDataset
from difftalk.face.geometry import scaled_box
from difftalk.media.audio import read_audio
from difftalk.media.encode import write_video
from difftalk.media.shards import read_shard
from difftalk.media.video import read_frames
from difftalk.models.autoencoder import build_autoencoder
from difftalk.runtime.errors import ClipError, UserError
from difftalk.runtime.rejects import read_rejects
from difftalk.stages import plan

YOUTUBE = "https://www.youtube.com/watch?v="


def write(folder: Path, text: str, name: str = "clips.csv") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def clips_of(table: Path, **settings: Any) -> list[Clip]:
    return TableDataset(Table(table=str(table), **settings)).clips()


def complaint(table: Path, **settings: Any) -> str:
    with pytest.raises(UserError) as raised:
        clips_of(table, **settings)
    return str(raised.value)


def test_a_row_becomes_a_clip_with_all_that_it_says(tmp_path: Path) -> None:
    table = write(
        tmp_path,
        "url,start,end,clip_id,identity,split,subset,tags,box,box_height\n"
        f'{YOUTUBE}aaaaaaaaaa1&t=3s,1.5,4,ann-1,Ann,train,talks," gender=female; studio;",10 20 110 120,720\n'
        "https://youtu.be/bbbbbbbbb-2,0,2,bob-1,Bob,test,,,,\n",
    )
    ann, bob = clips_of(table)
    assert ann == Clip(
        "ann-1", "aaaaaaaaaa1", 1.5, 4.0, "Ann", "train", uri="youtube:aaaaaaaaaa1", subset="talks",
        box=(10, 20, 110, 120), box_height=720, tags="gender=female;studio",
    )  # fmt: skip
    assert (bob.source_id, bob.uri, bob.split, bob.tags) == ("bbbbbbbbb-2", "youtube:bbbbbbbbb-2", "test", "")


def test_parquet_with_its_own_types_gives_the_same_clips_as_csv(tmp_path: Path) -> None:
    rows = [
        {"url": f"{YOUTUBE}aaaaaaaaaa{k}", "start": 0.5, "end": 3.0, "identity": 7 + k,
         "tags": ["a", "b"], "box": [0.0, 0.0, 10.0, 10.0]}
        for k in range(2)
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "clips.parquet")
    lines = [f"{r['url']},0.5,3,{r['identity']},a;b,0 0 10 10\n" for r in rows]
    table = write(tmp_path, "url,start,end,identity,tags,box\n" + "".join(lines))
    assert clips_of(tmp_path / "clips.parquet") == clips_of(table)


def test_a_box_in_parts_of_the_frame_scales_with_both_of_its_sides(tmp_path: Path) -> None:
    table = write(
        tmp_path,
        f"url,start,end,x,y,w,h\n{YOUTUBE}aaaaaaaaaa1,0,2,0.25,0,0.5,1\n{YOUTUBE}aaaaaaaaaa2,0,2,,,,\n",
    )
    clip, without = clips_of(table)
    assert clip.box is not None and without.box is None
    box = scaled_box(clip.box, clip.box_height, 720, clip.box_width, 1280)
    assert box == (280, 0, 1000, 720)  # 640 x 720 in the middle, made a square


BAD = [
    ("url,start,end\n,0,1\n", "clips.csv:2: a clip has either a url or a path, this row has neither"),
    ("url,path,start,end\nhttp://a/b,c.mp4,0,1\n", "clips.csv:2: a clip has either .* has both"),
    ("url,start,end\nfile:///etc/passwd,0,1\n", "clips.csv:2: 'file:///etc/passwd' is no http"),
    ("url,start,end\nhttp://a/b,0,1\nhttp://a/b c,0,1\n", "clips.csv:3: 'http://a/b c' is no http"),
    ("url,start,end\nhttp://a/b,0,\n", "clips.csv:2: no end"),
    ("url,start,end\nhttp://a/b,5,5\n", "clips.csv:2: ends at 5 s, and starts at 5 s"),
    ("url,start,end\nhttp://a/b,-1,5\n", "clips.csv:2: start is -1"),
    ("url,start,end\nhttp://a/b,nan,5\n", "clips.csv:2: start is 'nan', no finite number"),
    ("url,start,end\nhttp://a/b,0:10,5\n", "clips.csv:2: start is '0:10', no number"),
    ("url,start,end,split\nhttp://a/b,0,5,val\n", "clips.csv:2: split is 'val': train, test or empty"),
    ("url,start,end,box\nhttp://a/b,0,5,1 2 3\n", "clips.csv:2: box is '1 2 3', not x0 y0 x1 y1"),
    ("url,start,end,x,y,w,h\nhttp://a/b,0,5,100,2,300,400\n", "clips.csv:2: x, y, w, h are in parts"),
    ("url,start,end\nhttp://a/b,0\n", "clips.csv:2: 2 fields, 3 expected"),
    ('url,start,end\n"http://a/\nb",0,1\n', "clips.csv:2: 'http://a/.*b' is no http"),
    ("path,start,end\n../a.mp4,0,1\n", r"clips.csv:2: path '../a.mp4' leads out of"),
    ("path,start,end\n/a.mp4,0,1\n", "clips.csv:2: path '/a.mp4' is absolute: .*absolute_paths: true"),
    ("link,start,end\nhttp://a/b,0,1\n", "clips.csv:1: neither a column url nor a column path"),
    ("url,url,end\nhttp://a/b,0,1\n", "clips.csv:1: two columns are called 'url'"),
    ("", "clips.csv:1: no header"),
    ("url,start,end\n", "clips.csv: no clip in it"),
    ("url,start,end,clip_id\nhttp://a/b,0,1,x\nhttp://a/c,0,1,x\n", "csv:3: clip_id 'x' is that of .*:2"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "words"), BAD)
def test_a_bad_row_is_named_by_file_and_line(tmp_path: Path, text: str, words: str) -> None:
    said = complaint(write(tmp_path, text))
    assert re.search(words, said, re.DOTALL), said


def test_values_of_parquet_that_are_none_or_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "clips.parquet"
    urls = [f"{YOUTUBE}aaaaaaaaaa1", f"{YOUTUBE}aaaaaaaaaa2"]
    columns: dict[str, Any] = {"url": urls, "end": [2.0, 2.0], "identity": [float("nan"), float("nan")]}
    pq.write_table(pa.table(columns), path)
    assert [clip.identity for clip in clips_of(path)] == ["aaaaaaaaaa1", "aaaaaaaaaa2"]
    pq.write_table(pa.table([*columns.values(), [1.0, 1.0]], names=[*columns, "end"]), path)
    assert "two columns are called 'end'" in complaint(path)
    odd = pa.array([1, 2], pa.timestamp("ns"))
    pq.write_table(pa.table({**columns, "added": odd}), path)
    assert f"{path}: a value that cannot be read" in complaint(path)


def test_a_source_that_is_called_as_a_speaker_is_another_one(tmp_path: Path) -> None:
    table = write(
        tmp_path, f"url,end,identity\n{YOUTUBE}aaaaaaaaaa1,2,\n{YOUTUBE}aaaaaaaaaa2,2,aaaaaaaaaa1\n"
    )
    first, second = clips_of(table)
    assert second.identity == "aaaaaaaaaa1" != first.identity


def test_of_many_bad_rows_five_are_named_and_the_others_counted(tmp_path: Path) -> None:
    said = complaint(write(tmp_path, "url,start,end\n" + "http://a/b,2,1\n" * 8))
    assert said.count("ends at 1 s") == 5 and said.endswith("; and 3 more rows")


def test_what_is_no_table_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "noise").write_bytes(bytes(range(128, 256)))
    assert "neither CSV in UTF-8 nor Parquet" in complaint(tmp_path / "noise")
    (tmp_path / "cut.parquet").write_bytes(b"PAR1" + bytes(100))
    assert "damaged Parquet" in complaint(tmp_path / "cut.parquet")
    assert "cannot be read" in complaint(tmp_path / "absent.csv")


def test_ids_are_safe_and_unique_whatever_the_table_calls_its_clips(tmp_path: Path) -> None:
    rows = [
        ("a.mp4", "Ann B."), ("b/a.mp4", "ann b"), ("c/A.mov", "../x"), ("d.mp4", ""), ("d.mp4", ""),
        ("{x}.mp4", "Иван"), ("e.mp4", "e" * 200), ("f.mp4", "f" * 70),
    ]  # fmt: skip
    lines = [f"{path},{k},{k + 1},{name}\n" for k, (path, name) in enumerate(rows)]
    clips = clips_of(write(tmp_path, "path,start,end,clip_id\n" + "".join(lines)))
    for ids, count in (([c.clip_id for c in clips], 8), (list({c.source_id for c in clips}), 7)):
        assert len({i.lower() for i in ids}) == count
        assert all(i.replace("-", "").replace("_", "").isalnum() and i.isascii() for i in ids)
        assert max(map(len, ids)) <= 85
    assert clips[7].clip_id == "f" * 70, "a usable name stays"
    assert (clips[3].clip_id, clips[4].clip_id) == ("d-000", "d-001")


def test_a_stretch_that_an_earlier_row_shows_is_a_duplicate_that_names_it(tmp_path: Path) -> None:
    table = write(
        tmp_path,
        "url,start,end,clip_id,box\n"
        "http://a/b,0,4,first,0 0 10 10\n"
        "http://a/b,3,6,overlaps,\n"
        "http://a/b,5,8,free,\n"  # shares time with a clip that is left out, and with no other
        "http://a/b,0,4,other-face,90 0 100 10\n"
        "http://a/b,0,4,same-face,1 0 11 10\n"
        "http://a/b,8.02,9,next,\n"
        "http://a/b,0,4,first,0 0 10 10\n"  # the whole row again
        "http://a/c,0,4,other-source,\n",
    )
    lost = {c.clip_id: c.left_out for c in clips_of(table)}
    twice = "duplicate: shows a stretch that is in first too"
    assert lost == {
        "first": "", "overlaps": twice, "free": "", "other-face": "", "same-face": twice, "next": "",
        "first-2": twice, "other-source": "",
    }  # fmt: skip


def drawn(tmp_path: Path, rows: list[str], **settings: Any) -> dict[str, str]:
    table = write(tmp_path, "url,start,end,clip_id,identity,split\n" + "\n".join(rows) + "\n")
    return {c.clip_id: c.split for c in clips_of(table, **settings)}


def test_one_file_under_several_links_is_one_source(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"1")
    (tmp_path / "b.mp4").symlink_to("a.mp4")
    (tmp_path / "c.mp4").hardlink_to(tmp_path / "a.mp4")
    (tmp_path / "other.mp4").write_bytes(b"1")
    rows = "a.mp4,0,2\nb.mp4,2,4\nc.mp4,1,2\nother.mp4,0,2\n./gone.mp4,0,2\ngone.mp4,2,4\n"
    clips = clips_of(write(tmp_path, f"path,start,end\n{rows}"))
    assert [c.source_id for c in clips] == ["a", "a", "a", "other", "gone", "gone"]
    assert [bool(c.left_out) for c in clips] == [False, False, True, False, False, False]
    assert len({c.split for c in clips[:3]}) == 1


def test_a_missing_split_is_drawn_by_speaker_and_never_cuts_through_a_source(tmp_path: Path) -> None:
    rows = [f"http://a/{k},0,1,c{k},id{k // 2}," for k in range(20)]
    rows += ["http://a/duo,0,1,d0,id0,", "http://a/duo,2,3,d1,id1,"]  # two speakers of one video
    first = drawn(tmp_path, rows, test_fraction=0.3, seed=1)
    assert all(first[f"c{k}"] == first[f"c{k + 1}"] for k in range(0, 20, 2))
    assert len({first[c] for c in ("c0", "c1", "c2", "c3", "d0", "d1")}) == 1
    groups = {first[f"c{k}"] + str(k) for k in range(2, 20, 2)}  # id0 and id1 are one
    assert sum(g.startswith("test") for g in groups) == round(9 * 0.3)
    assert first == drawn(tmp_path, rows, test_fraction=0.3, seed=1)
    assert first != drawn(tmp_path, rows, test_fraction=0.3, seed=2)


def test_rows_without_a_split_follow_their_speaker(tmp_path: Path) -> None:
    rows = ["http://a/1,0,1,a,ann,test", "http://a/2,0,1,b,ann,", "http://a/3,0,1,c,carl,"]
    assert drawn(tmp_path, rows) == {"a": "test", "b": "test", "c": "train"}


def test_a_published_split_that_shares_speakers_is_accepted_only_where_asked(tmp_path: Path) -> None:
    table = write(
        tmp_path,
        "url,start,end,identity,split\nhttp://a/1,0,1,ann,train\nhttp://a/2,0,1,ann,test\n",
    )
    out, shards = tmp_path / "clips.parquet", Shards(train=1, test=1)
    with pytest.raises(UserError, match="on both sides of the split: identity ann"):
        plan.run(dataset=Table(table=str(table)), shards=shards, out=out)
    plan.run(dataset=Table(table=str(table), shared_identities=True), shards=shards, out=out)
    assert [c.split for c in read_plan(out)] == ["test", "train"]


def test_a_clip_is_cut_to_max_frames_and_a_file_without_times_is_taken_whole(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (75, 32, 32, 3), dtype=np.uint8)
    write_video(tmp_path / "a.mp4", noise, audio=np.zeros(48_000, np.int16))
    (tmp_path / "b.mp4").write_text("no video")
    table = write(tmp_path, "path,start,end\na.mp4,1,\nb.mp4,,\nabsent.mp4,,\n")
    spans = {c.source_id: (c.start_s, c.end_s) for c in clips_of(table)}
    assert spans == {"a": (1.0, 3.0), "b": (0.0, 0.0), "absent": (0.0, 0.0)}
    assert clips_of(table, max_frames=25)[0].end_s == 2.0


def test_only_the_table_and_the_files_that_it_names_make_a_run_go_again(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"1")
    settings = Table(table=str(write(tmp_path, "path,start,end\na.mp4,0,1\n")))
    before = dataset_files(settings)
    (tmp_path / "notes.txt").write_text("a note")
    assert dataset_files(settings) == before
    (tmp_path / "a.mp4").write_bytes(b"12")
    assert dataset_files(settings) != before


def test_a_table_that_is_not_named_is_one_line() -> None:
    default = read_yaml(ROOT / "config.yaml")
    with pytest.raises(UserError, match=r"^config: dataset.table is missing"):
        load({**default, "dataset": {"name": "table"}})


def test_a_frozen_plan_keeps_tags_and_is_read_without_them_too(tmp_path: Path) -> None:
    clip = Clip("a", "s", 0.0, 1.0, "ann", "test", box=(0, 0, 1, 1), box_height=1, box_width=1, tags="x;y")
    write_frozen(tmp_path / "new.csv", [clip], {"s": "0" * 64})
    (found,) = read_frozen(tmp_path / "new.csv")
    assert (found.tags, found.box_width) == ("x;y", 1.0)
    lines = [",".join(line.split(",")[:-2]) for line in (tmp_path / "new.csv").read_text().splitlines()]
    (old,) = read_frozen(write(tmp_path, "\n".join(lines) + "\n", "old.csv"))
    assert (old.tags, old.box_width, old.box) == ("", None, (0.0, 0.0, 1.0, 1.0))


# One run of all that prepares data: files of the user's own, a video of a site, and direct addresses.

SECONDS = 2.2
ENDS = {
    "own-0": "kept", "own-1": "kept", "site": "kept", "direct": "kept", "again": "duplicate",
    "gone": "removed", "absent": "cannot_fetch", "note": "cannot_decode", "long": "too_short",
    "copy": "duplicate",
}  # fmt: skip


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Site]]:
    folder = tmp_path_factory.mktemp("table")
    films = folder / "films" / "deep"
    films.mkdir(parents=True)
    for k in range(2):
        render_source(DemoSource(f"f{k}", 88_000 + k, 88_000 + k, 1, SECONDS, 192), films / f"f{k}.mp4")
    copy = [np.ascontiguousarray(f[:, ::-1]) for f in read_frames(films / "f0.mp4", 0.2)]
    write_video(films / "copy.mp4", copy, audio=read_audio(films / "f0.mp4", 0.2) // 2, crf=26)
    (films / "note.mp4").write_text("a note that is called a video")
    site = Site(files={"f1.mp4": films / "f1.mp4", "f.mp4?key=1": films / "f1.mp4"})
    site.pages = {"alive-00001": plays("f1.mp4"), "gone-404000": fails(404)}
    build_autoencoder((8, 16, 16), 1, 64).save_pretrained(folder / "first_stage")
    with running(site):
        host = site.url.partition("/watch")[0]
        rows = [
            "url,path,start,end,clip_id,identity,tags,note,split",
            *(
                f",deep/f{k}.mp4,0,2.2,own-{k},of-{k},{('man;loud,x,test', 'woman,x,train')[k]}"
                for k in range(2)
            ),
            ",deep/copy.mp4,,,copy,of-7,,x,train",
            "youtube:alive-00001,,0,2.2,site,of-1,woman,x,",
            f"{host}/files/f.mp4?key=1,,0,2.12,direct,of-1,woman,x,",
            f"{host}/files/f.mp4?key=1,,0.5,2.12,again,of-1,woman,x,",
            "youtube:gone-404000,,0,3,gone,of-3,,x,",
            ",absent.mp4,0,3,absent,of-4,,x,",
            ",deep/note.mp4,,,note,of-5,,x,",
            ",deep/f0.mp4,3,9,long,of-0,,x,",
        ]
        table = write(folder, "\n".join(rows) + "\n", "talks.csv")
        changes = [
            "run=talks", f"download={{url: '{site.url}', sleep_s: 0, request_sleep_s: 0, timeout_s: 10}}",
            f"dataset={{table: {table}, root: {folder / 'films'}, test_fraction: 0.3}}",
            f"autoencoder={folder / 'first_stage'}", "max_reject_fraction=1.0",
            "shards={train: 1, test: 1}", "crops={size: 64}",
        ]  # fmt: skip
        asked: list[str | Path] = [
            "prepare_all",
            "--configfile",
            ROOT / "config" / "table.yaml",
            "--config",
            *changes,
        ]
        done = snakemake(*asked, directory=folder)
        assert done.status == 0, done.said
        (folder / "films" / "notes.txt").write_text("changes nothing")
        assert snakemake(*asked, "-n", directory=folder).idle
        yield folder / "results", site


def test_every_row_ends_as_data_or_as_a_reason(prepared: tuple[Path, Site]) -> None:
    run = prepared[0] / "talks"
    ends = {r.clip_id: r.reason for file in run.glob("rejects/*/*.csv") for r in read_rejects(file)}
    kept = {clip.clip_id for clip in read_frozen(run / "frozen_plan.csv")}
    assert {**dict.fromkeys(kept, "kept"), **ends} == ENDS
    rows = {(r["stage"], r["reason"]): int(r["clips"]) for r in csv.DictReader((run / "funnel.csv").open())}
    assert rows.pop(("planned", "")) == len(ENDS) == sum(rows.values())


def test_a_training_clip_with_content_of_the_test_side_is_in_no_training_data(
    prepared: tuple[Path, Site],
) -> None:
    """Another name, another start, mirrored, half as loud."""
    run = prepared[0] / "talks"
    rows = {row["clip_id"]: row for row in csv.DictReader((run / "overlap.csv").open())}
    assert rows["own-0"]["on_both_sides"] == rows["copy"]["on_both_sides"] == "content"
    assert rows["copy"]["copy_of"] == "own-0" or rows["own-0"]["copy_of"] == "copy"
    assert not rows["own-1"]["on_both_sides"] and {rows["site"]["copy_of"], rows["direct"]["copy_of"]} - {""}
    (lost,) = read_rejects(run / "rejects/overlap/train-000.csv")
    assert (lost.clip_id, lost.reason) == ("copy", "duplicate")
    assert lost.detail == "on the test side too: the audio and face of own-0"
    assert "own-0" in {clip_id for clip_id, _ in read_shard(run / "shards/test-000.tar")}
    assert "copy" not in {clip_id for clip_id, _ in read_shard(run / "shards/train-000.tar")}
    assert "On both sides of the split" in (run / "clip_scores.html").read_text()


def test_sources_are_in_the_store_once_under_names_that_stay(prepared: tuple[Path, Site]) -> None:
    store = prepared[0] / "store"
    assert (store / "youtube" / "alive-00001.mp4").is_file()
    (direct,) = (store / "web").glob("*.mp4")
    assert direct.stem.startswith("127_0_0_1_f_") and len(direct.stem) == len("127_0_0_1_f_") + 16
    assert prepared[1].asked["gone-404000"] == 1


def test_the_tags_are_in_the_plan_and_in_the_frozen_plan(prepared: tuple[Path, Site]) -> None:
    run = prepared[0] / "talks"
    tags = {clip.clip_id: clip.tags for clip in read_plan(run / "plan" / "clips.parquet")}
    assert tags["own-0"] == "man;loud" and tags["site"] == "woman"
    assert {c.clip_id: c.tags for c in read_frozen(run / "frozen_plan.csv")}["own-0"] == "man;loud"


def test_a_source_that_is_skipped_or_at_hand_is_not_asked_for(tmp_path: Path) -> None:
    table = write(tmp_path, f"url,start,end\n{YOUTUBE}aaaaaaaaaa1,0,1\n{YOUTUBE}aaaaaaaaaa2,0,1\n")
    own = tmp_path / "own"
    own.mkdir()
    (own / "aaaaaaaaaa1.mkv").write_bytes(b"x")
    settings = Table(table=str(table), files=str(own), skip=("aaaaaaaaaa2",))
    dataset, nowhere = TableDataset(settings), Download(url="http://127.0.0.1:9/{id}")
    found = dataset.fetch("aaaaaaaaaa1", "youtube:aaaaaaaaaa1", tmp_path, nowhere)
    assert found == {"aaaaaaaaaa1.mkv": (own / "aaaaaaaaaa1.mkv").resolve()}
    with pytest.raises(ClipError, match="left out by dataset.skip"):
        dataset.fetch("aaaaaaaaaa2", "youtube:aaaaaaaaaa2", tmp_path, nowhere)
