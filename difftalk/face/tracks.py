"""One face through a clip: which boxes belong together, gaps filled, landmarks calmed without losing the mouth."""

from dataclasses import dataclass

import numpy as np

# A face that moves or grows so much from one sighting to the next that the boxes overlap less is another one.
SAME_FACE_IOU = 0.3
# After this many frames without a face, what comes next starts a new track.
MAX_GAP_FRAMES = 12

# Points that the mouth does not move: brows and nose (17-35), eyes (36-47). They tell the pose of the head.
STILL = np.arange(17, 48)
# The sides of the jaw, which sway with the predictor; the chin and the lips, which speech moves.
JAW_SIDES = np.r_[0:5, 12:17]


@dataclass(frozen=True)
class Face:
    """One face in one picture.

    Args:
        box: `(4,)` x0, y0, x1, y1 in pixels. points: `(68, 2)` x, y in pixels. score: of the detector.
        others: further faces that are at least half as wide; None where nobody looked for them.
    """

    box: np.ndarray
    points: np.ndarray
    score: float
    others: int | None = None


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes (x0, y0, x1, y1).

    >>> iou(np.array([0, 0, 2, 2]), np.array([1, 0, 3, 2]))
    0.3333333333333333
    """
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    either = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
    return float(both / either) if either > 0 else 0.0


class FaceBox:
    """The box of one face, which follows its landmarks from picture to picture.

    It keeps where the detector's box lies in the frame of the still points, so that the box moves with the head and not
    with the mouth, nor with the detector's steps of scale.
    """

    def __init__(self, box: np.ndarray) -> None:
        self.box = np.asarray(box, float)
        self._relation: np.ndarray | None = None
        self._frame = (np.zeros(2), 1.0)

    def follow(self, points: np.ndarray) -> None:
        """Move to where the landmarks `(68, 2)` of the latest picture say that the face is."""
        still = points[STILL].astype(float)
        centre = still.mean(axis=0)
        size = float(np.sqrt(((still - centre) ** 2).sum(axis=1).mean()))
        self._frame = (centre, size)
        if self._relation is None:
            self._relation = self._relate(self.box)
        self.box = (self._relation.reshape(2, 2) * size + centre).ravel()

    def correct(self, box: np.ndarray) -> None:
        """Yield a little to what the detector sees, so that small errors cannot add up to a drift."""
        if self._relation is not None:
            self._relation = 0.8 * self._relation + 0.2 * self._relate(np.asarray(box, float))

    def _relate(self, box: np.ndarray) -> np.ndarray:
        centre, size = self._frame
        return ((box.reshape(2, 2) - centre) / size).ravel()


def split_tracks(faces: list[Face | None]) -> list[list[int]]:
    """Frame numbers of each track of a clip, one face at most per frame: a jump or a long gap starts a new one."""
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


def fill_gaps(frames: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    """Values for every frame of a clip: linear in the gaps, constant before the first and after the last.

    Args:
        frames: `(n,)` increasing frame numbers. values: `(n, ...)`. count: frames of the clip.

    >>> fill_gaps(np.array([1, 3]), np.array([10.0, 20.0]), 5)
    array([10., 10., 15., 20., 20.])
    """
    flat = values.reshape(len(values), -1)
    every = np.arange(count)
    filled = np.stack([np.interp(every, frames, column) for column in flat.T], axis=1)
    return filled.reshape(count, *values.shape[1:]).astype(values.dtype)


def smooth(points: np.ndarray) -> np.ndarray:
    """Take the jitter of a landmark predictor out of a track: `(T, 68, 2)` to `(T, 68, 2)`, consecutive frames.

    The pose of the head (position, size, roll: a similarity fitted to brows, eyes and nose) and what remains of each
    point in the head's own frame are filtered apart: the pose over 9 frames (0.36 s), the shape of brows, eyes and nose
    over 7, the sides of the jaw over 9. Lips and chin (48-67, 5-11) only move with the pose: speech moves them from one
    frame to the next, and on drawn speakers, whose truth is known, any filter made them worse and none made them
    better. The filters are Savitzky-Golay of second order, symmetric in time, so that nothing lags.
    """
    if len(points) < 3:
        return points.copy()
    x = points[..., 0] + 1j * points[..., 1]
    centre, turn = head_pose(x)
    rest = (x - centre[:, None]) / turn[:, None]
    rest[:, STILL] = savgol(rest[:, STILL], 7)
    rest[:, JAW_SIDES] = savgol(rest[:, JAW_SIDES], 9)
    calm = savgol(centre, 9)[:, None] + savgol(turn, 9)[:, None] * rest
    return np.stack([calm.real, calm.imag], axis=-1).astype(points.dtype)


def head_pose(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre `(T,)` and turn-and-scale `(T,)` of the head in each frame, against the clip's mean shape.

    A similarity, least squares over the still points: `x = centre + turn * shape`, points `(T, 68)` as complex numbers.
    """
    still = x[:, STILL]
    model = still[len(x) // 2] - still[len(x) // 2].mean()
    for _ in range(3):
        centred = still - still.mean(axis=1, keepdims=True)
        turn = (centred @ model.conj()) / np.vdot(model, model).real
        model = (centred / turn[:, None]).mean(axis=0)
    return still.mean(axis=1), turn


def savgol(values: np.ndarray, window: int) -> np.ndarray:
    """Complex values `(T, ...)` through a Savitzky-Golay filter of second order over `window` frames, an odd number.

    Each value by the parabola through its window, at the ends by that of the first and the last one; as
    `scipy.signal.savgol_filter`, whose import takes longer than a clip.
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
