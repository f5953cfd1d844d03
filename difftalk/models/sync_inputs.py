"""Inputs of the sync experts: crops around the mouth or the face, and windows of MFCC."""

import cv2
import numpy as np
from python_speech_features import mfcc

from difftalk.media.clock import SAMPLE_RATE

LIP_FRAMES = 5  # frames in one video window
AUDIO_STEPS = 20  # MFCC steps of 10 ms in one audio window
STEPS_PER_FRAME = 4
MFCC_COEFFICIENTS = 13


def mfcc_windows(samples: np.ndarray) -> np.ndarray:
    """Return the MFCC windows (M, 13, 20) float32 that start at each video frame.

    Args:
        samples: (N,) int16 at 16 kHz: the networks expect that scale.
    """
    return audio_windows(mfcc(samples, SAMPLE_RATE, numcep=MFCC_COEFFICIENTS))


def audio_windows(cepstra: np.ndarray) -> np.ndarray:
    """Cut MFCC (steps, 13) into windows (M, 13, 20) float32, as many as are complete.

    Window i starts at frame i and has the steps 4i to 4i + 19.
    """
    count = max((len(cepstra) - AUDIO_STEPS) // STEPS_PER_FRAME + 1, 0)
    if count == 0:
        return np.zeros((0, MFCC_COEFFICIENTS, AUDIO_STEPS), np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(cepstra, AUDIO_STEPS, axis=0)
    return np.ascontiguousarray(windows[::STEPS_PER_FRAME][:count], np.float32)


def lip_box(landmarks: np.ndarray, zoom: float = 1.0) -> tuple[int, int, int, int]:
    """Return the square around mouth and chin of a clip: x0, y0, x1, y1 in pixels of the crop.

    Its side is 1.2 outer eye distances, its centre lies 0.15 below that of the mouth: nose tip to the chin of
    an open mouth. Points are medians over the clip, so that the box carries nothing of the movement.

    Args:
        landmarks: (T, 68, 2).
        zoom: factor of the side; above 1 for training, which shifts and rotates inside the box.
    """
    middle = np.median(landmarks, axis=0)
    eyes = float(np.hypot(*(middle[45] - middle[36])))
    x, y = middle[48:68].mean(axis=0) + (0.0, 0.15 * eyes)
    return _square(x, y, 0.6 * eyes * zoom)


def face_box(landmarks: np.ndarray) -> tuple[int, int, int, int]:
    """Return the square that SyncNet's own pipeline cuts around the face of a clip.

    A detector's box (S3FD) is estimated from the median points: as wide as the jaw, from a quarter of the
    distance brow to chin above the brows down to the chin. With s half its longer side and (x, y) its centre,
    the crop is x -+ 1.4 s, y - s to y + 1.8 s (`run_pipeline.py`, crop_scale 0.4).
    """
    middle = np.median(landmarks, axis=0)
    x0, x1 = middle[:17, 0].min(), middle[:17, 0].max()
    brow, y1 = middle[17:27, 1].min(), middle[:17, 1].max()
    y0 = brow - 0.25 * (y1 - brow)
    s = max(x1 - x0, y1 - y0) / 2
    return _square((x0 + x1) / 2, (y0 + y1) / 2 + 0.4 * s, 1.4 * s)


def cut_box(
    frames: np.ndarray,
    box: tuple[int, int, int, int],
    size: int,
    fill: int | None = None,
    average: bool = True,
) -> np.ndarray:
    """Cut the box out of every frame and resize it: (T, size, size, 3) uint8.

    What lies outside the frame repeats its border, or is `fill`. Where it shrinks, pixels are averages of
    those that they cover, or, without `average`, interpolated between four, as OpenCV does by default.
    """
    x0, y0, x1, y1 = box
    height, width = frames.shape[1:3]
    top, left = max(-y0, 0), max(-x0, 0)
    bottom, right = max(y1 - height, 0), max(x1 - width, 0)
    border = cv2.BORDER_REPLICATE if fill is None else cv2.BORDER_CONSTANT
    shrink = average and x1 - x0 > size
    out = np.empty((len(frames), size, size, 3), np.uint8)
    for i, frame in enumerate(frames):
        if top or left or bottom or right:
            frame = cv2.copyMakeBorder(frame, top, bottom, left, right, border, value=(fill or 0,) * 3)
        part = frame[y0 + top : y1 + top, x0 + left : x1 + left]
        out[i] = cv2.resize(part, (size, size), interpolation=cv2.INTER_AREA if shrink else cv2.INTER_LINEAR)
    return out


def _square(x: float, y: float, half: float) -> tuple[int, int, int, int]:
    side = max(2 * round(half), 2)
    x0, y0 = round(x - side / 2), round(y - side / 2)
    return x0, y0, x0 + side, y0 + side
