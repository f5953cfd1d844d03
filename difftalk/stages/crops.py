"""Stage `crops`: the face of each clip in a square, with its sound, as a WebDataset shard."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from difftalk.datasets.clips import Clip, clips_with_sources
from difftalk.face.align import align, cut_aligned, mean_square, similarities
from difftalk.face.table import read_landmarks
from difftalk.face.tracks import fill_gaps
from difftalk.media.audio import read_audio
from difftalk.media.clock import FPS, SAMPLE_RATE
from difftalk.media.encode import encode_video
from difftalk.media.flac import encode_flac
from difftalk.media.probe import VideoInfo, probe
from difftalk.media.shards import write_shard
from difftalk.media.video import LazyFrame, read_lazy_frames
from difftalk.runtime.errors import ClipError, UserError
from difftalk.runtime.parallel import map_clips
from difftalk.runtime.rejects import Reject, check_fraction, write_rejects

# The forehead is half as high as the face from the brows to the chin: thirds of a face, as they are drawn.
FOREHEAD = 0.5
# Beyond this part of its area outside the picture, a crop is more border than face.
MAX_OUTSIDE = 0.25
# A box of the dataset with less than this part of the landmarks in it shows something else.
MIN_INSIDE_BOX = 0.5

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class SyncGate:
    """What the sync expert must find; None asks nothing.

    Args:
        min_confidence: on the scale of the expert.
        max_offset: frames, either way; a smaller offset is repaired, a larger one is not.
    """

    min_confidence: float | None = 3.0
    max_offset: int | None = 5


@dataclass(frozen=True)
class SoundGates:
    """What this stage reads of the config's `gates` section; None switches a gate off.

    Args:
        length_mismatch_seconds: by how much sound and pictures may differ in length.
        sync: whether mouth and sound belong together.
    """

    length_mismatch_seconds: float | None = 0.04
    sync: SyncGate | None = None


@dataclass(frozen=True)
class Settings:
    """The config's `crops` section, with the gates on sound.

    Args:
        size: width and height of the crops in pixels, even.
        mode: `track`, one square per clip around the landmarks; `box`, the dataset's, or `track` for a clip without;
            `aligned`, each frame moved, turned and scaled to a template.
        margin: space on each side of the face, forehead and chin included, in parts of its longer side; not of boxes.
        min_frames: shorter clips are rejected; None takes them all.
        crf: of the H.264 in the shard, 0 (lossless) to 51; full colour resolution.
        gates: of the config's `gates` section, those on sound.
    """

    size: int
    mode: Literal["track", "box", "aligned"] = "track"
    margin: float = 0.1
    min_frames: int | None = 50
    crf: int = 10
    gates: SoundGates = field(default_factory=SoundGates)


@dataclass(frozen=True)
class _Job:
    clip: Clip
    source: Path
    frames: np.ndarray
    points: np.ndarray
    settings: Settings
    syncnet: Path | None


@dataclass(frozen=True)
class Placing:
    """Where the crops of a clip lie in its pictures.

    Args:
        crop: which kind of crop it is; not always the mode that was asked for.
        box: the square (x0, y0, x1, y1) in whole pixels; of aligned crops the mean one.
        maps: of aligned crops, `(T, 2, 3)`, from picture to crop.
    """

    crop: str
    box: Box
    maps: np.ndarray | None = None


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
    syncnet: Path | None = None,
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
        syncnet: folder of the sync expert, where `gates.sync` asks it.

    Raises:
        UserError: as `check_fraction`; if there is a sync gate and no expert.
    """
    if settings.gates.sync is not None and syncnet is None:
        raise UserError("crops: gates.sync needs the folder of a sync expert: --syncnet")
    found = read_landmarks(landmarks)
    pairs = [(c, source) for c, source in clips_with_sources(plan, shard, sources) if c.clip_id in found]
    jobs = [(c.clip_id, _Job(c, source, *found[c.clip_id], settings, syncnet)) for c, source in pairs]
    lost: list[Reject] = []

    def kept() -> Iterator[tuple[str, dict[str, Any]]]:
        lengths = [clip.frames for clip, _ in pairs]
        crops = map_clips(clip_crop, jobs, stage="crops", workers=workers, lengths=lengths)
        for clip_id, files in crops:
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
        ClipError: `too_short`, `out_of_frame`, `length_mismatch`, `out_of_sync`, `cannot_decode`, `no_audio`.
    """
    clip, settings = job.clip, job.settings
    info = probe(job.source)
    points = fill_gaps(job.frames, job.points, max(int(job.frames[-1]) + 1, clip.frames))
    placing = place(points, clip, info, settings)
    cut = _cut(read_lazy_frames(job.source, clip.start_s, clip.end_s), placing, settings.size)
    count = len(cut)
    if settings.min_frames is not None and count < settings.min_frames:
        raise ClipError("too_short", f"{count} frames, min_frames={settings.min_frames}")
    _check_length(clip, info, count, settings.gates)
    landmarks = _in_crop(points[:count], placing, settings.size)
    sound = read_audio(job.source, clip.start_s, clip.start_s + count / FPS)
    assert len(sound) == round(count / FPS * SAMPLE_RATE)
    about = {
        "clip_id": clip.clip_id,
        "source_id": clip.source_id,
        "identity": clip.identity,
        "split": clip.split,
        "frames": count,
        "fps": FPS,
        "size": settings.size,
        "box": list(placing.box),
        "crop": placing.crop,
    }
    if settings.gates.sync is not None:
        assert job.syncnet is not None
        from difftalk.face.sync_gate import judge  # brings torch

        verdict = judge(np.stack(cut), landmarks, sound, settings.gates.sync, job.syncnet)
        about["sync"] = verdict
        if verdict["repaired"]:
            # Sound that leads by so many frames was heard too early: what belongs here lies before it.
            start_s = clip.start_s - verdict["offset"] / FPS
            sound = read_audio(job.source, start_s, start_s + count / FPS)
    return {
        # Three times as fast as x264's `medium` at 256 pixels, and no worse: it is the file that gets larger.
        "mp4": encode_video(cut, crf=settings.crf, preset="superfast", pix_fmt="yuv444p"),
        "flac": encode_flac(sound),
        "landmarks.npy": landmarks,
        "json": about,
    }


def place(points: np.ndarray, clip: Clip, info: VideoInfo, settings: Settings) -> Placing:
    """Where to cut, by the mode of the settings and what the clip has.

    Args:
        points: `(T, 68, 2)` in pixels of the picture, every frame.

    Raises:
        ClipError: `out_of_frame` if the crop lies too far outside the picture, or the face outside the dataset's box.
    """
    picture = info.width, info.height
    if settings.mode == "aligned":
        maps = similarities(points, settings.size, settings.margin)
        placing = Placing("aligned", mean_square(maps, settings.size), maps)
    elif settings.mode == "box" and clip.box is not None:
        placing = Placing("box", scaled_box(clip.box, clip.box_height, info.height))
        x0, y0, x1, y1 = placing.box
        inside = ((points >= (x0, y0)) & (points < (x1, y1))).all(axis=-1).mean()
        if inside < MIN_INSIDE_BOX:
            raise ClipError("out_of_frame", f"the dataset's box holds {inside:.0%} of the face's points")
    else:
        ratio = (clip.crop_ratio or 1.0) if settings.mode == "box" else 1.0
        placing = Placing("track", square(points, picture, settings.margin, ratio))
    outside = outside_fraction(placing.box, picture)
    if outside > MAX_OUTSIDE:
        raise ClipError("out_of_frame", f"{outside:.0%} of the crop lies outside the picture")
    return placing


def scaled_box(box: tuple[float, ...], box_height: float | None, height: int) -> Box:
    """A dataset's box in whole pixels of a picture `height` high, as a square with the same middle.

    Args:
        box: (x0, y0, x1, y1) in pixels of a picture `box_height` high; None stands for `height` itself.

    >>> scaled_box((306, 41, 786, 521), 720, 1080)
    (459, 62, 1179, 782)
    """
    x0, y0, x1, y1 = np.array(box, float) * (height / box_height if box_height else 1.0)
    side = round(max(x1 - x0, y1 - y0))
    # Half a pixel rounds up, so that neighbouring boxes do so alike.
    left, top = (int(np.floor((low + high - side) / 2 + 0.5)) for low, high in ((x0, x1), (y0, y1)))
    return left, top, left + side, top + side


def _cut(frames: Iterable[LazyFrame], placing: Placing, size: int) -> list[np.ndarray]:
    if placing.maps is None:
        return [cut_square(frame, placing.box, size) for frame in frames]
    finer = max(int(np.ceil((placing.box[2] - placing.box[0]) / size)), 1)
    maps = list(placing.maps)
    return [
        cut_aligned(frame[:, :], maps[min(k, len(maps) - 1)], size, finer) for k, frame in enumerate(frames)
    ]


def _in_crop(points: np.ndarray, placing: Placing, size: int) -> np.ndarray:
    if placing.maps is None:
        return to_crop(points, placing.box, size)
    return align(points, placing.maps[: len(points)])


def _check_length(clip: Clip, info: VideoInfo, count: int, gates: SoundGates) -> None:
    """Raise `length_mismatch` where sound and pictures of a clip differ too much."""
    limit = gates.length_mismatch_seconds
    sound_end_s = clip.end_s if info.audio_s is None else min(clip.end_s, info.audio_s)
    sound_s, pictures_s = sound_end_s - clip.start_s, count / FPS
    if limit is not None and abs(sound_s - pictures_s) > limit + 1e-6:
        seconds = f"{sound_s:.2f} s of sound, {pictures_s:.2f} s of pictures"
        raise ClipError("length_mismatch", f"{seconds}, length_mismatch_seconds={limit:g}")


def square(points: np.ndarray, picture: tuple[int, int], margin: float, ratio: float = 1.0) -> Box:
    """One square for a whole clip, so that the crop never moves: (x0, y0, x1, y1) in whole pixels.

    It holds the landmarks of all frames, and above them the forehead, and is enlarged by `margin` of its side on each
    side. Where it fits into the picture it is moved inside; where it does not, it is centred on what it cannot hold.

    Args:
        points: `(T, 68, 2)` in pixels of the picture. picture: (width, height).
        ratio: by how much the square is enlarged once more, as far as the picture's shorter side holds it.
    """
    top = points[..., 1].min(axis=1)
    chin = points[..., 1].max(axis=1)
    low = np.array([points[..., 0].min(), (top - FOREHEAD * (chin - top)).min()])
    high = np.array([points[..., 0].max(), chin.max()])
    side = int(np.ceil((high - low).max() * (1 + 2 * margin)))
    side = max(side, min(round(side * ratio), *picture))
    corner = np.round((low + high - side) / 2).astype(int)
    for axis, length in enumerate(picture):
        if side <= length:
            corner[axis] = min(max(corner[axis], 0), length - side)
        else:
            corner[axis] = min(max(corner[axis], length - side), 0)
    x0, y0 = map(int, corner)
    return x0, y0, x0 + side, y0 + side


def outside_fraction(box: Box, picture: tuple[int, int]) -> float:
    """Part of a square's area that lies outside a picture of (width, height)."""
    x0, y0, x1, y1 = box
    inside = max(min(x1, picture[0]) - max(x0, 0), 0) * max(min(y1, picture[1]) - max(y0, 0), 0)
    return 1 - inside / ((x1 - x0) * (y1 - y0))


def cut_square(frame: np.ndarray | LazyFrame, box: Box, size: int) -> np.ndarray:
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


def to_crop(points: np.ndarray, box: Box, size: int) -> np.ndarray:
    """Points in pixels of the picture to pixels of its crop, pixel centres at whole numbers in both; float32."""
    scale = size / (box[2] - box[0])
    return ((points - np.array(box[:2]) + 0.5) * scale - 0.5).astype(np.float32)
