"""Quality gates on the pictures of a clip: cuts, standstill, other faces. They look at frames on their way to the tracker.

Both work on small copies of the pictures. Figures behind the constants: docs/prepare.md.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
from scenedetect import FrameTimecode
from scenedetect.detectors import AdaptiveDetector

from difftalk.face.tracks import Face
from difftalk.media.clock import FPS
from difftalk.media.video import LazyFrame
from difftalk.runtime.errors import ClipError

P = TypeVar("P", np.ndarray, LazyFrame)

SMALL_PX = 160  # longer side of the small pictures
# A cut must also change the mean of hue, saturation and brightness by this much, of 255.
MIN_CUT_CHANGE = 15.0
# Frames on each side of a change that it is compared with.
CUT_WINDOW = 2
# Grey levels, in 3x3 means of the small picture, by which every place stays the same while a picture is frozen.
FROZEN_LEVELS = 6.0
CUTS_TOLD = 5


@dataclass(frozen=True)
class PictureGates:
    """What the stage `landmarks` reads of the config's `gates` section; None switches a gate off.

    Args:
        scene_cut_ratio: change of the picture from one frame to the next, as a multiple of that of the four frames
            around, from which it is a cut.
        several_faces_share: part of the frames looked at in which another face, at least half as wide, may be seen.
        frozen_seconds: how long the picture may stand still.
    """

    scene_cut_ratio: float | None = 4.5
    several_faces_share: float | None = 0.2
    frozen_seconds: float | None = 1.0


class Watch:
    """Looks at the pictures of a clip as they pass, and then tells its cuts and its longest standstill.

    Args:
        gates: those that are off are not computed.
    """

    def __init__(self, gates: PictureGates) -> None:
        self._gates = gates
        self._detector = AdaptiveDetector(
            adaptive_threshold=gates.scene_cut_ratio or 0.0,
            min_scene_len=1,
            window_width=CUT_WINDOW,
            min_content_val=MIN_CUT_CHANGE,
        )
        self._fed = 0
        self._count = 0
        self._cuts: list[int] = []
        self._last: np.ndarray | None = None
        self._anchor: np.ndarray | None = None
        self._still_from = 0
        self._stillest = (0, 0)

    def through(self, frames: Iterable[P]) -> Iterator[P]:
        """The same `(H, W, 3)` uint8 RGB pictures, looked at."""
        if self._gates.scene_cut_ratio is None and self._gates.frozen_seconds is None:
            yield from frames
            return
        for frame in frames:
            self._look(frame)
            yield frame

    def cuts(self) -> list[int]:
        """Numbers of the frames with which a new scene begins. Ends the watch."""
        if self._last is not None and self._gates.scene_cut_ratio is not None:
            # The detector compares a change with those around it: let there be some after the last, too.
            for _ in range(CUT_WINDOW + 1):
                self._feed(self._last)
        self._last = None
        return self._cuts

    def standstill(self) -> tuple[int, int]:
        """First frame and length, in frames, of the longest stretch in which the picture does not change."""
        return self._stillest

    def _look(self, frame: np.ndarray | LazyFrame) -> None:
        scale = SMALL_PX / max(frame.shape[:2])
        height, width = (max(round(side * scale), 1) for side in frame.shape[:2])
        if isinstance(frame, LazyFrame) and scale < 1:
            small = frame.scaled(width, height)
        else:
            how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
            small = cv2.resize(frame[:, :], (width, height), interpolation=how)
        if self._gates.scene_cut_ratio is not None:
            if self._last is None:
                for _ in range(CUT_WINDOW + 1):
                    self._feed(small)
            self._feed(small)
        self._last = small
        # Every frame is compared with the first of its stretch: slow movement adds up, compression noise does not.
        grey = cv2.blur(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32), (3, 3))
        if self._anchor is None or np.abs(grey - self._anchor).max() > FROZEN_LEVELS:
            self._anchor, self._still_from = grey, self._count
        self._count += 1
        if self._count - self._still_from > self._stillest[1]:
            self._stillest = self._still_from, self._count - self._still_from

    def _feed(self, small: np.ndarray) -> None:
        picture = cv2.cvtColor(small, cv2.COLOR_RGB2BGR)
        found = self._detector.process_frame(FrameTimecode(self._fed, float(FPS)), picture)
        self._cuts += [round(at.seconds * FPS) - CUT_WINDOW - 1 for at in found]
        self._fed += 1


def scene_cut(cuts: list[int], gates: PictureGates) -> ClipError | None:
    """`scene_cut` with the times of the first few cuts, in seconds of the clip; None without any."""
    if gates.scene_cut_ratio is None or not cuts:
        return None
    times = ", ".join(f"{k / FPS:.2f} s" for k in cuts[:CUTS_TOLD])
    more = f" and {len(cuts) - CUTS_TOLD} more" if len(cuts) > CUTS_TOLD else ""
    return ClipError("scene_cut", f"at {times}{more} of the clip")


def several_faces(faces: Iterable[Face | None], gates: PictureGates) -> ClipError | None:
    """`several_faces` where too many of the frames in which somebody looked show another face; else None."""
    looked = [f.others for f in faces if f is not None and f.others is not None]
    limit = gates.several_faces_share
    crowded = sum(n > 0 for n in looked)
    if limit is None or crowded <= limit * len(looked):
        return None
    detail = f"another face at least half as wide in {crowded} of {len(looked)} frames looked at"
    return ClipError("several_faces", f"{detail}, several_faces_share={limit:g}")


def frozen(standstill: tuple[int, int], gates: PictureGates) -> ClipError | None:
    """`frozen` where the picture stands still for too long; else None.

    Args:
        standstill: of `Watch.standstill`.
    """
    limit = gates.frozen_seconds
    start, length = standstill
    if limit is None or length <= limit * FPS:
        return None
    detail = f"the picture stands still for {length / FPS:.2f} s from {start / FPS:.2f} s of the clip on"
    return ClipError("frozen", f"{detail}, frozen_seconds={limit:g}")
