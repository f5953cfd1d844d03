"""Where a sound is silent: there the mouth may rest."""

from itertools import groupby

import numpy as np

from difftalk.media.clock import FPS, SAMPLE_RATE
from difftalk.speech.vad import SPEECH_PROBABILITY, WINDOW, speech_probabilities

# Lips begin to move before the sound is heard, and end after it.
AROUND_SPEECH_S = 0.12
SHORTEST_SILENCE_S = 0.2


def silences(samples: np.ndarray, count: int) -> list[tuple[int, int]]:
    """Return the silent stretches of a sound, as frames (first, stop) at 25 fps.

    Args:
        samples: (N,) int16 mono 16 kHz; what follows its end is silence.
        count: frames.

    Raises:
        UserError: if the package `silero-vad` is not installed.
    """
    spoken = np.zeros(count, bool)
    for window in np.flatnonzero(speech_probabilities(samples) >= SPEECH_PROBABILITY):
        begin_s, end_s = window * WINDOW / SAMPLE_RATE, (window + 1) * WINDOW / SAMPLE_RATE
        first = int((begin_s - AROUND_SPEECH_S) * FPS)
        spoken[max(first, 0) : int(np.ceil((end_s + AROUND_SPEECH_S) * FPS))] = True
    found, first = [], 0
    for is_speech, frames in groupby(spoken):
        stop = first + len(list(frames))
        if not is_speech and stop - first >= SHORTEST_SILENCE_S * FPS:
            found.append((first, stop))
        first = stop
    return found
