"""Find copies among many videos: encoded, scaled, cropped or mirrored anew, or beginning elsewhere.

Audio decides at which shift two videos may be one, by an inverted index over parts of their fingerprints, as
Haitsma and Kalker (2002) search theirs. Frames, as they are or mirrored, or faces must then agree: one
speaker in one room fills many frames alike, and two videos may have the same music.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from difftalk.datasets.fingerprints import APART, BITS, HEARD, HOP, STEP_S, WINDOW

# Largest shares of differing bits between a copy and its original, and largest distance of their faces:
# docs/videos.md has the measurement.
COPY_FRAMES, COPY_AUDIO, COPY_FACE = 0.2, 0.25, 0.3
# Steps of audio that copies have in common, and part of the shorter one's that these are.
LEAST_STEPS, LEAST_SHARE = 24, 0.5
# Steps from one half of a key of the index to the other: windows that share no sample.
KEY_GAP = WINDOW // HOP + APART
# A key in more places is no evidence: hum, noise, a tone.
COMMON = 200
# Keys in the index, 2 GB: of more, it has a part, the same keys of every video.
MOST_KEYS = 20_000_000
SPREAD = np.uint64(0x9E3779B97F4A7C15)  # of Fibonacci hashing


@dataclass(frozen=True)
class Content:
    """What tells copies of a video.

    Args:
        audio: `difftalk.datasets.fingerprints.audio_fingerprint`.
        hashes: of a frame a second, as it is and mirrored, `(N, 2, 64)` bool.
        face: descriptor of its speaker, `(128,)`; None where none is known.
    """

    audio: np.ndarray
    hashes: np.ndarray
    face: np.ndarray | None = None


def copies_among(videos: Sequence[Content]) -> Iterator[tuple[int, int]]:
    """Yield the pairs of videos of which one is a copy of the other, each with its numbers in order."""
    for one, other, shift in aligned([video.audio for video in videos]):
        if is_copy(videos[one], videos[other], shift):
            yield one, other


def is_copy(a: Content, b: Content, shift: int) -> bool:
    """Whether two videos with the same audio show the same, too.

    Args:
        a: a video.
        b: another.
        shift: steps of a's audio before b begins; negative where b begins first.
    """
    if a.face is not None and b.face is not None and np.linalg.norm(a.face - b.face) <= COPY_FACE:
        return True
    return frame_distance(a.hashes, b.hashes, shift * STEP_S) <= COPY_FRAMES


def frame_distance(a: np.ndarray, b: np.ndarray, shift_s: float = 0.0) -> float:
    """Return the share of the bits in which the hashes of two videos differ, the less of b and b mirrored.

    Args:
        a: `(N, 2, 64)`, a second apart.
        b: the same of another video.
        shift_s: seconds of a before b begins.

    Returns:
        0 to 1; 1 where no frame of one is within half a second of one of the other.
    """
    at = np.arange(len(b)) + round(shift_s)
    inside = (at >= 0) & (at < len(a))
    if not inside.any():
        return 1.0
    mine, theirs = a[at[inside], 0], b[inside]
    return float(np.mean(mine[:, None] != theirs, axis=(0, 2)).min())


def audio_distance(a: np.ndarray, b: np.ndarray, shift: int = 0) -> float:
    """Return the share of bits in which two fingerprints differ, 0.5 for unrelated ones, 1 for too few bits.

    Only what is heard in both counts: silence is like any other silence.

    Args:
        a: of `audio_fingerprint`.
        b: of another video.
        shift: steps of a before b begins.
    """
    x, y = a[max(shift, 0) :], b[max(-shift, 0) :]
    common = min(len(x), len(y))
    x, y = x[:common], y[:common]
    heard = (x & y & HEARD) != 0
    shorter = min(int(np.count_nonzero(a)), int(np.count_nonzero(b)))
    if heard.sum() < max(LEAST_STEPS, LEAST_SHARE * shorter):
        return 1.0
    return float(np.bitwise_count(x[heard] ^ y[heard]).mean()) / BITS


def aligned(audio: Sequence[np.ndarray], most_keys: int = MOST_KEYS) -> Iterator[tuple[int, int, int]]:
    """Yield (one, other, shift) of fingerprints that agree where the other begins `shift` steps later.

    Each pair once, in order; at the shift that most of their keys ask for.

    Args:
        audio: fingerprints.
        most_keys: of the index.
    """
    candidates = _candidates(audio, most_keys)
    for one, other, shift in candidates.tolist():
        # A copy begins between two steps, and the index may be one beside.
        near = {s: audio_distance(audio[one], audio[other], s) for s in (shift, shift - 1, shift + 1)}
        best = min(near, key=near.__getitem__)
        if near[best] <= COPY_AUDIO:
            yield one, other, best


def _candidates(audio: Sequence[np.ndarray], most_keys: int) -> np.ndarray:
    """Return the pairs that share keys: `(P, 3)` of one, other and the shift that most keys ask for."""
    one_of = np.uint64(max(-(-sum(map(len, audio)) // most_keys), 1))
    keys, owners, steps = [], [], []
    for number, fingerprint in enumerate(audio):
        if len(fingerprint) <= KEY_GAP:
            continue
        first, second = fingerprint[:-KEY_GAP].astype(np.uint64), fingerprint[KEY_GAP:].astype(np.uint64)
        whole = first << np.uint64(32) | second
        chosen = (whole * SPREAD >> np.uint64(32)) % one_of == 0
        at = np.flatnonzero((first & second & np.uint64(HEARD) != 0) & chosen)
        keys.append(whole[at])
        owners.append(np.full(len(at), number))
        steps.append(at)
    if not keys:
        return np.zeros((0, 3), np.int64)
    key, owner, step = map(np.concatenate, (keys, owners, steps))
    order = np.argsort(key, kind="stable")
    key, owner, step = key[order], owner[order], step[order]
    _, begins, counts = np.unique(key, return_index=True, return_counts=True)
    pairs = [np.zeros((0, 3), np.int64)]
    for begin, count in zip(begins[counts > 1].tolist(), counts[counts > 1].tolist(), strict=True):
        if count > COMMON:
            continue
        i, j = np.triu_indices(count, 1)
        one, other = owner[begin + i], owner[begin + j]
        shift = step[begin + i] - step[begin + j]
        pairs.append(np.stack([one, other, shift], axis=1)[one != other])
    found, votes = np.unique(np.concatenate(pairs), axis=0, return_counts=True)
    # Of each pair the shift with the most votes, the smallest of several.
    ranked = np.lexsort((np.abs(found[:, 2]), -votes, found[:, 1], found[:, 0]))
    found = found[ranked]
    fresh = np.ones(len(found), bool)
    fresh[1:] = np.any(found[1:, :2] != found[:-1, :2], axis=1)
    return found[fresh]
