"""Compute the speech features of one clip, by one of two backends."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from difftalk.media.audio import level_db
from difftalk.media.shards import Crop
from difftalk.runtime.errors import ClipError
from difftalk.speech.windows import STEPS_PER_FRAME

# A backend: the audio of a whole clip, `(N,)` int16 mono 16 kHz, and a number of steps to `(steps, D)`
# float32.
Backend = Callable[[np.ndarray, int], np.ndarray]


@dataclass(frozen=True)
class SpeechJob:
    """One clip to compute features of.

    Args:
        crop: of the clip; its video is not looked at.
        silence_db: level below which the clip is rejected, dB of a full-scale square wave.
        backend: of `load_backend`.
    """

    crop: Crop
    silence_db: float
    backend: Backend


def load_backend(name: Literal["mfcc", "deepspeech"]) -> Backend:
    """Return the backend of a name; only `deepspeech` imports torch.

    Raises:
        UserError: where its weights are missing.
    """
    if name == "mfcc":
        from difftalk.speech.mfcc import mfcc_features

        return mfcc_features
    from difftalk.speech.deepspeech import load_deepspeech

    return load_deepspeech()


def clip_features(job: SpeechJob) -> np.ndarray:
    """Return the features of one clip, `(2 * frames, D)` float32.

    Raises:
        ClipError: `silent`; `cannot_decode` where audio or landmarks of the crop cannot be decoded.
    """
    audio = job.crop.audio
    level = level_db(audio)
    if level < job.silence_db:
        raise ClipError("silent", f"level {level:.0f} dB, below silence_db={job.silence_db:g}")
    return job.backend(audio, STEPS_PER_FRAME * len(job.crop.landmarks))
