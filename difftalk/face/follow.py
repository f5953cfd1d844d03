"""Follow the face of one clip, and measure what the gates and the scores of clips ask for."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from difftalk.config.landmarks import LandmarksSettings
from difftalk.datasets.clips import Clip
from difftalk.face.clip_scores import ClipScores
from difftalk.face.early_crops import EarlyCrops, KeptFrames, crop_early
from difftalk.face.measures import FaceMonitor, face_measures
from difftalk.face.scenes import SceneMonitor
from difftalk.face.tracks import Face, Track, smooth_track, split_tracks
from difftalk.media.audio import level_db, read_audio
from difftalk.media.clock import FPS
from difftalk.media.lazy_frame import LazyFrame
from difftalk.media.probe import probe
from difftalk.media.video import read_lazy_frames
from difftalk.runtime.errors import ClipError
from difftalk.speech.vad import speech_share

# A clip is given up where none of its first frames, so many, has a face.
MAX_FRAMES_WITHOUT = 100


@dataclass(frozen=True)
class TrackJob:
    """One clip to follow a face through: `source` is its video file; `early` says whether to crop it, too."""

    clip: Clip
    source: Path
    settings: LandmarksSettings
    early: EarlyCrops | None = None


@dataclass(frozen=True)
class TrackedClip:
    """The face of one clip.

    Args:
        track: the longest track of a face; of no frame where there is none.
        scores: what was measured.
        nme: mean distance to the true landmarks over that of the outer eye corners; None without ground
            truth.
        crop: files of the clip's crop, where that was made early.
    """

    track: Track
    scores: ClipScores
    nme: float | None
    crop: dict[str, Any] | None = None


def processes(settings: LandmarksSettings, workers: int) -> int:
    """Return how many of `workers` processes shall follow clips: as many as fit on a GPU that they share.

    Raises:
        UserError: if weights or the reader are missing, before any process is started.
    """
    if settings.backend == "face_alignment":
        from difftalk.face import face_alignment_backend

        return face_alignment_backend.processes(settings, workers)
    return workers


def track_clip(job: TrackJob) -> TrackedClip:
    """Follow the face of one clip to its end, or until its first frames have shown none, and measure it.

    Raises:
        ClipError: where the source cannot be decoded.
    """
    clip = job.clip
    info = probe(job.source)
    monitor = SceneMonitor()
    looks = FaceMonitor(middle=clip.frames // 2)
    # The other backend looks at windows of frames, some of which lie ahead.
    kept = KeptFrames() if job.early is not None and job.settings.backend == "dlib" else None
    faces: list[Face | None] = []
    frames = monitor.through(looks.through(_read(job, kept)))
    for k, face in enumerate(_follow(frames, job.settings)):
        faces.append(face)
        looks.look(k, face)
        if kept:
            kept.look(face)
        if k + 1 >= MAX_FRAMES_WITHOUT and not any(faces):
            break
    tracks = split_tracks(faces)
    track = smooth_track(faces, max(tracks, key=len, default=[]))
    truth = job.source.with_name(f"{clip.source_id}.landmarks.npy")
    nme = normalised_error(track, truth, round(clip.start_s * FPS)) if truth.is_file() else None
    others = [f.others for f in faces if f is not None and f.others is not None]
    changes = monitor.changes()
    freeze_start, freeze_frames = monitor.longest_freeze()
    scores = ClipScores(
        clip.clip_id,
        frames=clip.frames,
        inspected_frames=len(faces),
        tracks=tuple(map(tuple, tracks)),
        others_inspected=len(others),
        others_seen=sum(n > 0 for n in others),
        change_frames=tuple(k for k, _ in changes),
        change_ratios=tuple(ratio for _, ratio in changes),
        freeze_start=freeze_start,
        freeze_frames=freeze_frames,
        width=info.width,
        height=info.height,
        fps=info.fps,
        codec=info.codec,
        brightness=monitor.brightness(),
        motion=monitor.motion(),
        thumbnail=looks.thumbnail(),
        **face_measures(track, faces, looks, (info.width, info.height)),
        **_audio_measures(job.source, clip),
    )
    crop = crop_early(clip, job.source, track, scores, kept, job.early) if kept and job.early else None
    return TrackedClip(track, scores, nme, crop)


def _audio_measures(source: Path, clip: Clip) -> dict[str, Any]:
    """Return loudness and share of speech of a clip; nothing where its audio cannot be read."""
    try:
        audio = read_audio(source, clip.start_s, clip.end_s)
    except ClipError:
        return {}
    return {"loudness_db": level_db(audio) if len(audio) else None, "speech_share": speech_share(audio)}


def _read(job: TrackJob, kept: KeptFrames | None) -> Iterator[np.ndarray | LazyFrame]:
    clip = job.clip
    if job.settings.backend == "face_alignment":
        from difftalk.face import face_alignment_backend

        return face_alignment_backend.read(job.source, clip.start_s, clip.end_s, job.settings)
    frames = read_lazy_frames(job.source, clip.start_s, clip.end_s)
    return kept.through(frames) if kept else frames


def _follow(frames: Iterable[np.ndarray | LazyFrame], settings: LandmarksSettings) -> Iterator[Face | None]:
    if settings.backend == "dlib":
        from difftalk.face import dlib_backend

        return dlib_backend.follow(frames, settings.detect_every, settings.searched_face_px)
    from difftalk.face import face_alignment_backend

    return face_alignment_backend.follow(frames, settings.detect_every, settings.searched_face_px)


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
