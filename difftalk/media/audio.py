"""Decode audio by timestamp: 16 kHz mono int16, on the file's clock (0 = first frame)."""

from pathlib import Path
from typing import Any

import av
import numpy as np

from difftalk.media.clock import SAMPLE_RATE
from difftalk.media.probe import audio_stream, open_media, origin_s, reason_of, video_stream
from difftalk.runtime.errors import ClipError

# Timestamps wander by rounding; a step larger than this is a gap (or an overlap) in the audio.
GAP_S = 0.02


def read_audio(path: str | Path, start_s: float = 0.0, end_s: float | None = None) -> np.ndarray:
    """Return the audio of a clip: `(N,)` int16 mono at 16 kHz, sample 0 at `start_s`.

    N is `round((end_s - start_s) * 16000)`; where the file has no audio there are zeros.

    Args:
        path: any file that FFmpeg reads.
        start_s: seconds on the file's clock.
        end_s: seconds on the file's clock; None (or NaN) means up to the end of the audio.

    Raises:
        ClipError: `no_audio` if there is no audio stream or no sample in it; `cannot_decode` with the time.
    """
    if end_s is not None and np.isnan(end_s):
        end_s = None
    chunks = _chunks(path, start_s, end_s)
    if end_s is None:
        if not chunks:
            raise ClipError("no_audio", f"{Path(path).name}: the audio stream is empty")
        count = max(0, *(at + len(samples) for at, samples in chunks))
    else:
        count = round((end_s - start_s) * SAMPLE_RATE)
    audio = np.zeros(count, np.int16)
    for at, samples in chunks:
        low, high = max(at, 0), min(at + len(samples), count)
        if low < high:
            audio[low:high] = samples[low - at : high - at]
    return audio


def _chunks(path: str | Path, start_s: float, end_s: float | None) -> list[tuple[int, np.ndarray]]:
    """Return stretches of continuous audio, each with its first sample's index relative to `start_s`."""
    name = Path(path).name
    runs: list[tuple[int, list[np.ndarray]]] = []
    with open_media(path) as container:
        stream = audio_stream(container)
        if stream is None:
            raise ClipError("no_audio", f"{name}: no audio stream")
        origin = _origin(container, stream, path)
        if start_s > 1.0:
            # Half a second of run-up lets the codec settle.
            container.seek(round((start_s - 0.5 + origin) / stream.time_base), stream=stream, backward=True)
        resampler = _resampler()
        expected = None
        time_s = 0.0
        try:
            for frame in container.decode(stream):
                if frame.time is not None:
                    time_s = frame.time - origin
                elif expected is not None:
                    time_s = expected
                if end_s is not None and time_s >= end_s:
                    break
                if expected is None or abs(time_s - expected) > GAP_S:
                    if runs:
                        runs[-1][1].extend(_samples(resampler.resample(None)))
                    resampler = _resampler()
                    runs.append((round((time_s - start_s) * SAMPLE_RATE), []))
                    expected = time_s
                expected += frame.samples / frame.sample_rate
                frame.pts = None
                runs[-1][1].extend(_samples(resampler.resample(frame)))
            if runs:
                runs[-1][1].extend(_samples(resampler.resample(None)))
        except av.FFmpegError as e:
            raise ClipError(
                "cannot_decode", f"{name}: audio broken after {time_s:.2f} s ({reason_of(e)})"
            ) from e
    return [(at, np.concatenate(samples)) for at, samples in runs if samples]


def _origin(container: Any, stream: Any, path: str | Path) -> float:
    try:
        return origin_s(video_stream(container, path))
    except ClipError:
        return origin_s(stream)


def _resampler() -> Any:
    return av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)


def _samples(frames: list[Any]) -> list[np.ndarray]:
    return [f.to_ndarray()[0] for f in frames]
