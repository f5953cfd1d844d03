"""Measure where streams end, in files whose container does not say it for each stream.

Matroska, WebM, FLV and ASF give one length, that of the longest stream; a recording may give none; of MPEG
program and transport streams FFmpeg guesses them. The end is read from the packets near the end of the file.
A stream that has none there ended before: where, is found by bisection. Only a file without any length is
read whole, once in each process; and so are the packets of MPEG program and transport streams, whose clock
may be set back within the file: a jump in it may then lead to another part.
"""

import itertools
import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import numpy as np

from difftalk.media.damage import open_container, packets_of, reading
from difftalk.runtime.errors import ClipError

WINDOW_S = 5.0
# No file is longer; a damaged header may say so.
LONGEST_S = 1e6
# Formats that give no lengths: where their streams begin and end is FFmpeg's guess.
GUESSED = frozenset(("mpeg", "mpegts"))
# A clock that goes back by more is set back; by less, it wanders.
SET_BACK_S = 1.0
# A single time stamp out of this many is damage.
MEDIAN_OF = 5

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FirstPart:
    """A file up to where its clock is set back.

    Args:
        ends: of the streams, in seconds of the container's clock.
        lost_s: seconds that follow in the longest stream; 0 where the clock is not set back.
    """

    ends: dict[int, float] = field(default_factory=dict)
    lost_s: float = 0.0


def first_part(path: str | Path) -> FirstPart:
    """Return where the streams of an MPEG program or transport stream end, or their clock is first set back.

    Raises:
        ClipError: `cannot_decode` if it does not open.
    """
    about = Path(path).stat()
    return _first_part(str(path), about.st_size, about.st_mtime_ns)


def jumps_back(container: Any, path: str | Path) -> bool:
    """Whether the clock of an open file is set back within it, so that it must not be jumped about in."""
    return container.format.name in GUESSED and first_part(path).lost_s > 0


@lru_cache(maxsize=4096)
def _first_part(path: str, _size: int, _changed: int) -> FirstPart:
    stamps: dict[int, list[float]] = defaultdict(list)
    ends: dict[int, list[float]] = defaultdict(list)
    with reading(path), open_container(path) as container:
        try:
            for packet in packets_of(container, *container.streams):
                stamp = packet.dts if packet.dts is not None else packet.pts
                if stamp is None or not packet.size or packet.stream.type not in ("video", "audio"):
                    continue
                shown = packet.pts if packet.pts is not None else stamp
                stamps[packet.stream_index].append(float(stamp * packet.time_base))
                ends[packet.stream_index].append(float((shown + (packet.duration or 0)) * packet.time_base))
        except (av.FFmpegError, ClipError) as e:
            logger.debug("%s: packets end (%s)", path, e)
    first: dict[int, float] = {}
    lost_s = 0.0
    for index, of_stream in stamps.items():
        parts = [0, *_set_back(np.array(of_stream)), len(of_stream)]
        spans = [(min(ends[index][a:b]), max(ends[index][a:b])) for a, b in itertools.pairwise(parts)]
        first[index] = spans[0][1]
        lost_s = max(lost_s, sum(end - begin for begin, end in spans[1:]))
    return FirstPart(first, lost_s)


def _set_back(stamps: np.ndarray) -> list[int]:
    """Return the positions at which time stamps, in the order of the file, begin anew.

    >>> _set_back(np.array([0, 1, 2, 3, 90, 4, 5, 6, 7, 8, 0, 1, 2, 3, 4, 5.0]))
    [10]
    """
    around = np.pad(stamps, MEDIAN_OF // 2, mode="edge")
    smooth = np.median(np.lib.stride_tricks.sliding_window_view(around, MEDIAN_OF), axis=1)
    found: list[int] = []
    begin = 0
    while True:
        top = np.maximum.accumulate(smooth[begin:])
        back = np.flatnonzero(smooth[begin + 1 :] < top[:-1] - SET_BACK_S)
        if not len(back):
            return found
        # The median turns up to two positions beside where the stamps do.
        near = begin + 1 + int(back[0])
        low = max(near - MEDIAN_OF // 2, begin + 1)
        steps = np.diff(stamps[low - 1 : near + MEDIAN_OF // 2 + 1])
        begin = low + int(np.argmin(steps))
        found.append(begin)


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
    with reading(path), open_container(path) as container:
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
