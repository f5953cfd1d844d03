"""The mel spectrogram of the Wav2Lip line of models (`audio.py` of Wav2Lip, and of LatentSync after it).

Equal to librosa's short-time Fourier transform and mel filters (Slaney's, normalised by area), without it.
"""

from functools import cache

import numpy as np

from difftalk.media.clock import SAMPLE_RATE

MELS, FFT, HOP = 80, 800, 200
LOW_HZ, HIGH_HZ = 55.0, 7600.0
STEPS_PER_SECOND = SAMPLE_RATE // HOP
PREEMPHASIS, FLOOR_DB, REFERENCE_DB, LIMIT = 0.97, -100.0, 20.0, 4.0
# Slaney's scale: a mel is 200 / 3 Hz up to 1 kHz, and above it 27 mels are a factor of 6.4.
HZ_PER_MEL, LINEAR_HZ, STEP = 200 / 3, 1000.0, np.log(6.4) / 27


def mel_spectrogram(samples: np.ndarray) -> np.ndarray:
    """Return the decibels of 80 bands every 12.5 ms, scaled to -4..4: (80, 1 + N // 200) float32.

    Args:
        samples: (N,) int16 mono, 16 kHz. Beyond its ends is silence.
    """
    sound = samples.astype(np.float64) / 32768
    sound[1:] -= PREEMPHASIS * sound[:-1].copy()
    padded = np.pad(sound, FFT // 2)
    windows = np.lib.stride_tricks.sliding_window_view(padded, FFT)[::HOP]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FFT) / FFT)
    bands = np.abs(np.fft.rfft(windows * hann, axis=1)) @ filters().T
    decibels = 20 * np.log10(np.maximum(bands, 10 ** (FLOOR_DB / 20))) - REFERENCE_DB
    scaled = 2 * LIMIT * (decibels - FLOOR_DB) / -FLOOR_DB - LIMIT
    return np.clip(scaled, -LIMIT, LIMIT).T.astype(np.float32)


@cache
def filters() -> np.ndarray:
    """Return the triangular filters over the bins of the transform: (80, 401), each of area 1 per Hz."""
    edges = _hz(np.linspace(_mel(LOW_HZ), _mel(HIGH_HZ), MELS + 2))
    bins = np.fft.rfftfreq(FFT, 1 / SAMPLE_RATE)
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    triangles = np.minimum((bins - low) / (middle - low), (high - bins) / (high - middle))
    return np.maximum(triangles, 0) * 2 / (high - low)


def _mel(hz: float) -> float:
    if hz < LINEAR_HZ:
        return hz / HZ_PER_MEL
    return float(LINEAR_HZ / HZ_PER_MEL + np.log(hz / LINEAR_HZ) / STEP)


def _hz(mel: np.ndarray) -> np.ndarray:
    above = LINEAR_HZ * np.exp(STEP * (mel - LINEAR_HZ / HZ_PER_MEL))
    return np.where(mel < LINEAR_HZ / HZ_PER_MEL, mel * HZ_PER_MEL, above)
