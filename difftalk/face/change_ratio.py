"""scenedetect's adaptive detector of cuts, which also tells the ratio by which it decided.

Apart from `difftalk.face.scenes`, since scenedetect takes a tenth of a second to import.
"""

import cv2
import numpy as np
from scenedetect import FrameTimecode
from scenedetect.detectors import AdaptiveDetector

from difftalk.media.clock import FPS


class RatioDetector(AdaptiveDetector):
    """The detector, which is fed hue, saturation and brightness, and tells ratios.

    Its own statistics tell them too, but look for edges in every frame.

    Args:
        min_ratio: changes that are not so many times as large as those around them are none.
        min_change: mean change of hue, saturation and brightness that is one, of 255.
        window: frames on each side of a change that it is compared with.
    """

    def __init__(self, min_ratio: float, min_change: float, window: int) -> None:
        super().__init__(
            adaptive_threshold=min_ratio, min_scene_len=1, window_width=window, min_content_val=min_change
        )
        self._last: np.ndarray | None = None
        self._fed = 0

    def feed(self, hsv: np.ndarray) -> list[tuple[int, float]]:
        """Take the next frame `(H, W, 3)` uint8; return changes that are certain by now, and their ratios."""
        cuts = self.process_frame(FrameTimecode(self._fed, float(FPS)), hsv)
        self._fed += 1
        return [(round(at.seconds * FPS), self._ratio()) for at in cuts]

    def _calculate_frame_score(self, timecode: FrameTimecode, frame_img: np.ndarray) -> float:
        """Return the mean change of the three channels, weighted alike."""
        last, self._last = self._last, frame_img
        return 0.0 if last is None else float(cv2.norm(last, frame_img, cv2.NORM_L1)) / frame_img.size

    def _ratio(self) -> float:
        """Return the change that was judged last, as a multiple of the mean of those around; 255 at most."""
        changes = [change for _, change in self._buffer]
        around = (sum(changes) - changes[self.window_width]) / (2 * self.window_width)
        return min(changes[self.window_width] / around, 255.0) if around >= 1e-5 else 255.0
