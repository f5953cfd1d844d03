"""What tells copies of a clip, and clips of one person, apart from others, measured of its crop."""

import numpy as np

from difftalk.datasets.copies import Content
from difftalk.datasets.fingerprints import FACES, audio_fingerprint
from difftalk.media.shards import Crop
from difftalk.media.video import read_video
from difftalk.pretrained.dlib_models import describe_faces

NO_HASHES = np.zeros((0, 2, 64), bool)


def crop_content(crop: Crop) -> Content:
    """Return the fingerprint of the audio of a clip, and the mean descriptor of its face in four frames.

    Raises:
        ClipError: `cannot_decode`.
    """
    numbers = np.linspace(0, len(crop.landmarks) - 1, FACES + 2)[1:-1].round().astype(int)
    frames = read_video(crop.video, numbers.tolist())
    faces = describe_faces(frames, crop.landmarks[numbers])
    return Content(audio_fingerprint(crop.audio), NO_HASHES, faces.mean(axis=0))
