"""Speech backend `mfcc`: 13 cepstra with first and second differences, without weights."""

import numpy as np
from python_speech_features import mfcc

from difftalk.media.clock import SAMPLE_RATE

STEP_SAMPLES = SAMPLE_RATE // 50
# Of the MFCC below it: 25 ms windows every 10 ms.
MFCC_WINDOW, MFCC_STEP = 400, 160


def mfcc_features(audio: np.ndarray, steps: int) -> np.ndarray:
    """Return 13 MFCC with first and second differences, `(steps, 39)` float32, each coefficient standardised.

    Step s is the 25 ms window centred on (s + 0.5) / 50 s, so that the two steps of frame i lie 10 ms either
    side of the middle of its 40 ms. Differences are regressions over +-2 rows of the 10 ms grid. Standardised
    over the clip (mean 0, deviation 1), which removes voice level and channel and needs no statistics of a
    data set.

    Args:
        audio: `(N,)` int16 mono 16 kHz; cut, or padded with silence, to `steps` * 320 samples.
        steps: number of steps.
    """
    wanted = steps * STEP_SAMPLES
    x = np.pad(audio[:wanted].astype(np.float64), (0, max(wanted - len(audio), 0)))
    # One unit of dither: the logarithm of digital silence would be an outlier that drowns the speech.
    x += np.random.default_rng(0).standard_normal(len(x))
    # Row 2s of the 10 ms grid shall be centred on (s + 0.5) * 320 samples.
    lead = (MFCC_WINDOW - STEP_SAMPLES) // 2
    rows = mfcc(np.pad(x, (lead, lead + MFCC_STEP)), SAMPLE_RATE)
    first = _differences(rows)
    features = np.concatenate([rows, first, _differences(first)], axis=1)[: 2 * steps : 2]
    deviation = np.maximum(features.std(axis=0), 1e-3)
    return ((features - features.mean(axis=0)) / deviation).astype(np.float32)


def _differences(rows: np.ndarray) -> np.ndarray:
    """Return the slope of each column over five rows: sum n (x[t+n] - x[t-n]) / (2 sum n^2), n = 1, 2."""
    padded = np.pad(rows, ((2, 2), (0, 0)), mode="edge")
    return (padded[3:-1] - padded[1:-3] + 2 * (padded[4:] - padded[:-4])) / 10
