"""What tells copies of a video, and videos of one person, apart from others: frames, audio and face.

Frames: the perceptual hash of Zauner, "Implementation and benchmarking of perceptual image hash functions"
(2010): signs of the 8 x 8 lowest frequencies of a 32 x 32 grey copy. Audio: the fingerprint of Haitsma and
Kalker, "A highly robust audio fingerprinting system" (ISMIR 2002): signs of the differences of neighbouring
bands and moments. Face: the descriptor of dlib's ResNet.
"""

from pathlib import Path

import cv2
import numpy as np

from difftalk.media.audio import read_audio
from difftalk.media.clock import SAMPLE_RATE
from difftalk.pretrained.dlib_models import face_descriptor, face_detector, five_points
from difftalk.runtime.errors import ClipError

# Of a file, this much from its start is looked at: a frame a second. Of the audio, and of frames that are
# decoded anyway, more, so that a copy may start later.
LOOKED_AT_S = 8.0
AUDIO_S = 300.0
FIRST_S = 0.48  # on the 25 fps grid
FACES = 4  # frames, at most, whose face is described
HASHED_PX, LOW_FREQUENCIES = 32, 8
# Audio: windows, their step, the steps between compared windows, and the edges of the bands.
WINDOW, HOP, APART = 8192, 512, 2  # samples: 0.51 s, 0.03 s
BANDS_HZ = np.geomspace(300.0, 3000.0, 18)
BITS = len(BANDS_HZ) - 2
STEP_S = HOP / SAMPLE_RATE
HEARD = np.uint32(1 << BITS)
# Root mean square of int16 samples below which nothing is to be heard: -70 dB.
SILENT_LEVEL = 10.0
WINDOWS_AT_ONCE = 1024  # 33 MB
# Longer sides at which faces are searched for, until there is one.
SEARCHED_PX = (640, 1280)
MOST_ENLARGED = 2.5


def look_times(length_s: float, until_s: float = LOOKED_AT_S) -> list[float]:
    """Return the times of the frames that are compared, seconds, up to `until_s`: a second apart.

    >>> look_times(3.2), look_times(0.4)
    ([0.48, 1.48, 2.48], [0.2])
    """
    if length_s < 2 * FIRST_S:
        return [length_s / 2]
    return [FIRST_S + k for k in range(int(min(length_s, until_s) - FIRST_S) + 1) if FIRST_S + k < length_s]


def frame_hash(small: np.ndarray) -> np.ndarray:
    """Return the perceptual hashes of a frame as it is and mirrored: `(2, 64)` bool.

    Args:
        small: the frame at 32 x 32 pixels, uint8 RGB.
    """
    low = cv2.dct(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32))
    low = low[:LOW_FREQUENCIES, :LOW_FREQUENCIES]
    # Mirroring turns the sign of every second column.
    both = np.stack([low, low * (-1.0) ** np.arange(LOW_FREQUENCIES)]).reshape(2, -1)
    return np.asarray(both > np.median(both[:, 1:], axis=1, keepdims=True))


def read_audio_start(path: Path, length_s: float) -> np.ndarray:
    """Return the audio of the start of a video, up to damage after a while: `(N,)` int16 at 16 kHz.

    Raises:
        ClipError: `cannot_decode`, `no_audio`.
    """
    try:
        return read_audio(path, 0.0, min(length_s, AUDIO_S))
    except ClipError:
        return read_audio(path, 0.0, min(length_s, LOOKED_AT_S))


def audio_fingerprint(samples: np.ndarray) -> np.ndarray:
    """Return the fingerprint of `(N,)` int16 samples at 16 kHz: `(T,)` uint32, T = 0 for too few.

    A step has 16 bits, and `HEARD`; it is 0 where nothing is to be heard.
    """
    if len(samples) < WINDOW + APART * HOP:
        return np.zeros(0, np.uint32)
    windows = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[::HOP]
    edges = np.searchsorted(np.fft.rfftfreq(WINDOW, 1 / SAMPLE_RATE), BANDS_HZ)
    shape = np.hanning(WINDOW).astype(np.float32)
    slopes, heard = [], []
    for first in range(0, len(windows), WINDOWS_AT_ONCE):
        some = windows[first : first + WINDOWS_AT_ONCE].astype(np.float32)
        power = np.abs(np.fft.rfft(some * shape)) ** 2
        slopes.append(np.diff(np.add.reduceat(power, edges, axis=1)[:, :-1], axis=1))
        heard.append(np.sqrt(np.mean(some**2, axis=1)) >= SILENT_LEVEL)
    slope = np.concatenate(slopes)
    bits = (slope[APART:] > slope[:-APART]) @ (1 << np.arange(BITS))
    return np.where(np.concatenate(heard)[APART:], bits.astype(np.uint32) | HEARD, np.uint32(0))


def describe_face(frames: list[np.ndarray]) -> np.ndarray | None:
    """Return the mean descriptor of the largest faces in some frames, `(128,)` float64; None without any."""
    import dlib

    step = max(len(frames) // FACES, 1)
    found = []
    for frame in frames[::step][:FACES]:
        for scale in sorted({min(side / max(frame.shape[:2]), MOST_ENLARGED) for side in SEARCHED_PX}):
            image = np.ascontiguousarray(cv2.resize(frame, None, fx=scale, fy=scale))
            faces = face_detector()(image, 0)
            if faces:
                face = max(faces, key=dlib.rectangle.area)
                found.append(
                    np.array(face_descriptor().compute_face_descriptor(image, five_points()(image, face)))
                )
                break
    return np.mean(found, axis=0) if found else None
