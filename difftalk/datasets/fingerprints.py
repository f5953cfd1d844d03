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
from difftalk.media.video import read_lazy_frames
from difftalk.pretrained.dlib_models import face_descriptor, face_detector, five_points

# Of a file, this much from its start is looked at: a frame a second, and all of the audio.
LOOKED_AT_S = 8.0
FIRST_S = 0.48  # on the 25 fps grid
FACES = 4  # frames, at most, whose face is described
HASHED_PX, LOW_FREQUENCIES = 32, 8
# Audio: windows, their step, and the edges of the bands.
WINDOW, HOP = 8192, 1024  # samples: 0.51 s, 0.06 s
BANDS_HZ = np.geomspace(300.0, 3000.0, 18)
# Root mean square of int16 samples below which nothing is to be heard: -70 dB.
SILENT_LEVEL = 10.0
# Steps by which the audio of a copy may be shifted.
MAX_SHIFT = 4
# Longer sides at which faces are searched for, until there is one.
SEARCHED_PX = (640, 1280)
MOST_ENLARGED = 2.5


def look_times(length_s: float) -> list[float]:
    """Return the times of the frames that are compared, seconds: those of copies are the same.

    >>> look_times(3.2), look_times(0.4)
    ([0.48, 1.48, 2.48], [0.2])
    """
    if length_s < 2 * FIRST_S:
        return [length_s / 2]
    return [
        FIRST_S + k for k in range(int(min(length_s, LOOKED_AT_S) - FIRST_S) + 1) if FIRST_S + k < length_s
    ]


def read_looks(path: Path, length_s: float) -> list[np.ndarray]:
    """Return a frame a second of the start of a video, `(H, W, 3)` uint8 RGB.

    Raises:
        ClipError: `cannot_decode`, `no_video`.
    """
    times = look_times(length_s)
    frames = read_lazy_frames(path, times[0], times[0] + len(times), fps=1.0)
    return [frame[:, :] for frame in frames]


def frame_hash(frame: np.ndarray) -> np.ndarray:
    """Return the perceptual hash of a `(H, W, 3)` uint8 RGB frame: 64 bits, `(64,)` bool."""
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (HASHED_PX, HASHED_PX), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = cv2.dct(small)[:LOW_FREQUENCIES, :LOW_FREQUENCIES].ravel()
    return np.asarray(low > np.median(low[1:]))


def read_audio_start(path: Path, length_s: float) -> np.ndarray:
    """Return the audio of the start of a video: `(N,)` int16 at 16 kHz.

    Raises:
        ClipError: `cannot_decode`, `no_audio`.
    """
    return read_audio(path, 0.0, min(length_s, LOOKED_AT_S))


def audio_fingerprint(samples: np.ndarray) -> np.ndarray:
    """Return the fingerprint of `(N,)` int16 samples at 16 kHz: `(T, 16)` int8, T = 0 for too few.

    A step has the bits 0 and 1, or -1 everywhere where nothing is to be heard.
    """
    if len(samples) < WINDOW + HOP:
        return np.zeros((0, len(BANDS_HZ) - 2), np.int8)
    windows = np.lib.stride_tricks.sliding_window_view(samples.astype(np.float32), WINDOW)[::HOP]
    power = np.abs(np.fft.rfft(windows * np.hanning(WINDOW).astype(np.float32))) ** 2
    edges = np.searchsorted(np.fft.rfftfreq(WINDOW, 1 / SAMPLE_RATE), BANDS_HZ)
    energy = np.add.reduceat(power, edges, axis=1)[:, :-1]
    bits = (np.diff(np.diff(energy, axis=1), axis=0) > 0).astype(np.int8)
    bits[np.sqrt(np.mean(windows**2, axis=1))[1:] < SILENT_LEVEL] = -1
    return np.asarray(bits)


def frame_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return the share of the bits in which the hashes of two videos differ, `(N, 64)` each: 0..1."""
    common = min(len(a), len(b))
    return float(np.mean(a[:common] != b[:common])) if common else 1.0


def audio_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return the share of bits in which two fingerprints `(T, 16)` differ: about 0.5 for unrelated ones."""
    shares = [1.0]
    for shift in range(-MAX_SHIFT, MAX_SHIFT + 1):
        x, y = a[max(shift, 0) :], b[max(-shift, 0) :]
        common = min(len(x), len(y))
        x, y = x[:common], y[:common]
        heard = (x[:, 0] >= 0) | (y[:, 0] >= 0)  # silence is like any other silence
        if heard.sum() > MAX_SHIFT:
            shares.append(float(np.mean(x[heard] != y[heard])))
    return min(shares)


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
