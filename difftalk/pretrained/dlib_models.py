"""dlib's models, from the package `face_recognition_models`, which is located and never imported."""

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

from difftalk.runtime.errors import UserError

LANDMARKS_5 = "shape_predictor_5_face_landmarks.dat"
DESCRIPTOR = "dlib_face_recognition_resnet_model_v1.dat"


def model_file(name: str) -> Path:
    """Return a file of the package.

    Raises:
        UserError: if it is not installed.
    """
    found = importlib.util.find_spec("face_recognition_models")
    folders = found.submodule_search_locations if found is not None else None
    path = Path(folders[0]) / "models" / name if folders else None
    if path is None or not path.is_file():
        raise UserError(f"{name} is missing: pip install face_recognition_models")
    return path


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
