"""Crop geometry: one square per clip, the dataset's box, or frames aligned with a template.

Boxes are (x0, y0, x1, y1) in whole pixels of the frame; pixel centres are at whole numbers.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from difftalk.config.crops import CropsSettings
from difftalk.datasets.clips import Clip
from difftalk.face.align import align, cut_aligned, mean_square, similarities
from difftalk.media.lazy_frame import LazyFrame
from difftalk.media.probe import VideoInfo
from difftalk.runtime.errors import ClipError

# The forehead is half as high as the face from the brows to the chin: thirds of a face, as they are drawn.
FOREHEAD = 0.5
# With more than this part of its area outside the frame, a crop is more border than face.
MAX_OUTSIDE = 0.25
# A box of the dataset that holds less than this part of the landmarks shows something else.
MIN_INSIDE_BOX = 0.5

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Placement:
    """Where the crops of a clip lie in its frames.

    Args:
        mode: what the crop is: `track`, `box` or `aligned`; not always the mode that the settings ask for.
        box: the square; of aligned crops the mean one.
        maps: of aligned crops, `(T, 2, 3)`, from frame to crop.
    """

    mode: str
    box: Box
    maps: np.ndarray | None = None

    def cut(self, frames: Iterable[np.ndarray | LazyFrame], size: int) -> list[np.ndarray]:
        """Return the `(size, size, 3)` crops of a clip's frames."""
        if self.maps is None:
            return [cut_square(frame, self.box, size) for frame in frames]
        finer = max(int(np.ceil((self.box[2] - self.box[0]) / size)), 1)
        maps = list(self.maps)
        return [
            cut_aligned(frame[:, :], maps[min(k, len(maps) - 1)], size, finer)
            for k, frame in enumerate(frames)
        ]

    def landmarks(self, points: np.ndarray, size: int) -> np.ndarray:
        """Return landmarks `(T, 68, 2)` of a clip's frames in pixels of their crops, float32."""
        if self.maps is None:
            return to_crop(points, self.box, size)
        return align(points, self.maps[: len(points)])


def place(points: np.ndarray, clip: Clip, info: VideoInfo, settings: CropsSettings) -> Placement:
    """Decide where to cut, by the mode of the settings and what the clip has.

    Args:
        points: `(T, 68, 2)` in pixels of the frame, every frame.
        clip: with the dataset's box, if it has one.
        info: of the source.
        settings: of the stage `crops`.

    Raises:
        ClipError: `out_of_frame` if the crop lies too far outside the frame, or the face outside the
            dataset's box.
    """
    frame_size = info.width, info.height
    if settings.mode == "aligned":
        maps = similarities(points, settings.size, settings.margin)
        placement = Placement("aligned", mean_square(maps, settings.size), maps)
    elif settings.mode == "box" and clip.box is not None:
        placement = Placement(
            "box", scaled_box(clip.box, clip.box_height, info.height, clip.box_width, info.width)
        )
        x0, y0, x1, y1 = placement.box
        inside = ((points >= (x0, y0)) & (points < (x1, y1))).all(axis=-1).mean()
        if inside < MIN_INSIDE_BOX:
            raise ClipError("out_of_frame", f"the dataset's box holds {inside:.0%} of the face's points")
    else:
        ratio = (clip.crop_ratio or 1.0) if settings.mode == "box" else 1.0
        placement = Placement("track", square(points, frame_size, settings.margin, ratio))
    outside = outside_fraction(placement.box, frame_size)
    if outside > MAX_OUTSIDE:
        raise ClipError("out_of_frame", f"{outside:.0%} of the crop lies outside the frame")
    return placement


