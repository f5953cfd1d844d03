"""The figures of a clip: what the columns are made of, from what the instruments measured."""

import numpy as np

from difftalk.evaluation import landmark_metrics as lm
from difftalk.evaluation.mouth import correlation, opening
from difftalk.media.clock import FPS, SAMPLE_RATE
from difftalk.media.points68 import MOUTH
from difftalk.runtime.cache import Arrays
from difftalk.speech.vad import SPEECH_PROBABILITY, WINDOW

ALL = slice(0, 68)
# Of fewer frames a correlation says nothing: of two it is always 1 or -1.
LEAST_FRAMES = 10
Figures = dict[str, float | None]


def landmark_figures(
    found: np.ndarray,
    true: np.ndarray,
    landmarks: np.ndarray,
    size: int,
    audio: np.ndarray,
    speech: np.ndarray,
) -> Figures:
    """Return the columns that landmarks tell.

    Args:
        found: `(T, 68, 2)` found in the method's frames.
        true: `(T, 68, 2)` found in the true frames by the same predictor.
        landmarks: `(T, 68, 2)` of the crop, found in the source: independent of that predictor's view.
        size: side of the crop in pixels.
        audio: `(N,)` int16, 16 kHz.
        speech: `(M,)` how likely each 32 ms are speech.
    """
    count = len(found)
    openings = opening(found, landmarks)
    spoken = speech >= SPEECH_PROBABILITY
    timing = (count, FPS, WINDOW / SAMPLE_RATE)
    own, reference = lm.acceleration(found), lm.acceleration(true)
    return {
        "mouth_corr": correlation(openings, opening(landmarks)) if count >= LEAST_FRAMES else None,
        "mouth_open": float(openings.mean()),
        "lmd_mouth": lm.landmark_distance(true, found, size, MOUTH),
        "lmd_face": lm.landmark_distance(true, found, size, ALL),
        "jitter": own / reference if own is not None and reference else None,
        "lip_dynamics": lm.lip_dynamics(found, size),
        "silent_lip": lm.silent_lip(openings, lm.silent_frames(spoken, *timing)),
        "lip_loudness": lm.lip_loudness(
            openings, lm.loudness_of(audio, count, FPS, SAMPLE_RATE), lm.speaking_frames(spoken, *timing)
        ),
        "brow_dynamics": lm.brow_dynamics(found),
        "head_motion": lm.head_motion(found, size),
    }


def motion_figures(arrays: Arrays) -> Figures:
    """Return tOF and how sharp the mouth is beside the truth's, from what `mouth_motion` measured."""
    return {
        "tof_mouth": mean(arrays["tof_mouth"]),
        "mouth_sharpness": float(arrays["sharpness"].mean() / arrays["true_sharpness"].mean()),
    }


def mean(values: np.ndarray) -> float | None:
    """Return the mean of the finite values; None where there is none."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else None


def none_for_nan(value: float) -> float | None:
    """Return a figure, None for NaN."""
    return float(value) if np.isfinite(value) else None
