"""Mel-frequency cepstral coefficients, as the two experts that are fed with them were trained on.

The algorithm and its defaults are those of python_speech_features 0.6 (MIT), which SyncNet and the usual
DeepSpeech front-end call, without that unmaintained dependency; a test compares the two.
"""

from functools import cache

import numpy as np
from scipy.fft import dct

RATE = 16_000
WINDOW, STEP, FFT = 400, 160, 512  # samples: 25 ms windows every 10 ms
FILTERS = 26
_EPS = np.finfo(np.float64).eps


def mfcc(samples: np.ndarray, coefficients: int = 13) -> np.ndarray:
    """MFCC of int16 sound at 16 kHz, (1 + ceil((N - 400) / 160), coefficients) float64, one row per 10 ms.

    Pre-emphasis 0.97, rectangular windows, the last one padded with zeros, 26 triangular filters over 0..8
    kHz, lifter 22, and the log of the window's energy in place of coefficient 0.

    Args:
        samples: (N,) on the int16 scale: sound in -1..1 gives other numbers.
    """
    x = np.asarray(samples, np.float64)
    x = np.concatenate([x[:1], x[1:] - 0.97 * x[:-1]])
    count = 1 + max(-(-(len(x) - WINDOW) // STEP), 0)
    x = np.pad(x, (0, (count - 1) * STEP + WINDOW - len(x)))
    frames = np.lib.stride_tricks.sliding_window_view(x, WINDOW)[::STEP]
    power = np.abs(np.fft.rfft(frames, FFT)) ** 2 / FFT
    energy = power.sum(axis=1)
    bands = power @ _filters().T
    cepstra = dct(np.log(np.where(bands == 0, _EPS, bands)), type=2, axis=1, norm="ortho")[:, :coefficients]
    cepstra *= 1 + 11 * np.sin(np.pi * np.arange(cepstra.shape[1]) / 22)
    cepstra[:, 0] = np.log(np.where(energy == 0, _EPS, energy))
    return cepstra


@cache
def _filters() -> np.ndarray:
    """Triangles evenly spaced in mel, their corners on whole FFT bins, (26, 257)."""
    mel = np.linspace(0, 2595 * np.log10(1 + RATE / 2 / 700), FILTERS + 2)
    bins = np.floor((FFT + 1) * 700 * (10 ** (mel / 2595) - 1) / RATE)
    k = np.arange(FFT // 2 + 1)
    bank = np.zeros((FILTERS, len(k)))
    for row, (low, top, high) in zip(bank, zip(bins, bins[1:], bins[2:], strict=False), strict=False):
        rising, falling = (k >= low) & (k < top), (k >= top) & (k < high)
        row[rising] = (k[rising] - low) / (top - low)
        row[falling] = (high - k[falling]) / (high - top)
    return bank
