"""Windows of speech features around video frames, gathered on demand and never stored."""

import numpy as np

STEPS_PER_FRAME = 2


def windows(features: np.ndarray, frames: np.ndarray, size: int = 16) -> np.ndarray:
    """Return the features around each frame, `(n, size, D)`.

    Of frame i these are steps `2i - size/2` to `2i + size/2 - 1`. With 16 steps that is -160 to +160 ms from
    the start of the frame, as AD-NeRF cuts them.

    Args:
        features: `(S, D)`, 50 steps per second; steps before the first and after the last are zeros.
        frames: `(n,)` integer indices of 25 fps frames, in any order.
        size: steps of a window.

    >>> windows(np.arange(1, 9.0)[:, None], np.array([0, 3]), size=4)[..., 0]
    array([[0., 0., 1., 2.],
           [5., 6., 7., 8.]])
    """
    steps = STEPS_PER_FRAME * np.asarray(frames)[..., None] - size // 2 + np.arange(size)
    inside = (steps >= 0) & (steps < len(features))
    gathered = features[np.where(inside, steps, 0)]
    gathered[~inside] = 0
    return gathered


def neighbour_windows(
    features: np.ndarray, frames: np.ndarray, neighbours: int = 8, size: int = 16
) -> np.ndarray:
    """Return the windows of the frames around each frame, `(n, neighbours, size, D)`.

    They are what the temporal filter reads. Of frame i these are the frames `i - neighbours // 2` to `i +
    (neighbours - 1) // 2`: i-4 to i+3 for 8, i-8 to i+8 for 17. The window of a frame before the first or
    after the last is zeros.

    Args:
        features: `(S, D)`, two steps per frame.
        frames: `(n,)` integer indices.
        neighbours: number of frames.
        size: steps of a window.
    """
    around = np.asarray(frames)[:, None] - neighbours // 2 + np.arange(neighbours)
    gathered = windows(features, around, size)
    count = -(-len(features) // STEPS_PER_FRAME)
    gathered[(around < 0) | (around >= count)] = 0
    return gathered
