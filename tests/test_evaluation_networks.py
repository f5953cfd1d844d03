"""Networks of the metrics, each equal to its reference implementation."""

import numpy as np
import pytest
from drawn_clips import speaker

from difftalk.evaluation.identity import descriptors, id_distance
from difftalk.evaluation.st_lpips import StLpips


def pattern(size: int, shift: float = 0) -> np.ndarray:
    """A smooth frame (S, S, 3), shifted to the right by some pixels."""
    y, x = np.mgrid[:size, :size] + 0.0
    x -= shift
    waves = (np.sin(x / 11 + y / 23), np.sin(x / 17 - y / 13), np.cos((x + y) / 19))
    return (127.5 + 80 * np.stack(waves, axis=-1)).round().astype(np.uint8)


# What the package `stlpips-pytorch` 0.0.2 gives for these frames: alex, shift_tolerant; float32.
@pytest.mark.parametrize(
    ("size", "shifted", "noisy", "inside"),
    [(64, 0.00331208, 0.21129876, 0.3464331), (128, 0.00322409, 0.20680329, 0.25658637)],
)
def test_st_lpips_gives_the_figures_of_its_package(
    size: int, shifted: float, noisy: float, inside: float
) -> None:
    truth = pattern(size)
    noise = np.random.default_rng(0).normal(0, 12.75, truth.shape)
    frames = np.stack([truth, pattern(size, 1), np.clip(truth + noise, 0, 255).round().astype(np.uint8)])
    box = (size // 4, size // 2, size // 2 + 3, size - 5)
    whole, mouth = StLpips()(np.stack([truth] * 3), frames, box)
    assert whole[0] == mouth[0] == 0
    np.testing.assert_allclose(whole[1:], [shifted, noisy], rtol=1e-4)
    assert mouth[2] == pytest.approx(inside, rel=1e-4)
    assert StLpips()(frames[:0], frames[:0], box)[0].shape == (0,)


def test_the_identity_distance_is_small_for_one_person_and_large_for_another() -> None:
    (mine, my_points, _), (other, other_points, _) = speaker(1), speaker(2)
    described = descriptors(mine[:21], my_points[:21])
    assert described.shape == (3, 128)
    one = descriptors(mine[10:11], my_points[10:11])
    np.testing.assert_allclose(described[1], one[0], atol=1e-6, err_msg="in a batch as alone")
    same = id_distance(described[0], described)
    foreign = id_distance(described[0], descriptors(other[:1], other_points[:1]))
    assert same is not None and foreign is not None
    assert 0 < same < 0.3 < foreign
    assert id_distance(described[0], described[:1]) == 0
    assert id_distance(described[0], descriptors(mine[:0], my_points[:0])) is None
