"""What is measured of the face of a clip: pose, mouth, sharpness, brightness, a thumbnail."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import cv2
import numpy as np

from difftalk.face.geometry import cut_square
from difftalk.face.tracks import Face, Track
from difftalk.media.clock import FPS
from difftalk.media.lazy_frame import LazyFrame
from difftalk.media.pose import head_angles

P = TypeVar("P", bound=np.ndarray | LazyFrame)

# Chin and mouth: without them there is nothing to learn from, nor to generate.
SPEAKING = np.r_[5:12, 48:68]
# Percentiles between which the head's angles are told: a frame in fifty may be a slip of the landmarks.
PERCENTILES = (2, 98)
# Frames from one fit of the head to the next: a head takes longer to turn.
POSE_EVERY = 5
# Something may hide the mouth for a part of the clip: the score that a tenth of the frames does not reach.
MOUTH_PERCENTILE = 10
# Frames from one look at the pixels of the face to the next.
LOOK_EVERY = 12
# Side at which the sharpness of the square around the landmarks is measured.
FACE_PX = 128
THUMBNAIL_PX = 96


@dataclass
class FaceMonitor:
    """Looks at the pixels of a face in every twelfth frame, on the frames' way to the tracker.

    Args:
        middle: number of the frame whose thumbnail is kept; that of an earlier one until then.
    """

    middle: int
    sharpness: list[float] = field(default_factory=list)
    brightness: list[float] = field(default_factory=list)
    _waiting: dict[int, np.ndarray | LazyFrame] = field(default_factory=dict)
    _thumbnail: np.ndarray | None = None
    _shows_face: bool = False

    def through(self, frames: Iterable[P]) -> Iterator[P]:
        """Yield the frames unchanged, and keep some until the face in them is known."""
        for k, frame in enumerate(frames):
            if k % LOOK_EVERY == 0:
                self._waiting[k] = frame
            yield frame

    def look(self, k: int, face: Face | None) -> None:
        """Measure the face that was found in frame k, if that is one to look at."""
        frame = self._waiting.pop(k, None)
        if frame is None:
            return
        if face is None:
            if self._thumbnail is None:
                self._thumbnail = _fitted(frame)
            return
        low, high = face.points.min(axis=0), face.points.max(axis=0)
        side = max(int(np.ceil((high - low).max())), 2)
        grey = cv2.cvtColor(self._square(frame, (low + high) / 2, side, FACE_PX), cv2.COLOR_RGB2GRAY)
        self.sharpness.append(float(cv2.Laplacian(grey, cv2.CV_64F).var()))
        self.brightness.append(float(grey.mean()))
        if not self._shows_face or k <= self.middle:
            self._shows_face = True
            self._thumbnail = self._square(frame, (low + high) / 2, 2 * side, THUMBNAIL_PX)

    def thumbnail(self) -> bytes | None:
        """Return the thumbnail of the clip as JPEG; None without any frame."""
        if self._thumbnail is None:
            return None
        bgr = cv2.cvtColor(self._thumbnail, cv2.COLOR_RGB2BGR)
        return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes()

    @staticmethod
    def _square(frame: np.ndarray | LazyFrame, centre: np.ndarray, side: int, size: int) -> np.ndarray:
        """Cut a square, moved so that it has a pixel of the frame at least."""
        height, width = frame.shape[:2]
        x0, y0 = (int(v) for v in np.round(centre - side / 2))
        x0, y0 = min(max(x0, 1 - side), width - 1), min(max(y0, 1 - side), height - 1)
        return cut_square(frame, (x0, y0, x0 + side, y0 + side), size)


def _fitted(frame: np.ndarray | LazyFrame) -> np.ndarray:
    height, width = frame.shape[:2]
    scale = THUMBNAIL_PX / max(height, width)
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    if isinstance(frame, LazyFrame):
        return frame.scaled(*size)
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA)


def face_measures(
    track: Track, faces: Sequence[Face | None], looks: FaceMonitor, frame_size: tuple[int, int]
) -> dict[str, Any]:
    """Return what is measured of a face track, by the names of `ClipScores`; nothing of an empty one.

    Args:
        track: of the clip.
        faces: of every frame.
        looks: at its frames.
        frame_size: (width, height) in pixels.
    """
    if len(track.frames) == 0:
        return {}
    opening = mouth_opening(track.points)
    steps = np.diff(track.frames)
    speed = np.abs(np.diff(opening)) / np.maximum(steps, 1) * FPS
    known = (faces[k] for k in track.frames)
    mouths = [face.mouth_score for face in known if face is not None and face.mouth_score is not None]
    angles = head_angles(track.points[::POSE_EVERY], frame_size)
    angles = angles[np.isfinite(angles).all(axis=1)]
    measured: dict[str, Any] = {
        "face_px": float(np.median(track.boxes[:, 2] - track.boxes[:, 0])),
        "mouth_outside_frames": int(outside_frames(track.points, frame_size).sum()),
        "mouth_spread": float(opening.std()),
        "mouth_speed": float(speed.mean()) if len(speed) else None,
        "face_sharpness": float(np.median(looks.sharpness)) if looks.sharpness else None,
        "face_brightness": float(np.median(looks.brightness)) if looks.brightness else None,
        "mouth_score": float(np.percentile(mouths, MOUTH_PERCENTILE)) if mouths else None,
    }
    if len(angles):
        low, high = np.percentile(angles, PERCENTILES, axis=0)
        for name, least, most in zip(("yaw", "pitch", "roll"), low, high, strict=True):
            measured |= {f"{name}_min": float(least), f"{name}_max": float(most)}
    return measured


def mouth_opening(points: np.ndarray) -> np.ndarray:
    """Return the opening of the inner lips in each frame, `(T,)`, in distances of the outer eye corners.

    It is the mean distance of the pairs 61-67, 62-66 and 63-65.

    Args:
        points: `(T, 68, 2)`.
    """
    gaps = np.linalg.norm(points[:, [61, 62, 63]] - points[:, [67, 66, 65]], axis=2).mean(axis=1)
    eyes = np.linalg.norm(points[:, 36] - points[:, 45], axis=1)
    return gaps / np.maximum(eyes, 1e-6)


def outside_frames(points: np.ndarray, frame_size: tuple[int, int]) -> np.ndarray:
    """Return in which frames a point of chin or mouth lies outside the frame: `(T,)` bool, True is outside.

    Args:
        points: `(T, 68, 2)`, pixel centres at whole numbers.
        frame_size: (width, height) in pixels.
    """
    speaking = points[:, SPEAKING]
    outside: np.ndarray = (speaking < -0.5) | (speaking >= np.array(frame_size) - 0.5)
    return np.asarray(outside.any(axis=(1, 2)))
