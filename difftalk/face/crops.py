"""Stage `crops`: the face of each clip in one steady square, with its sound, as a WebDataset shard."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from difftalk.audio import encode_flac, read_audio
from difftalk.clips import Clip, clips_with_sources
from difftalk.errors import ClipError
from difftalk.face.landmarks import read_landmarks
from difftalk.face.tracks import fill_gaps
from difftalk.parallel import map_clips
from difftalk.rejects import Reject, check_fraction, write_rejects
from difftalk.shards import write_shard
from difftalk.video import FPS, SOUND_RATE, Picture, encode_video, probe, read_pictures

# The forehead is half as high as the face from the brows to the chin: thirds of a face, as they are drawn.
FOREHEAD = 0.5
# Beyond this part of its area outside the picture, a crop is more border than face.
MAX_OUTSIDE = 0.25
MAX_LENGTH_ERROR_S = 0.040


@dataclass(frozen=True)
class Settings:
    """The config's `crops` section.

    Args:
        size: width and height of the crops in pixels, even.
        margin: space on each side of the face, forehead and chin included, in parts of its longer side.
        min_frames: shorter clips are rejected.
        crf: of the H.264 in the shard, 0 (lossless) to 51; full colour resolution.
    """

    size: int
    margin: float = 0.1
    min_frames: int = 50
    crf: int = 10


@dataclass(frozen=True)
class _Job:
    clip: Clip
    source: Path
    frames: np.ndarray
    points: np.ndarray
    settings: Settings


def run(
    *,
    plan: Path,
    shard: str,
    sources: Path,
    landmarks: Path,
    settings: Settings,
    out: Path,
    rejects: Path,
    max_reject_fraction: float,
    workers: int,
) -> None:
    """Write the crops of the clips that `landmarks` kept.

    Args:
        plan: the clip table. shard: such as `train-003`. sources: `sources/{shard}`.
        landmarks: `landmarks/{shard}.parquet`.
        out: `crops/{shard}.tar`: `mp4` (H.264 4:4:4, 25 fps), `flac` (16 kHz mono, as long as the pictures),
            `landmarks.npy` ((T, 68, 2) float32, pixels of the crop, every frame), `json`.
        rejects: `rejects/crops/{shard}.csv`.
        max_reject_fraction: fail where more than this part of the clips is lost.
        workers: processes, each with one clip at a time.

    Raises:
        UserError: as `check_fraction`.
    """
    found = read_landmarks(landmarks)
    pairs = [(c, source) for c, source in clips_with_sources(plan, shard, sources) if c.clip_id in found]
    jobs = [(c.clip_id, _Job(c, source, *found[c.clip_id], settings)) for c, source in pairs]
    lost: list[Reject] = []

    def kept() -> Iterator[tuple[str, dict[str, Any]]]:
        for clip_id, files in map_clips(clip_crop, jobs, stage="crops", workers=workers):
            if isinstance(files, Reject):
                lost.append(files)
            else:
                yield clip_id, files
        check_fraction("crops", len(pairs), lost, max_reject_fraction)

    write_shard(out, kept())
    write_rejects(rejects, lost)


def clip_crop(job: _Job) -> dict[str, Any]:
    """The files of one clip.

    Raises:
        ClipError: `too_short`, `out_of_frame`, `length_mismatch`, `cannot_decode`, `no_audio`.
    """
    clip, settings = job.clip, job.settings
    info = probe(job.source)
    points = fill_gaps(job.frames, job.points, max(int(job.frames[-1]) + 1, clip.frames))
    box = square(points, (info.width, info.height), settings.margin)
    outside = outside_fraction(box, (info.width, info.height))
    if outside > MAX_OUTSIDE:
        raise ClipError("out_of_frame", f"{outside:.0%} of the crop lies outside the picture")
    frames = read_pictures(job.source, clip.start_s, clip.end_s)
    cut = [cut_square(frame, box, settings.size) for frame in frames]
    count = len(cut)
    if count < settings.min_frames:
        raise ClipError("too_short", f"{count} frames, min_frames={settings.min_frames}")
    sound_end_s = clip.end_s if info.sound_s is None else min(clip.end_s, info.sound_s)
    if abs(sound_end_s - clip.start_s - count / FPS) > MAX_LENGTH_ERROR_S + 1e-6:
        seconds = f"{sound_end_s - clip.start_s:.2f} s of sound, {count / FPS:.2f} s of pictures"
        raise ClipError("length_mismatch", seconds)
    sound = read_audio(job.source, clip.start_s, clip.start_s + count / FPS)
    assert len(sound) == round(count / FPS * SOUND_RATE)
    return {
        # Three times as fast as x264's `medium` at 256 pixels, and no worse: it is the file that gets larger.
        "mp4": encode_video(cut, crf=settings.crf, preset="superfast", pix_fmt="yuv444p"),
        "flac": encode_flac(sound),
        "landmarks.npy": to_crop(points[:count], box, settings.size),
        "json": {
            "clip_id": clip.clip_id,
            "source_id": clip.source_id,
            "identity": clip.identity,
            "split": clip.split,
            "frames": count,
            "fps": FPS,
            "size": settings.size,
            "box": list(box),
        },
    }


def square(points: np.ndarray, picture: tuple[int, int], margin: float) -> tuple[int, int, int, int]:
    """One square for a whole clip, so that the crop never moves: (x0, y0, x1, y1) in whole pixels.

    It holds the landmarks of all frames, and above them the forehead, and is enlarged by `margin` of its side on each
    side. Where it fits into the picture it is moved inside; where it does not, it is centred on what it cannot hold.

    Args:
        points: `(T, 68, 2)` in pixels of the picture. picture: (width, height).
    """
    top = points[..., 1].min(axis=1)
    chin = points[..., 1].max(axis=1)
    low = np.array([points[..., 0].min(), (top - FOREHEAD * (chin - top)).min()])
    high = np.array([points[..., 0].max(), chin.max()])
    side = int(np.ceil((high - low).max() * (1 + 2 * margin)))
    corner = np.round((low + high - side) / 2).astype(int)
    for axis, length in enumerate(picture):
        if side <= length:
            corner[axis] = min(max(corner[axis], 0), length - side)
        else:
            corner[axis] = min(max(corner[axis], length - side), 0)
    x0, y0 = map(int, corner)
    return x0, y0, x0 + side, y0 + side


def outside_fraction(box: tuple[int, int, int, int], picture: tuple[int, int]) -> float:
    """Part of a square's area that lies outside a picture of (width, height)."""
    x0, y0, x1, y1 = box
    inside = max(min(x1, picture[0]) - max(x0, 0), 0) * max(min(y1, picture[1]) - max(y0, 0), 0)
    return 1 - inside / ((x1 - x0) * (y1 - y0))


def cut_square(frame: np.ndarray | Picture, box: tuple[int, int, int, int], size: int) -> np.ndarray:
    """The `(size, size, 3)` crop of a picture, the border repeated where the square leaves it.

    Scaled down by area averaging, up by bicubic interpolation.
    """
    height, width = frame.shape[:2]
    x0, y0, x1, y1 = box
    part = frame[max(y0, 0) : y1, max(x0, 0) : x1]
    over = max(-y0, 0), max(y1 - height, 0), max(-x0, 0), max(x1 - width, 0)
    if any(over):
        part = cv2.copyMakeBorder(part, *over, cv2.BORDER_REPLICATE)
    interpolation = cv2.INTER_AREA if x1 - x0 >= size else cv2.INTER_CUBIC
    return cv2.resize(part, (size, size), interpolation=interpolation)


def to_crop(points: np.ndarray, box: tuple[int, int, int, int], size: int) -> np.ndarray:
    """Points in pixels of the picture to pixels of its crop, pixel centres at whole numbers in both; float32."""
    scale = size / (box[2] - box[0])
    return ((points - np.array(box[:2]) + 0.5) * scale - 0.5).astype(np.float32)
