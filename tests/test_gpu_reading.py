"""Reading that keeps a GPU busy: frames ahead in a thread, and torchcodec in place of PyAV.

Which frame of a file is shown when, and which files PyAV reads, is decided without torchcodec. What it
decodes is compared with PyAV's frames where it is installed, on the CPU.
"""

import logging
import struct
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_fan_faces import BLUE, BrightestPlace, DotDetector, frame_with
from test_media import SIDE, counter, number
from test_reading import write

from difftalk.config import workflow
from difftalk.config.landmarks import LandmarksSettings
from difftalk.datasets.clips import Clip
from difftalk.face import face_alignment_backend
from difftalk.face.face_alignment_backend import Networks, follow_by, read
from difftalk.face.follow import TrackJob, track_clip
from difftalk.media import torchcodec_reader, video
from difftalk.media.encode import encode_video, write_video
from difftalk.media.probe import probe
from difftalk.media.read_ahead import read_ahead
from difftalk.media.torchcodec_reader import Unsuited, frame_table, read_frames
from difftalk.runtime.errors import ClipError, UserError


def without_torchcodec() -> str | None:
    try:
        torchcodec_reader.check_installed("landmarks.reader: torchcodec")
    except UserError as e:
        return str(e)
    return None


REASON = without_torchcodec()
needs_torchcodec = pytest.mark.skipif(REASON is not None, reason=str(REASON))


# A thread that reads ahead


class Film:
    """Frames that note how many were read, and in which thread they were closed."""

    def __init__(self, count: int, error: Exception | None = None) -> None:
        self.read = 0
        self.closed_by: str | None = None
        self._count, self._error = count, error

    def frames(self) -> Iterator[np.ndarray]:
        try:
            for k in range(self._count):
                self.read += 1
                yield np.full((2, 2, 3), k, np.uint8)
            if self._error is not None:
                raise self._error
        finally:
            self.closed_by = threading.current_thread().name


def threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name == "read ahead"]