def square(points: np.ndarray, frame_size: tuple[int, int], margin: float, ratio: float = 1.0) -> Box:
    """Return one square for a whole clip, so that the crop never moves.

    It holds, to a pixel, the landmarks of all frames, and above them the forehead, and is enlarged by
    `margin` of its side on each side. Where it fits into the frame it is moved inside; where it does not, it
    is centred on what it cannot hold.

    Args:
        points: `(T, 68, 2)` in pixels of the frame.
        frame_size: (width, height).
        margin: parts of the side.
        ratio: factor by which the square is enlarged once more, as far as the frame's shorter side holds it.
    """
    top = points[..., 1].min(axis=1)
    chin = points[..., 1].max(axis=1)
    low = np.array([points[..., 0].min(), (top - FOREHEAD * (chin - top)).min()])
    high = np.array([points[..., 0].max(), chin.max()])
    # Sides and corners are even, between pixels of colour, which have half the resolution: see
    # `LazyFrame.scaled_down`.
    side = 2 * int(np.ceil((high - low).max() * (1 + 2 * margin) / 2))
    side = max(side, 2 * int(min(side * ratio, *frame_size) / 2))
    corner = 2 * np.round((low + high - side) / 4).astype(int)
    for axis, length in enumerate(frame_size):
        if side <= length:
            corner[axis] = min(max(corner[axis], 0), (length - side) // 2 * 2)
        else:
            corner[axis] = min(max(corner[axis], length - side), 0)
    x0, y0 = map(int, corner)
    return x0, y0, x0 + side, y0 + side


def scaled_box(
    box: tuple[float, ...],
    box_height: float | None,
    height: int,
    box_width: float | None = None,
    width: int = 0,
) -> Box:
    """Return a dataset's box in whole pixels of a frame `height` high, as a square with the same centre.

    Args:
        box: (x0, y0, x1, y1) in pixels of a frame `box_height` high.
        box_height: None stands for `height` itself.
        height: of the frame, pixels.
        box_width: of the frame that the box refers to; None: both axes scale by the heights.
        width: of the frame, pixels; read where there is a `box_width`.

    >>> scaled_box((306, 41, 786, 521), 720, 1080)
    (459, 62, 1179, 782)
    >>> scaled_box((0.25, 0.0, 0.75, 1.0), 1, 720, 1, 1280)
    (280, 0, 1000, 720)
    """
    scale = height / box_height if box_height else 1.0
    across = width / box_width if box_width else scale
    x0, y0, x1, y1 = np.array(box, float) * (across, scale, across, scale)
    side = round(max(x1 - x0, y1 - y0))
    # Half a pixel rounds up, so that neighbouring boxes do so alike.
    left, top = (int(np.floor((low + high - side) / 2 + 0.5)) for low, high in ((x0, x1), (y0, y1)))
    return left, top, left + side, top + side


def outside_fraction(box: Box, frame_size: tuple[int, int]) -> float:
    """Return the part of a square's area that lies outside a frame of (width, height)."""
    x0, y0, x1, y1 = box
    inside = max(min(x1, frame_size[0]) - max(x0, 0), 0) * max(min(y1, frame_size[1]) - max(y0, 0), 0)
    return 1 - inside / ((x1 - x0) * (y1 - y0))


def cut_square(frame: np.ndarray | LazyFrame, box: Box, size: int) -> np.ndarray:
    """Return the `(size, size, 3)` crop of a frame, the border repeated where the square leaves it.

    It is scaled down by area averaging, up by bicubic interpolation.
    """
    height, width = frame.shape[:2]
    x0, y0, x1, y1 = box
    if isinstance(frame, LazyFrame) and x1 - x0 >= size:
        scaled = frame.scaled_down(x0, y0, x1, y1, size, size)
        if scaled is not None:
            return scaled
    part = frame[max(y0, 0) : y1, max(x0, 0) : x1]
    over = max(-y0, 0), max(y1 - height, 0), max(-x0, 0), max(x1 - width, 0)
    if any(over):
        part = cv2.copyMakeBorder(part, *over, cv2.BORDER_REPLICATE)
    interpolation = cv2.INTER_AREA if x1 - x0 >= size else cv2.INTER_CUBIC
    return cv2.resize(part, (size, size), interpolation=interpolation)


def to_crop(points: np.ndarray, box: Box, size: int) -> np.ndarray:
    """Map points from pixels of the frame to pixels of its crop, float32."""
    scale = size / (box[2] - box[0])
    return ((points - np.array(box[:2]) + 0.5) * scale - 0.5).astype(np.float32)
