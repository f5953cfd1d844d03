"""How well lips and audio are in sync: offset, confidence and distance, by SyncNet's protocol.

Formulas: joonson/syncnet_python, `SyncNetInstance.evaluate` (MIT). LSE-C and LSE-D of the Wav2Lip line of
papers are `confidence` and `distance`.
"""

from dataclasses import dataclass

import numpy as np

EPS = 1e-6  # of torch.pairwise_distance, which the released protocol calls


@dataclass(frozen=True)
class Sync:
    """The sync of one clip.

    Args:
        offset: frames of 40 ms; positive where the audio leads the video.
        confidence: median minus minimum of the mean distances over all shifts.
        distance: that minimum.
        windows: how many video windows were compared.
    """

    offset: int
    confidence: float
    distance: float
    windows: int


def measure_sync(
    video: np.ndarray, audio: np.ndarray, max_shift: int, zero_padded: bool, every: int = 1
) -> Sync | None:
    """Compare the embeddings of a clip at all shifts from -max_shift to max_shift frames.

    Args:
        video: (N, E), the window that starts at each frame, or at every n-th.
        audio: (M, E), the window that starts at each frame.
        max_shift: frames that the audio is shifted either way.
        zero_padded: beyond the ends of the audio, compare with zero vectors, as the released protocol does
            (figures of v2 are comparable only so); otherwise take the mean over the pairs that exist, so that
            a short clip is not judged by its ends.
        every: frames from one video window to the next.

    Returns:
        None where there is no pair at some shift: the clip is too short.
    """
    video = video[: -(-len(audio) // every)]
    count = min(len(video) * every, len(audio))
    last = (len(video) - 1) * every
    if count == 0 or (not zero_padded and min(last, count - 1) < max_shift):
        return None
    distances = shifted_distances(video, audio[:count], max_shift, every)
    if not zero_padded:
        distances[~_pairs(count, max_shift)[::every]] = np.nan
    means = np.nanmean(distances, axis=0)
    best = int(np.argmin(means))
    return Sync(
        offset=max_shift - best,
        confidence=float(np.median(means) - means[best]),
        distance=float(means[best]),
        windows=len(video),
    )


def shifted_distances(video: np.ndarray, audio: np.ndarray, max_shift: int, every: int = 1) -> np.ndarray:
    """Return the distance of each video window to the audio windows at all shifts.

    D[i, k] = |video_i - audio_{every i + k - max_shift} + eps|, (N, 2 max_shift + 1) float64; zero vectors
    lie beyond the ends of the audio.
    """
    count = len(audio)
    padded = np.pad(np.asarray(audio, np.float64), ((max_shift, max_shift), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, count, axis=0)  # (2 max_shift + 1, E, N)
    video = np.asarray(video, np.float64)
    return np.stack([np.linalg.norm(video - window.T[::every] + EPS, axis=1) for window in windows], axis=1)


def _pairs(count: int, max_shift: int) -> np.ndarray:
    """Which D[i, k] compare two windows that exist, (N, 2 max_shift + 1) bool."""
    partner = np.arange(count)[:, None] + np.arange(-max_shift, max_shift + 1)
    return (partner >= 0) & (partner < count)
