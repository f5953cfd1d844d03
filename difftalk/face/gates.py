"""Quality gates on the frames of a clip: scene cuts, freezes, other faces.

Cuts and freezes are looked for in small copies of the frames, on their way to the tracker. docs/prepare.md
has the figures behind the constants.
"""

from collections.abc import Iterable, Iterator
from typing import TypeVar

import cv2
import numpy as np
from scenedetect import FrameTimecode
from scenedetect.detectors import AdaptiveDetector

from difftalk.config.gates import FrameGates
from difftalk.face.tracks import Face
from difftalk.media.clock import FPS
from difftalk.media.video import LazyFrame
from difftalk.runtime.errors import ClipError

P = TypeVar("P", np.ndarray, LazyFrame)

SMALL_PX = 160  # longer side of the small copies
# A cut must also change the mean of hue, saturation and brightness by this much, of 255.
MIN_CUT_CHANGE = 15.0
# Frames on each side of a change that it is compared with.
CUT_WINDOW = 2
# Grey levels, in 3x3 means of the small copy, within which every pixel stays while the video is frozen.
FROZEN_LEVELS = 6.0
# Cuts whose times are in the detail of a reject.
CUTS_LISTED = 5


class SceneMonitor:
    """Watches the frames of a clip as they pass, for scene cuts and the longest freeze.

    Args:
        gates: those that are off are not computed.
    """

    def __init__(self, gates: FrameGates) -> None:
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
        self._freeze_start = 0
        self._longest_freeze = (0, 0)

    def through(self, frames: Iterable[P]) -> Iterator[P]:
        """Yield the `(H, W, 3)` uint8 RGB frames unchanged, and look at each."""
        if self._gates.scene_cut_ratio is None and self._gates.frozen_seconds is None:
            yield from frames
            return
        for frame in frames:
            self._look(frame)
            yield frame

    def cuts(self) -> list[int]:
        """Return the numbers of the frames with which a new scene begins; no frame may follow."""
        if self._last is not None and self._gates.scene_cut_ratio is not None:
            # The detector compares a change with those around it: let there be some after the last, too.
            for _ in range(CUT_WINDOW + 1):
                self._feed(self._last)
        self._last = None
        return self._cuts

    def longest_freeze(self) -> tuple[int, int]:
        """Return the first frame and the length, in frames, of the longest freeze of the video."""
        return self._longest_freeze

    def _look(self, frame: np.ndarray | LazyFrame) -> None:
        scale = SMALL_PX / max(frame.shape[:2])
        height, width = (max(round(side * scale), 1) for side in frame.shape[:2])
        if isinstance(frame, LazyFrame) and scale < 1:
            small = frame.scaled(width, height)
        else:
            interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
            small = cv2.resize(frame[:, :], (width, height), interpolation=interpolation)
        if self._gates.scene_cut_ratio is not None:
            if self._last is None:
                for _ in range(CUT_WINDOW + 1):
                    self._feed(small)
            self._feed(small)
        self._last = small
        # Every frame is compared with the first of its freeze: slow movement adds up, compression noise does
        # not.
        grey = cv2.blur(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32), (3, 3))
        if self._anchor is None or np.abs(grey - self._anchor).max() > FROZEN_LEVELS:
            self._anchor, self._freeze_start = grey, self._count
        self._count += 1
        if self._count - self._freeze_start > self._longest_freeze[1]:
            self._longest_freeze = self._freeze_start, self._count - self._freeze_start

    def _feed(self, small: np.ndarray) -> None:
        frame = cv2.cvtColor(small, cv2.COLOR_RGB2BGR)
        found = self._detector.process_frame(FrameTimecode(self._fed, float(FPS)), frame)
        self._cuts += [round(at.seconds * FPS) - CUT_WINDOW - 1 for at in found]
        self._fed += 1


def scene_cut(cuts: list[int], gates: FrameGates) -> ClipError | None:
    """Return the error `scene_cut` with the times of the first few cuts; None without any.

    Args:
        cuts: of `SceneMonitor.cuts`.
        gates: of the stage `landmarks`.
    """
    if gates.scene_cut_ratio is None or not cuts:
        return None
    times = ", ".join(f"{k / FPS:.2f} s" for k in cuts[:CUTS_LISTED])
    more = f" and {len(cuts) - CUTS_LISTED} more" if len(cuts) > CUTS_LISTED else ""
    return ClipError("scene_cut", f"at {times}{more} of the clip")


def several_faces(faces: Iterable[Face | None], gates: FrameGates) -> ClipError | None:
    """Return the error `several_faces` where too many of the inspected frames show another face; else None.

    Args:
        faces: the tracked face of each frame, with `others` where the frame was inspected.
        gates: of the stage `landmarks`.
    """
    counts = [f.others for f in faces if f is not None and f.others is not None]
    limit = gates.several_faces_share
    crowded = sum(n > 0 for n in counts)
    if limit is None or crowded <= limit * len(counts):
        return None
    detail = f"another face at least half as wide in {crowded} of {len(counts)} inspected frames"
    return ClipError("several_faces", f"{detail}, several_faces_share={limit:g}")


def frozen(freeze: tuple[int, int], gates: FrameGates) -> ClipError | None:
    """Return the error `frozen` where the video freezes for too long; else None.

    Args:
        freeze: of `SceneMonitor.longest_freeze`.
        gates: of the stage `landmarks`.
    """
    limit = gates.frozen_seconds
    start, length = freeze
    if limit is None or length <= limit * FPS:
        return None
    detail = f"the video freezes for {length / FPS:.2f} s from {start / FPS:.2f} s of the clip on"
    return ClipError("frozen", f"{detail}, frozen_seconds={limit:g}")
