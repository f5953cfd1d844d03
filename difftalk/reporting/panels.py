"""Panels side by side: the videos of a clip's methods, and the grids and strips of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from difftalk.evaluation.mouth import opening
from difftalk.evaluation.samples import read_sample
from difftalk.media.shards import Crop
from difftalk.models.masks import mask_image
from difftalk.reporting.methods import SEED
from difftalk.runtime.checksums import verify
from difftalk.runtime.sample_folder import find_video

LABEL_HEIGHT, LABEL_FONT, SMALLEST_FONT = 28, 18, 9  # pixels
# Panels in a row of a video: seven, or as many as are as wide as most screens, but four at least.
MOST_COLUMNS, LEAST_COLUMNS, WIDEST = 7, 4, 2048
STRIP_FRAMES = 8
FIRST_METHODS = ("reference_copy", "difftalk", "no_audio")
BACKGROUND, INK = (18, 18, 18), (235, 235, 235)


@dataclass(frozen=True)
class Panel:
    """One video of a gallery clip: label and frames (T, S, S, 3) uint8."""

    label: str
    frames: np.ndarray


def by_method(folders: Sequence[Path]) -> dict[str, list[Path]]:
    """Return the folders of videos of each method.

    Args:
        folders: `.../METHOD/SHARD` with videos, or `.../METHOD` above them.
    """
    found: dict[str, list[Path]] = {}
    for folder in folders:
        shards = sorted(p for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
        if shards:
            found.setdefault(folder.name, []).extend(shards)
        else:
            found.setdefault(folder.parent.name, []).append(folder)
    return found


def panels_of(clip: Crop, samples: dict[str, list[Path]], methods: Sequence[str]) -> list[Panel]:
    """Return the source, the masked source, then each method that has a video of this clip.

    Args:
        clip: the true clip.
        samples: folders of videos of each method.
        methods: those shown, in order; an empty list shows all but further seeds, the copied reference first.
    """
    source = clip.frames()
    panels = [Panel("source", source), Panel("masked", mask_image(source, clip.landmarks))]
    names = methods or [
        *(m for m in FIRST_METHODS if m in samples),
        *sorted(m for m in samples if m not in {*FIRST_METHODS, "ground_truth"} and not SEED.fullmatch(m)),
    ]
    for name in names:
        found = (find_video(folder, clip.clip_id) for folder in samples.get(name, []))
        path = next((p for p in found if p is not None), None)
        if path is not None:
            frames = read_sample(verify(path), source, len(source))
            panels.append(Panel("reference" if name == "reference_copy" else name, frames))
    return panels


def columns_for(panels: int, size: int) -> int:
    """Return how many panels of `size` pixels stand in a row: few rows, and as few empty places as can be.

    >>> [columns_for(count, 192) for count in (2, 5, 7, 8, 9, 11)], columns_for(7, 512)
    ([2, 5, 7, 4, 5, 6], 4)
    """
    most = max(LEAST_COLUMNS, min(MOST_COLUMNS, WIDEST // size))
    if panels <= most:
        return panels
    return min(range(LEAST_COLUMNS, most + 1), key=lambda columns: (-panels % columns, -columns))


def grid(panels: Sequence[tuple[str, np.ndarray]], scale: int) -> np.ndarray:
    """Return labelled frames in rows of `columns_for`, (H, W, 3) uint8 of even sides.

    Args:
        panels: label and frame (S, S, 3) of each.
        scale: factor by which frames are enlarged.
    """
    size = panels[0][1].shape[0] * scale
    columns = columns_for(len(panels), size)
    rows = -(-len(panels) // columns)
    out = np.full((rows * (size + LABEL_HEIGHT), columns * size, 3), BACKGROUND[0], np.uint8)
    for i, (label, frame) in enumerate(panels):
        y, x = i // columns * (size + LABEL_HEIGHT), i % columns * size
        out[y : y + LABEL_HEIGHT, x : x + size] = label_bar(label, size)
        large = cv2.resize(frame, (size, size), interpolation=cv2.INTER_CUBIC)
        out[y + LABEL_HEIGHT : y + LABEL_HEIGHT + size, x : x + size] = large
    return np.pad(out, ((0, out.shape[0] % 2), (0, out.shape[1] % 2), (0, 0)))


def strip(panels: Sequence[Panel], landmarks: np.ndarray, scale: int) -> np.ndarray:
    """Return a row per panel with the same few frames of each, (H, W, 3) uint8.

    Args:
        panels: of one clip.
        landmarks: (T, 68, 2) of the clip; frames are chosen at peaks and valleys of the mouth's opening.
        scale: factor by which frames are enlarged.
    """
    openings = opening(landmarks)
    # Peaks and valleys of the mouth tell more than evenly spaced frames.
    intervals = np.array_split(np.arange(len(openings)), min(STRIP_FRAMES, len(openings)))
    at = [
        int(s[np.argmax(openings[s]) if k % 2 == 0 else np.argmin(openings[s])])
        for k, s in enumerate(intervals)
    ]
    rows = []
    for panel in panels:
        frames = [np.repeat(np.repeat(panel.frames[i], scale, 0), scale, 1) for i in at]
        rows += [label_bar(panel.label, sum(f.shape[1] for f in frames)), np.concatenate(frames, axis=1)]
    return np.concatenate(rows)


@cache
def label_bar(text: str, width: int) -> np.ndarray:
    """Return a bar with a text, (LABEL_HEIGHT, width, 3) uint8, in as large a font as fits."""
    image = Image.new("RGB", (width, LABEL_HEIGHT), BACKGROUND)
    draw = ImageDraw.Draw(image)
    sizes = range(LABEL_FONT, SMALLEST_FONT - 1, -1)
    fonts = (ImageFont.load_default(size) for size in sizes)
    font = next(
        (f for f in fonts if draw.textlength(text, f) <= width - 8), ImageFont.load_default(SMALLEST_FONT)
    )
    draw.text((5, LABEL_HEIGHT // 2), text, fill=INK, font=font, anchor="lm")
    return np.asarray(image)
