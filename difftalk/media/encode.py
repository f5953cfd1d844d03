"""Encode videos: H.264 and AAC in mp4, the same input giving the same bytes."""

import io
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from difftalk.media.clock import FPS, SAMPLE_RATE
from difftalk.runtime.errors import UserError
from difftalk.runtime.files import atomic_file


def write_video(
    path: str | Path,
    frames: Iterable[np.ndarray] | np.ndarray,
    *,
    fps: float = FPS,
    audio: np.ndarray | None = None,
    crf: int = 10,
    pix_fmt: str = "yuv420p",
    metadata: dict[str, str] | None = None,
) -> None:
    """Write an mp4 of H.264 and, with `audio`, AAC. The same input gives the same bytes.

    Args:
        frames: `(H, W, 3)` uint8 RGB pictures, all of one size; an iterator is consumed as it is encoded.
        fps: pictures per second; an int or a float such as 29.97.
        audio: `(N,)` int16, mono, 16 kHz, sample 0 at the time of the first picture.
        crf: x264's constant rate factor, 0 (lossless) to 51.
        pix_fmt: `yuv420p` plays everywhere, `yuv444p` keeps full colour resolution.
        metadata: container tags, such as `comment`.

    Raises:
        UserError: if there are no pictures, or a side is odd with `yuv420p`.
    """
    with atomic_file(path) as beside:
        x264 = {"crf": str(crf), "preset": "medium"}
        _encode(str(beside), frames, fps, audio, x264, pix_fmt, metadata, {"movflags": "+faststart"})


def encode_video(
    frames: Iterable[np.ndarray] | np.ndarray,
    *,
    fps: float = FPS,
    audio: np.ndarray | None = None,
    crf: int = 10,
    preset: str = "medium",
    pix_fmt: str = "yuv420p",
    metadata: dict[str, str] | None = None,
) -> bytes:
    """As `write_video`, to bytes."""
    out = io.BytesIO()
    _encode(out, frames, fps, audio, {"crf": str(crf), "preset": preset}, pix_fmt, metadata, {})
    return out.getvalue()


def _encode(
    target: str | io.BytesIO,
    frames: Iterable[np.ndarray] | np.ndarray,
    fps: float,
    audio: np.ndarray | None,
    x264: dict[str, str],
    pix_fmt: str,
    metadata: dict[str, str] | None,
    container_options: dict[str, str],
) -> None:
    pictures = iter(frames)
    first = next(pictures, None)
    if first is None:
        raise UserError("a video needs at least one picture")
    height, width = first.shape[:2]
    if pix_fmt == "yuv420p" and (height % 2 or width % 2):
        raise UserError(f"{width}x{height} pixels: H.264 in {pix_fmt} needs even sides")
    rate = Fraction(fps).limit_denominator(1001)
    with av.open(target, "w", format="mp4", options=container_options) as container:
        container.metadata.update(metadata or {})
        video_stream = container.add_stream("libx264", rate=rate, options=x264)
        video_stream.width, video_stream.height, video_stream.pix_fmt = width, height, pix_fmt
        # One thread: x264's output depends on their number. BT.601, limited range, is said in the stream.
        video_stream.codec_context.thread_count = 1
        video_stream.codec_context.colorspace = av.video.reformatter.Colorspace.ITU601
        video_stream.codec_context.color_range = av.video.reformatter.ColorRange.MPEG
        audio_stream = None
        if audio is not None:
            audio_stream = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
            audio_stream.bit_rate = 96_000
        sent = 0
        for k, picture in enumerate(_chain(first, pictures)):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame = frame.reformat(
                format=pix_fmt,
                dst_colorspace=av.video.reformatter.Colorspace.ITU601,
                dst_color_range=av.video.reformatter.ColorRange.MPEG,
                threads=1,
            )
            frame.pts, frame.time_base = k, 1 / rate
            container.mux(video_stream.encode(frame))
            if audio is not None and audio_stream is not None:
                upto = round((k + 1) / rate * SAMPLE_RATE)
                sent = _encode_audio(container, audio_stream, audio, sent, upto)
        container.mux(video_stream.encode())
        if audio is not None and audio_stream is not None:
            _encode_audio(container, audio_stream, audio, sent, len(audio))
            container.mux(audio_stream.encode())


def _encode_audio(container: Any, stream: Any, audio: np.ndarray, sent: int, upto: int) -> int:
    chunk = audio[sent:upto]
    if len(chunk):
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(chunk)[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, sent, Fraction(1, SAMPLE_RATE)
        container.mux(stream.encode(frame))
    return sent + len(chunk)


def _chain(first: np.ndarray, rest: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    yield first
    yield from rest
