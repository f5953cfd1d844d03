"""The videos of a method from elsewhere: found, compared with what was asked for, aligned with the truth."""

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import cv2
import numpy as np

from difftalk.config.methods import MethodSettings
from difftalk.media.clock import FPS
from difftalk.media.encode import SYNTHETIC, write_video
from difftalk.media.lazy_frame import LazyFrame
from difftalk.media.probe import VideoInfo, probe
from difftalk.media.shards import Crop
from difftalk.media.video import read_lazy_frames
from difftalk.runtime.errors import ClipError
from difftalk.runtime.files import write_csv
from difftalk.runtime.sample_folder import DIFFERENCES, SUFFIXES, find_video
from difftalk.sampling.full_frames import FullFrames
from difftalk.sampling.timing import Took, write_timing


@dataclass
class Difference:
    """How the video of one clip differs from what was asked for: a row of `differences.csv`.

    Args:
        clip_id: the clip.
        frames_asked: of the clip, at 25 fps.
        frames_given: of the video, by the entry's `rate`.
        fps, width, height, codec: of the video.
        seconds: that the command took.
        done: what was done, or is by `score`, to compare it with the truth.
        problem: why the clip has no video; empty where it has one.
    """

    clip_id: str
    frames_asked: int
    frames_given: int | None = None
    fps: float | None = None
    width: int | None = None
    height: int | None = None
    codec: str | None = None
    seconds: float | None = None
    done: str = ""
    problem: str = ""


COLUMNS = tuple(field.name for field in fields(Difference))


def write_differences(folder: Path, rows: Iterable[Difference]) -> None:
    """Write `differences.csv`, and `timing.csv` of the clips that a command has made."""
    ordered = sorted(rows, key=lambda row: row.clip_id)
    write_csv(folder / DIFFERENCES, COLUMNS, (astuple(row) for row in ordered), recorded=False)
    times = {
        r.clip_id: Took(r.seconds, r.frames_given)
        for r in ordered
        if r.seconds and r.frames_given and not r.problem
    }
    write_timing(folder, times)


def find_in_folders(folder: Path, shard: str, clip_id: str) -> Path:
    """Return the video of a clip, in a folder or in its sub-folder of a shard.

    Raises:
        ClipError: `no_output` if there is none.
    """
    found = find_video(folder, clip_id) or find_video(folder / shard, clip_id)
    if found is None:
        raise ClipError("no_output", f"no video of this clip in {folder}")
    return found


