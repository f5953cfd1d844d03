"""dlib's models, from the package `face_recognition_models`, which is located and never imported."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from difftalk.pretrained.package_files import package_file

LANDMARKS_68 = "shape_predictor_68_face_landmarks.dat"
LANDMARKS_5 = "shape_predictor_5_face_landmarks.dat"
DESCRIPTOR = "dlib_face_recognition_resnet_model_v1.dat"
# Points are whole pixels to dlib: faces in smaller frames are described in enlarged ones.
LEAST_DESCRIBED_PX = 256


def model_file(name: str) -> Path:
    """Return a file of the package.

    Raises:
        UserError: if it is not installed.
    """
    return package_file("face_recognition_models", f"models/{name}")


@cache
def face_detector() -> Any:
    """Return dlib's HOG face detector."""
    import dlib

    return dlib.get_frontal_face_detector()


@cache
def landmark_predictor() -> Any:
    """Return the predictor of 68 points.

    Raises:
        UserError: if its file is not installed.
    """
    import dlib

    return dlib.shape_predictor(str(model_file(LANDMARKS_68)))


def predict_landmarks(
    grey: np.ndarray, box: np.ndarray, boxes: Sequence[tuple[float, float, float]]
) -> np.ndarray:
    """Return the 68 points that are predicted from each of several boxes, `(boxes, 68, 2)` float64.

    They are whole pixels of the image, and follow the box: the mean over a few boxes is steadier.

    Args:
        grey: `(H, W)` uint8, in which the face is large.
        box: `(4,)` x0, y0, x1, y1 of the face.
        boxes: shifts right and down in parts of its sides, and sizes, of the boxes that are given.
    """
    import dlib

    x0, y0, x1, y1 = box
    predicted = []
    for dx, dy, size in boxes:
        centre = np.array([(x0 + x1) / 2 + dx * (x1 - x0), (y0 + y1) / 2 + dy * (y1 - y0)])
        half = np.array([x1 - x0, y1 - y0]) * size / 2
        left_top, right_bottom = np.round(centre - half).astype(int), np.round(centre + half).astype(int) - 1
        shape = landmark_predictor()(grey, dlib.rectangle(*map(int, left_top), *map(int, right_bottom)))
        predicted.append([(p.x, p.y) for p in shape.parts()])
    return np.array(predicted, np.float64)


@cache
def five_points() -> Any:
    """Return the predictor of the five points by which a face is aligned for its descriptor."""
    import dlib

    return dlib.shape_predictor(str(model_file(LANDMARKS_5)))


@cache
def face_descriptor() -> Any:
    """Return the network that maps a face to 128 numbers: of one person, less than 0.6 apart as a rule."""
    import dlib

    return dlib.face_recognition_model_v1(str(model_file(DESCRIPTOR)))


def describe_faces(frames: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return the descriptors of faces whose 68 points are known: `(n, 128)` float64.

    Args:
        frames: of one face each, `(n, H, W, 3)` uint8 RGB.
        points: of each, `(n, 68, 2)`, pixels of the frame.

    Raises:
        UserError: if the network's file is not installed.
    """
    import dlib

    images, faces = [], []
    for frame, at in zip(frames, points, strict=True):
        scale = max(LEAST_DESCRIBED_PX / min(frame.shape[:2]), 1.0)
        image = cv2.resize(frame, None, fx=scale, fy=scale) if scale > 1 else frame
        images.append(np.ascontiguousarray(image))
        whole = np.round(at * scale).astype(int)
        (x0, y0), (x1, y1) = whole.min(axis=0).tolist(), whole.max(axis=0).tolist()
        parts = [dlib.point(x, y) for x, y in whole.tolist()]
        face = dlib.full_object_detection(dlib.rectangle(x0, y0, x1, y1), parts)
        faces.append(dlib.full_object_detections([face]))
    if not images:
        return np.zeros((0, 128))
    described = face_descriptor().compute_face_descriptor(images, faces)
    return np.array([of_image[0] for of_image in described])
