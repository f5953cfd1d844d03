"""A decoded frame whose pixels are converted where they are looked at, and not before."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from difftalk.media.damage import reading
from difftalk.media.display import UPRIGHT, in_standard_range, is_hdr, orientation
from difftalk.media.scaling import reformatted

# Luma of limited range, 16..235, spread over 0..255.
SPREAD = 255 / 219


class LazyFrame:
    """A decoded frame that is converted to RGB where it is indexed: `frame[y0:y1, x0:x1]`, `frame[:, :]`.

    The bytes are those of that part of the whole frame, whose conversion costs as much as decoding it at
    1080p. `shape` is `(H, W, 3)`.

    Args:
        frame: as FFmpeg decoded it.
        size: (width, height) in pixels at which it is shown.
        path: of its file, for errors.
    """

    def __init__(self, frame: Any, size: tuple[int, int], path: str | Path) -> None:
        self._path = path
        self.shape = (size[1], size[0], 3)
        self._frame = frame
        self._whole: np.ndarray | None = None
        plain = frame.format.name in ("yuv420p", "yuvj420p") and not is_hdr(frame)
        as_it_is = size == (frame.width, frame.height) and orientation(frame) == UPRIGHT
        self._in_parts = plain and as_it_is
        # The part that is there (x0, y0, x1, y1): all, but in a copy that `kept` made.
        self._held = (0, 0, *size)

    def __getitem__(self, part: tuple[slice, slice]) -> np.ndarray:
        y0, y1, x0, x1 = self._bounds(part)
        # Colour has half the resolution: parts begin and end between its pixels.
        left, top, right, bottom = x0 - x0 % 2, y0 - y0 % 2, x1 + x1 % 2, y1 + y1 % 2
        beyond = not self.holds(left, top, right, bottom) or right <= left or bottom <= top
        most = 2 * (right - left) * (bottom - top) > self.shape[0] * self.shape[1]
        if self._is_whole and (self._whole is not None or not self._in_parts or beyond or most):
            if self._whole is None:
                self._whole = self.scaled(self.shape[1], self.shape[0])
            return self._whole[y0:y1, x0:x1]
        with reading(self._path, "a frame does not convert"):
            cut = _rgb(self._part(left, top, right, bottom), (right - left, bottom - top))
        return cut[y0 - top : y1 - top, x0 - left : x1 - left]

    def holds(self, x0: int, y0: int, x1: int, y1: int) -> bool:
        """Whether a part of the frame is there."""
        left, top, right, bottom = self._held
        return left <= x0 and top <= y0 and x1 <= right and y1 <= bottom

    def kept(self, x0: float, y0: float, x1: float, y1: float) -> "LazyFrame | None":
        """Return a frame that has a copy of a part of this one, and can be asked for what that holds.

        None of a frame that is not converted in parts.
        """
        if not self._in_parts:
            return None
        width, height = self.shape[1] // 2 * 2, self.shape[0] // 2 * 2
        left, top = max(int(x0) // 2 * 2, 0), max(int(y0) // 2 * 2, 0)
        held = left, top, min(int(x1 / 2 + 1) * 2, width), min(int(y1 / 2 + 1) * 2, height)
        if held[2] <= left or held[3] <= top:
            return None
        copied = copy.copy(self)
        copied._whole, copied._frame, copied._held = None, self._part(*held), held
        return copied

    @property
    def nbytes(self) -> int:
        """The memory of its pixels as they were decoded."""
        x0, y0, x1, y1 = self._held
        return (x1 - x0) * (y1 - y0) * 3 // 2

    def grey(self, part: tuple[slice, slice]) -> np.ndarray:
        """Return the grey levels of a part, `(h, w)` uint8: its luma where the file has that, else of RGB."""
        if not self._in_parts:
            return cv2.cvtColor(self[part], cv2.COLOR_RGB2GRAY)
        y0, y1, x0, x1 = self._bounds(part)
        luma = next(_planes(self._frame))[y0:y1, x0:x1]
        full_range = self._frame.format.name == "yuvj420p" or self._frame.color_range == 2
        return luma if full_range else cv2.convertScaleAbs(luma, alpha=SPREAD, beta=-16 * SPREAD)

    def scaled(self, width: int, height: int) -> np.ndarray:
        """Return the whole frame at another size, `(height, width, 3)`; a small one costs less.

        A frame that is much larger is halved first, by averaging: the mean of as many pixels, in less time.
        """
        with reading(self._path, "a frame does not convert"):
            frame = _halved(self._frame, width, height) if self._in_parts else self._frame
            return _rgb(frame, (width, height))

    def scaled_down(self, x0: int, y0: int, x1: int, y1: int, width: int, height: int) -> np.ndarray | None:
        """Return a part at a smaller size, `(height, width, 3)`, by area averaging as it is converted.

        It costs a fifth of converting the part first and scaling it then. None where that cannot be: beyond
        the frame, between two pixels of colour, of frames that are turned or tone-mapped.
        """
        between_pixels = not any(edge % 2 for edge in (x0, y0, x1, y1))
        if not self._in_parts or not between_pixels or not self.holds(x0, y0, x1, y1):
            return None
        with reading(self._path, "a frame does not convert"):
            return _rgb(self._part(x0, y0, x1, y1), (width, height))

    @property
    def _is_whole(self) -> bool:
        return self._held == (0, 0, self.shape[1], self.shape[0])

    def _part(self, x0: int, y0: int, x1: int, y1: int) -> Any:
        """Return a part, between even rows and columns, as a decoded frame."""
        left, top, *_ = self._held
        return _part(self._frame, x0 - left, y0 - top, x1 - left, y1 - top)

    def _bounds(self, part: tuple[slice, slice]) -> tuple[int, int, int, int]:
        (y0, y1, _), (x0, x1, _) = (s.indices(n) for s, n in zip(part, self.shape, strict=False))
        return y0, y1, x0, x1


def _planes(frame: Any) -> Iterator[np.ndarray]:
    """Yield the planes of a frame, `(H, W)` uint8 each, in place."""
    for plane in frame.planes:
        yield np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width]


def _halved(frame: Any, width: int, height: int) -> Any:
    """Return a 4:2:0 frame, halved while it is more than twice as large as a size and has whole halves."""
    planes, wide, high = list(_planes(frame)), frame.width, frame.height
    while wide > 2 * width and high > 2 * height and wide % 4 == 0 and high % 4 == 0:
        halves = [(plane.shape[1] // 2, plane.shape[0] // 2) for plane in planes]
        planes = [cv2.resize(p, h, interpolation=cv2.INTER_AREA) for p, h in zip(planes, halves, strict=True)]
        wide, high = wide // 2, high // 2
    return frame if wide == frame.width else _frame_of(planes, frame)


def _rgb(frame: Any, size: tuple[int, int]) -> np.ndarray:
    """Return a frame as shown, scaled to (width, height): `(height, width, 3)` uint8 RGB."""
    shown = orientation(frame)
    width, height = size
    if shown.transposed:
        width, height = height, width
    interpolation = "AREA" if width < frame.width else "BICUBIC"
    rgb = reformatted(in_standard_range(frame), width, height, format="rgb24", interpolation=interpolation)
    return shown.apply(rgb.to_ndarray())


def _part(frame: Any, x0: int, y0: int, x1: int, y1: int) -> Any:
    """Return a part of a 4:2:0 frame, between even rows and columns, as a frame."""
    cut = []
    for number, plane in enumerate(_planes(frame)):
        finer = 2 if number else 1
        cut.append(plane[y0 // finer : y1 // finer, x0 // finer : x1 // finer])
    return _frame_of(cut, frame)


def _frame_of(planes: list[np.ndarray], like: Any) -> Any:
    """Return a frame with a copy of planes, its format and colours those of another one."""
    frame = av.VideoFrame(planes[0].shape[1], planes[0].shape[0], like.format.name)
    for into, plane in zip(_planes(frame), planes, strict=True):
        into[:] = plane
    frame.colorspace, frame.color_range = like.colorspace, like.color_range
    return frame
