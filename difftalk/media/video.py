"""Decode videos by timestamp, at a fixed rate.

Two readers. Sources are read with PyAV: it says where a stream is damaged, whereas decord hands out concealed
frames without a word (a 6 s 1080p file with 3,000 bytes overwritten: 160 of 160 frames "read"). The
pipeline's own crops and samples are whole: they are read with decord, and with PyAV where decord fails.
"""

import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np

from difftalk.media.clock import FPS
from difftalk.media.probe import open_media, origin_s, probe, quarter_turns, reason_of, video_stream
from difftalk.runtime.errors import ClipError

# Some containers round timestamps to whole milliseconds; a frame that is this little too
# late is the right one.
TIME_TOLERANCE_S = 0.6e-3
# A stream may end this much before its container says, without being called truncated.
SHORTFALL_S = 0.5

logger = logging.getLogger(__name__)


class LazyFrame:
    """A decoded frame that is converted to RGB where it is indexed: `frame[y0:y1, x0:x1]`, `frame[:, :]`.

    The bytes are those of that part of the whole frame, whose conversion costs as much as decoding it at
    1080p. `shape` is `(H, W, 3)`.
    """

    def __init__(self, frame: Any, size: tuple[int, int]) -> None:
        self.shape = (size[1], size[0], 3)
        self._frame = frame
        self._whole: np.ndarray | None = None
        plain = frame.format.name in ("yuv420p", "yuvj420p") and not quarter_turns(frame)
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
        """Return the whole frame at another size, `(height, width, 3)`; a small one costs less."""
        return _rgb(self._frame, (width, height))


def read_frames(
    path: str | Path,
    start_s: float = 0.0,
    end_s: float | None = None,
    fps: float = FPS,
    size: tuple[int, int] | None = None,
) -> Iterator[np.ndarray]:
    """Yield the frames of `read_lazy_frames` as `(H, W, 3)` uint8 RGB arrays."""
    for frame in read_lazy_frames(path, start_s, end_s, fps, size):
        yield frame[:, :]


def read_lazy_frames(
    path: str | Path,
    start_s: float = 0.0,
    end_s: float | None = None,
    fps: float = FPS,
    size: tuple[int, int] | None = None,
) -> Iterator[LazyFrame]:
    """Yield frames: number k is what the file shows at `start_s + k / fps`.

    There are `round((end_s - start_s) * fps)` of them, or fewer where the file ends earlier by less than
    half a second. Memory holds two frames at a time.

    Args:
        path: any file that FFmpeg reads.
        start_s: seconds from the first frame of the file.
        end_s: seconds from the first frame of the file; None (or NaN) means up to the end.
        fps: frames per second of the output; those of the source are repeated or left out as needed.
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
            yield LazyFrame(shown[1], shape)
            k += 1
        if k >= count:
            return
        shown = (time_s, frame)
        reached = time_s + _frame_duration_s(frame, info.fps)
    expected_end = min(wanted_end, info.duration_s)
    if shown is None or reached < expected_end - SHORTFALL_S or reached < start_s:
        raise ClipError("cannot_decode", f"{name}: the video ends at {reached:.2f} s of {wanted_end:.2f} s")
    last = LazyFrame(shown[1], shape)
    while k < count and start_s + k / fps < reached + 0.5 / fps:
        yield last
        k += 1


def read_video(data: bytes | str | Path) -> np.ndarray:
    """Return all frames of one of the pipeline's own files, a path or its bytes: `(T, H, W, 3)` uint8 RGB.

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


def _decode_from(path: str | Path, start_s: float) -> Iterator[tuple[float, Any]]:
    """Yield (seconds on the file's clock, frame), from the last frame up to `start_s` or an earlier one."""
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
                # After a jump, frames before the first key frame lack what they refer to: no damage.
                if frame.is_corrupt and (key_seen or seek_s is None):
                    raise ClipError("cannot_decode", f"{name}: the stream is damaged at {time_s:.2f} s")
                yield time_s, frame
        except av.FFmpegError as e:
            raise ClipError("cannot_decode", f"{name}: broken after {time_s:.2f} s ({reason_of(e)})") from e


def _frame_duration_s(frame: Any, fps: float) -> float:
    if frame.duration and frame.time_base:
        return float(frame.duration * frame.time_base)
    return 1.0 / fps


def _rgb(frame: Any, size: tuple[int, int]) -> np.ndarray:
    """Return a frame as shown, scaled to (width, height): `(height, width, 3)` uint8 RGB."""
    turns = quarter_turns(frame)
    width, height = size
    if turns % 2:
        width, height = height, width
    interpolation = "AREA" if width < frame.width else "BICUBIC"
    pixels = frame.to_ndarray(
        format="rgb24", width=width, height=height, interpolation=interpolation, threads=1
    )
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels


def _rgb_part(frame: Any, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    """Return a part of a 4:2:0 frame, between even rows and columns: `(y1 - y0, x1 - x0, 3)` uint8 RGB."""
    height, width = y1 - y0, x1 - x0
    cut = np.empty((height * 3 // 2, width), np.uint8)
    light, *colours = (np.frombuffer(p, np.uint8).reshape(-1, p.line_size) for p in frame.planes)
    cut[:height] = light[y0:y1, x0:x1]
    for into, plane in zip(cut[height:].reshape(2, height // 2, width // 2), colours, strict=True):
        into[:] = plane[y0 // 2 : y1 // 2, x0 // 2 : x1 // 2]
    part = av.VideoFrame.from_ndarray(cut, format=frame.format.name)
    part.colorspace, part.color_range = frame.colorspace, frame.color_range
    return part.to_ndarray(format="rgb24", interpolation="BICUBIC", threads=1)
