"""One face through a clip: its boxes linked to a track, gaps filled, landmarks smoothed but for the mouth."""

from dataclasses import dataclass

import numpy as np

from difftalk.media.boxes import iou
from difftalk.media.points68 import RIGID

# Boxes of consecutive detections that overlap less belong to different faces.
SAME_FACE_IOU = 0.3
# After this many frames without a face, what comes next starts a new track.
MAX_GAP_FRAMES = 12

# The sides of the jaw, which jitter with the predictor, without the chin, which speech moves.
JAW_SIDES = np.r_[0:5, 12:17]


@dataclass(frozen=True)
class Face:
    """One face in one frame.

    Args:
        box: `(4,)` x0, y0, x1, y1 in pixels.
        points: `(68, 2)` x, y in pixels.
        score: confidence of the backend.
        others: number of further faces that are at least half as wide; None where they were not counted.
        mouth_score: the backend's confidence in the points of the mouth, 0..1; None where it has none.
    """

    box: np.ndarray
    points: np.ndarray
    score: float
    others: int | None = None
    mouth_score: float | None = None


@dataclass(frozen=True)
class Track:
    """One face through a clip, in the n frames that have it.

    Args:
        frames: `(n,)` int32 frame numbers, increasing.
        boxes: `(n, 4)` float32 x0, y0, x1, y1 in pixels.
        points: `(n, 68, 2)` float32 x, y in pixels, smoothed in time.
        scores: `(n,)` float32.
    """

    frames: np.ndarray
    boxes: np.ndarray
    points: np.ndarray
    scores: np.ndarray


class FaceBox:
    """The box of one face, which follows its landmarks from frame to frame.

    It keeps the detector's box relative to the rigid points, so that the box moves with the head and not with
    the mouth, nor with the detector's steps of scale.
    """

    def __init__(self, box: np.ndarray) -> None:
        self.box = np.asarray(box, float)
        self._relation: np.ndarray | None = None
        self._pose = (np.zeros(2), 1.0)

    def follow(self, points: np.ndarray) -> None:
        """Move the box to the landmarks `(68, 2)` of the latest frame."""
        rigid = points[RIGID].astype(float)
        centre = rigid.mean(axis=0)
        size = float(np.sqrt(((rigid - centre) ** 2).sum(axis=1).mean()))
        self._pose = (centre, size)
        if self._relation is None:
            self._relation = self._relate(self.box)
        self.box = (self._relation.reshape(2, 2) * size + centre).ravel()

    def correct(self, box: np.ndarray) -> None:
        """Move a fifth of the way to the detector's box, so that small errors do not add up to a drift."""
        if self._relation is not None:
            self._relation = 0.8 * self._relation + 0.2 * self._relate(np.asarray(box, float))

    def _relate(self, box: np.ndarray) -> np.ndarray:
        centre, size = self._pose
        return ((box.reshape(2, 2) - centre) / size).ravel()


def split_tracks(faces: list[Face | None]) -> list[list[int]]:
    """Return the frame numbers of each track of a clip; a jump or a long gap starts a new one.

    Args:
        faces: the face of each frame, one at most.
    """
    tracks: list[list[int]] = []
    last: int | None = None
    for k, face in enumerate(faces):
        if face is None:
            continue
        known = faces[last] if last is not None else None
        near = last is not None and k - last <= MAX_GAP_FRAMES + 1
        if known is not None and near and iou(known.box, face.box) >= SAME_FACE_IOU:
            tracks[-1].append(k)
        else:
            tracks.append([k])
        last = k
    return tracks


def smooth_track(faces: list[Face | None], frames: list[int]) -> Track:
    """Return the faces of the given frames as a track, smoothed in time as if its gaps were filled.

    Args:
        faces: of every frame of the clip.
        frames: increasing numbers of frames that have a face.
    """
    own = [f for k in frames if (f := faces[k]) is not None]
    if not own:
        none = np.zeros(0, np.float32)
        return Track(np.zeros(0, np.int32), none.reshape(0, 4), none.reshape(0, 68, 2), none)
    numbers = np.asarray(frames, np.int32)
    first = numbers[0]
    points = np.stack([f.points for f in own]).astype(np.float32)
    filled = fill_gaps(numbers - first, points, int(numbers[-1] - first) + 1)
    smoothed = smooth(filled)[numbers - first]
    boxes = np.stack([f.box for f in own]).astype(np.float32)
    return Track(numbers, boxes, smoothed, np.array([f.score for f in own], np.float32))


