"""The Fréchet distance: closed forms, the formula of pytorch-fid, and few samples."""

import numpy as np
import pytest
from scipy.linalg import sqrtm

from difftalk.evaluation.frechet import frechet_distance, halves_floor

RNG = np.random.default_rng(0)


def of_pytorch_fid(a: np.ndarray, b: np.ndarray) -> float:
    """`calculate_frechet_distance` of pytorch-fid, as its formula says."""
    first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = sqrtm(first @ second).real
    apart = ((a.mean(axis=0) - b.mean(axis=0)) ** 2).sum()
    return float(apart + np.trace(first) + np.trace(second) - 2 * np.trace(root))


def whitened(count: int, size: int, spread: np.ndarray) -> np.ndarray:
    """Samples whose mean is exactly 0 and whose covariance is exactly diagonal, with these deviations."""
    x = RNG.normal(size=(count, size))
    x -= x.mean(axis=0)
    return np.linalg.qr(x)[0] * np.sqrt(count - 1) * spread


@pytest.mark.parametrize("counts", [(300, 200), (30, 300), (12, 9)])
def test_it_equals_the_formula_of_pytorch_fid(counts: tuple[int, int]) -> None:
    size = 24
    mix = RNG.normal(size=(size, size))
    a, b = RNG.normal(size=(counts[0], size)) @ mix, 1.3 * RNG.normal(size=(counts[1], size)) + 0.2
    # The root of a singular product is rounded to some 1e-7 of its size there.
    assert frechet_distance(a, b) == pytest.approx(of_pytorch_fid(a, b), rel=1e-5)


def test_gaussians_of_known_mean_and_deviation_have_the_closed_form() -> None:
    s, t = RNG.uniform(0.5, 2, size=(2, 6))
    shift = RNG.normal(size=6)
    found = frechet_distance(whitened(50, 6, s), whitened(80, 6, t) + shift)
    assert found == pytest.approx((shift**2).sum() + ((s - t) ** 2).sum(), rel=1e-9)


@pytest.mark.parametrize("count", [5, 500])
def test_a_set_is_at_zero_from_itself_and_the_distance_is_symmetric(count: int) -> None:
    a, b = RNG.normal(size=(2, count, 100)).astype(np.float32)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9)
    assert frechet_distance(a, b) > 1


def test_a_shift_alone_is_its_squared_length_also_with_few_samples() -> None:
    a = RNG.normal(size=(10, 2048))
    assert frechet_distance(a, a + 0.1) == pytest.approx(2048 * 0.01, rel=1e-9)


def test_sets_that_cannot_be_compared_are_refused() -> None:
    for a, b in (((1, 4), (9, 4)), ((9, 4), (9, 5))):
        with pytest.raises(ValueError, match="at least 2 samples"):
            frechet_distance(np.zeros(a), np.zeros(b))


def test_the_floor_splits_by_clips_and_is_the_same_for_a_seed() -> None:
    clips = [np.full((20, 3), float(k)) for k in range(2)]
    # Were their frames mixed, the two halves would be alike.
    assert halves_floor(clips, seed=0) == pytest.approx(3)
    assert halves_floor(clips[:1], seed=0) is None
    alike = [RNG.normal(size=(50, 3)) for _ in range(20)]
    floor = halves_floor(alike, seed=0)
    assert floor is not None and 0 < floor < 0.05
    assert floor == halves_floor(alike, seed=0) != halves_floor(alike, seed=1)
