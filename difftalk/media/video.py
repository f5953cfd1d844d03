"""Decode videos by timestamp, at a fixed rate.

Two readers. Sources are read with PyAV: it says where a stream is damaged, whereas decord hands out concealed
frames without a word (a 6 s 1080p file with 3,000 bytes overwritten: 160 of 160 frames "read"). The
pipeline's own crops and samples are whole: they are read with decord, and with PyAV where decord fails.
"""

import io
import itertools
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np

from difftalk.media.clock import FPS
from difftalk.media.damage import packets_of, reading
from difftalk.media.display import TimedFrame, deinterlaced
from difftalk.media.ends import jumps_back
from difftalk.media.lazy_frame import LazyFrame
from difftalk.media.probe import open_media, origin_s, probe, video_stream
from difftalk.media.timeline import LOOK_AHEAD, FrameClock
from difftalk.runtime.errors import ClipError

# Some containers round timestamps to whole milliseconds; a frame that is this little too
# late is the right one.
TIME_TOLERANCE_S = 0.6e-3
# A stream may end this much before its container says, without being called truncated.
SHORTFALL_S = 0.5
# Decoding begins so many seconds before a clip, in turn, until it reaches the clip's first frame.
RUN_UPS_S = (1.0, 10.0)
# A frame that stands for longer is no video.
MAX_STILL_S = 60.0

logger = logging.getLogger(__name__)


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
    for time_s, duration_s, frame in _decode_from(path, start_s):
        if shown is not None and k < count and time_s > max(shown[0], start_s) + MAX_STILL_S:
            raise ClipError("cannot_decode", f"{name}: no frame from {shown[0]:.2f} s to {time_s:.2f} s")
        while k < count and shown is not None and start_s + k / fps < time_s - TIME_TOLERANCE_S:
            yield LazyFrame(shown[1], shape, path)
            k += 1
        if k >= count:
            return
        shown = (time_s, frame)
        reached = time_s + duration_s
    expected_end = min(wanted_end, info.duration_s)
    if shown is None or reached < expected_end - SHORTFALL_S or reached < start_s:
        raise ClipError("cannot_decode", f"{name}: the video ends at {reached:.2f} s of {wanted_end:.2f} s")
    last = LazyFrame(shown[1], shape, path)
    while k < count and start_s + k / fps < reached + 0.5 / fps:
        yield last
        k += 1


def read_video(data: bytes | str | Path, numbers: list[int] | None = None) -> np.ndarray:
    """Return frames of one of the pipeline's own files, a path or its bytes: `(T, H, W, 3)` uint8 RGB.

    Args:
        data: the file.
        numbers: rising, of the frames that are wanted; None: all.

    Raises:
        ClipError: `cannot_decode`.
    """
    import decord

    source = io.BytesIO(data) if isinstance(data, bytes) else os.path.abspath(data)
    try:
        reader = decord.VideoReader(source, num_threads=1)
        return reader.get_batch(range(len(reader)) if numbers is None else numbers).asnumpy()
    except (decord.DECORDError, RuntimeError) as e:
        logger.debug("decord cannot read %s (%s): PyAV does", "bytes" if isinstance(data, bytes) else data, e)
    source = io.BytesIO(data) if isinstance(data, bytes) else os.path.abspath(data)
    name = "bytes" if isinstance(data, bytes) else data
    with reading(name), av.open(source, "r") as container:
        frames = enumerate(container.decode(video=0))
        wanted = None if numbers is None else set(numbers)
        return np.stack([f.to_ndarray(format="rgb24") for k, f in frames if wanted is None or k in wanted])


def _decode_from(path: str | Path, start_s: float) -> Iterator[TimedFrame]:
    """Yield frames with their times, from the last one up to `start_s` or from one before it.

    Jumps to a key frame a second before it, then further back, then reads from the beginning, until the first
    frame that decodes is not later.
    """
    for back_s in [*RUN_UPS_S, None] if start_s > RUN_UPS_S[0] else [None]:
        first = True
        seek_s = None if back_s is None else start_s - back_s
        for timed in deinterlaced(_decode_all(path, seek_s)):
            if first and seek_s is not None and timed[0] > start_s:
                break  # the index led past the start
            first = False
            yield timed
        else:
            if not first or seek_s is None:
                return


def _decode_all(path: str | Path, seek_s: float | None) -> Iterator[TimedFrame]:
    name = Path(path).name
    time_s, shown_s = 0.0, 0.0
    started = key_seen = False
    with reading(path), open_media(path) as container:
        stream = video_stream(container, path)
        # Clips run in a pool of processes, one thread each.
        stream.codec_context.thread_count = 1
        origin = origin_s(stream)
        fps = float(stream.average_rate or stream.guessed_rate or FPS)
        try:
            if seek_s is not None and not jumps_back(container, path):
                container.seek(round((seek_s + origin) / stream.time_base), stream=stream, backward=True)
            packets = packets_of(container, stream)
            ahead = list(itertools.islice(packets, LOOK_AHEAD))
            clock = FrameClock(stream, ahead)
            for packet in itertools.chain(ahead, packets):
                clock.send(packet)
                for frame in _decoded(packet, may_fail=not started and seek_s is not None):
                    told_s = clock.time_s(frame)
                    if told_s is None:
                        time_s += shown_s
                    else:
                        if not started and stream.start_time is None and seek_s is None:
                            origin = told_s
                        # Time never goes back: where it is set anew within a file, frames go on.
                        back = started and told_s - origin < time_s - TIME_TOLERANCE_S
                        time_s = time_s + shown_s if back else told_s - origin
                    shown_s = _frame_duration_s(frame, fps)
                    started = True
                    key_seen = key_seen or bool(frame.key_frame)
                    # After a jump, frames before the first key frame lack what they refer to: no damage.
                    if frame.is_corrupt and (key_seen or seek_s is None):
                        raise ClipError("cannot_decode", f"{name}: the stream is damaged at {time_s:.2f} s")
                    yield time_s, shown_s, frame
        except av.FFmpegError as e:
            with reading(path, f"broken after {time_s:.2f} s"):
                raise e


def _decoded(packet: Any, may_fail: bool) -> list[Any]:
    """Return the frames of a packet; none where it `may_fail`, as what follows a jump is often incomplete."""
    try:
        return list(packet.decode())
    except av.InvalidDataError:
        if not may_fail:
            raise
        return []


def _frame_duration_s(frame: Any, fps: float) -> float:
    if frame.duration and frame.time_base:
        return float(frame.duration * frame.time_base)
    return 1.0 / fps
