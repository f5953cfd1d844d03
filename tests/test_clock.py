"""The clock: after five minutes at any rate, frames and audio of a source are where they were at its start.

A source flashes white every ten seconds for 0.2 s and beeps from the first sample of each flash on. Its
frames have their true timestamps, its audio is AAC at 44.1 or 48 kHz, as from a video site. Read by
`read_frames` at 25 fps and by `read_audio` at 16 kHz it must show each flash from the very first of our
frames that comes at or after it, which is where the 25 fps grid puts it (up to 40 ms late, 20 ms on the
average), and begin each beep within 1 ms of the truth.
"""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from difftalk.media.audio import read_audio
from difftalk.media.clock import FPS, SAMPLE_RATE
from difftalk.media.video import TIME_TOLERANCE_S, read_frames

SECONDS = 300
EVERY, LENGTH = 10.0, 0.2  # seconds from flash to flash, and of each
BEEP_HZ = 1000
SIDE = 32
# Measured: at most 0.4 ms, from resampling and from AAC, which blurs the begin of a tone.
BEEP_TOLERANCE_S = 0.001

RATES = {
    "23.976": (Fraction(24000, 1001), 48_000),
    "24": (Fraction(24), 44_100),
    "29.97": (Fraction(30000, 1001), 48_000),
    "30": (Fraction(30), 44_100),
    "50": (Fraction(50), 48_000),
    "60": (Fraction(60), 44_100),
    "variable": (None, 48_000),
}


def shown_from(rate: str) -> list[Fraction]:
    """When each frame of the source is shown first, in seconds."""
    if rate == "variable":
        # Like a phone's in changing light: 15 to 60 frames a second, on a grid of milliseconds.
        steps = np.random.default_rng(0).integers(16, 67, SECONDS * 60)
        times = np.concatenate([[0], np.cumsum(steps)])
        return [Fraction(int(t), 1000) for t in times[times < SECONDS * 1000]]
    fps = RATES[rate][0]
    assert fps is not None
    return [k / fps for k in range(int(SECONDS * fps))]


def flashes(times: list[Fraction]) -> list[Fraction]:
    """When the flashes begin: with the first frame at or after 1, 11, ..., 291 s."""
    late = np.array([float(t) for t in times])
    return [times[int(np.searchsorted(late, 1 + EVERY * k - 1e-9))] for k in range(int(SECONDS / EVERY))]


def beeps(begins: list[Fraction], rate: int) -> np.ndarray:
    """Audio with a tone that begins with each flash, float32."""
    audio = np.zeros(SECONDS * rate, np.float32)
    tone = 0.5 * np.cos(2 * np.pi * BEEP_HZ * np.arange(int(LENGTH * rate)) / rate)
    for begin in begins:
        at = round(begin * rate)
        audio[at : at + len(tone)] = tone
    return audio


def write_source(path: Path, rate: str) -> list[Fraction]:
    """Write the source of one rate; when its flashes begin."""
    fps, audio_rate = RATES[rate]
    times = shown_from(rate)
    begins = flashes(times)
    base = 1 / fps if fps else Fraction(1, 1000)
    late, starts = np.array([float(t) for t in times]), np.array([float(b) for b in begins])
    since = late - starts[np.searchsorted(starts, late + 1e-9).clip(1) - 1]
    bright = (since > -1e-9) & (since < LENGTH - 1e-9)
    white, black = (
        av.VideoFrame.from_ndarray(np.full((SIDE * 3 // 2, SIDE), level, np.uint8), format="yuv420p")
        for level in (235, 16)
    )
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=fps or 30, options={"preset": "ultrafast"})
        video.width, video.height, video.pix_fmt = SIDE, SIDE, "yuv420p"
        video.codec_context.time_base = base
        video.codec_context.thread_count = 1
        audio_stream = container.add_stream(
            "aac", rate=audio_rate, layout="mono", options={"aac_coder": "fast"}
        )
        audio = beeps(begins, audio_rate)
        for time, is_bright in zip(times, bright, strict=True):
            frame = white if is_bright else black
            frame.pts, frame.time_base = round(time / base), base
            container.mux(video.encode(frame))
        container.mux(video.encode())
        for at in range(0, len(audio), audio_rate):
            chunk = av.AudioFrame.from_ndarray(
                audio[None, at : at + audio_rate], format="fltp", layout="mono"
            )
            chunk.sample_rate, chunk.pts = audio_rate, at
            container.mux(audio_stream.encode(chunk))
        container.mux(audio_stream.encode())
    return begins


def first_bright(path: Path, start_s: float) -> list[int]:
    """Numbers of our frames with which the flashes begin."""
    light = np.array([frame[SIDE // 2, SIDE // 2, 0] for frame in read_frames(path, start_s, SECONDS)])
    assert len(light) == round((SECONDS - start_s) * FPS)
    return [int(k) + 1 for k in np.flatnonzero((light[1:] > 128) & (light[:-1] <= 128))]


def beep_starts(path: Path, start_s: float) -> list[float]:
    """Seconds of the clip at which the beeps begin: where the level first passes a quarter of the tone's."""
    audio = read_audio(path, start_s, SECONDS).astype(float)
    assert len(audio) == round((SECONDS - start_s) * SAMPLE_RATE)
    loud = np.abs(audio) > 32768 * 0.5 / 4
    begins = [k for k in np.flatnonzero(loud) if not loud[max(k - SAMPLE_RATE, 0) : k].any()]
    return [k / SAMPLE_RATE for k in begins]


@pytest.mark.parametrize("rate", RATES)
def test_flash_and_beep_stay_together_for_five_minutes(rate: str, tmp_path: Path) -> None:
    path = tmp_path / ("v.mkv" if rate == "variable" else "v.mp4")
    begins = [float(b) for b in write_source(path, rate)]
    for start_s in (0.0, 271.3):
        there = [b - start_s for b in begins if b > start_s]
        expected = [int(np.ceil((b - TIME_TOLERANCE_S) * FPS)) for b in there]
        assert first_bright(path, start_s) == expected, "frames are where the truth puts them, first to last"
        found = beep_starts(path, start_s)
        assert np.abs(np.array(found) - there).max() < BEEP_TOLERANCE_S, "and so is the audio"
        # Hence flash and beep: a frame stands for the 40 ms up to it, so its middle is half a frame earlier.
        apart = (np.array(expected) - 0.5) / FPS - found
        assert np.abs(apart).max() < 0.5 / FPS + BEEP_TOLERANCE_S
