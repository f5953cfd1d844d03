"""What the processes of the stage `landmarks` share: importing this reads dlib's models.

The trees of the predictor take 100 MB, of which each face needs a few everywhere. Processes that have them in
common keep them in the processor's cache for each other.
"""

from contextlib import suppress

from difftalk.face import change_ratio, dlib_backend, early_crops, follow
from difftalk.pretrained.dlib_models import face_detector, landmark_predictor
from difftalk.runtime.errors import UserError

__all__ = ["change_ratio", "dlib_backend", "early_crops", "follow"]

with suppress(UserError):  # the first clip says that they are not installed
    face_detector()
    landmark_predictor()
