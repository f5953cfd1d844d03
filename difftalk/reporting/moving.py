"""The moving picture of a run: source, masked frame and methods side by side, over the sound's waveform."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from difftalk.evaluation.mouth import opening
from difftalk.media.clock import FPS, SAMPLES_PER_FRAME
from difftalk.reporting.panels import BACKGROUND, Panel, label_bar

SECONDS = 4.0
PANELS = 4
WAVE_HEIGHT = 56  # pixels
PLAYED, TO_COME, CURSOR = (122, 167, 255), (84, 92, 102), (235, 235, 235)
# Of WebP, the first that gives a file small enough.
QUALITIES = (85, 70, 50, 30)
MOST_BYTES = 3_000_000


def chosen_panels(panels: Sequence[Panel]) -> list[Panel]:
    """Return source, masked frame and the first methods that generate, `PANELS` in all.

    The copied reference and other rows made from the true frames are for those who compare.

    Args:
        panels: of `panels_of`.
    """
    left_out = {"reference", "recompressed", "reconstruction"}
    return [panel for panel in panels if panel.label not in left_out][:PANELS]


def liveliest(landmarks: np.ndarray, frames: int) -> slice:
    """Return the stretch of a clip, `frames` long or all of it, in which the mouth moves most.

    Args:
        landmarks: (T, 68, 2) of the clip.
        frames: of the stretch.
    """
    moved = np.abs(np.diff(opening(landmarks), prepend=opening(landmarks[:1])))
    sums = np.convolve(moved, np.ones(min(frames, len(moved))), mode="valid")
    first = int(np.argmax(sums))
    return slice(first, first + min(frames, len(moved)))


def waveform(samples: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the picture of a sound, (WAVE_HEIGHT, width, 3) uint8: not played yet, and played.

    Args:
        samples: (N,) int16 or float; the loudest fills the height.
        width: pixels.
    """
    parts = np.array_split(np.abs(samples.astype(np.float64)), width)
    peaks = np.array([part.max(initial=0.0) for part in parts])
    half = np.round(peaks / max(peaks.max(), 1e-9) * (WAVE_HEIGHT / 2 - 3)).astype(int) + 1
    distance = np.abs(np.arange(WAVE_HEIGHT) - (WAVE_HEIGHT - 1) / 2)[:, None]
    inside = distance <= half[None, :]
    before = np.where(inside[..., None], np.array(TO_COME), np.array(BACKGROUND)).astype(np.uint8)
    after = np.where(inside[..., None], np.array(PLAYED), np.array(BACKGROUND)).astype(np.uint8)
    return before, after


def moving_frames(panels: Sequence[Panel], audio: np.ndarray, at: slice, scale: int) -> list[np.ndarray]:
    """Return the frames of the moving picture, (H, W, 3) uint8 each.

    Args:
        panels: side by side, of one clip.
        audio: (N,) of the clip.
        at: frames of the clip.
        scale: factor by which panels are enlarged.
    """
    size = panels[0].frames.shape[1] * scale
    labels = np.concatenate([label_bar(panel.label, size) for panel in panels], axis=1)
    width = labels.shape[1]
    sound = audio[at.start * SAMPLES_PER_FRAME : at.stop * SAMPLES_PER_FRAME]
    before, after = waveform(sound, width)
    frames = []
    for number in range(at.start, at.stop):
        shown = [
            cv2.resize(panel.frames[number], (size, size), interpolation=cv2.INTER_CUBIC) for panel in panels
        ]
        cursor = round((number - at.start) / (at.stop - at.start) * width)
        wave = np.concatenate([after[:, :cursor], before[:, cursor:]], axis=1)
        wave[:, cursor : cursor + 2] = CURSOR
        frames.append(np.concatenate([labels, np.concatenate(shown, axis=1), wave]))
    return frames


def write_moving_picture(
    path: Path, panels: Sequence[Panel], landmarks: np.ndarray, audio: np.ndarray, panel_pixels: int
) -> None:
    """Write an animated WebP of `SECONDS` of a clip, at most `MOST_BYTES` unless the worst quality is larger.

    Args:
        path: the file.
        panels: of `panels_of`.
        landmarks: (T, 68, 2) of the clip; frames beyond T are left out.
        audio: (N,) of the clip, 640 samples a frame.
        panel_pixels: least side of a panel.
    """
    shown = chosen_panels(panels)
    scale = max(-(-panel_pixels // shown[0].frames.shape[1]), 1)
    at = liveliest(landmarks, round(SECONDS * FPS))
    first, *others = [Image.fromarray(frame) for frame in moving_frames(shown, audio, at, scale)]
    for quality in QUALITIES:
        first.save(
            path, "WEBP", save_all=True, append_images=others,
            duration=round(1000 / FPS), loop=0, quality=quality, method=2,
        )  # fmt: skip
        if path.stat().st_size <= MOST_BYTES:
            break
