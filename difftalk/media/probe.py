"""Probe a video file: streams, sizes, lengths, and where its clock starts.

Time 0 of a file is its first frame, for the audio too (`difftalk.media.audio`), whatever offset the container
gives its streams; so that clips of any source lie on the same clock.
"""

import math
import os
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import av

from difftalk.media.clock import FPS
from difftalk.media.damage import open_container, packets_of, reading
from difftalk.media.display import orientation
from difftalk.media.ends import GUESSED, LONGEST_S, FirstPart, first_part, measured_ends
from difftalk.runtime.errors import ClipError, UserError

# Packets that a cut recording may begin with before its first frame decodes.
MAX_BROKEN_PACKETS = 250
# Formats that name other files, which a file from elsewhere must not have read.
PLAYLISTS = frozenset(("concat", "dash", "hls", "hls,applehttp", "sdp"))
# Wider or narrower pixels are those of a damaged header.
MAX_ASPECT = 10


@dataclass(frozen=True)
class VideoInfo:
    """What a file holds.

    Args:
        width, height: pixels as shown (rotation and pixel aspect applied).
        fps: mean frames per second.
        duration_s: end of the last frame, on the file's clock (0 = first frame).
        has_audio: whether there is an audio stream.
        codec: of the video stream, such as `h264`.
        audio_s: end of the audio on the same clock; None without audio.
        audio_start_s: start of the audio on the same clock; None where the container does not say.
        lost_s: seconds of the file after the point where its clock is set back, at which it is taken to end.
    """

    width: int
    height: int
    fps: float
    duration_s: float
    has_audio: bool
    codec: str
    audio_s: float | None = None
    audio_start_s: float | None = None
    lost_s: float = 0.0


def probe(path: str | Path) -> VideoInfo:
    """Open `path`, decode its first frame, and measure what its header does not say.

    Asked again for the same file, a process answers from memory.

    Raises:
        ClipError: `cannot_decode` if it does not open or its first frame does not decode, `no_video`.
        UserError: if it does not exist or must not be read.
    """
    try:
        about = Path(path).stat()
    except (OSError, ValueError):
        return _probe(str(path), 0, 0)  # says why
    return _probe(str(path), about.st_size, about.st_mtime_ns)


@lru_cache(maxsize=4096)
def _probe(path: str, _size: int, _changed: int) -> VideoInfo:
    name = Path(path).name
    with open_media(path) as container, reading(path, "no frame decodes"):
        stream = video_stream(container, path)
        stream.codec_context.thread_count = 1
        first = _first_frame(container, stream)
        if first is None:
            raise ClipError("cannot_decode", f"{name}: no frame in the video stream")
        width, height = _shown_size(first, stream.sample_aspect_ratio, name)
        origin = origin_s(stream, first)
        audio = audio_stream(container)
        ends = {s.index: _said_end_s(container, s) for s in (stream, audio) if s is not None}
        unsaid = [index for index, end in ends.items() if end is None]
        guessed = container.format.name in GUESSED
        part = first_part(path) if guessed else FirstPart()
        measured = part.ends if guessed else measured_ends(path, unsaid) if unsaid else {}
        # A stream without a packet ends where it begins.
        end_of = {
            i: (end if end is not None else measured.get(i, origin)) - origin for i, end in ends.items()
        }
        starts_s = None
        if audio is not None and audio.start_time is not None and not guessed:
            starts_s = float(audio.start_time * audio.time_base) - origin
        return VideoInfo(
            width=width,
            height=height,
            fps=float(stream.average_rate or stream.guessed_rate or FPS),
            duration_s=end_of[stream.index],
            has_audio=audio is not None,
            codec=stream.codec_context.name,
            audio_s=end_of[audio.index] if audio is not None else None,
            audio_start_s=starts_s,
            lost_s=part.lost_s,
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
    # Asked of the system: FFmpeg says "not permitted" of damaged headers, too.
    if not os.path.exists(path) or not os.access(path, os.R_OK):
        why = "Permission denied" if os.path.exists(path) else "No such file or directory"
        raise UserError(f"{path}: {why}")
    with reading(path, "does not open"):
        container = open_container(path)
    if container.format.name in PLAYLISTS:
        kind = container.format.name
        container.close()
        raise ClipError("cannot_decode", f"{Path(path).name}: a playlist ({kind}), no video")
    return container


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
    """Return the audio stream that a player would take, such as the default one; None where none decodes."""
    best = container.streams.best("audio")
    if best is not None and best.codec_context is not None:
        return best
    return next((s for s in container.streams.audio if s.codec_context is not None), None)


def origin_s(stream: Any, first: Any = None) -> float:
    """Return time 0 of the file, in seconds of its container's clock: where its video starts."""
    if stream.start_time is not None:
        return float(stream.start_time * stream.time_base)
    return float(first.time) if first is not None and first.time is not None else 0.0


def _first_frame(container: Any, stream: Any) -> Any | None:
    """Return the first frame that decodes; what a cut recording begins with often does not."""
    failure: Exception | None = None
    for number, packet in enumerate(packets_of(container, stream)):
        try:
            for frame in packet.decode():
                return frame
        except av.InvalidDataError as e:
            failure = failure or e
            if number >= MAX_BROKEN_PACKETS:
                break
    if failure is not None:
        raise failure
    return None


def _shown_size(frame: Any, aspect: Fraction | None, name: str) -> tuple[int, int]:
    """Return (width, height) in square pixels, laid out as the file says."""
    if aspect and not 1 / MAX_ASPECT <= aspect <= MAX_ASPECT:
        raise ClipError("cannot_decode", f"{name}: pixels of {aspect.numerator}:{aspect.denominator}")
    width = max(round(frame.width * aspect), 1) if aspect else frame.width
    return (frame.height, width) if orientation(frame).transposed else (width, frame.height)


def _said_end_s(container: Any, stream: Any) -> float | None:
    """Return the end of a stream on the container's clock, as it says; None where it says none for it."""
    length = stream.duration
    if length is None or container.format.name in GUESSED or not 0 < length * stream.time_base < LONGEST_S:
        return None
    return float(((stream.start_time or 0) + length) * stream.time_base)
