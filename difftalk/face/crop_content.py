"""What tells copies of a clip, and clips of one person, apart from others, measured of its crop."""

import cv2
import numpy as np

from difftalk.datasets.copies import Content
from difftalk.datasets.fingerprints import FACES, audio_fingerprint
from difftalk.media.shards import Crop
from difftalk.media.video import read_video
from difftalk.pretrained.dlib_models import face_descriptor

# Points are whole pixels to dlib: smaller crops are enlarged.
LEAST_PX = 256
NO_HASHES = np.zeros((0, 2, 64), bool)


def crop_content(crop: Crop) -> Content:
    """Return the fingerprint of the audio of a clip, and the mean descriptor of its face in four frames.

    Raises:
        ClipError: `cannot_decode`.
    """
    numbers = np.linspace(0, len(crop.landmarks) - 1, FACES + 2)[1:-1].round().astype(int)
    frames = read_video(crop.video, numbers.tolist())
    faces = [descriptor(f, crop.landmarks[k]) for f, k in zip(frames, numbers, strict=True)]
    return Content(audio_fingerprint(crop.audio), NO_HASHES, np.mean(faces, axis=0))


def descriptor(frame: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return dlib's descriptor of a face whose 68 points are known: `(128,)` float64.

    Args:
        frame: `(H, W, 3)` uint8 RGB.
        points: `(68, 2)`, pixels of the frame.
    """
    import dlib

    scale = max(LEAST_PX / min(frame.shape[:2]), 1.0)
    image = np.ascontiguousarray(cv2.resize(frame, None, fx=scale, fy=scale) if scale > 1 else frame)
    at = np.round(points * scale).astype(int)
    (x0, y0), (x1, y1) = at.min(axis=0).tolist(), at.max(axis=0).tolist()
    shape = dlib.full_object_detection(
        dlib.rectangle(x0, y0, x1, y1), [dlib.point(x, y) for x, y in at.tolist()]
    )
    return np.array(face_descriptor().compute_face_descriptor(image, shape))