def find_output(named: Path) -> Path:
    """Return what a command has written: the file that it was given the name of, or the one video beside it.

    Raises:
        ClipError: `no_output` if there is none, or several.
    """
    if named.is_file():
        return named
    found = sorted(p for p in named.parent.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if len(found) == 1:
        return found[0]
    if not found:
        other = sorted(p.name for p in named.parent.rglob("*") if p.is_file())
        beside = f"; there is {', '.join(other[:3])}" if other else ""
        raise ClipError("no_output", f"the command has written no video{beside}")
    names = ", ".join(p.name for p in found[:3])
    raise ClipError("no_output", f"{len(found)} videos, none of them called {named.name}: {names}")


def take_video(
    given: Path, target: Path, crop: Crop, whole: FullFrames | None, settings: MethodSettings, row: Difference
) -> Path:
    """Keep the video of a clip as it is, where `score` can compare it, or write it aligned; returns the file.

    Of another rate or size it is kept: frames are taken by their times, and scaled, when they are scored.

    Args:
        given: the method's video.
        target: where it belongs, without its suffix.
        crop: the true clip.
        whole: the whole frames of the clip, where the video shows these.
        settings: the method's entry.
        row: gets what the video is, and what is done.

    Raises:
        ClipError: if it cannot be decoded, or is longer or shorter than is tolerated.
    """
    info = probe(given)
    row.fps, row.width, row.height, row.codec = round(info.fps, 3), info.width, info.height, info.codec
    size, other_rate, done = int(crop.info["size"]), abs(info.fps - FPS) >= 0.01, []
    by_number = settings.rate == "frames" and other_rate
    if other_rate:
        done.append(f"frames taken by {'number' if by_number else 'time'} from {info.fps:g} fps")
    frames = _Counted(read_lazy_frames(given, fps=info.fps if by_number else FPS))
    aligned = None
    if settings.place == "full_frame":
        assert whole is not None
        aligned = whole.placement.cut(_scaled(frames, whole.size), size)
        scaled = "" if (info.width, info.height) == whole.size else f"scaled to {_by(*whole.size)}, "
        done.append(f"{scaled}cut out of whole frames")
    elif settings.box is not None:
        aligned = list(_pasted(frames, crop.frames(), settings.box))
        done.append("pasted into the true frames")
    elif by_number:
        aligned = list(_scaled(frames, (size, size)))
    for _ in frames:
        pass
    row.frames_given = frames.count
    _check_length(row, info, settings, done)
    if settings.place == "crop" and settings.box is None and (info.width, info.height) != (size, size):
        done.append(f"scaled from {_by(info.width, info.height)} to {_by(size, size)}")
    row.done = "; ".join(done) or "nothing"
    if aligned is None:
        kept = target.with_name(f"{target.name}{given.suffix.lower()}")
        shutil.copyfile(given, kept)
        return kept
    kept = target.with_name(f"{target.name}.mp4")
    # Without loss: a method is judged with its own codec, and no other on top.
    write_video(
        kept, aligned[: row.frames_asked], crf=0, pix_fmt="yuv444p", audio=crop.audio, metadata=SYNTHETIC
    )
    return kept


class _Counted:
    """An iterator that counts."""

    def __init__(self, frames: Iterator[LazyFrame]) -> None:
        self.count, self._frames = 0, frames

    def __iter__(self) -> Iterator[LazyFrame]:
        for frame in self._frames:
            self.count += 1
            yield frame


def _by(width: int, height: int) -> str:
    return f"{width}x{height}"


def _check_length(row: Difference, info: VideoInfo, settings: MethodSettings, done: list[str]) -> None:
    """Note a difference in length; refuse one that is not tolerated."""
    assert row.frames_given is not None
    more = row.frames_given - row.frames_asked
    if abs(more) > settings.max_missing_frames:
        detail = (
            f"{row.frames_given} frames at {FPS} fps, the clip has {row.frames_asked}; tolerated are "
            f"{settings.max_missing_frames} more or fewer"
        )
        if settings.rate == "timestamps" and abs(info.fps - FPS) >= 0.01:
            numbered = round(info.duration_s * info.fps)
            if abs(numbered - row.frames_asked) <= settings.max_missing_frames:
                detail += (
                    f". Its {numbered} frames at {info.fps:g} fps may be one for each of the clip's: then "
                    "set rate: frames"
                )
        raise ClipError("length_mismatch", detail)
    if more:
        done.append(f"{abs(more)} {'frames more, left out' if more > 0 else 'frames fewer, not scored'}")


def _scaled(frames: Iterable[LazyFrame], size: tuple[int, int]) -> Iterator[np.ndarray]:
    """Yield frames at another size, (width, height)."""
    for lazy in frames:
        frame = lazy[:, :]
        if (frame.shape[1], frame.shape[0]) != size:
            shrink = frame.shape[1] > size[0]
            frame = cv2.resize(frame, size, interpolation=cv2.INTER_AREA if shrink else cv2.INTER_CUBIC)
        yield frame


def _pasted(frames: Iterable[LazyFrame], truth: np.ndarray, box: tuple[float, ...]) -> Iterator[np.ndarray]:
    """Yield the true frames with those of a method in a part of them, x0, y0, x1, y1 of their sides."""
    height, width = truth.shape[1:3]
    x0, x1 = (round(part * width) for part in (box[0], box[2]))
    y0, y1 = (round(part * height) for part in (box[1], box[3]))
    for true, frame in zip(truth, _scaled(frames, (x1 - x0, y1 - y0)), strict=False):
        out = true.copy()
        out[y0:y1, x0:x1] = frame
        yield out
