"""How a head is turned: a rigid 3D face fitted to the landmarks of each frame (PnP)."""

import cv2
import numpy as np

from difftalk.media.points68 import RIGID

# Brows, nose and eyes (points 17-47) of MediaPipe's canonical face model (google-ai-edge/mediapipe, Apache
# 2.0: modules/face_geometry/data/canonical_face_model.obj), in cm: x to the right of the frame, y up, z to
# the camera. Given for the left half of the frame and the middle; the face is symmetric. The vertices are, in
# order, 70 63 105 66 107 | 168+6 197+195 5 4 | 75 97 2 | 33 160 158 133 153 144; two are averaged.
_BROW = [(-5.721, 4.255, 2.831), (-4.986, 4.802, 3.752), (-3.987, 5.109, 4.466), (-2.760, 5.101, 5.016)]
_BROW += [(-1.396, 5.012, 5.316)]
_BRIDGE = [(0.0, 2.872, 5.512), (0.0, 1.394, 6.546), (0.0, 0.366, 7.243), (0.0, -0.463, 7.587)]
_NOSTRILS = [(-1.044, -1.465, 5.662), (-0.597, -2.014, 5.866), (0.0, -2.089, 6.058)]
_EYE = [(-4.446, 2.664, 3.173), (-3.670, 2.928, 3.724), (-2.724, 2.962, 3.872), (-1.856, 2.585, 3.758)]
_EYE += [(-2.724, 2.316, 3.777), (-3.670, 2.360, 3.635)]


def _mirrored(points: list[tuple[float, float, float]], order: list[int]) -> list[tuple[float, float, float]]:
    return [(-points[k][0], *points[k][1:]) for k in order]


FACE = np.array(
    [*_BROW, *_mirrored(_BROW, [4, 3, 2, 1, 0]), *_BRIDGE, *_NOSTRILS, *_mirrored(_NOSTRILS, [1, 0])]
    + [*_EYE, *_mirrored(_EYE, [3, 2, 1, 0, 5, 4])]
)


def head_angles(points: np.ndarray, frame_size: tuple[int, int]) -> np.ndarray:
    """Return yaw, pitch and roll of the head in each frame, `(T, 3)` in degrees.

    Yaw is positive towards the right of the frame, pitch downwards, roll clockwise in the frame. The points
    that speech does not move are fitted. The camera is not known: its focal length is taken as the longer
    side of the frame (53 degrees from edge to edge). Half or twice that changes an angle of 30 degrees by 3.

    Args:
        points: `(T, 68, 2)` in pixels of the frame.
        frame_size: (width, height) in pixels.
    """
    width, height = frame_size
    focal = float(max(width, height))
    camera = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
    model = FACE * (1, -1, -1)  # OpenCV's y points down, its z away from the camera
    model -= model.mean(axis=0)
    angles = np.full((len(points), 3), np.nan)
    shift = np.array([[0.0], [0.0], [60.0]])
    for k, frame in enumerate(np.ascontiguousarray(points[:, RIGID], np.float64)):
        # Each frame starts from a face in front of the camera: a bad fit is not handed on.
        ok, turn, _ = cv2.solvePnP(
            model, frame, camera, None, np.zeros((3, 1)), shift.copy(), True, cv2.SOLVEPNP_ITERATIVE
        )
        if ok:
            angles[k] = _degrees(np.asarray(cv2.Rodrigues(turn)[0], np.float64))
    return angles


def _degrees(rotation: np.ndarray) -> tuple[float, float, float]:
    """Return yaw, pitch and roll of a rotation matrix: by where the face looks, and how its eyes lie."""
    looks = rotation @ (0, 0, -1)  # the face's own direction, in camera coordinates
    yaw = np.degrees(np.arctan2(looks[0], -looks[2]))
    pitch = np.degrees(np.arcsin(np.clip(looks[1], -1, 1)))
    eyes = rotation @ (1, 0, 0)
    return float(yaw), float(pitch), float(np.degrees(np.arctan2(eyes[1], eyes[0])))
