"""Metrics of landmarks: their distance to the truth's, how they move, and how lips follow the audio.

Points are `(T, 68, 2)` in pixels of the square crop, found by one predictor in the true and in the generated
frames: clean landmarks of the truth beside noisy ones of a method would compare the predictors.
"""

import numpy as np

from difftalk.media.points68 import BROWS, EYES, MOUTH
from difftalk.media.pose import head_angles

# Distances are as of a crop of so many pixels, whatever its size: that of most published figures.
REFERENCE_PX = 256
# A pause is so long at least (THEval).
MIN_SILENCE_S = 0.3
# Less speech than that says nothing about lips and loudness (THEval).
MIN_SPEECH_SHARE = 0.1


def landmark_distance(truth: np.ndarray, found: np.ndarray, size: int, part: slice) -> float:
    """Return the LMD of Chen et al. 2018: how far points lie from the true ones, in pixels at 256.

    The mean over points and frames of the Euclidean distance, each set about its own centre: a shifted face
    costs nothing. (ATVG's code sums over its 20 points of the mouth; this is that over 20.)

    Args:
        truth: `(T, 68, 2)`.
        found: `(T, 68, 2)`.
        size: side of the crop in pixels.
        part: which points, such as `MOUTH`.
    """
    a, b = (p[:, part] - p[:, part].mean(axis=1, keepdims=True) for p in (truth, found))
    return float(np.linalg.norm(a - b, axis=2).mean() * REFERENCE_PX / size)


def acceleration(points: np.ndarray) -> float | None:
    """Return the mean length of the mouth points' acceleration, in pixels per frame squared.

    None with fewer than three frames.
    """
    if len(points) < 3:
        return None
    second = np.diff(points[:, MOUTH], n=2, axis=0)
    return float(np.linalg.norm(second, axis=2).mean())


def lip_dynamics(points: np.ndarray, size: int) -> float | None:
    """Return THEval's lip dynamics, in pixels of a crop of 256.

    The mean over the 190 pairs of the 20 lip points of the deviation of their distance over time.
    None with fewer than two frames.
    """
    if len(points) < 2:
        return None
    lips = points[:, MOUTH] * (REFERENCE_PX / size)
    first, second = np.triu_indices(lips.shape[1], k=1)
    return float(np.linalg.norm(lips[:, first] - lips[:, second], axis=2).std(axis=0).mean())


def silent_lip(openings: np.ndarray, silent: np.ndarray) -> float | None:
    """Return THEval's silent lip stability: the median distance of the opening in pauses to its mean there.

    None with fewer than two silent frames. Lower is stiller.

    Args:
        openings: `(T,)` of `opening`.
        silent: `(T,)` bool of `silent_frames`.
    """
    still = openings[silent]
    return float(np.median(np.abs(still - still.mean()))) if len(still) >= 2 else None


def lip_loudness(openings: np.ndarray, loudness: np.ndarray, speaking: np.ndarray) -> float | None:
    """Return THEval's lip sync: the mean distance of opening and loudness while there is speech.

    Both are scaled to 0..1 over the frames with speech: 0.02 in phase, 0.08 late by one frame, 0.48 for lips
    that do not move. None where too little is spoken.

    Args:
        openings: `(T,)`.
        loudness: `(T,)` of `loudness_of`.
        speaking: `(T,)` bool.
    """
    if speaking.sum() < 2 or speaking.mean() < MIN_SPEECH_SHARE:
        return None
    a, b = (_to_unit(values[speaking]) for values in (openings, loudness))
    return float(np.abs(a - b).mean())


def brow_dynamics(points: np.ndarray) -> float | None:
    """Return THEval's eyebrow dynamics, as its code has it; None with fewer than two frames.

    The mean change from frame to frame of the distance between the centres of brow and eye, over that of the
    two eyes' centres.
    """
    if len(points) < 2:
        return None
    eyes = [points[:, eye].mean(axis=1) for eye in EYES]
    unit = np.linalg.norm(eyes[1] - eyes[0], axis=1)
    lifted = [
        np.linalg.norm(points[:, brow].mean(axis=1) - eye, axis=1) / unit
        for brow, eye in zip(BROWS, eyes, strict=True)
    ]
    return float(np.abs(np.diff(lifted, axis=1)).mean())


def head_motion(points: np.ndarray, size: int) -> float | None:
    """Return THEval's head motion, of angles in degrees and of a place in pixels at 256.

    sqrt(mean over angles of the deviation x mean over angles of the steps' variance + mean variance of the
    centre). Angles are of a fit to the rigid points. None with fewer than three frames.
    """
    if len(points) < 3:
        return None
    angles = head_angles(points, (size, size))
    angles = angles[np.isfinite(angles).all(axis=1)]
    if len(angles) < 3:
        return None
    corners = np.stack([points.min(axis=1), points.max(axis=1)]) * (REFERENCE_PX / size)
    turned = angles.std(axis=0).mean() * np.diff(angles, axis=0).var(axis=0).mean()
    return float(np.sqrt(turned + corners.mean(axis=0).var(axis=0).mean()))


def silent_frames(speech: np.ndarray, frames: int, fps: float, window_s: float) -> np.ndarray:
    """Return which frames lie in a pause of 0.3 s or more, `(frames,)` bool.

    Args:
        speech: `(N,)` bool, whether each window holds speech.
        frames: of the clip.
        fps: frames per second.
        window_s: seconds of a window.
    """
    silent = ~speaking_frames(speech, frames, fps, window_s)
    edges = np.flatnonzero(np.diff(np.r_[False, silent, False]))
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        if end - start < MIN_SILENCE_S * fps:
            silent[start:end] = False
    return silent


def speaking_frames(speech: np.ndarray, frames: int, fps: float, window_s: float) -> np.ndarray:
    """Return during which frames there is speech, `(frames,)` bool: in any window that a frame touches."""
    found = np.zeros(frames, bool)
    for k in np.flatnonzero(speech):
        found[int(k * window_s * fps) : int(np.ceil((k + 1) * window_s * fps))] = True
    return found


def loudness_of(audio: np.ndarray, frames: int, fps: float, rate: int) -> np.ndarray:
    """Return the loudness at each frame, `(frames,)` in 0..1: the RMS of 50 ms, between them linear (THEval).

    Args:
        audio: `(N,)` int16 mono.
        frames: of the clip.
        fps: frames per second.
        rate: samples per second.
    """
    window = int(0.05 * rate)
    padded = np.pad(audio / 32768, (window // 2, window // 2 + window))
    count = len(audio) // window + 1
    pieces = np.lib.stride_tricks.sliding_window_view(padded, window)[::window][:count]
    rms = np.sqrt((pieces**2).mean(axis=1))
    return np.interp(np.arange(frames) / fps, np.arange(len(rms)) * window / rate, rms)


def _to_unit(values: np.ndarray) -> np.ndarray:
    return np.asarray((values - values.min()) / (values.max() - values.min() + 1e-8))
