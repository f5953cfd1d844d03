"""HDTF against a video site on loopback: videos alive and dead, fetched once, each clip accounted for.

One run of `prepare_all`, killed while it downloads and started again, is shared by the assertions.
"""

import csv
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
import pytest
from conftest import ROOT, command, snakemake
from video_site import Site, breaks_off, fails, in_a_room, in_parts, plays, running

from difftalk.config.download import Download
from difftalk.datasets.clips import read_plan
from difftalk.datasets.demo.render import DemoSource, render_source
from difftalk.datasets.download import fetch_video
from difftalk.datasets.site_errors import GONE, BusySite, classify_error
from difftalk.media.audio import read_audio
from difftalk.media.clock import SAMPLE_RATE
from difftalk.media.encode import write_video
from difftalk.media.probe import probe
from difftalk.media.shards import read_crops
from difftalk.media.video import read_frames
from difftalk.models.autoencoder import build_autoencoder
from difftalk.runtime.errors import ClipError, UserError
from difftalk.runtime.files import read_json, write_json
from difftalk.runtime.rejects import read_rejects

CONFIG = ROOT / "tests" / "config" / "hdtf.yaml"
RUN = Path("results", "hdtf")
SECONDS = 3


@dataclass(frozen=True)
class Video:
    """An annotated video: its name as the annotations have it, when it is spoken in, how it ends."""

    name: str
    id: str
    times: str = "00:00-00:03"
    ends: str = "kept"
    subset: str = "WDA"


VIDEOS = [
    Video("Radio1", "alive-00001", "00:00-00:03 00:03-00:06", subset="RD"),
    Video("Radio2", "alive-00002", subset="RD"),
    Video("Ann0", "alive-00003"),
    Video("Ann1", "alive-00004"),
    Video("Bob", "alive-00003", ends="duplicate"),
    Video("Large", "size-01080p"),
    Video("Middle", "size-00720p"),
    Video("Fps30", "rate-30fps0"),
    Video("Variable", "rate-varies"),
    Video("Parts", "in-two-part"),
    Video("Busy", "busy-429-x3"),
    Video("Broken", "breaks-off0"),
    Video("Gone", "gone-404000", ends="removed", subset="WRA"),
    Video("Gone410", "gone-410000", ends="removed", subset="WRA"),
    Video("Country", "gone-451000", ends="geo_blocked", subset="WRA"),
    Video("Private", "private-401", ends="private", subset="WRA"),
    Video("Forbidden", "forbidden00", ends="cannot_fetch", subset="WRA"),
    Video("Mute", "no-audio000", ends="no_audio", subset="WRA"),
    Video("Quiet", "silent-0000", ends="silent", subset="WRA"),
    Video("Short", "short-00000", "00:00-00:09", ends="too_short", subset="WRA"),
    Video("Garbage", "garbage-000", ends="cannot_decode", subset="WRA"),
    Video("Wall", "no-face-000", ends="no_face", subset="WRA"),
    Video("Mine", "not-on-site", ends="kept"),
    Video("Cut", "nor-is-this", ends="kept"),
]
CLIPS = {f"{v.subset}_{v.name}_{k:03d}": v for v in VIDEOS for k in range(len(v.times.split()))}


def annotations(folder: Path) -> Path:
    """The authors' 15 files, for the videos above: boxes for one, times for all."""
    folder.mkdir()
    for subset in ("RD", "WDA", "WRA"):
        of = [v for v in VIDEOS if v.subset == subset]
        url = "https://www.youtube.com/watch?v="
        lines = {
            "video_url": [f"{v.name} {url}{v.id}" for v in of],
            "annotion_time": [f"{v.name}.mp4 {v.times}" for v in of],
            "resolution": [f"{v.name}.mp4 720" for v in of],
            "crop_wh": [f"{of[-1].name}_0.mp4 10 200 10 200"],
            "crop_ratio": [f"{of[-1].name}_0.mp4 1.2"],
        }
        for kind, content in lines.items():
            (folder / f"{subset}_{kind}.txt").write_text("\n".join(content) + "\n")
    return folder


