"""Drift of generated frames: how colour and sharpness leave those of the first frame, beyond the true change.

The progressive reference hands each generated frame on to the next, so that small errors may add up.
"""

from typing import NamedTuple

import cv2
import numpy as np


class Drift(NamedTuple):
    """Drift of a clip inside the generated region.

    Args:
        colour: (T,) distance in CIE Lab (CIE76) of the mean colour of frame n from that of frame 0, less the
            change of the true frames: 0 where nothing drifts.
        sharpness: (T,) variance of the Laplacian of frame n over that of frame 0, over the same ratio of the
            true frames: 1 where nothing drifts, below 1 where frames become blurred.
        colour_per_s: length of the mean change of the Lab colour in a second.
        sharpness_per_s: factor by which the sharpness changes in a second.
    """

    colour: np.ndarray
    sharpness: np.ndarray
    colour_per_s: float
    sharpness_per_s: float


def drift(truth: np.ndarray, frames: np.ndarray, regions: np.ndarray, fps: float = 25.0) -> Drift:
    """Measure the drift of a clip. The rates are slopes of least squares over the whole clip.

    Args:
        truth: (T, H, W, 3) uint8 RGB, the true frames.
        frames: (T, H, W, 3) uint8 RGB, the generated ones.
        regions: (T, H, W), above 0.5 where they are generated.
        fps: frames per second.

    Raises:
        ValueError: if shapes differ, a region is empty, or there are fewer than two frames.

    >>> rng = np.random.default_rng(0)
    >>> clip = rng.integers(0, 256, (3, 8, 8, 3), np.uint8)
    >>> drift(clip, clip, np.ones((3, 8, 8)))[2:]
    (0.0, 1.0)
    """
    if truth.shape != frames.shape or regions.shape != frames.shape[:3]:
        raise ValueError(f"shapes differ: {truth.shape}, {frames.shape}, {regions.shape}")
    inside = regions > 0.5
    if len(frames) < 2 or not inside.any(axis=(1, 2)).all():
        raise ValueError("drift needs two frames, and a region in each")
    true_colour, true_sharpness = _measured(truth, inside)
    colour, sharpness = _measured(frames, inside)
    lab = (colour - colour[0]) - (true_colour - true_colour[0])
    log_ratio = np.log(sharpness / sharpness[0]) - np.log(true_sharpness / true_sharpness[0])
    seconds = np.arange(len(frames)) / fps
    return Drift(
        np.linalg.norm(lab, axis=1),
        np.exp(log_ratio),
        float(np.linalg.norm(_slope(seconds, lab))),
        float(np.exp(_slope(seconds, log_ratio[:, None])[0])),
    )


def _measured(frames: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean Lab colour (T, 3) and the variance of the Laplacian (T,) of frames inside a region."""
    colours, sharpness = [], []
    for frame, mask in zip(frames, inside, strict=True):
        colours.append(cv2.cvtColor(frame.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[mask].mean(axis=0))
        gray = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32)
        # A flat region has no sharpness: the floor keeps the ratio finite.
        sharpness.append(max(float(cv2.Laplacian(gray, cv2.CV_32F)[mask].var()), 1e-3))
    return np.array(colours, np.float64), np.array(sharpness)


def _slope(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The slopes (K,) of the least-squares lines through (T,) and (T, K)."""
    centred = x - x.mean()
    return np.asarray(centred @ (y - y.mean(axis=0)) / (centred @ centred))
