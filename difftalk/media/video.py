"""Pictures in and out: probe any file, read it by timestamps at a fixed rate, write H.264 with sound.

Time 0 of a file is its first picture, for the sound too (`difftalk.media.audio`), whatever offset the container gives
its streams; so that clips of any source lie on the same clock.

Two readers. Sources are read with PyAV: it says where a stream is damaged, whereas decord hands out concealed
frames without a word (a 6 s 1080p file with 3,000 bytes overwritten: 160 of 160 frames "read"). The pipeline's own
crops and samples, which are whole, are read with decord, and with PyAV where decord cannot open them.
"""

import io
import logging
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from difftalk.runtime.errors import ClipError, UserError
from difftalk.runtime.files import atomic_file

FPS = 25
SOUND_RATE = 16_000
# Some containers round timestamps to whole milliseconds; a picture this little "too late" is the one that was meant.
TIME_TOLERANCE_S = 0.6e-3
# A stream may end this much before its container says, without being called truncated.
SHORTFALL_S = 0.5

# Files that are taken for videos.
SUFFIXES = frozenset(
    (".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4")
    + (".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".ts", ".webm", ".wmv")
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class VideoInfo:
    """What a file holds.

    Args:
        width, height: pixels as shown (rotation and pixel aspect applied).
        fps: mean pictures per second.
        duration_s: end of the last picture, on the file's clock (0 = first picture).
        has_audio: whether there is an audio stream.
        codec: of the video stream, such as `h264`.
        sound_s: end of the sound on the same clock; None without audio, or where the container does not say.
    """

    width: int
    height: int
    fps: float
    duration_s: float
    has_audio: bool
    codec: str
    sound_s: float | None = None


def probe(path: str | Path) -> VideoInfo:
    """Open `path` and decode its first picture.

    Raises:
        ClipError: `cannot_decode` if it does not open or its first picture does not decode, `no_video`.
    """
    with open_media(path) as container:
        stream = video_stream(container, path)
        stream.codec_context.thread_count = 1
        try:
            first = next(container.decode(stream), None)
        except av.FFmpegError as e:
            raise ClipError("cannot_decode", f"{Path(path).name}: no picture decodes ({reason_of(e)})") from e
        if first is None:
            raise ClipError("cannot_decode", f"{Path(path).name}: no picture in the video stream")
        width, height = _shown_size(first, stream.sample_aspect_ratio)
        origin = origin_s(stream, first)
        sound = audio_stream(container)
        info = {
            "fps": float(stream.average_rate or stream.guessed_rate or FPS),
            "has_audio": sound is not None,
            "codec": stream.codec_context.name,
            "sound_s": _end_s(container, sound, origin) if sound is not None else None,
        }
        duration_s = _end_s(container, stream, origin)
    return VideoInfo(
        width, height, duration_s=_scan_end_s(path, origin) if duration_s is None else duration_s, **info
    )


def length_s(file: Path) -> float:
    """Whole 25 fps pictures for which there is sound too, in seconds; 0 for a file that `fetch` will reject."""
    try:
        info = probe(file)
    except ClipError:
        return 0.0
    length_s = min(info.duration_s, info.sound_s) if info.sound_s is not None else info.duration_s
    return max(math.floor(length_s * FPS + 1e-6) / FPS, 0.0)


class Picture:
    """A decoded picture whose pixels become RGB where they are asked for: `picture[y0:y1, x0:x1]`, `picture[:, :]`.

    The same bytes as that part of the whole, which costs as much as decoding at 1080p. `shape` is `(H, W, 3)`.
    """

    def __init__(self, frame: Any, size: tuple[int, int]) -> None:
        self.shape = (size[1], size[0], 3)
        self._frame = frame
        self._whole: np.ndarray | None = None
        plain = frame.format.name in ("yuv420p", "yuvj420p") and not _quarter_turns(frame)
        self._in_parts = plain and size == (frame.width, frame.height)

    def __getitem__(self, part: tuple[slice, slice]) -> np.ndarray:
        (y0, y1, _), (x0, x1, _) = (s.indices(n) for s, n in zip(part, self.shape, strict=False))
        # Colour has half the resolution: parts begin and end between its pixels.
        left, top, right, bottom = x0 - x0 % 2, y0 - y0 % 2, x1 + x1 % 2, y1 + y1 % 2
        beyond = right > self.shape[1] or bottom > self.shape[0] or right <= left or bottom <= top
        most = 2 * (right - left) * (bottom - top) > self.shape[0] * self.shape[1]
        if self._whole is not None or not self._in_parts or beyond or most:
            if self._whole is None:
                self._whole = _rgb(self._frame, (self.shape[1], self.shape[0]))
            return self._whole[y0:y1, x0:x1]
        return _rgb_part(self._frame, left, top, right, bottom)[y0 - top : y1 - top, x0 - left : x1 - left]

    def scaled(self, width: int, height: int) -> np.ndarray:
        """The whole picture at another size, `(height, width, 3)`: a small one costs less than the picture itself."""
        return _rgb(self._frame, (width, height))


def read_frames(
    path: str | Path,
    start_s: float = 0.0,
    end_s: float | None = None,
    fps: float = FPS,
    size: tuple[int, int] | None = None,
) -> Iterator[np.ndarray]:
    """As `read_pictures`, as `(H, W, 3)` uint8 RGB arrays."""
    for picture in read_pictures(path, start_s, end_s, fps, size):
        yield picture[:, :]


def read_pictures(
    path: str | Path,
    start_s: float = 0.0,
    end_s: float | None = None,
    fps: float = FPS,
    size: tuple[int, int] | None = None,
) -> Iterator[Picture]:
    """Yield pictures: number k is what the file shows at `start_s + k / fps`.

    There are `round((end_s - start_s) * fps)` of them, or fewer where the file ends earlier by less than
    half a second. Memory holds two pictures at a time.

    Args:
        start_s, end_s: seconds from the first picture; None (or NaN) means up to the end.
        fps: pictures per second of the output; those of the source are repeated or left out as needed.
        size: (width, height) in pixels to scale to, None keeps the size shown.

    Raises:
        ClipError: `no_video`; `cannot_decode` with the time at which the stream is broken or ends too early.
    """
    name = Path(path).name
    info = probe(path)
    shape = size or (info.width, info.height)
    wanted_end = info.duration_s if end_s is None or np.isnan(end_s) else end_s
    count = round((wanted_end - start_s) * fps)
    k = 0
    shown: tuple[float, av.VideoFrame] | None = None
    reached = 0.0
    for time_s, frame in _decode_from(path, start_s):
        while k < count and shown is not None and start_s + k / fps < time_s - TIME_TOLERANCE_S:
            yield Picture(shown[1], shape)
            k += 1
        if k >= count:
            return
        shown = (time_s, frame)
        reached = time_s + _frame_duration_s(frame, info.fps)
    expected_end = min(wanted_end, info.duration_s)
    if shown is None or reached < expected_end - SHORTFALL_S or reached < start_s:
        raise ClipError("cannot_decode", f"{name}: the pictures end at {reached:.2f} s of {wanted_end:.2f} s")
    last = Picture(shown[1], shape)
    while k < count and start_s + k / fps < reached + 0.5 / fps:
        yield last
        k += 1


def read_video(data: bytes | str | Path) -> np.ndarray:
    """Every picture of one of the pipeline's own files (a path, or the bytes of one): `(T, H, W, 3)` uint8 RGB.

    Raises:
        ClipError: `cannot_decode`.
    """
    import decord

    source = io.BytesIO(data) if isinstance(data, bytes) else str(data)
    try:
        reader = decord.VideoReader(source, num_threads=1)
        return reader.get_batch(range(len(reader))).asnumpy()
    except (decord.DECORDError, RuntimeError) as e:
        logger.debug("decord cannot read %s (%s): PyAV does", "bytes" if isinstance(data, bytes) else data, e)
    source = io.BytesIO(data) if isinstance(data, bytes) else str(data)
    try:
        with av.open(source, "r") as container:
            return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
    except (av.FFmpegError, IndexError, ValueError) as e:
        raise ClipError("cannot_decode", f"{'bytes' if isinstance(data, bytes) else data}: {e}") from e


def write_video(
    path: str | Path,
    frames: Iterable[np.ndarray] | np.ndarray,
    *,
    fps: float = FPS,
    sound: np.ndarray | None = None,
    crf: int = 10,
    pix_fmt: str = "yuv420p",
    metadata: dict[str, str] | None = None,
) -> None:
    """Write an mp4 of H.264 and, with `sound`, AAC. The same input gives the same bytes.

    Args:
        frames: `(H, W, 3)` uint8 RGB pictures, all of one size; an iterator is consumed as it is encoded.
        fps: pictures per second; an int or a float such as 29.97.
        sound: `(N,)` int16, mono, 16 kHz, sample 0 at the time of the first picture.
        crf: x264's constant rate factor, 0 (lossless) to 51.
        pix_fmt: `yuv420p` plays everywhere, `yuv444p` keeps full colour resolution.
        metadata: container tags, such as `comment`.

    Raises:
        UserError: if there are no pictures, or a side is odd with `yuv420p`.
    """
    with atomic_file(path) as beside:
        x264 = {"crf": str(crf), "preset": "medium"}
        _encode(str(beside), frames, fps, sound, x264, pix_fmt, metadata, {"movflags": "+faststart"})


def encode_video(
    frames: Iterable[np.ndarray] | np.ndarray,
    *,
    fps: float = FPS,
    sound: np.ndarray | None = None,
    crf: int = 10,
    preset: str = "medium",
    pix_fmt: str = "yuv420p",
    metadata: dict[str, str] | None = None,
) -> bytes:
    """As `write_video`, to bytes."""
    out = io.BytesIO()
    _encode(out, frames, fps, sound, {"crf": str(crf), "preset": preset}, pix_fmt, metadata, {})
    return out.getvalue()


def _encode(
    target: str | io.BytesIO,
    frames: Iterable[np.ndarray] | np.ndarray,
    fps: float,
    sound: np.ndarray | None,
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
        video = container.add_stream("libx264", rate=rate, options=x264)
        video.width, video.height, video.pix_fmt = width, height, pix_fmt
        # One thread: x264's output depends on their number. BT.601, limited range, is said in the stream.
        video.codec_context.thread_count = 1
        video.codec_context.colorspace = av.video.reformatter.Colorspace.ITU601
        video.codec_context.color_range = av.video.reformatter.ColorRange.MPEG
        audio, samples = None, np.zeros(0, np.int16)
        if sound is not None:
            samples = sound
            audio = container.add_stream("aac", rate=SOUND_RATE, layout="mono")
            audio.bit_rate = 96_000
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
            container.mux(video.encode(frame))
            if audio is not None:
                upto = round((k + 1) / rate * SOUND_RATE)
                sent = _encode_sound(container, audio, samples, sent, upto)
        container.mux(video.encode())
        if audio is not None:
            _encode_sound(container, audio, samples, sent, len(samples))
            container.mux(audio.encode())


def _encode_sound(container: Any, stream: Any, sound: np.ndarray, sent: int, upto: int) -> int:
    chunk = sound[sent:upto]
    if len(chunk):
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(chunk)[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = SOUND_RATE, sent, Fraction(1, SOUND_RATE)
        container.mux(stream.encode(frame))
    return sent + len(chunk)


def _chain(first: np.ndarray, rest: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    yield first
    yield from rest


def open_media(path: str | Path) -> Any:
    """An open PyAV container.

    Raises:
        ClipError: `cannot_decode` if the file is of an unknown kind or damaged.
        UserError: if it is not there or must not be read, which is not the clip's fault.
    """
    try:
        return av.open(str(path), metadata_errors="replace")
    except (FileNotFoundError, PermissionError) as e:
        raise UserError(f"{path}: {reason_of(e)}") from None
    except (av.FFmpegError, OSError) as e:
        raise ClipError("cannot_decode", f"{Path(path).name}: does not open ({reason_of(e)})") from e


def video_stream(container: Any, path: str | Path) -> Any:
    """The video stream that a player would show: the largest, not a cover picture.

    Raises:
        ClipError: `no_video`.
    """
    streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    streams = [s for s in streams if s.codec_context is not None]
    if not streams:
        raise ClipError("no_video", f"{Path(path).name}: no video stream")
    return max(streams, key=lambda s: s.codec_context.width * s.codec_context.height)


def audio_stream(container: Any) -> Any | None:
    """The first audio stream that can be decoded."""
    return next((s for s in container.streams.audio if s.codec_context is not None), None)


def origin_s(stream: Any, first: Any = None) -> float:
    """Time 0 of the file, in seconds of its container's clock: where its video starts."""
    if stream.start_time is not None:
        return float(stream.start_time * stream.time_base)
    return float(first.time) if first is not None and first.time is not None else 0.0


def reason_of(error: Exception) -> str:
    """What FFmpeg said, on one line."""
    return (getattr(error, "strerror", None) or str(error)).replace("\n", " ")


def _decode_from(path: str | Path, start_s: float) -> Iterator[tuple[float, Any]]:
    """Yield (seconds on the file's clock, frame) from the last picture at or before `start_s` on, or earlier."""
    for seek in [True, False] if start_s > 1.0 else [False]:
        first = True
        for time_s, frame in _decode_all(path, start_s - 1.0 if seek else None):
            if first and seek and time_s > start_s:
                break  # the index led past the start: read the file from its beginning
            first = False
            yield time_s, frame
        else:
            if not first or not seek:
                return


def _decode_all(path: str | Path, seek_s: float | None) -> Iterator[tuple[float, Any]]:
    name = Path(path).name
    with open_media(path) as container:
        stream = video_stream(container, path)
        # Clips run in a pool of processes, one thread each.
        stream.codec_context.thread_count = 1
        origin = origin_s(stream)
        time_s = 0.0
        if seek_s is not None:
            container.seek(round((seek_s + origin) / stream.time_base), stream=stream, backward=True)
        key_seen = False
        try:
            for number, frame in enumerate(container.decode(stream)):
                if frame.time is not None:
                    if number == 0 and stream.start_time is None and seek_s is None:
                        origin = frame.time
                    time_s = frame.time - origin
                elif number:
                    time_s += _frame_duration_s(frame, float(stream.average_rate or FPS))
                key_seen = key_seen or bool(frame.key_frame)
                # After a jump, pictures before the first key frame lack what they refer to: no damage.
                if frame.is_corrupt and (key_seen or seek_s is None):
                    raise ClipError("cannot_decode", f"{name}: the stream is damaged at {time_s:.2f} s")
                yield time_s, frame
        except av.FFmpegError as e:
            raise ClipError("cannot_decode", f"{name}: broken after {time_s:.2f} s ({reason_of(e)})") from e


def _frame_duration_s(frame: Any, fps: float) -> float:
    if frame.duration and frame.time_base:
        return float(frame.duration * frame.time_base)
    return 1.0 / fps


def _quarter_turns(frame: Any) -> int:
    return round((frame.rotation or 0) / 90) % 4


def _shown_size(frame: Any, aspect: Fraction | None) -> tuple[int, int]:
    """(width, height) in square pixels, turned as the file asks."""
    width = round(frame.width * aspect) if aspect else frame.width
    return (frame.height, width) if _quarter_turns(frame) % 2 else (width, frame.height)


def _rgb(frame: Any, size: tuple[int, int]) -> np.ndarray:
    turns = _quarter_turns(frame)
    width, height = size
    if turns % 2:
        width, height = height, width
    interpolation = "AREA" if width < frame.width else "BICUBIC"
    picture = frame.to_ndarray(
        format="rgb24", width=width, height=height, interpolation=interpolation, threads=1
    )
    return np.ascontiguousarray(np.rot90(picture, turns)) if turns else picture


def _rgb_part(frame: Any, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    """A part of a 4:2:0 picture, between even rows and columns: `(y1 - y0, x1 - x0, 3)` uint8 RGB."""
    height, width = y1 - y0, x1 - x0
    cut = np.empty((height * 3 // 2, width), np.uint8)
    light, *colours = (np.frombuffer(p, np.uint8).reshape(-1, p.line_size) for p in frame.planes)
    cut[:height] = light[y0:y1, x0:x1]
    for into, plane in zip(cut[height:].reshape(2, height // 2, width // 2), colours, strict=True):
        into[:] = plane[y0 // 2 : y1 // 2, x0 // 2 : x1 // 2]
    part = av.VideoFrame.from_ndarray(cut, format=frame.format.name)
    part.colorspace, part.color_range = frame.colorspace, frame.color_range
    return part.to_ndarray(format="rgb24", interpolation="BICUBIC", threads=1)


def _end_s(container: Any, stream: Any, origin: float) -> float | None:
    """End of `stream` on the file's clock, as the container says; None where it does not."""
    if stream.duration is not None:
        start = stream.start_time if stream.start_time is not None else 0
        return float((start + stream.duration) * stream.time_base) - origin
    if container.duration is not None:
        start = container.start_time or 0
        return (start + container.duration) / av.time_base - origin
    return None


def _scan_end_s(path: str | Path, origin: float) -> float:
    """End of the last picture by reading all packets: for recordings whose header gives no length."""
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
