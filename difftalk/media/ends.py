"""Measure where streams end, in files whose container does not say it for each stream.

Matroska, WebM, FLV and ASF give one length, that of the longest stream; a recording may give none; of MPEG
program and transport streams FFmpeg guesses them. The end is read from the packets near the end of the file.
A stream that has none there ended before: where, is found by bisection. Only a file without any length is
read whole, once in each process.
"""

import logging
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import av

from difftalk.media.damage import packets_of, reading
from difftalk.runtime.errors import ClipError

WINDOW_S = 5.0
# No file is longer; a damaged header may say so.
LONGEST_S = 1e6

logger = logging.getLogger(__name__)


def measured_ends(path: str | Path, indices: Sequence[int]) -> dict[int, float]:
    """Return the ends of streams, in seconds of the container's clock; without those that have no packet.

    Args:
        path: any file that FFmpeg reads.
        indices: of the streams.

    Raises:
        ClipError: `cannot_decode` if it does not open.
    """
    about = Path(path).stat()
    return dict(_measured(str(path), tuple(indices), about.st_size, about.st_mtime_ns))


@lru_cache(maxsize=4096)
def _measured(path: str, indices: tuple[int, ...], _size: int, _changed: int) -> dict[int, float]:
    with reading(path), av.open(os.path.abspath(path), metadata_errors="replace") as container:
        begin, length_s = (container.start_time or 0) / av.time_base, _length_s(container)
        if length_s is None:
            return _ends(container, indices, None, None)
        end = begin + length_s
        found: dict[int, float] = {}
        for index in indices:
            last = _ends(container, [index], end - WINDOW_S, None)
            if not last:
                last = _ends(container, [index], _last_seen(container, index, begin, end), None)
            found |= last
        return found


def _length_s(container: Any) -> float | None:
    """Return the length that a file says; None where it says none, or nonsense."""
    streams = [float(s.duration * s.time_base) for s in container.streams if s.duration is not None]
    whole = container.duration / av.time_base if container.duration is not None else 0.0
    return next((s for s in (whole, max(streams, default=0.0)) if 0 < s < LONGEST_S), None)


def _last_seen(container: Any, index: int, low: float, high: float) -> float:
    """Return a time less than a window before the end of a stream that ends before the file."""
    while high - low > WINDOW_S:
        middle = (low + high) / 2
        if _ends(container, [index], middle, middle + WINDOW_S):
            low = middle
        else:
            high = middle
    return low


def _ends(
    container: Any, indices: Sequence[int], from_s: float | None, to_s: float | None
) -> dict[int, float]:
    """Return the ends of the last packets of streams between two times, by reading on from the first."""
    ends: dict[int, float] = {}
    try:
        if from_s is not None:
            container.seek(max(round(from_s * av.time_base), 0), backward=True)
        for packet in packets_of(container, *container.streams):
            stamp = packet.pts if packet.pts is not None else packet.dts
            if stamp is None or not packet.size:
                continue
            time_s = float(stamp * packet.time_base)
            if to_s is not None and time_s > to_s + 1.0:
                break
            inside = (from_s is None or time_s >= from_s) and (to_s is None or time_s <= to_s)
            if packet.stream_index in indices and inside:
                end = time_s + (float(packet.duration * packet.time_base) if packet.duration else 0.0)
                ends[packet.stream_index] = max(ends.get(packet.stream_index, end), end)
    except (av.FFmpegError, ClipError) as e:
        logger.debug("%s: packets end (%s)", container.name, e)
    return ends
