"""Encode and mux videos: H.264 and AAC in mp4, the same input giving the same bytes."""

import heapq
import io
import itertools
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from difftalk.media.clock import FPS, SAMPLE_RATE
from difftalk.media.damage import reading
from difftalk.runtime.errors import ClipError, UserError
from difftalk.runtime.files import atomic_file

# Of sound that is written for people to hear; one that begins later than this is put in its place.
HIGH_RATE, MAX_LATE_S = 48_000, 0.02


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
    """Write an mp4 of H.264 and, with `audio`, AAC; the same input gives the same bytes.

    Args:
        path: the file to write.
        frames: `(H, W, 3)` uint8 RGB arrays, all of one size; an iterator is consumed as it is encoded.
        fps: frames per second; an int or a float such as 29.97.
        audio: `(N,)` int16, mono, 16 kHz, sample 0 at the time of the first frame.
        crf: x264's constant rate factor, 0 (lossless) to 51.
        pix_fmt: `yuv420p` plays everywhere, `yuv444p` keeps full colour resolution.
        metadata: container tags, such as `comment`.

    Raises:
        UserError: if there are no frames, or a side is odd with `yuv420p`.
    """
    with atomic_file(path) as tmp:
        x264 = {"crf": str(crf), "preset": "medium"}
        _encode(str(tmp), frames, fps, audio, x264, pix_fmt, metadata, {"movflags": "+faststart"})


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
    """Encode as `write_video` does, to bytes; `preset` is x264's."""
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
    remaining = iter(frames)
    first = next(remaining, None)
    if first is None:
        raise UserError("a video needs at least one frame")
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
        for k, pixels in enumerate(itertools.chain([first], remaining)):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
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
    """Encode the samples from `sent` to `upto`, and return how many are encoded by then."""
    chunk = audio[sent:upto]
    if len(chunk):
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(chunk)[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, sent, Fraction(1, SAMPLE_RATE)
        container.mux(stream.encode(frame))
    return sent + len(chunk)


def with_audio(
    video_file: Path,
    audio_file: Path,
    samples: np.ndarray,
    out: Path,
    seconds: float,
    metadata: dict[str, str] | None = None,
) -> None:
    """Copy the video of an mp4 and add sound, as AAC: that of a sound file at 48 kHz, in up to two channels.

    A file with a video stream has a clock of its own: of such a one, and of one whose sound begins late, the
    decoded samples are taken instead.

    Args:
        video_file: its first video stream is copied.
        audio_file: any file that FFmpeg reads.
        samples: its audio as `read_audio` decodes it, `(N,)` int16 mono 16 kHz.
        out: the mp4 to write.
        seconds: where the sound ends; what is shorter is followed by silence.
        metadata: container tags.

    Raises:
        ClipError: `cannot_decode`.
    """
    with (
        reading(audio_file, "as the sound"),
        av.open(str(video_file)) as video,
        av.open(str(audio_file)) as audio,
        av.open(str(out), "w", format="mp4", options={"movflags": "+faststart"}) as both,
    ):
        both.metadata.update(metadata or {})
        copied = both.add_stream_from_template(video.streams.video[0])
        stream = audio.streams.audio[0]
        base = stream.time_base or Fraction(1)
        late_s = float((stream.start_time or 0) * base)
        as_it_is = not audio.streams.video and late_s < MAX_LATE_S
        rate, layout = (HIGH_RATE, "stereo" if stream.channels > 1 else "mono") if as_it_is else (
            SAMPLE_RATE, "mono"
        )  # fmt: skip
        encoded = both.add_stream("aac", rate=rate, layout=layout)
        encoded.bit_rate = 192_000 if as_it_is else 96_000
        chunks = _resampled(audio, stream, rate, layout) if as_it_is else iter([samples[None]])
        packets = _packets(video, video.streams.video[0], 0)
        sound = _aac(encoded, _exactly(chunks, round(seconds * rate), layout), rate, layout)
        for _, number, packet in heapq.merge(packets, sound, key=lambda p: p[:2]):
            if number == 0:
                packet.stream = copied
            both.mux(packet)


def _resampled(container: Any, stream: Any, rate: int, layout: str) -> Iterator[np.ndarray]:
    """Yield the audio of a stream as (channels, n) int16."""
    resampler = av.AudioResampler(format="s16p", layout=layout, rate=rate)
    for frame in container.decode(stream):
        frame.pts = None
        yield from (part.to_ndarray() for part in resampler.resample(frame))
    yield from (part.to_ndarray() for part in resampler.resample(None))


def _exactly(chunks: Iterator[np.ndarray], count: int, layout: str) -> Iterator[np.ndarray]:
    """Yield `count` samples a channel: cut, or followed by silence."""
    left = count
    for chunk in chunks:
        if left > 0 and chunk.shape[1]:
            yield chunk[:, :left]
        left -= chunk.shape[1]
    if left > 0:
        yield np.zeros((2 if layout == "stereo" else 1, left), np.int16)


def _aac(
    stream: Any, chunks: Iterator[np.ndarray], rate: int, layout: str
) -> Iterator[tuple[float, int, Any]]:
    """Yield (seconds, 1, packet) of an AAC stream."""
    sent = 0
    for chunk in itertools.chain(chunks, [None]):
        frame = None
        if chunk is not None:
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(chunk), format="s16p", layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = rate, sent, Fraction(1, rate)
            sent += chunk.shape[1]
        for packet in stream.encode(frame):
            yield float(packet.dts * packet.time_base), 1, packet


def mux(video_file: Path, audio_file: Path, out: Path) -> None:
    """Copy the video stream of one file and the audio stream of another into one Matroska file.

    Nothing is decoded; the same input gives the same bytes.

    Raises:
        ClipError: `cannot_decode` if one of them does not hold its stream.
    """
    with (
        reading(video_file, f"with {audio_file.name}"),
        atomic_file(out) as tmp,
        av.open(str(video_file)) as video,
        av.open(str(audio_file)) as audio,
        # The same packets give the same bytes, so that checksums hold.
        av.open(str(tmp), "w", format="matroska", options={"fflags": "+bitexact"}) as both,
    ):
        if not video.streams.video or not audio.streams.audio:
            raise ClipError("cannot_decode", f"{video_file.name}, {audio_file.name}: a stream is missing")
        streams = [video.streams.video[0], audio.streams.audio[0]]
        targets = [both.add_stream_from_template(s) for s in streams]
        packets = [_packets(video, streams[0], 0), _packets(audio, streams[1], 1)]
        for _, number, packet in heapq.merge(*packets, key=lambda p: p[:2]):
            packet.stream = targets[number]
            both.mux(packet)


def _packets(container: Any, stream: Any, number: int) -> Iterator[tuple[float, int, Any]]:
    """Yield (seconds, number, packet) of a stream, in the order of decoding."""
    for packet in container.demux(stream):
        if packet.dts is not None:
            yield float(packet.dts * packet.time_base), number, packet
