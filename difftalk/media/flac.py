"""Lossless audio of shards: FLAC of 16 kHz mono int16."""

import io

import numpy as np
import soundfile

from difftalk.media.clock import SAMPLE_RATE


def encode_flac(samples: np.ndarray) -> bytes:
    """Return `(N,)` int16 mono 16 kHz audio as a FLAC file's bytes, without loss.

    >>> decode_flac(encode_flac(np.array([0, 1, -32768], np.int16))).tolist()
    [0, 1, -32768]
    """
    out = io.BytesIO()
    soundfile.write(out, samples.astype(np.int16, copy=False), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return out.getvalue()


def decode_flac(data: bytes) -> np.ndarray:
    """Return `(N,)` int16 from a FLAC file's bytes: the inverse of `encode_flac`.

    Raises:
        ValueError: if it is not mono at 16 kHz.
    """
    samples, rate = soundfile.read(io.BytesIO(data), dtype="int16")
    if rate != SAMPLE_RATE or samples.ndim != 1:
        raise ValueError(f"expected mono FLAC at {SAMPLE_RATE} Hz, not {samples.shape} at {rate} Hz")
    return samples
