"""Masks: the rows below the nose tip of a frame, which are blackened, and the inpainting mask of the latent.

Landmarks are the 68 iBUG points in pixels of the crop, pixel centres at whole numbers.
"""

import cv2
import numpy as np
from PIL import Image

from difftalk.media.points68 import MOUTH

NOSE_TIP = 30
NOSE_BASE = 33
JAW = slice(2, 15)

# The hull is drawn at this many by this many samples a latent cell.
_FINE = 8


def first_masked_row(landmarks: np.ndarray, point: int = NOSE_TIP) -> np.ndarray:
    """Return the first masked row of each frame, that of a point: `(T, 68, 2)` to `(T,)` int."""
    return np.floor(landmarks[..., point, 1]).astype(int)


def mask_image(frames: np.ndarray, landmarks: np.ndarray, point: int = NOSE_TIP) -> np.ndarray:
    """Return a copy of `(T, H, W, 3)` uint8 frames, black from the row of a point down."""
    masked = frames.copy()
    for frame, row in zip(masked, first_masked_row(landmarks, point), strict=True):
        frame[max(row, 0) :] = 0
    return masked


def generated_mask(landmarks: np.ndarray, size: int, latent_size: int) -> np.ndarray:
    """Return the inpainting mask, True where the latent cell is generated.

    It is `(T, latent_size, latent_size)` bool. Generated is every cell that the convex hull of the jaw
    (points 2 to 14), the nose tip (30) and the mouth touches at all: at low latent resolution a cell which
    holds a bit of the lips would otherwise leak the true mouth. The paper's code fills the polygon of the jaw
    and the nose base instead, which misses the mouth of a turned head.

    Args:
        landmarks: `(T, 68, 2)` in pixels of the crop.
        size: of the crop, pixels.
        latent_size: cells.
    """
    fine = latent_size * _FINE
    generated = np.zeros((len(landmarks), latent_size, latent_size), bool)
    for cells, points in zip(generated, landmarks, strict=True):
        outline = np.concatenate([points[JAW], points[NOSE_TIP : NOSE_TIP + 1], points[MOUTH]])
        hull = cv2.convexHull(outline.astype(np.float32))
        scaled = np.round((hull + 0.5) * (fine / size) - 0.5).astype(np.int32)
        drawn = np.zeros((fine, fine), np.uint8)
        cv2.fillConvexPoly(drawn, scaled, 1)
        cells[drawn.reshape(latent_size, _FINE, latent_size, _FINE).any(axis=(1, 3))] = True
    return generated


def released_mask(landmarks: np.ndarray, size: int, latent_size: int) -> np.ndarray:
    """Return the inpainting mask of the released inference code, in the form of `generated_mask`.

    The polygon of jaw (points 2 to 14) and nose base (33), filled at the size of the crop with the corners at
    whole pixels, scaled by PIL's bicubic filter as an image of zeros and ones.
    """
    generated = np.zeros((len(landmarks), latent_size, latent_size), bool)
    for cells, points in zip(generated, landmarks, strict=True):
        polygon = np.concatenate([points[JAW], points[NOSE_BASE : NOSE_BASE + 1]]).astype(np.int32)
        known = np.ones((size, size), np.uint8)
        cv2.fillPoly(known, [polygon], 0)
        scaled = Image.fromarray(known).resize((latent_size, latent_size), Image.Resampling.BICUBIC)
        cells[:] = np.asarray(scaled) == 0
    return generated
