"""Still pictures of a clip's methods: the mouth over time, and where a method differs from the truth."""

from collections.abc import Sequence

import cv2
import numpy as np

from difftalk.evaluation.metrics import mouth_box
from difftalk.media.points68 import MOUTH
from difftalk.reporting.panels import BACKGROUND, LABEL_HEIGHT, Panel, label_bar

KYMOGRAPH_MARGIN = 0.35  # above and below the mouth, as a part of its width
KYMOGRAPH_WIDTH, KYMOGRAPH_ROW = 1000, 72  # least pixels of the picture's width and of a row's height
MAP_PIXELS = 160  # least side of an error map
# The top of the colour scale of error maps, one for all pictures: mean absolute difference in levels of 255.
ERROR_LEVELS = 40


def kymograph(panels: Sequence[Panel], landmarks: np.ndarray) -> np.ndarray:
    """Return the mouth over time, (H, W, 3) uint8: a row per panel, one column of pixels per frame.

    The column goes through the centre of the true mouth of that frame, over the same height in all frames and
    panels. An open mouth is a dark patch: where it lies and is as large as in the first row, the method opens
    the mouth as the truth does.

    Args:
        panels: of one clip, the truth first.
        landmarks: (T, 68, 2) of the true clip; frames beyond T are left out.
    """
    side = panels[0].frames.shape[1]
    _, top, _, bottom = mouth_box(landmarks, (panels[0].frames.shape[2], side), KYMOGRAPH_MARGIN)
    at = np.arange(len(landmarks))
    columns = np.clip(landmarks[:, MOUTH, 0].mean(axis=1).round().astype(int), 0, side - 1)
    wide = max(-(-KYMOGRAPH_WIDTH // len(at)), 1)
    high = max(-(-KYMOGRAPH_ROW // (bottom - top)), 1)
    rows = []
    for panel in panels:
        mouth = panel.frames[at, top:bottom, columns].swapaxes(0, 1)
        rows += [label_bar(panel.label, len(at) * wide), np.repeat(np.repeat(mouth, high, 0), wide, 1)]
    return np.concatenate(rows)


def error_map(frames: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the absolute difference to the true frames, mean over frames and channels, (H, W) float32.

    Args:
        frames: (T, H, W, 3) uint8.
        truth: of the same shape.
    """
    total = np.zeros(truth.shape[1:3], np.float32)
    for frame, true in zip(frames, truth, strict=True):
        total += cv2.absdiff(frame, true).mean(axis=2)
    return total / max(len(truth), 1)


def error_maps(panels: Sequence[Panel], truth: np.ndarray) -> np.ndarray:
    """Return the error map of each panel beside the others, (H, W, 3) uint8, over the bar of their colours.

    Args:
        panels: of the methods.
        truth: (T, H, W, 3) uint8; frames beyond T are left out.
    """
    scale = max(-(-MAP_PIXELS // truth.shape[1]), 1)
    shown = []
    for panel in panels:
        errors = error_map(panel.frames[: len(truth)], truth)
        large = cv2.resize(_coloured(errors), None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
        text = f"{panel.label}, mean {errors.mean():.1f}"
        shown.append(np.concatenate([label_bar(text, large.shape[1]), large]))
    maps = np.concatenate(shown, axis=1)
    bar = np.tile(np.linspace(0, ERROR_LEVELS, maps.shape[1], dtype=np.float32), (LABEL_HEIGHT // 2, 1))
    ends = label_bar(f"0 (left) to {ERROR_LEVELS} or more (right) levels of 255", maps.shape[1])
    gap = np.full((4, maps.shape[1], 3), BACKGROUND[0], np.uint8)
    return np.concatenate([maps, gap, _coloured(bar), ends])


def _coloured(errors: np.ndarray) -> np.ndarray:
    levels = np.clip(errors * (255 / ERROR_LEVELS), 0, 255).astype(np.uint8)
    return np.asarray(cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB))
