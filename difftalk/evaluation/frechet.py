"""The Fréchet distance of two sets of features, which FID and FVD are, and its floor.

Formula: Heusel et al., "GANs trained by a two time-scale update rule converge to a local Nash equilibrium"
(NeurIPS 2017), eq. 6, with the unbiased covariance as in the released code of FID.
"""

from collections.abc import Sequence

import numpy as np


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return |mean_a - mean_b|^2 + Tr(C_a + C_b - 2 (C_a C_b)^(1/2)), in float64.

    The trace of the root is the sum of the singular values of X Y', where C_a = X'X and C_b = Y'Y: the
    eigenvalues of C_a C_b are their squares. With centred features as X and Y that matrix is (N, M), whatever
    D is, and nothing is inverted or rounded to a complex root where the covariances are singular, as with
    fewer samples than dimensions.

    >>> x = np.random.default_rng(0).normal(size=(50, 4))
    >>> round(frechet_distance(x, x + 3), 9)
    36.0

    Args:
        a: (N, D) features, N of at least 2.
        b: (M, D).

    Raises:
        ValueError: if a set has fewer than two samples, or the sets differ in D.
    """
    if min(len(a), len(b)) < 2 or a.shape[1:] != b.shape[1:]:
        raise ValueError(f"features {a.shape} and {b.shape}: two sets of at least 2 samples, of one length")
    x, y = _root(a), _root(b)
    root = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    apart = np.sum((a.mean(axis=0, dtype=np.float64) - b.mean(axis=0, dtype=np.float64)) ** 2)
    return float(max(apart + np.sum(x**2) + np.sum(y**2) - 2 * root, 0.0))


def _root(features: np.ndarray) -> np.ndarray:
    """Return X with X'X the covariance of (N, D) features: of min(N, D) rows."""
    centred = np.asarray(features, np.float64)
    centred = (centred - centred.mean(axis=0)) / np.sqrt(len(centred) - 1)
    if len(centred) <= centred.shape[1]:
        return centred
    return np.asarray(np.linalg.qr(centred, mode="r"))


def halves_floor(features_by_clip: Sequence[np.ndarray], seed: int) -> float | None:
    """Return the distance of one half of the clips to the other: what two samples of the truth score.

    It is measured on half as many samples as the figures themselves, and is thus above their own floor.

    Args:
        features_by_clip: (N_i, D) of each clip, in an order that is always the same.
        seed: of the split. A clip is never in both halves.

    Returns:
        None where a half would have fewer than two samples.
    """
    order = np.random.default_rng(seed).permutation(len(features_by_clip))
    halves = [[features_by_clip[k] for k in order[side::2]] for side in (0, 1)]
    if min(sum(map(len, half)) for half in halves) < 2:
        return None
    first, second = (np.concatenate(half) for half in halves)
    return frechet_distance(first, second)
