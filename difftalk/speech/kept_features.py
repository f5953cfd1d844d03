"""What the cache keeps of a clip whose speech features were computed."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from difftalk.config.backends import SPEECH_MODULES, unused_modules
from difftalk.config.speech import Speech
from difftalk.media.shards import Crop
from difftalk.pretrained import table as pretrained
from difftalk.runtime.cache import Arrays, Cache, versions
from difftalk.runtime.errors import ClipError
from difftalk.runtime.fingerprint import fingerprint

# What decodes, and what makes cepstra or logits.
MEDIA = ("av", "decord", "numpy", "opencv-python", "soundfile")
LIBRARIES = {
    "mfcc": (*MEDIA, "python_speech_features", "scipy"),
    "deepspeech": (*MEDIA, "python_speech_features", "scipy", "torch"),
}


def entries_of(cache: Cache, crops: Sequence[Crop], settings: Speech) -> list[Path | None]:
    """Return the entry of each clip: by its audio, its length, settings, code and weights.

    Args:
        cache: of the stage `speech`.
        crops: of a shard.
        settings: the section `speech` of the configuration.
    """
    if cache.folder is None:
        return [None] * len(crops)
    how = {
        "settings": settings.as_dict(),
        "weights": pretrained.recorded("deepspeech-0.1.0") if settings.backend == "deepspeech" else None,
        "code": fingerprint(
            "difftalk.speech.features", without=unused_modules(SPEECH_MODULES, settings.backend)
        ),
        "libraries": versions(LIBRARIES[settings.backend]),
    }
    entries: list[Path | None] = []
    for crop in crops:
        try:
            frames = len(crop.landmarks)
        except ClipError:
            entries.append(None)
            continue
        audio = hashlib.sha256(crop.files.get("flac", b"")).hexdigest()
        entries.append(cache.entry({"audio": audio, "frames": frames, **how}))
    return entries


def pack(features: np.ndarray) -> Arrays:
    """Return the arrays of a clip's entry."""
    return {"features": features}


def unpack(clip_id: str, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the features of an entry."""
    return arrays["features"]
