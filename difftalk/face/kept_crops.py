"""What the cache keeps of a clip that was cropped: the files of its crop."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from difftalk.face.crops import CropJob, CroppedClip
from difftalk.face.kept_tracks import sha256_of
from difftalk.runtime.cache import Arrays, Cache, from_text_array, text_array, versions
from difftalk.runtime.checksums import read_sums
from difftalk.runtime.fingerprint import fingerprint

# What decodes, cuts and encodes.
LIBRARIES = ("av", "decord", "numpy", "opencv-python", "soundfile")


def entries_of(cache: Cache, jobs: Sequence[CropJob], sources: Path) -> list[Path | None]:
    """Return the entry of each clip: by its row of the plan, source, landmarks, settings and code.

    There is none with a sync gate, whose verdict is not kept.

    Args:
        cache: of the stage `crops`.
        jobs: of a shard.
        sources: folder of their sources, whose files have been compared with its record.
    """
    if cache.folder is None or not jobs or jobs[0].settings.gates.sync is not None:
        return [None] * len(jobs)
    sums = dict(read_sums(sources) or {})
    how = {
        "settings": jobs[0].settings.as_dict(),
        "code": fingerprint("difftalk.face.crops", without=["difftalk.face.sync_gate"]),
        "libraries": versions(LIBRARIES),
    }
    entries = []
    for job in jobs:
        landmarks = hashlib.sha256(np.ascontiguousarray(job.frames).tobytes())
        landmarks.update(np.ascontiguousarray(job.points).tobytes())
        facts = {
            "source": sha256_of(job.source, sums),
            # Where the clip is kept, and how its source was got, is no part of the crop.
            "clip": repr(dataclasses.replace(job.clip, shard="", uri="", sha256="")),
            "landmarks": landmarks.hexdigest(),
        }
        entries.append(cache.entry({**facts, **how}))
    return entries


def pack(cropped: CroppedClip) -> Arrays:
    """Return the arrays of a clip's entry."""
    files = cropped.files
    return {
        "landmarks": files["landmarks.npy"],
        "facts": text_array(files["json"]),
        **{name: np.frombuffer(files[name], np.uint8) for name in ("mp4", "flac")},
    }


def unpack(clip_id: str, arrays: Mapping[str, np.ndarray]) -> CroppedClip:
    """Return the crop of an entry."""
    files = {name: arrays[name].tobytes() for name in ("mp4", "flac")}
    facts = from_text_array(arrays["facts"])
    return CroppedClip({**files, "landmarks.npy": arrays["landmarks"], "json": facts})