def write_files(folder: Path) -> dict[str, Path]:
    """What the site shows: drawn speakers in several shapes, and videos that cannot be used."""
    folder.mkdir()

    def speaker(name: str, seed: int, fps: int = 25, clips: int = 1) -> Path:
        file = folder / f"{name}.mp4"
        render_source(DemoSource(name, 77_000 + seed, 77_000 + seed, clips, float(SECONDS), fps=fps), file)
        return file

    files = {
        "two.mp4": speaker("two", 1, clips=2),
        "a.mp4": speaker("a", 2),
        "b.mp4": speaker("b", 3),
        "30fps.mp4": speaker("fps30", 4, fps=30),
    }
    frames, audio = list(read_frames(files["a.mp4"])), read_audio(files["a.mp4"])
    for name, width, height in (("1080p.mp4", 1920, 1080), ("720p.mp4", 1280, 720)):
        wide = [in_a_room(f, width, height) for f in frames]
        write_video(folder / name, wide, audio=audio, crf=23)
    write_video(folder / "mute.mp4", frames)
    write_video(folder / "silent.mp4", frames, audio=np.zeros_like(audio))
    wall = np.random.default_rng(0).integers(0, 255, (75, 64, 64, 3), dtype=np.uint8)
    write_video(folder / "wall.mp4", wall, audio=audio)
    write_video(folder / "frames.mp4", frames)
    varying(folder / "varies.mp4", frames, audio)
    audio_alone(folder / "audio.m4a", audio)
    (folder / "garbage.mp4").write_bytes(bytes(range(256)) * 200)
    return files | {p.name: p for p in folder.iterdir()}


def varying(path: Path, frames: list[np.ndarray], audio: np.ndarray) -> None:
    """The frames with every third one left out: 1/25 s and 2/25 s apart in turn, as phones record."""
    with av.open(str(path), "w") as out:
        video, audio_stream = (
            out.add_stream("libx264", rate=25),
            out.add_stream("aac", rate=SAMPLE_RATE, layout="mono"),
        )
        video.width, video.height, video.pix_fmt = frames[0].shape[1], frames[0].shape[0], "yuv420p"
        for k in (k for k in range(len(frames)) if k % 3 != 2):
            frame = av.VideoFrame.from_ndarray(frames[k], format="rgb24")
            frame.pts, frame.time_base = k, Fraction(1, 25)
            out.mux(video.encode(frame))
        out.mux(video.encode())
        encode(out, audio_stream, audio)


def audio_alone(path: Path, audio: np.ndarray) -> None:
    with av.open(str(path), "w", format="mp4") as out:
        encode(out, out.add_stream("aac", rate=SAMPLE_RATE, layout="mono"), audio)


def encode(out: Any, stream: Any, audio: np.ndarray) -> None:
    for first in range(0, len(audio), 1024):
        piece = av.AudioFrame.from_ndarray(audio[None, first : first + 1024], format="s16", layout="mono")
        piece.sample_rate, piece.pts, piece.time_base = SAMPLE_RATE, first, Fraction(1, SAMPLE_RATE)
        out.mux(stream.encode(piece))
    out.mux(stream.encode())


