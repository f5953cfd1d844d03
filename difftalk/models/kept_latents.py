"""What the cache keeps of a clip that was encoded: the files of its sample in the training shard."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from difftalk.config.encode import Encode
from difftalk.media.shards import Crop
from difftalk.runtime.cache import Arrays, Cache, from_text_array, text_array, versions
from difftalk.runtime.checksums import digest_of_model
from difftalk.runtime.fingerprint import fingerprint

# What decodes, masks and encodes.
LIBRARIES = ("av", "decord", "diffusers", "numpy", "opencv-python", "pillow", "soundfile", "torch")


def entry_finder(
    cache: Cache, autoencoder: Path, settings: Encode, device: str
) -> Callable[[Crop, np.ndarray], Path | None]:
    """Return what finds the entry of a clip: by its crop, its speech, the first stage, settings and code.

    Args:
        cache: of the stage `encode`.
        autoencoder: folder of the first stage.
        settings: the section `encode` of the configuration.
        device: it decides how latents are rounded.
    """
    if cache.folder is None:
        return lambda crop, speech: None
    how = {
        "autoencoder": digest_of_model(autoencoder),
        "settings": settings.as_dict(),
        "device": device,
        "code": fingerprint("difftalk.models.encoding"),
        "libraries": versions(LIBRARIES),
    }

    def entry_of(crop: Crop, speech: np.ndarray) -> Path | None:
        files = {name: hashlib.sha256(content).hexdigest() for name, content in crop.files.items()}
        features = hashlib.sha256(np.ascontiguousarray(speech).tobytes()).hexdigest()
        return cache.entry({"crop": files, "speech": features, **how})

    return entry_of


def pack(files: Mapping[str, Any]) -> Arrays:
    """Return the arrays of a clip's entry."""
    return {name: text_array(value) if name == "json" else value for name, value in files.items()}


def unpack(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return the files of an entry."""
    return {name: from_text_array(value) if name == "json" else value for name, value in arrays.items()}
