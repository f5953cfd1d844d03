"""Aligned crops: each frame rotated, moved and scaled so that the face fits a template."""

import cv2
import numpy as np

from difftalk.face.tracks import head_pose, savgol

# Eyes as the middle of their corners, which a blink does not move, and the lower edge of the nose.
ANCHORS = (np.array([36, 39]), np.array([42, 45]), np.arange(31, 36))
# Their places, x and y from the midpoint between the eyes in eye distances.
TEMPLATE = np.array([-0.5 + 0j, 0.5 + 0j, 0.77j])
# Height of a face from the forehead (half as high as brows to chin) to the chin of an open mouth, and how far
# its centre lies below the eyes, in the same unit.
FACE_HEIGHT, FACE_MIDDLE = 3.9, 0.25
# Frames over which the pose is smoothed once more, since here the whole crop moves with it: on drawn
# speakers, whose landmarks are known, this halves the jitter that is left, and a longer filter is hardly
# better.
SMOOTHING_FRAMES = 15


def similarities(points: np.ndarray, size: int, margin: float) -> np.ndarray:
    """Return the map from the frame to the crop for each frame: `(T, 2, 3)`, in pixels.

    Its rows are (a, -b, x) and (b, a, y). The pose of each frame is a similarity fitted to brows, eyes and
    nose (31 points), so that it is as steady as they are; the mean face of the clip is fitted to the
    template, once.

    Args:
        points: `(T, 68, 2)`, smoothed, in pixels of the frame, pixel centres at whole numbers.
        size: of the crop in pixels.
        margin: space on each side of the face in parts of its height.
    """
    x = points[..., 0].astype(float) + 1j * points[..., 1]
    centre, turn = (savgol(values, SMOOTHING_FRAMES) for values in head_pose(x))
    face = ((x - centre[:, None]) / turn[:, None]).mean(axis=0)
    anchors = np.array([face[group].mean() for group in ANCHORS])
    unit = size / (FACE_HEIGHT * (1 + 2 * margin))
    wanted = (TEMPLATE - 1j * FACE_MIDDLE) * unit + (1 + 1j) * (size - 1) / 2
    # The eyes define upright: the nose of a head that is turned aside lies aside.
    upright = abs(anchors[1] - anchors[0]) / (anchors[1] - anchors[0])
    found, goal = (anchors - anchors.mean()) * upright, wanted - wanted.mean()
    scale = upright * np.vdot(found, goal).real / np.vdot(found, found).real
    a = scale / turn
    b = wanted.mean() - scale * anchors.mean() - a * centre
    rows = [np.stack([a.real, -a.imag, b.real], axis=1), np.stack([a.imag, a.real, b.imag], axis=1)]
    return np.stack(rows, axis=1)


def mean_square(maps: np.ndarray, size: int) -> tuple[int, int, int, int]:
    """Return the square with the mean centre and side of the crops.

    It is (x0, y0, x1, y1) in whole pixels of the frame.
    """
    a = maps[:, 0, 0] + 1j * maps[:, 1, 0]
    b = maps[:, 0, 2] + 1j * maps[:, 1, 2]
    centre = (((1 + 1j) * (size - 1) / 2 - b) / a).mean() + 0.5 + 0.5j
    side = round(float((size / np.abs(a)).mean()))
    x0, y0 = round(centre.real - side / 2), round(centre.imag - side / 2)
    return x0, y0, x0 + side, y0 + side


def cut_aligned(frame: np.ndarray, to_crop: np.ndarray, size: int, finer: int) -> np.ndarray:
    """Return the `(size, size, 3)` crop of a frame under a map.

    The border is repeated where the crop leaves the frame.

    Args:
        frame: `(H, W, 3)` uint8.
        to_crop: `(2, 3)`, of `similarities`.
        size: of the crop in pixels.
        finer: the frame is warped to so many times the crop's size, and averaged down; 1 where the frame is
            no finer than the crop.
    """
    # Pixel centres are at whole numbers: x of the crop is (x + 0.5) * finer - 0.5 of the finer one.
    large = to_crop * finer + np.array([[0, 0, 1.0], [0, 0, 1.0]]) * (finer - 1) / 2
    interpolation = cv2.INTER_LINEAR if finer > 1 else cv2.INTER_CUBIC
    warped = cv2.warpAffine(
        frame, large, (size * finer, size * finer), flags=interpolation, borderMode=cv2.BORDER_REPLICATE
    )
    return cv2.resize(warped, (size, size), interpolation=cv2.INTER_AREA) if finer > 1 else warped


def align(points: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Map points `(T, N, 2)` from pixels of the frames to pixels of their crops, float32."""
    return (np.einsum("tij,tnj->tni", maps[:, :, :2], points) + maps[:, None, :, 2]).astype(np.float32)
