"""Animate a mouth from timed phonemes.

Every phoneme has a target shape and pulls the mouth there with a weight that rises and falls smoothly around
its interval, slightly ahead of the audio. A shape at time t depends on the phonemes between t - 30 ms and
t + 120 ms only, so it can be predicted from the audio around it.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from difftalk.datasets.demo.identity import Mouth
from difftalk.datasets.demo.voice import Phoneme

_LEAD_S = 0.045  # lips move before they are heard
_REACH_S = 0.070  # how far a target's pull extends beyond its phoneme
_CLOSURE_REACH_S = 0.035  # closures are quicker than other gestures
_CLOSURE_S = 0.080  # and last at least this long, so that a frame at 25 fps catches each of them

# Targets: strength, then open, width, press, bite, tongue. A weak phoneme takes the shape of its neighbours.
_SILENCE = (1.0, 0.0, 0.0, 0.0, 0.0, 0.0)
_TARGETS = {
    "a": (1.3, 1.00, 0.15, 0, 0, 0.0),
    "A": (1.4, 1.00, 0.00, 0, 0, 0.0),
    "V": (1.1, 0.85, 0.00, 0, 0, 0.0),
    "0": (1.2, 0.95, -0.30, 0, 0, 0.0),
    "O": (1.3, 0.80, -0.65, 0, 0, 0.0),
    "o": (1.3, 0.60, -0.85, 0, 0, 0.0),
    "U": (1.1, 0.30, -0.80, 0, 0, 0.0),
    "u": (1.3, 0.25, -1.00, 0, 0, 0.0),
    "E": (1.1, 0.75, 0.55, 0, 0, 0.1),
    "e": (1.1, 0.50, 0.75, 0, 0, 0.2),
    "I": (0.9, 0.32, 0.75, 0, 0, 0.3),
    "i": (1.2, 0.25, 1.00, 0, 0, 0.4),
    "3": (1.1, 0.35, -0.40, 0, 0, 0.3),
    "@": (0.7, 0.35, 0.05, 0, 0, 0.2),
    "p": (1.0, 0.00, 0.00, 1, 0, 0.0),
    "f": (1.2, 0.10, 0.15, 0, 1, 0.0),
    "w": (1.2, 0.12, -1.00, 0, 0, 0.0),
    "r": (0.7, 0.22, -0.55, 0, 0, 0.3),
    "S": (1.0, 0.16, -0.60, 0, 0, 0.3),
    "s": (0.9, 0.08, 0.65, 0, 0, 0.4),
    "T": (0.9, 0.20, 0.25, 0, 0, 1.0),
    "l": (0.7, 0.32, 0.15, 0, 0, 1.0),
    "t": (0.6, 0.14, 0.25, 0, 0, 0.8),
    "k": (0.4, 0.28, 0.05, 0, 0, 0.1),
    "j": (0.8, 0.18, 0.80, 0, 0, 0.4),
    "h": (0.15, 0.35, 0.00, 0, 0, 0.0),
}
_SAME_AS = {"b": "p", "m": "p", "v": "f", "Z": "S", "z": "s", "D": "T", "d": "t", "n": "t"} | dict.fromkeys(
    "gNxC?", "k"
)
# espeak-ng writes some sounds with several letters; the longest match wins. A pair is a glide.
_SPELLED = {
    "aI": ("a", "i"),
    "aU": ("a", "u"),
    "eI": ("E", "i"),
    "oU": ("o", "u"),
    "OI": ("O", "i"),
    "tS": ("t", "S"),
    "dZ": ("t", "S"),
    "a#": ("@",),
    "aa": ("a",),
    "A@": ("A", "r"),
    "O@": ("O", "r"),
    "o@": ("O", "r"),
    "e@": ("E", "r"),
    "i@": ("i", "@"),
    "U@": ("U", "r"),
    "@L": ("@", "l"),
    "I#": ("I",),
    "02": ("0",),
}


def mouth_track(phonemes: Sequence[Phoneme], times_s: Sequence[float] | np.ndarray) -> list[Mouth]:
    """Return the shape of the mouth at each of the given times (seconds, on the clock of the phonemes)."""
    times = np.asarray(times_s, float) + _LEAD_S
    spoken = [gesture for phoneme in phonemes if phoneme.name != "_" for gesture in _gestures(phoneme)]
    start = np.array([gesture[0] for gesture in spoken])
    end = np.array([gesture[1] for gesture in spoken])
    targets = np.array([gesture[2] for gesture in spoken]).reshape(-1, 6)

    present = _bump(times, start, end, _REACH_S)
    # What is not covered by speech is silence; its bump is what the others leave of 1.
    silent = np.clip(1 - present.sum(axis=1), 0, 1)
    weights = np.column_stack([present * targets[:, 0], silent * _SILENCE[0]])
    shapes = np.vstack([targets[:, 1:], _SILENCE[1:]])
    shape = weights @ shapes / np.maximum(weights.sum(axis=1), 1e-9)[:, None]

    closing = targets[:, 3] > 0
    closed = np.zeros(len(times))
    if closing.any():
        middle, half = (start + end)[closing] / 2, np.maximum((end - start)[closing], _CLOSURE_S) / 2
        bumps = _bump(times, middle - half, middle + half, _CLOSURE_REACH_S)
        # Blending alone would leave the lips ajar between two vowels.
        closed = np.clip(1.15 * bumps.max(axis=1), 0, 1)
    opening = np.clip(shape[:, 0], 0, 1) * (1 - closed)
    bite = shape[:, 3] * (1 - closed)
    return [
        Mouth(open=float(o), width=float(w), press=float(p), bite=float(b), tongue=float(t))
        for o, w, p, b, t in zip(opening, shape[:, 1], closed, bite, shape[:, 4], strict=True)
    ]


def _bump(times: np.ndarray, start: np.ndarray, end: np.ndarray, reach: float) -> np.ndarray:
    """Return the weight of each interval at each time, (times, intervals).

    It is the interval's indicator blurred by a raised cosine, so that adjacent intervals add up to 1.
    """

    def before(edge: np.ndarray) -> np.ndarray:
        x = np.clip((times[:, None] - edge) / reach, -1, 1)
        return 0.5 * (1 + x + np.sin(np.pi * x) / np.pi)

    return before(start) - before(end)


def _gestures(phoneme: Phoneme) -> list[tuple[float, float, tuple[float, ...]]]:
    """Return start, end and target of each gesture of one phoneme: one, or two in a glide."""
    targets = _targets(phoneme.name)
    edges = np.linspace(phoneme.start_s, phoneme.end_s, len(targets) + 1)
    if len(targets) == 2:
        edges[1] = phoneme.start_s + 0.6 * (phoneme.end_s - phoneme.start_s)
    return [(float(a), float(b), target) for a, b, target in zip(edges[:-1], edges[1:], targets, strict=True)]


@lru_cache(maxsize=512)
def _targets(name: str) -> tuple[tuple[float, ...], ...]:
    for spelled in (name[:2], name[:1]):
        keys = _SPELLED.get(spelled, (_SAME_AS.get(spelled, spelled),))
        if all(key in _TARGETS for key in keys):
            return tuple(_TARGETS[key] for key in keys)
    return (_TARGETS["@"],)