@dataclass
class Finished:
    """The folder in which it ran, the site, and what had been asked of it when the first run was killed."""

    folder: Path
    site: Site
    asked_before: dict[str, int]
    fetched_before: set[str]
    command: list[str | Path]

    def rejects(self) -> dict[str, str]:
        """Reason by clip, over all stages."""
        files = (self.folder / RUN / "rejects").glob("*/*.csv")
        return {r.clip_id: r.reason for file in files for r in read_rejects(file)}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    folder = tmp_path_factory.mktemp("hdtf")
    table = folder / "clips.csv"
    parser: list[str | Path] = [sys.executable, ROOT / "tools" / "hdtf_table.py"]
    parser += [annotations(folder / "annotations"), "--out", table]
    subprocess.run(parser, check=True, cwd=ROOT, capture_output=True)
    site = Site(files=write_files(folder / "files"))
    own = folder / "own"
    own.mkdir()
    (own / "not-on-site.mp4").write_bytes(site.files["b.mp4"].read_bytes())
    (own / "WDA_Cut_000.mp4").write_bytes(site.files["a.mp4"].read_bytes())
    site.pages = {
        "alive-00001": plays("two.mp4"),
        "alive-00002": plays("a.mp4"),
        "alive-00003": plays("b.mp4"),
        "alive-00004": plays("a.mp4"),
        "size-01080p": plays("1080p.mp4"),
        "size-00720p": plays("720p.mp4"),
        "rate-30fps0": plays("30fps.mp4"),
        "rate-varies": plays("varies.mp4"),
        "in-two-part": in_parts("frames.mp4", "audio.m4a"),
        "busy-429-x3": fails(429, times=3, then=plays("a.mp4")),
        "breaks-off0": breaks_off("b.mp4", after=30_000),
        "gone-404000": fails(404),
        "gone-410000": fails(410),
        "gone-451000": fails(451),
        "private-401": fails(401),
        "forbidden00": fails(403),
        "no-audio000": plays("mute.mp4"),
        "silent-0000": plays("silent.mp4"),
        "short-00000": plays("a.mp4"),
        "garbage-000": plays("garbage.mp4"),
        "no-face-000": plays("wall.mp4"),
    }
    build_autoencoder((8, 16, 16), 1, 64).save_pretrained(folder / "first_stage")
    with running(site):
        changes = [f"download={{url: '{site.url}'}}", f"dataset={{table: {table}, files: {own}}}"]
        changes += [f"autoencoder={folder / 'first_stage'}"]
        asked: list[str | Path] = ["prepare_all", "--configfile", CONFIG, "--config", *changes]
        store = folder / "results" / "store" / "youtube"
        kill_while_downloading(asked, folder, store, videos=6)
        before = dict(site.asked)
        fetched = {p.stem for p in store.glob("[!.]*.json") if not p.stem.endswith(".gone")}
        done = snakemake(*asked, directory=folder)
        assert done.status == 0, done.said
        yield Finished(folder, site, before, fetched, asked)


