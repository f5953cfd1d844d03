"""Probe a video file: streams, sizes, lengths, and where its clock starts.

Time 0 of a file is its first frame, for the audio too (`difftalk.media.audio`), whatever offset the container
gives its streams; so that clips of any source lie on the same clock.
"""

import logging
import math
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from difftalk.media.clock import FPS
from difftalk.runtime.errors import ClipError, UserError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class VideoInfo:
    """What a file holds.

    Args:
        width, height: pixels as shown (rotation and pixel aspect applied).
        fps: mean frames per second.
        duration_s: end of the last frame, on the file's clock (0 = first frame).
        has_audio: whether there is an audio stream.
        codec: of the video stream, such as `h264`.
        audio_s: end of the audio on the same clock; None without audio, or where the container does not say.
    """

    width: int
    height: int
    fps: float
    duration_s: float
    has_audio: bool
    codec: str
    audio_s: float | None = None


def probe(path: str | Path) -> VideoInfo:
    """Open `path` and decode its first frame.

    Raises:
        ClipError: `cannot_decode` if it does not open or its first frame does not decode, `no_video`.
    """
    with open_media(path) as container:
        stream = video_stream(container, path)
        stream.codec_context.thread_count = 1
        try:
            first = next(container.decode(stream), None)
        except av.FFmpegError as e:
            raise ClipError("cannot_decode", f"{Path(path).name}: no frame decodes ({reason_of(e)})") from e
        if first is None:
            raise ClipError("cannot_decode", f"{Path(path).name}: no frame in the video stream")
        width, height = _shown_size(first, stream.sample_aspect_ratio)
        origin = origin_s(stream, first)
        audio = audio_stream(container)
        info = {
            "fps": float(stream.average_rate or stream.guessed_rate or FPS),
            "has_audio": audio is not None,
            "codec": stream.codec_context.name,
            "audio_s": _end_s(container, audio, origin) if audio is not None else None,
        }
        duration_s = _end_s(container, stream, origin)
    return VideoInfo(
        width, height, duration_s=_scan_end_s(path, origin) if duration_s is None else duration_s, **info
    )


def length_s(file: Path) -> float:
    """Return the seconds of whole 25 fps frames with audio; 0 for a file that `fetch` will reject."""
    try:
        info = probe(file)
    except ClipError:
        return 0.0
    length_s = min(info.duration_s, info.audio_s) if info.audio_s is not None else info.duration_s
    return max(math.floor(length_s * FPS + 1e-6) / FPS, 0.0)


def open_media(path: str | Path) -> Any:
    """Return an open PyAV container.

    Raises:
        ClipError: `cannot_decode` if the file is of an unknown kind or damaged.
        UserError: if it does not exist or must not be read, which is not the clip's fault.
    """
    try:
        return av.open(str(path), metadata_errors="replace")
    except (FileNotFoundError, PermissionError) as e:
        raise UserError(f"{path}: {reason_of(e)}") from None
    except (av.FFmpegError, OSError) as e:
        raise ClipError("cannot_decode", f"{Path(path).name}: does not open ({reason_of(e)})") from e


def video_stream(container: Any, path: str | Path) -> Any:
    """Return the video stream that a player would show: the largest, not a cover image.

    Raises:
        ClipError: `no_video`.
    """
    streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    streams = [s for s in streams if s.codec_context is not None]
    if not streams:
        raise ClipError("no_video", f"{Path(path).name}: no video stream")
    return max(streams, key=lambda s: s.codec_context.width * s.codec_context.height)


def audio_stream(container: Any) -> Any | None:
    """Return the first audio stream that can be decoded; None where there is none."""
    return next((s for s in container.streams.audio if s.codec_context is not None), None)


def origin_s(stream: Any, first: Any = None) -> float:
    """Return time 0 of the file, in seconds of its container's clock: where its video starts."""
    if stream.start_time is not None:
        return float(stream.start_time * stream.time_base)
    return float(first.time) if first is not None and first.time is not None else 0.0


def reason_of(error: Exception) -> str:
    """Return FFmpeg's message, on one line."""
    return (getattr(error, "strerror", None) or str(error)).replace("\n", " ")


def quarter_turns(frame: Any) -> int:
    """Return by how many quarter turns, counterclockwise, a frame is shown rotated: 0..3."""
    return round((frame.rotation or 0) / 90) % 4


def _shown_size(frame: Any, aspect: Fraction | None) -> tuple[int, int]:
    """Return (width, height) in square pixels, rotated as the file says."""
    width = round(frame.width * aspect) if aspect else frame.width
    return (frame.height, width) if quarter_turns(frame) % 2 else (width, frame.height)


def _end_s(container: Any, stream: Any, origin: float) -> float | None:
    """Return the end of `stream` on the file's clock, as the container says; None where it does not."""
    if stream.duration is not None:
        start = stream.start_time if stream.start_time is not None else 0
        return float((start + stream.duration) * stream.time_base) - origin
    if container.duration is not None:
        start = container.start_time or 0
        return (start + container.duration) / av.time_base - origin
    return None


def _scan_end_s(path: str | Path, origin: float) -> float:
    """Return the end of the last frame by reading all packets, where the header gives no length."""
    end = 0.0
    with open_media(path) as container:
        stream = video_stream(container, path)
        try:
            for packet in container.demux(stream):
                if packet.pts is not None:
                    end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        except av.FFmpegError as e:
            logger.debug("%s: packets end at %.2f s (%s)", path, end, e)
    return end - origin
