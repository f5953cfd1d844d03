"""Decode audio by timestamp: 16 kHz mono int16, on the file's clock (0 = first frame)."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np

from difftalk.media.clock import SAMPLE_RATE
from difftalk.media.damage import packets_of, reading
from difftalk.media.ends import jumps_back
from difftalk.media.probe import audio_stream, open_media, origin_s, video_stream
from difftalk.runtime.errors import ClipError

# Timestamps wander by rounding; a step larger than this is a gap (or an overlap) in the audio.
GAP_S = 0.02
# A larger step backwards is a clock that was set anew within the file: the audio goes on.
SET_BACK_S = 1.0
# A larger step forwards is a damaged time stamp.
MAX_GAP_S = 60.0
# Decoding begins so many seconds before a clip, in turn, until it reaches the clip's first sample: codecs
# need to settle, and the first packets after a jump may be partial (MPEG program streams).
RUN_UPS_S = (0.5, 5.0)
# Stereo whose sum has less than this part of the louder channel's energy cancels out when mixed.
CANCELS = 0.05


@dataclass
class _Decoded:
    """What was decoded: stretches of continuous audio, each with its first sample's index.

    Args:
        runs: of (index relative to the clip's start, parts).
        energy: sums of squares of left, right and their mean, of what was stereo.
        first_s: time of the first sample.
    """

    runs: list[tuple[int, list[np.ndarray]]] = field(default_factory=list)
    energy: np.ndarray = field(default_factory=lambda: np.zeros(3))
    first_s: float | None = None

    def chunks(self) -> list[tuple[int, np.ndarray]]:
        return [(at, np.concatenate(samples)) for at, samples in self.runs if samples]

    def channel(self) -> int | None:
        """Return the channel to take where left and right cancel each other out; None to mix them."""
        left, right, mean = self.energy
        return int(right > left) if mean < CANCELS * max(left, right) else None


def read_audio(
    path: str | Path, start_s: float = 0.0, end_s: float | None = None, max_gap_s: float | None = None
) -> np.ndarray:
    """Return the audio of a clip: `(N,)` int16 mono at 16 kHz, sample 0 at `start_s`.

    N is `round((end_s - start_s) * 16000)`; where the file has no audio there are zeros. Rate, layout and
    sample format may change within the stream. Channels are mixed; stereo in antiphase, which would cancel
    itself out, gives its louder channel.

    Args:
        path: any file that FFmpeg reads.
        start_s: seconds on the file's clock.
        end_s: seconds on the file's clock; None (or NaN) means up to the end of the audio.
        max_gap_s: longest stretch of such zeros, at either end or within, that is tolerated; None: any.

    Raises:
        ClipError: `no_audio` if there is no audio stream or no sample in it; `cannot_decode` with the time;
            `length_mismatch` for a longer gap.
    """
    name = Path(path).name
    if end_s is not None and np.isnan(end_s):
        end_s = None
    decoded = _decode(path, start_s, end_s, None)
    if (channel := decoded.channel()) is not None:
        decoded = _decode(path, start_s, end_s, channel)
    chunks = decoded.chunks()
    if end_s is None:
        if not chunks:
            raise ClipError("no_audio", f"{name}: the audio stream is empty")
        count = max(0, *(at + len(samples) for at, samples in chunks))
    else:
        count = max(round((end_s - start_s) * SAMPLE_RATE), 0)
    audio = np.zeros(count, np.int16)
    for at, samples in chunks:
        low, high = max(at, 0), min(at + len(samples), count)
        if low < high:
            audio[low:high] = samples[low - at : high - at]
    if max_gap_s is not None:
        _check_gaps(name, [(at, at + len(samples)) for at, samples in chunks], count, start_s, max_gap_s)
    return audio


def _check_gaps(
    name: str, stretches: list[tuple[int, int]], count: int, start_s: float, max_gap_s: float
) -> None:
    """Raise `length_mismatch` where `count` samples have a hole between the stretches, or at an end."""
    reached = 0
    # A resampler may end a stretch one sample early.
    limit = max_gap_s * SAMPLE_RATE + 2
    for begin, end in [*sorted(stretches), (count, count)]:
        if min(begin, count) - reached > limit:
            low, high = (start_s + n / SAMPLE_RATE for n in (reached, min(begin, count)))
            detail = f"{name}: no audio from {low:.2f} s to {high:.2f} s"
            raise ClipError("length_mismatch", f"{detail}, length_mismatch_seconds={max_gap_s:g}")
        reached = max(reached, end)


def _decode(path: str | Path, start_s: float, end_s: float | None, channel: int | None) -> _Decoded:
    """Decode from a little before the clip; from further back where that does not reach its first sample."""
    for back_s in RUN_UPS_S if start_s > 2 * RUN_UPS_S[0] else ():
        decoded = _decode_from(path, start_s - back_s, start_s, end_s, channel)
        if decoded.first_s is not None and decoded.first_s <= start_s + GAP_S:
            return decoded
    return _decode_from(path, None, start_s, end_s, channel)


def _decode_from(
    path: str | Path, seek_s: float | None, start_s: float, end_s: float | None, channel: int | None
) -> _Decoded:
    name = Path(path).name
    decoded = _Decoded()
    runs = decoded.runs
    with reading(path), open_media(path) as container:
        stream = audio_stream(container)
        if stream is None:
            raise ClipError("no_audio", f"{name}: no audio stream")
        origin = _origin(container, stream, path)
        mono = _Mono(channel)
        expected: float | None = None
        time_s = 0.0
        failure: Exception | None = None
        try:
            if seek_s is not None and not jumps_back(container, path):
                container.seek(round((seek_s + origin) / stream.time_base), stream=stream, backward=True)
            for packet in packets_of(container, stream):
                try:
                    frames = list(packet.decode())
                except av.InvalidDataError as e:
                    # Before the first sample, or before the clip, nothing is lost.
                    if expected is not None and expected >= start_s - GAP_S:
                        raise
                    failure = e
                    continue
                for frame in frames:
                    if frame.time is not None:
                        time_s = frame.time - origin
                    elif expected is not None:
                        time_s = expected
                    if expected is not None and time_s < expected - SET_BACK_S:
                        time_s = expected
                    if end_s is not None and time_s >= end_s:
                        break
                    if expected is not None and time_s > max(expected, start_s) + MAX_GAP_S:
                        raise ClipError(
                            "cannot_decode", f"{name}: no audio from {expected:.2f} s to {time_s:.2f} s"
                        )
                    if expected is None or abs(time_s - expected) > GAP_S:
                        if runs:
                            runs[-1][1].extend(mono.rest())
                        runs.append((round((time_s - start_s) * SAMPLE_RATE), []))
                        expected = time_s
                        decoded.first_s = time_s if decoded.first_s is None else decoded.first_s
                    expected += frame.samples / frame.sample_rate
                    if expected > start_s:
                        decoded.energy += _energy(frame)
                    frame.pts = None
                    runs[-1][1].extend(mono.samples(frame))
                else:
                    continue
                break
            if runs:
                runs[-1][1].extend(mono.rest())
            elif failure is not None:
                raise failure
        except av.FFmpegError as e:
            with reading(path, f"audio broken after {time_s:.2f} s"):
                raise e
    return decoded


def _origin(container: Any, stream: Any, path: str | Path) -> float:
    try:
        return origin_s(video_stream(container, path))
    except ClipError:
        return origin_s(stream)


class _Mono:
    """Resample frames to 16 kHz mono, with a new resampler wherever the stream changes its parameters.

    Args:
        channel: the one of stereo to take; None mixes all.
    """

    def __init__(self, channel: int | None) -> None:
        self._channel = channel
        self._of: tuple[str, str, int] | None = None
        self._resampler: Any = None

    def samples(self, frame: Any) -> Iterator[np.ndarray]:
        """Yield what the resampler gives for a frame."""
        of = frame.format.name, frame.layout.name, frame.sample_rate
        if of != self._of:
            yield from self.rest()
            self._of = of
            self._resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
        if self._channel is not None and frame.layout.nb_channels == 2:
            frame = _one_channel(frame, self._channel)
        for mono in self._resampler.resample(frame):
            yield mono.to_ndarray()[0]

    def rest(self) -> Iterator[np.ndarray]:
        """Yield what is left in the resampler, and begin anew."""
        if self._resampler is not None:
            for mono in self._resampler.resample(None):
                yield mono.to_ndarray()[0]
        self._of = self._resampler = None


def _channels(frame: Any) -> np.ndarray:
    """Return the samples of a frame by channel, `(channels, N)`."""
    samples = frame.to_ndarray()
    return samples if frame.format.is_planar else samples.reshape(-1, frame.layout.nb_channels).T


def _one_channel(frame: Any, channel: int) -> Any:
    samples = np.ascontiguousarray(_channels(frame)[channel][None])
    mono = av.AudioFrame.from_ndarray(samples, format=frame.format.name, layout="mono")
    mono.sample_rate = frame.sample_rate
    return mono


def _energy(frame: Any) -> np.ndarray:
    """Return the sums of squares of left, right and their mean; zeros where the frame is not stereo."""
    if frame.layout.nb_channels != 2:
        return np.zeros(3)
    samples = _channels(frame)
    left, right = samples.astype(np.float64)
    if samples.dtype == np.uint8:
        left, right = (left - 128) / 128, (right - 128) / 128
    elif not np.issubdtype(samples.dtype, np.floating):
        full = -float(np.iinfo(samples.dtype).min)
        left, right = left / full, right / full
    return np.array([left @ left, right @ right, (left + right) @ (left + right) / 4])


def level_db(audio: np.ndarray) -> float:
    """Return the root mean square of int16 audio in dB below full scale; -120 for digital silence."""
    rms = np.sqrt(np.mean((audio / 32768.0) ** 2)) if len(audio) else 0.0
    return float(20 * np.log10(max(rms, 1e-6)))