def kill_while_downloading(asked: list[str | Path], folder: Path, store: Path, videos: int) -> None:
    """Run until so many videos are in the store, then kill the jobs that download, before they clean up."""
    with subprocess.Popen(
        command(*asked, directory=folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as job:
        deadline = time.monotonic() + 300
        while len(list(store.glob("[!.]*.json"))) < videos:
            assert job.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        job.send_signal(signal.SIGINT)  # so that no other job is started
        for process in psutil.Process(job.pid).children(recursive=True):
            if process.cmdline()[1:4] == ["-m", "difftalk", "fetch"]:
                process.kill()
        assert job.wait(120) != 0


def test_every_clip_ends_as_it_should(run: Finished) -> None:
    rejects = run.rejects()
    kept = {crop.clip_id for tar in (run.folder / RUN / "crops").glob("*.tar") for crop in read_crops(tar)}
    ends = {clip_id: rejects.get(clip_id, "kept" if clip_id in kept else "lost") for clip_id in CLIPS}
    assert ends == {clip_id: video.ends for clip_id, video in CLIPS.items()}


def test_what_was_fetched_before_the_kill_is_not_asked_for_again(run: Finished) -> None:
    assert len(run.fetched_before) >= 5
    assert {v: run.site.asked[v] for v in run.fetched_before} == {
        v: run.asked_before[v] for v in run.fetched_before
    }


def test_what_is_gone_is_asked_for_once_and_a_busy_site_until_it_answers(run: Finished) -> None:
    asked = run.site.asked
    # A killed job may have been asking just then.
    assert all(1 <= asked[v] <= 2 for v in ("gone-404000", "gone-410000", "gone-451000", "private-401"))
    assert 4 <= asked["busy-429-x3"] <= 6
    assert asked["breaks-off0"] >= 3 and run.site.sent["broken breaks-off0"] == 1
    assert asked["not-on-site"] == asked["nor-is-this"] == 0


def test_the_reason_is_in_the_words_of_the_downloader(run: Finished) -> None:
    rows = {r.clip_id: r for f in (run.folder / RUN / "rejects/fetch").glob("*.csv") for r in read_rejects(f)}
    assert "HTTP Error 404" in rows["WRA_Gone_000"].detail
    assert rows["WRA_Short_000"].detail == "short-00000.mp4 ends at 3.00 s, the clip at 4.00 s"
    assert rows["WDA_Bob_000"].detail.endswith("WDA_Ann0_000 too")


def test_the_funnel_adds_up_by_subset_and_reason(run: Finished) -> None:
    rows = list(csv.DictReader((run.folder / RUN / "funnel.csv").open()))
    clips = {(r["stage"], r["reason"]): int(r["clips"]) for r in rows}
    planned, kept = clips.pop(("planned", "")), clips.pop(("kept", ""))
    assert planned == len(CLIPS) and kept == sum(v.ends == "kept" for v in CLIPS.values())
    assert planned == kept + sum(clips.values())
    assert clips["fetch", "removed"] == 2 and clips["landmarks", "no_face"] == 1
    parts = list(csv.DictReader((run.folder / RUN / "funnel_by_subset.csv").open()))
    of = {(r["subset"], r["stage"]): int(r["clips"]) for r in parts if r["stage"] in ("planned", "kept")}
    assert of["RD", "planned"] == of["RD", "kept"] == 3
    assert (of["WRA", "planned"], of["WRA", "kept"]) == (10, 0)
    assert "geo_blocked" in (run.folder / RUN / "funnel.html").read_text()


def test_films_under_several_names_are_reported_as_copies(run: Finished) -> None:
    rows = {r["clip_id"]: r for r in csv.DictReader((run.folder / RUN / "overlap.csv").open())}
    assert set(rows) == {c for c, v in CLIPS.items() if v.ends in ("kept", "silent")}
    films = {"a": ["RD_Radio2_000", "WDA_Ann1_000", "WDA_Large_000", "WDA_Middle_000", "WDA_Busy_000",
                   "WDA_Variable_000", "WDA_Parts_000", "WDA_Cut_000"],
             "b": ["WDA_Ann0_000", "WDA_Broken_000", "WDA_Mine_000"]}  # fmt: skip
    of = {clip: name for name, clips in films.items() for clip in clips}
    copies = {clip: row["copy_of"] for clip, row in rows.items() if row["copy_of"]}
    assert all(of[clip] == of[other] for clip, other in copies.items())
    assert set(of) - set(copies) == {next(c for c in rows if of.get(c) == name) for name in films}
    for name, clips in films.items():
        if len({rows[c]["split"] for c in clips}) == 2:
            assert {rows[c]["on_both_sides"] for c in clips} <= {"content", "person"}, name


def test_video_and_audio_from_separate_files_are_one_file(run: Finished) -> None:
    info = probe(run.folder / "results/store/youtube/in-two-part.mkv")
    assert info.has_audio and info.duration_s == pytest.approx(SECONDS, abs=0.05)


def test_clips_of_any_rate_have_as_many_frames(run: Finished) -> None:
    frames = {
        c.clip_id: c.info["frames"] for t in (run.folder / RUN / "crops").glob("*.tar") for c in read_crops(t)
    }
    assert set(frames.values()) == {SECONDS * 25}


def test_no_speaker_and_no_video_is_on_both_sides(run: Finished) -> None:
    clips = read_plan(run.folder / RUN / "plan" / "clips.parquet")
    sides: dict[str, set[str]] = {}
    for clip in clips:
        for name in (clip.identity, clip.source_id):
            sides.setdefault(name, set()).add(clip.split)
    assert all(len(split) == 1 for split in sides.values())
    together = {c.identity for c in clips if c.clip_id.startswith(("WDA_Ann", "WDA_Bob"))}
    assert together == {"Ann"}, "a stem, and a video that two names share"


def test_a_frozen_plan_gives_the_same_clips_and_says_what_has_changed(run: Finished, tmp_path: Path) -> None:
    frozen = run.folder / RUN / "frozen_plan.csv"
    rows = list(csv.DictReader(frozen.open()))
    assert {r["clip_id"] for r in rows} == {c for c, v in CLIPS.items() if v.ends == "kept"}
    # By now one link is dead and another leads to a new upload.
    store, site = tmp_path / "store", run.site
    pages = site.pages | {"alive-00002": fails(404), "size-00720p": plays("a.mp4")}
    again = Site(files=site.files, pages=pages)
    with running(again):
        changes = [
            *run.command[4:],
            f"frozen_plan={frozen}",
            f"store={store}",
            f"download={{url: '{again.url}'}}",
        ]
        done = snakemake(
            *("results/hdtf/rejects/fetch/train-000.csv", "results/hdtf/rejects/fetch/test-000.csv"),
            *("--configfile", CONFIG, "--config", *changes),
            directory=tmp_path,
        )
    assert done.status == 0, done.said
    planned = {c.clip_id: c for c in read_plan(tmp_path / RUN / "plan" / "clips.parquet")}
    first = {c.clip_id: c for c in read_plan(run.folder / RUN / "plan" / "clips.parquet")}
    assert {(i, c.start_s, c.end_s, c.split) for i, c in planned.items()} == {
        (i, c.start_s, c.end_s, c.split) for i, c in first.items() if i in planned
    }
    lost = {r.clip_id: r for f in (tmp_path / RUN / "rejects/fetch").glob("*.csv") for r in read_rejects(f)}
    # Audio and video are muxed again, which gives the same bytes.
    assert {c: r.reason for c, r in lost.items()} == {"RD_Radio2_000": "removed", "WDA_Middle_000": "changed"}
    assert "the frozen plan asks for" in lost["WDA_Middle_000"].detail


def test_a_site_that_stays_busy_fails_the_job_and_loses_nothing(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", np.zeros((10, 32, 32, 3), np.uint8))
    site = Site(files={"a.mp4": tmp_path / "a.mp4"})
    site.pages = {"alive-00001": plays("a.mp4"), "busy-000000": fails(429)}
    with running(site):
        how = Download(url=site.url, sleep_s=0, request_sleep_s=0, attempts=3, backoff_s=0.01, timeout_s=5)
        fetch_video("alive-00001", tmp_path / "store", how)
        with pytest.raises(
            UserError, match=r"attempt 3 of 3: .*429.*Nothing that was fetched is lost.*dataset.skip"
        ):
            fetch_video("busy-000000", tmp_path / "store", how)
        assert site.asked["busy-000000"] == 3
        asked = site.asked["alive-00001"]
        fetch_video("alive-00001", tmp_path / "store", how)
        assert site.asked["alive-00001"] == asked


def test_a_link_that_is_dead_for_a_day_is_asked_for_again_on_the_next(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", np.zeros((10, 32, 32, 3), np.uint8))
    site = Site(files={"a.mp4": tmp_path / "a.mp4"})
    site.pages = {"revived-000": fails(404)}
    gone = tmp_path / "store" / "revived-000.gone.json"
    with running(site):
        how = Download(url=site.url, sleep_s=0, request_sleep_s=0, attempts=1, timeout_s=5)

        def fetched() -> Path:
            return fetch_video("revived-000", tmp_path / "store", how)

        for _ in range(2):
            with pytest.raises(ClipError, match="404"):
                fetched()
        assert site.asked["revived-000"] == 1, "on the same day, by whichever run"
        site.pages = {"revived-000": plays("a.mp4")}
        note = read_json(gone)
        write_json(gone, {**note, "asked": (date.today() - timedelta(1)).isoformat()})
        assert fetched().is_file() and not gone.exists()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("[youtube] x: Private video. Sign in if you've been granted access to this video", "private"),
        ("[youtube] x: Join this channel to get access to members-only content", "private"),
        (
            "[youtube] x: Sign in to confirm your age. This video may be inappropriate for some users.",
            "age_restricted",
        ),
        ("[youtube] x: The uploader has not made this video available in your country", "geo_blocked"),
        ("[youtube] x: Video unavailable. This video has been removed by the uploader", "removed"),
        ("[youtube] x: Video unavailable. The YouTube account associated has been terminated.", "removed"),
        ("[youtube] x: Sign in to confirm you\u2019re not a bot. Use --cookies", None),
        ("[youtube] x: Video unavailable. This content isn't available, try again later.", None),
        ("[youtube] x: Unable to download API page: The read operation timed out", None),
        ("[youtube] x: Failed to extract any player response", None),
    ],
)
def test_what_a_site_says_is_the_end_of_it_or_to_be_asked_again(words: str, reason: str | None) -> None:
    """The sentences are YouTube's, as yt-dlp 2026.10 passes them on."""
    from yt_dlp.utils import DownloadError

    meant = classify_error(DownloadError(f"ERROR: {words}"))
    if reason is None:
        assert isinstance(meant, BusySite)
    else:
        assert reason in GONE
        assert isinstance(meant, ClipError) and meant.reason == reason