def fill_gaps(frames: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    """Return values for every frame of a clip, interpolated in the gaps and held at both ends.

    Args:
        frames: `(n,)` increasing frame numbers.
        values: `(n, ...)`.
        count: frames of the clip.

    >>> fill_gaps(np.array([1, 3]), np.array([10.0, 20.0]), 5)
    array([10., 10., 15., 20., 20.])
    """
    flat = values.reshape(len(values), -1)
    every = np.arange(count)
    filled = np.stack([np.interp(every, frames, column) for column in flat.T], axis=1)
    return filled.reshape(count, *values.shape[1:]).astype(values.dtype)


def smooth(points: np.ndarray) -> np.ndarray:
    """Remove a predictor's jitter from the landmarks `(T, 68, 2)` of consecutive frames.

    The pose of the head (position, size, roll: a similarity fitted to brows, eyes and nose) and what remains
    of each point in head coordinates are filtered apart: the pose over 9 frames (0.36 s), the shape of brows,
    eyes and nose over 7, the sides of the jaw over 9. Lips and chin (48-67, 5-11) only move with the pose:
    speech moves them from one frame to the next, and any filter on them made them worse against the ground
    truth of the drawn speakers. The filters are Savitzky-Golay of second order, symmetric in time, so that
    nothing lags.
    """
    if len(points) < 3:
        return points.copy()
    x = points[..., 0] + 1j * points[..., 1]
    centre, turn = head_pose(x)
    shape = (x - centre[:, None]) / turn[:, None]
    shape[:, RIGID] = savgol(shape[:, RIGID], 7)
    shape[:, JAW_SIDES] = savgol(shape[:, JAW_SIDES], 9)
    smoothed = savgol(centre, 9)[:, None] + savgol(turn, 9)[:, None] * shape
    return np.stack([smoothed.real, smoothed.imag], axis=-1).astype(points.dtype)


def head_pose(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return centre `(T,)` and rotation times scale `(T,)` of the head, against the clip's mean shape.

    It is a similarity, least squares over the rigid points: `x = centre + turn * shape`.

    Args:
        x: landmarks `(T, 68)` as complex numbers.
    """
    rigid = x[:, RIGID]
    model = rigid[len(x) // 2] - rigid[len(x) // 2].mean()
    for _ in range(3):
        centred = rigid - rigid.mean(axis=1, keepdims=True)
        turn = (centred @ model.conj()) / np.vdot(model, model).real
        model = (centred / turn[:, None]).mean(axis=0)
    return rigid.mean(axis=1), turn


def savgol(values: np.ndarray, window: int) -> np.ndarray:
    """Apply a Savitzky-Golay filter of second order to complex values `(T, ...)`.

    Each value becomes that of the parabola fitted to its window; at both ends that of the first and the last
    window. It computes what `scipy.signal.savgol_filter` does, and is written out since that import takes
    longer than a clip.

    Args:
        values: one a frame.
        window: frames, odd; shortened to what the clip has.
    """
    window = min(window, len(values) - (len(values) + 1) % 2)
    if window < 3:
        return values
    half = window // 2
    powers = np.arange(-half, half + 1)[:, None] ** np.arange(3)
    fit = np.linalg.pinv(powers)
    inner = np.lib.stride_tricks.sliding_window_view(values, window, axis=0) @ fit[0]
    ends = [
        powers @ np.tensordot(fit, part, 1).reshape(3, -1) for part in (values[:window], values[-window:])
    ]
    first, last = (end.reshape(window, *values.shape[1:]) for end in ends)
    return np.concatenate([first[:half], inner, last[-half:]])
