"""What changes from frame to frame: candidates for scene cuts, the longest freeze, brightness, motion.

All is looked for in small copies of the frames, on their way to the tracker, and measured without any
threshold of a gate. docs/prepare.md has the figures behind the constants.
"""

from collections.abc import Iterable, Iterator
from typing import TypeVar

import cv2
import numpy as np

from difftalk.face.clip_scores import cuts_of
from difftalk.media.lazy_frame import LazyFrame

P = TypeVar("P", bound=np.ndarray | LazyFrame)

SMALL_PX = 160  # longer side of the small copies
# A cut must also change the mean of hue, saturation and brightness by this much, of 255.
MIN_CUT_CHANGE = 15.0
# Frames on each side of a change that it is compared with.
CUT_WINDOW = 2
# Changes that are not larger than those around them are no candidates.
MIN_RATIO = 1.0
# Grey levels, in 3x3 means of the small copy, within which every pixel stays while the video is frozen.
FROZEN_LEVELS = 6.0


class _ChangeFinder:
    """Finds changes among every `step`-th frame, from frame `first` on."""

    def __init__(self, first: int = 0, step: int = 1) -> None:
        self._first, self._step = first, step
        from difftalk.face.change_ratio import RatioDetector

        self._detector = RatioDetector(MIN_RATIO, MIN_CUT_CHANGE, CUT_WINDOW)
        self._last: np.ndarray | None = None
        self.found: dict[int, float] = {}  # the ratio of each change, by the number of its frame

    def look(self, number: int, hsv: np.ndarray) -> None:
        """Take hue, saturation and brightness `(H, W, 3)` of a small copy, if it is one of these."""
        if number % self._step != self._first:
            return
        # The detector compares a change with those around it: let there be some before the first, too.
        for _ in range(CUT_WINDOW + 1 if self._last is None else 0):
            self._feed(hsv)
        self._feed(hsv)
        self._last = hsv

    def finish(self) -> None:
        """Let there be frames after the last."""
        if self._last is not None:
            for _ in range(CUT_WINDOW + 1):
                self._feed(self._last)
        self._last = None

    def _feed(self, hsv: np.ndarray) -> None:
        for at, ratio in self._detector.feed(hsv):
            self.found[self._first + self._step * (at - CUT_WINDOW - 1)] = ratio


class SceneMonitor:
    """Watches the frames of a clip as they pass."""

    def __init__(self) -> None:
        self._every = _ChangeFinder()
        # The even frames, and the odd ones: one of the two leaves out a blend between two scenes.
        self._halves = (_ChangeFinder(0, 2), _ChangeFinder(1, 2))
        self._count = 0
        self._grey: np.ndarray | None = None
        self._anchor: np.ndarray | None = None
        self._freeze_start = 0
        self._longest_freeze = (0, 0)
        self._brightness = self._motion = 0.0

    def through(self, frames: Iterable[P]) -> Iterator[P]:
        """Yield the `(H, W, 3)` uint8 RGB frames unchanged, and look at each."""
        for frame in frames:
            self._look(frame)
            yield frame

    def changes(self) -> list[tuple[int, float]]:
        """Return frames that may begin a new scene, each with the ratio of its change to those around.

        Where a single frame lies between two scenes, such as a blend of them, each of its two changes makes
        the other look small. Both then have the ratio of the change from the frame before to the frame after.
        No frame may follow.
        """
        for finder in (self._every, *self._halves):
            finder.finish()
        found = dict(self._every.found)
        for number, ratio in {**self._halves[0].found, **self._halves[1].found}.items():
            if number in self._every.found and number - 1 in self._every.found:
                for k in (number - 1, number):
                    found[k] = max(found[k], ratio)
        return sorted(found.items())

    def longest_freeze(self) -> tuple[int, int]:
        """Return the first frame and the length, in frames, of the longest freeze of the video."""
        return self._longest_freeze

    def brightness(self) -> float | None:
        """Return the mean grey level of the frames, 0..255; None without any."""
        return self._brightness / self._count if self._count else None

    def motion(self) -> float | None:
        """Return the mean change of a pixel to the next frame, grey levels; None without two frames."""
        return self._motion / (self._count - 1) if self._count > 1 else None

    def _look(self, frame: np.ndarray | LazyFrame) -> None:
        scale = SMALL_PX / max(frame.shape[:2])
        height, width = (max(round(side * scale), 1) for side in frame.shape[:2])
        if isinstance(frame, LazyFrame) and scale < 1:
            small = frame.scaled(width, height)
        else:
            interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
            small = cv2.resize(frame[:, :], (width, height), interpolation=interpolation)
        hsv = cv2.cvtColor(small, cv2.COLOR_RGB2HSV)
        for finder in (self._every, *self._halves):
            finder.look(self._count, hsv)
        # Every frame is compared with the first of its freeze: slow movement adds up, compression noise does
        # not.
        grey = cv2.blur(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32), (3, 3))
        if self._anchor is None or np.abs(grey - self._anchor).max() > FROZEN_LEVELS:
            self._anchor, self._freeze_start = grey, self._count
        if self._grey is not None:
            self._motion += float(np.abs(grey - self._grey).mean())
        self._brightness += float(grey.mean())
        self._grey = grey
        self._count += 1
        if self._count - self._freeze_start > self._longest_freeze[1]:
            self._longest_freeze = self._freeze_start, self._count - self._freeze_start


class CutFinder(SceneMonitor):
    """Finds the frames with which new scenes begin.

    Args:
        ratio: a cut changes the frame at least so many times as much as the frames around it change.
    """

    def __init__(self, ratio: float) -> None:
        super().__init__()
        self._ratio = ratio

    def cuts(self) -> list[int]:
        """Return the numbers of the frames with which a new scene begins; no frame may follow."""
        return cuts_of(self.changes(), self._ratio)
