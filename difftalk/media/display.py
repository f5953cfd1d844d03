"""Show a decoded frame as a player does: orientation, interlacing, high dynamic range."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import SideDataContainer, Type
from av.video.reformatter import Colorspace, ColorTrc

from difftalk.media.tone_map import cube_file

# One decoded frame: seconds on the file's clock, seconds that it is shown, the frame.
TimedFrame = tuple[float, float, Any]

HDR = frozenset((int(ColorTrc.SMPTE2084), int(ColorTrc.ARIB_STD_B67)))


@dataclass(frozen=True)
class Orientation:
    """How pixels are laid out on the screen: rows and columns exchanged first, then mirrored."""

    transposed: bool = False
    upside_down: bool = False
    mirrored: bool = False

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """Return pixels `(H, W, 3)` as shown."""
        if self == UPRIGHT:
            return pixels
        shown = pixels.swapaxes(0, 1) if self.transposed else pixels
        shown = shown[::-1] if self.upside_down else shown
        return np.ascontiguousarray(shown[:, ::-1] if self.mirrored else shown)


UPRIGHT = Orientation()


def orientation(frame: Any) -> Orientation:
    """Return how a frame is shown, by the display matrix of its file, to the nearest quarter turn.

    The matrix maps the frame's axis x to (a, b) on the screen and its axis y to (c, d) (ISO 14496-12, 6.2.2).
    """
    # The container that `frame.side_data` makes stays with the frame, and refers to it: a circle, in which
    # frames would stay in memory until Python's collector happens to run.
    data = SideDataContainer(frame).get(Type.DISPLAYMATRIX)  # type: ignore[call-arg]
    if data is None:
        return UPRIGHT
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(data)[:36])
    if a == b == c == d == 0:
        return UPRIGHT
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Orientation(False, d < 0, a < 0)
    return Orientation(True, b < 0, c < 0)


def is_hdr(frame: Any) -> bool:
    """Whether a frame has a transfer function that a screen of standard range does not show: PQ or HLG."""
    return frame.color_trc in HDR


def in_standard_range(frame: Any) -> Any:
    """Tone-map a frame of high dynamic range; others are returned as they are.

    `difftalk.media.tone_map` says how; FFmpeg's filter `lut3d` does it.
    """
    if not is_hdr(frame):
        return frame
    graph, source, sink = _tone_mapper(frame.width, frame.height, frame.format.name, frame.color_trc)
    # Screens of high range are BT.2020; some files do not say so.
    if frame.colorspace == Colorspace.DEFAULT or frame.colorspace == 2:
        frame.colorspace = Colorspace.BT2020
    planar = frame.reformat(format="gbrp10le", dst_color_range=2, threads=1)
    planar.pts, planar.time_base = 0, Fraction(1, 1)
    source.push(planar)
    return sink.pull()


@lru_cache(maxsize=2)
def _tone_mapper(width: int, height: int, _pix_fmt: str, trc: int) -> tuple[Any, Any, Any]:
    graph = av.filter.Graph()
    graph.threads = 1
    source = graph.add("buffer", **_buffer(width, height, "gbrp10le"))
    sink = graph.add("buffersink")
    with cube_file("pq" if trc == ColorTrc.SMPTE2084 else "hlg") as file:
        table = graph.add("lut3d", file=str(file), interp="tetrahedral")
        eight_bits = graph.add("format", pix_fmts="rgb24")
        for one, next_one in ((source, table), (table, eight_bits), (eight_bits, sink)):
            one.link_to(next_one)
        graph.configure()
    return graph, source, sink


def _buffer(width: int, height: int, pix_fmt: str) -> dict[str, str]:
    return {"width": str(width), "height": str(height), "pix_fmt": pix_fmt, "time_base": "1/1"}


def deinterlaced(frames: Iterator[TimedFrame]) -> Iterator[TimedFrame]:
    """Yield the frames with those that are interlaced rebuilt from their fields, by FFmpeg's `bwdif`.

    Frames that are not flagged as interlaced stay as they are, and nothing is filtered before the first one.
    """
    deinterlacer: _Deinterlacer | None = None
    for timed in frames:
        frame = timed[2]
        if deinterlacer is not None and not deinterlacer.fits(frame):
            yield from deinterlacer.drain()
            deinterlacer = None
        if deinterlacer is None and frame.interlaced_frame:
            deinterlacer = _Deinterlacer(frame)
        if deinterlacer is None:
            yield timed
        else:
            yield from deinterlacer.put(timed)
    if deinterlacer is not None:
        yield from deinterlacer.drain()


class _Deinterlacer:
    """A `bwdif` filter, which looks one frame ahead, and the times of the frames within it."""

    def __init__(self, frame: Any) -> None:
        self._shape = frame.width, frame.height, frame.format.name
        self._times: list[tuple[float, float]] = []
        self._colours = frame.colorspace, frame.color_range, frame.color_trc
        graph = av.filter.Graph()
        graph.threads = 1
        self._source, self._sink = graph.add("buffer", **_buffer(*self._shape)), graph.add("buffersink")
        bwdif = graph.add("bwdif", mode="send_frame", deint="interlaced")
        self._source.link_to(bwdif)
        bwdif.link_to(self._sink)
        graph.configure()
        self._graph = graph

    def fits(self, frame: Any) -> bool:
        return (frame.width, frame.height, frame.format.name) == self._shape

    def put(self, timed: TimedFrame) -> Iterator[TimedFrame]:
        time_s, duration_s, frame = timed
        frame.pts, frame.time_base = len(self._times), Fraction(1, 1)
        self._times.append((time_s, duration_s))
        self._source.push(frame)
        yield from self._pull()

    def drain(self) -> Iterator[TimedFrame]:
        self._source.push(None)
        yield from self._pull()

    def _pull(self) -> Iterator[TimedFrame]:
        while True:
            try:
                frame: Any = self._sink.pull()
            except (av.BlockingIOError, EOFError):
                return
            frame.colorspace, frame.color_range, frame.color_trc = self._colours
            yield (*self._times[round(frame.time)], frame)
