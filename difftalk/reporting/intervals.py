"""Percentile bootstrap over clips: intervals of means, and of differences of means."""

from functools import cache

import numpy as np

RESAMPLES, SEED = 2000, 1
LEVEL = 0.95
# Of n clips that all differ in the same direction by chance the share is 2^(1-n), above 5 % for fewer.
FEW = 6
METHOD = (
    f"{100 * LEVEL:.0f} %, percentile bootstrap over clips, {RESAMPLES:,} resamples, seed {SEED}, the same "
    f"clips drawn for all methods; none for a single clip; those of fewer than {FEW} are too narrow, and "
    "nothing is claimed by them"
)


@cache
def draws(clips: int) -> np.ndarray:
    """Return how often each clip is drawn in each resample, (RESAMPLES, clips) float64.

    The same number of clips has the same draws, so that methods are compared on the same resamples.
    """
    generator = np.random.default_rng(SEED)
    return generator.multinomial(clips, np.full(clips, 1 / clips), size=RESAMPLES).astype(np.float64)


def resampled_means(values: np.ndarray) -> np.ndarray:
    """Return the mean of each resample of the clips.

    Args:
        values: (..., clips) float64, NaN for a clip without a figure: a resample is the mean of the others.

    Returns:
        (..., RESAMPLES) float64, NaN where none of the clips drawn has a figure.
    """
    if not values.shape[-1]:
        return np.full((*values.shape[:-1], RESAMPLES), np.nan)
    weights = draws(values.shape[-1]).T
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        means: np.ndarray = (np.where(known, values, 0.0) @ weights) / (known @ weights)
    return means


def interval(means: np.ndarray, clips: int) -> tuple[float, float] | None:
    """Return the percentile interval of the means of resamples; None where fewer than two clips are known.

    Args:
        means: (RESAMPLES,) of `resampled_means`, or what was computed from such.
        clips: how many clips have a figure.
    """
    if clips < 2:
        return None
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.nanpercentile(means, [tail, 100 - tail])
    return float(low), float(high)
