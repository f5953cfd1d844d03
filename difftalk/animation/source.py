"""The video or picture that is animated, and which of its frames each frame of the output shows."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from difftalk.media.clock import FPS
from difftalk.media.lazy_frame import LazyFrame
from difftalk.media.probe import probe
from difftalk.media.video import read_lazy_frames
from difftalk.runtime.errors import UserError

PICTURES = frozenset((".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"))


@dataclass(frozen=True)
class Source:
    """What is animated, at 25 fps.

    Args:
        path: the file.
        size: (width, height) in pixels, as shown.
        frames: about how many there are; a picture has one.
        picture: (H, W, 3) uint8 RGB; None of a video.
    """

    path: Path
    size: tuple[int, int]
    frames: int
    picture: np.ndarray | None = None

    @classmethod
    def open(cls, path: Path) -> "Source":
        """Look at a file.

        Raises:
            UserError: if a picture cannot be read.
            ClipError: if a video cannot.
        """
        if path.suffix.lower() not in PICTURES:
            info = probe(path)
            return cls(path, (info.width, info.height), max(round(info.duration_s * FPS), 1))
        try:
            with Image.open(path) as opened:
                picture = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
        except (OSError, UnidentifiedImageError, ValueError, Image.DecompressionBombError) as e:
            raise UserError(f"{path}: not a picture that can be read ({e})") from None
        return cls(path, (picture.shape[1], picture.shape[0]), 1, picture)

    def read(self, first: int, stop: int) -> Iterator[np.ndarray | LazyFrame]:
        """Yield the frames `first` to `stop - 1`, or fewer at the end."""
        if self.picture is not None:
            yield from [self.picture] * (min(stop, 1) - first)
        else:
            yield from read_lazy_frames(self.path, first / FPS, stop / FPS)


@dataclass(frozen=True)
class Stretch:
    """Some consecutive frames of the output.

    Args:
        first: number of the first in the output.
        shown: the frame of the source that each shows; rising, falling or all the same.
    """

    first: int
    shown: tuple[int, ...]

    def read(self, source: Source) -> list[np.ndarray | LazyFrame]:
        """Return the source's frame for each."""
        low = min(self.shown)
        found = list(source.read(low, max(self.shown) + 1))
        return [found[number - low] for number in self.shown]


def ping_pong(number: int, frames: int) -> int:
    """Return which of `frames` is shown as number `number`: to the end, and back, and so on.

    >>> [ping_pong(k, 3) for k in range(7)]
    [0, 1, 2, 1, 0, 1, 2]
    """
    if frames == 1:
        return 0
    place = number % (2 * (frames - 1))
    return min(place, 2 * (frames - 1) - place)


def stretches(frames: int, count: int, most: int) -> list[Stretch]:
    """Cut `count` frames of the output into stretches of one direction, of `most` frames at most.

    >>> [s.shown for s in stretches(3, 5, 2)]
    [(0, 1), (2, 1), (0,)]
    """
    shown = [ping_pong(number, frames) for number in range(count)]
    found: list[Stretch] = []
    first = 0
    for k in range(1, count + 1):
        turns = k < count and k - first > 1 and shown[k] - shown[k - 1] != shown[k - 1] - shown[k - 2]
        if k == count or k - first == most or turns:
            found.append(Stretch(first, tuple(shown[first:k])))
            first = k
    return found
