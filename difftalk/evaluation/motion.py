"""Motion and sharpness of the mouth's region against the truth's own."""

import cv2
import numpy as np

# Farneback's flow as TecoGAN's tOF has it.
# Pyramid scale, levels, window, iterations, neighbourhood, its sigma, flags.
FLOW = (0.5, 3, 15, 3, 5, 1.2, 0)
# Frames are brought to this size first, so that a window of 15 pixels is the same part of every face. At 256
# it takes four times as long.
FLOW_PX = 128
# The unit, as of a crop of so many pixels.
REFERENCE_PX = 256


def flows(frames: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """Return the optical flow from each frame to the next inside a box, `(T - 1, h, w, 2)` float32.

    It is measured on the box and half of it more on each side, at 128 pixels a crop, in pixels of 256.

    Args:
        frames: `(T, S, S, 3)` uint8 RGB.
        box: x0, y0, x1, y1 in pixels of the frames.
    """
    scale = FLOW_PX / frames.shape[2]
    x0, y0, x1, y1 = (round(v * scale) for v in box)
    more_x, more_y = (x1 - x0) // 2, (y1 - y0) // 2
    left, top = max(x0 - more_x, 0), max(y0 - more_y, 0)
    grey = [_grey(frame, scale)[top : y1 + more_y, left : x1 + more_x] for frame in frames]
    found = [
        _flow(a, b)[y0 - top : y1 - top, x0 - left : x1 - left]
        for a, b in zip(grey[:-1], grey[1:], strict=True)
    ]
    unit = REFERENCE_PX / FLOW_PX
    return np.stack(found) * unit if found else np.zeros((0, y1 - y0, x1 - x0, 2), np.float32)


def tof(truth: np.ndarray, found: np.ndarray) -> float | None:
    """Return tOF (Chu et al. 2020): the mean length of the difference of two flows, in pixels at 256.

    None with fewer than two frames.

    Args:
        truth: `(T - 1, h, w, 2)` of `flows`.
        found: the same.
    """
    return float(np.linalg.norm(truth - found, axis=3).mean()) if len(truth) else None


def sharpness(frames: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """Return the variance of the Laplacian of each frame inside a box, `(T,)`: low where it is blurred.

    Args:
        frames: `(T, H, W, 3)` uint8 RGB.
        box: x0, y0, x1, y1 in pixels.
    """
    x0, y0, x1, y1 = box
    greys = (cv2.cvtColor(frame[y0:y1, x0:x1], cv2.COLOR_RGB2GRAY).astype(np.float32) for frame in frames)
    # A flat region has no sharpness: the floor keeps ratios finite.
    return np.array([max(float(cv2.Laplacian(grey, cv2.CV_32F).var()), 1e-3) for grey in greys])


def _grey(frame: np.ndarray, scale: float) -> np.ndarray:
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    if scale == 1:
        return grey
    how = cv2.INTER_LINEAR if scale > 1 else cv2.INTER_AREA
    return cv2.resize(grey, None, fx=scale, fy=scale, interpolation=how)


def _flow(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray(cv2.calcOpticalFlowFarneback(a, b, np.zeros((*a.shape, 2), np.float32), *FLOW))
