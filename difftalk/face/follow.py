"""Follow the face of one clip, and decide whether the clip can be used."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from difftalk.config.landmarks import LandmarksSettings
from difftalk.datasets.clips import Clip
from difftalk.face.gates import SceneMonitor, frozen, scene_cut, several_faces
from difftalk.face.tracks import Face, Track, smooth_track, split_tracks
from difftalk.media.clock import FPS
from difftalk.media.video import LazyFrame, read_lazy_frames
from difftalk.runtime.errors import ClipError

# Width in pixels down to which faces are detected where `min_face_px` is null.
SMALLEST_FACE_PX = 40


@dataclass(frozen=True)
class TrackJob:
    """One clip to follow a face through: `source` is its video file."""

    clip: Clip
    source: Path
    settings: LandmarksSettings


@dataclass(frozen=True)
class TrackedClip:
    """The face of one clip.

    Args:
        track: the longest track of a face.
        inspected: number of frames in which a face was looked for: all, or fewer where the clip was given up.
        nme: mean distance to the true landmarks over that of the outer eye corners; None without ground
            truth.
        reject: why the clip cannot be used; None where it can.
    """

    track: Track
    inspected: int
    nme: float | None
    reject: ClipError | None


def processes(settings: LandmarksSettings, workers: int) -> int:
    """Return how many of `workers` processes shall follow clips: `face_alignment` uses two at most on a GPU.

    Raises:
        UserError: if weights are missing, before any process is started.
    """
    if settings.backend == "face_alignment":
        from difftalk.face import face_alignment_backend

        return face_alignment_backend.processes(workers)
    return workers


def track_clip(job: TrackJob) -> TrackedClip:
    """Follow the face of one clip until too many frames lack it.

    Raises:
        ClipError: where the source cannot be decoded; other reasons are in the result.
    """
    clip, settings = job.clip, job.settings
    asked = clip.frames
    max_missing = asked - (settings.min_detection_rate or 0.0) * asked
    monitor = SceneMonitor(settings.gates)
    faces: list[Face | None] = []
    missing = 0
    for face in _follow(monitor.through(read_lazy_frames(job.source, clip.start_s, clip.end_s)), settings):
        faces.append(face)
        missing += face is None
        if missing > max_missing:
            break
    tracks = sorted(split_tracks(faces), key=len, reverse=True)
    track = smooth_track(faces, tracks[0] if tracks else [])
    truth = job.source.with_name(f"{clip.source_id}.landmarks.npy")
    nme = normalised_error(track, truth, round(clip.start_s * FPS)) if truth.is_file() else None
    reject = _verdict(faces, track, monitor, settings, stopped=missing > max_missing, asked=asked)
    return TrackedClip(track, len(faces), nme, reject)


def _follow(frames: Iterable[LazyFrame], settings: LandmarksSettings) -> Iterator[Face | None]:
    min_face_px = settings.min_face_px or SMALLEST_FACE_PX
    if settings.backend == "dlib":
        from difftalk.face import dlib_backend

        return dlib_backend.follow(frames, settings.detect_every, min_face_px)
    from difftalk.face import face_alignment_backend

    return face_alignment_backend.follow(frames, settings.detect_every, min_face_px)


def _verdict(
    faces: list[Face | None],
    track: Track,
    monitor: SceneMonitor,
    settings: LandmarksSettings,
    *,
    stopped: bool,
    asked: int,
) -> ClipError | None:
    """Return why a clip cannot be used; None if it can.

    The reason that explains the others comes first: after a cut the face is often gone or elsewhere. But
    where hardly any frame before it had a face, that is the reason.
    """
    rate = settings.min_detection_rate or 0.0
    detected = sum(f is not None for f in faces)
    hardly_any = ClipError(
        "no_face",
        f"a face in {detected} of the first {len(faces)} of {asked} frames, min_detection_rate={rate:g}",
    )
    if detected == 0 or (stopped and len(track.frames) < len(faces) / 2):
        return hardly_any
    if (cut := scene_cut(monitor.cuts(), settings.gates)) is not None:
        return cut
    if stopped:
        return hardly_any
    if len(track.frames) < rate * len(faces):
        detail = (
            f"the longest track has {len(track.frames)} of {len(faces)} frames, min_detection_rate={rate:g}"
        )
        return ClipError("unstable_face" if detected >= rate * len(faces) else "no_face", detail)
    width = float(np.median(track.boxes[:, 2] - track.boxes[:, 0]))
    if settings.min_face_px is not None and width < settings.min_face_px:
        return ClipError("small_face", f"median width {width:.0f} pixels, min_face_px={settings.min_face_px}")
    several = several_faces(faces, settings.gates)
    return several if several is not None else frozen(monitor.longest_freeze(), settings.gates)


def normalised_error(track: Track, truth: Path, first: int) -> float | None:
    """Return the mean error of a track's landmarks over the distance of the outer eye corners.

    It is None where the truth has none of the frames.

    Args:
        track: of a clip.
        truth: file of the true landmarks `(T, 68, 2)` of its source.
        first: number of the source's frame that is the clip's frame 0.
    """
    true = np.load(truth, mmap_mode="r")
    numbers = track.frames + first
    known = numbers < len(true)
    if not known.any():
        return None
    expected, found = np.asarray(true[numbers[known]]), track.points[known]
    eyes = np.linalg.norm(expected[:, 36] - expected[:, 45], axis=1)
    return float((np.linalg.norm(found - expected, axis=2).mean(axis=1) / eyes).mean())