def test_frames_read_ahead_are_those_read_in_turn(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", counter(60))
    lazily = video.read_lazy_frames(tmp_path / "v.mp4", 0.4, 2.0)
    ahead = read_ahead(video.read_lazy_frames(tmp_path / "v.mp4", 0.4, 2.0), 7)
    for a, b in zip(lazily, ahead, strict=True):
        np.testing.assert_array_equal(a[:, :], b[:, :])
        np.testing.assert_array_equal(a.scaled(16, 16), b.scaled(16, 16))
    assert not threads()


def test_faces_are_the_same_where_frames_are_read_ahead() -> None:
    nets = Networks(DotDetector(), BrightestPlace(), "cpu")
    frames = [frame_with((3 + k / 8, 2, BLUE)) if k % 7 else frame_with() for k in range(20)]
    for a, b in zip(
        follow_by(nets, iter(frames), 4, 48), follow_by(nets, read_ahead(iter(frames), 6), 4, 48), strict=True
    ):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            np.testing.assert_array_equal(a.points, b.points)
            np.testing.assert_array_equal(a.box, b.box)


class PlacesAround(BrightestPlace):
    """Landmarks in rows around the brightest place."""

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        (maps,) = super().forward(x)
        return [torch.stack([maps[:, k].roll((k // 8, k % 8), (1, 2)) for k in range(68)], dim=1)]


@pytest.mark.parametrize("empty", [False, True])
def test_a_clip_has_the_same_scores_where_its_frames_are_read_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty: bool
) -> None:
    """A film with a face, and one without, which is given up on the way."""
    dots = [() if empty else ((3 + k / 50, 2, BLUE),) for k in range(150)]
    write_video(tmp_path / "a.mp4", np.stack([frame_with(*each) for each in dots]))
    nets = Networks(DotDetector(), PlacesAround(), "cpu")
    monkeypatch.setattr(face_alignment_backend, "networks", lambda: nets)
    clip = Clip("a-0", "a", 0.0, 6.0, "a", "train", "train-000", uri="a.mp4")
    job = TrackJob(clip, tmp_path / "a.mp4", LandmarksSettings(backend="face_alignment"))
    in_turn = track_clip(job)
    assert in_turn.scores.inspected_frames == (100 if empty else 150)
    monkeypatch.setattr(face_alignment_backend, "default_device", lambda: "cuda")  # reads ahead
    ahead = track_clip(job)
    assert not threads()
    assert ahead.scores == in_turn.scores
    np.testing.assert_array_equal(ahead.track.points, in_turn.track.points)


def test_no_more_frames_are_read_than_asked_for() -> None:
    film = Film(100)
    frames = read_ahead(film.frames(), 5)
    for taken in range(1, 30):
        next(frames)
        assert film.read <= taken + 5
    frames.close()  # type: ignore[attr-defined]
    assert film.read < 36 and film.closed_by == "read ahead" and not threads()


def test_an_error_comes_after_the_frames_before_it() -> None:
    film = Film(3, ClipError("cannot_decode", "v.mp4: broken after 0.12 s"))
    seen = []
    with pytest.raises(ClipError, match="cannot_decode: v.mp4: broken after 0.12 s") as raised:
        for frame in read_ahead(film.frames(), 2):
            seen.append(int(frame[0, 0, 0]))
    assert seen == [0, 1, 2] and raised.value.reason == "cannot_decode" and not threads()


def test_a_reader_that_is_dropped_ends_its_thread() -> None:
    film = Film(100)
    for frame in read_ahead(film.frames(), 3):
        if frame[0, 0, 0] == 4:
            break
    del frame
    assert film.closed_by == "read ahead" and not threads()


# Which frame is shown when, and which files PyAV reads


@pytest.mark.parametrize("fps", [12, 24000 / 1001, 25, 30, 50])
def test_frames_by_packets_are_those_that_pyav_shows(tmp_path: Path, fps: float) -> None:
    write_video(tmp_path / "v.mp4", counter(120), fps=fps)
    info = probe(tmp_path / "v.mp4")
    for start, end in (
        (0.0, info.duration_s),
        (0.5, 1.5),
        (1.42, 1.9),
        (info.duration_s - 0.3, info.duration_s + 0.2),
    ):
        shown = [number(f[:, :]) for f in video.read_lazy_frames(tmp_path / "v.mp4", start, end)]
        assert frame_table(tmp_path / "v.mp4").shown(start, end, info.duration_s).tolist() == shown


def irregular(path: Path) -> Path:
    """60 frames at irregular times, with B-frames, from 2 s on the container's clock."""
    gaps = np.random.default_rng(0).integers(1, 4, 60)
    return write(path, counter(60), pts=(50 + np.cumsum(gaps)).tolist(), bf="2")


def test_a_variable_frame_rate_is_followed_by_its_timestamps(tmp_path: Path) -> None:
    path = irregular(tmp_path / "v.mkv")
    info = probe(path)
    shown = [number(f[:, :]) for f in video.read_lazy_frames(path)]
    assert frame_table(path).shown(0.0, info.duration_s, info.duration_s).tolist() == shown
    assert len(set(shown)) == 60


def turned(path: Path, a: int, b: int, c: int, d: int) -> Path:
    data = encode_video(np.repeat(counter(1, first=0b10010110), 5, axis=0))
    at = data.find(b"tkhd") + 4 + 4 + 20 + 16
    matrix = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(data[:at] + matrix + data[at + 36 :])
    return path


def high_range(stream: Any) -> None:
    stream.codec_context.color_trc = 16  # PQ


def fields(stream: Any) -> None:
    stream.codec_context.flags |= 1 << 18 | 1 << 29


def wide(stream: Any) -> None:
    stream.codec_context.sample_aspect_ratio = Fraction(16, 11)


def test_what_torchcodec_would_show_otherwise_is_left_to_pyav(tmp_path: Path) -> None:
    frames = counter(12)
    files = {
        "not those of its frames|mpeg4 in avi": write(tmp_path / "a.avi", frames, video_codec="mpeg4"),
        "mpeg1video in mpeg": write(tmp_path / "p.mpg", frames, video_codec="mpeg1video"),
        "interlaced": write(tmp_path / "i.mkv", frames, prepare=fields, tff="1"),
        "high dynamic range": write(tmp_path / "h.mp4", frames, prepare=high_range),
        "not square": write(tmp_path / "w.mp4", frames, prepare=wide),
        "mirrored": turned(tmp_path / "m.mp4", -1, 0, 0, 1),
        "yuv444p": tmp_path / "c.mp4",
        "does not open": tmp_path / "t.mp4",
    }
    write_video(files["yuv444p"], frames, pix_fmt="yuv444p")
    files["does not open"].write_text("no video at all")
    for reason, path in files.items():
        with pytest.raises(Unsuited, match=reason):
            frame_table(path)


def test_a_file_for_pyav_is_read_and_one_line_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = turned(tmp_path / "m.mp4", -1, 0, 0, 1)
    with caplog.at_level(logging.INFO):
        found = [f[:, :] for f in read_frames(path)]
    np.testing.assert_array_equal(found, [f[:, :] for f in video.read_lazy_frames(path)])
    assert [r.getMessage() for r in caplog.records] == ["m.mp4: read with PyAV, since it is mirrored"]


def test_errors_are_those_of_pyav(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", counter(25))
    with pytest.raises(ClipError, match="the video ends at 1.00 s of 5.00 s"):
        list(read_frames(tmp_path / "v.mp4", 3.0, 5.0))
    with pytest.raises(UserError, match="No such file"):
        list(read_frames(tmp_path / "absent.mp4"))


@pytest.mark.skipif(REASON is None, reason="torchcodec is installed")
def test_without_torchcodec_the_user_is_told_what_to_install() -> None:
    with pytest.raises(UserError, match=r"landmarks.reader: torchcodec.*install"):
        torchcodec_reader.check_installed("landmarks.reader: torchcodec")


def test_torchcodec_is_for_the_backend_that_uses_a_gpu() -> None:
    given = {"crops": {"size": 64}, "training": {"steps": 3}, "landmarks": {"reader": "torchcodec"}}
    config = workflow.load(given)
    with pytest.raises(UserError, match="landmarks.reader: torchcodec is not for landmarks.backend: dlib"):
        workflow.stage_settings(config, "landmarks")


# Decoded by torchcodec


@needs_torchcodec
@pytest.mark.parametrize("matrix", [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)])
def test_turned_video_is_upright(tmp_path: Path, matrix: tuple[int, int, int, int]) -> None:
    assert_equal(turned(tmp_path / "v.mp4", *matrix))


@needs_torchcodec
@pytest.mark.parametrize("name", ["v.mp4", "v.mkv"])
def test_frames_of_torchcodec_are_those_of_pyav(tmp_path: Path, name: str) -> None:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (50, 13, 20, 3), np.uint8)
    path = write(tmp_path / name, coarse.repeat(8, 1).repeat(8, 2)[:, :98], g="12")
    assert_equal(path)
    assert_equal(path, 0.93, 1.7)


@needs_torchcodec
def test_frames_at_irregular_times_are_those_of_pyav(tmp_path: Path) -> None:
    assert_equal(irregular(tmp_path / "v.mkv"), 0.2, 2.9)


def assert_equal(path: Path, start_s: float = 0.0, end_s: float | None = None) -> None:
    """That torchcodec's frames are PyAV's, pixel by pixel, and that it is torchcodec that decodes them."""
    settings = LandmarksSettings(backend="face_alignment", reader="torchcodec")
    frames = list(read(path, start_s, probe(path).duration_s if end_s is None else end_s, settings))
    assert frames and all(isinstance(f, np.ndarray) for f in frames), "not read with PyAV"
    np.testing.assert_array_equal(frames, [f[:, :] for f in video.read_lazy_frames(path, start_s, end_s)])


@needs_torchcodec
def test_where_torchcodec_stops_pyav_reads_on_and_says_what_is_wrong(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    data = bytearray(encode_video(rng.integers(0, 255, (100, SIDE, SIDE, 3)).astype(np.uint8)))
    middle = data.find(b"mdat") + int(0.6 * len(data))
    data[middle : middle + 3000] = rng.integers(0, 255, 3000).astype(np.uint8).tobytes()
    (tmp_path / "v.mp4").write_bytes(data)
    assert len(list(read_frames(tmp_path / "v.mp4", 0.0, 1.0))) == 25, "what lies before the damage is whole"
    with pytest.raises(ClipError, match=r"cannot_decode: v.mp4: .* \d\.\d\d s"):
        list(read_frames(tmp_path / "v.mp4"))
