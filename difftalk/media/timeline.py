"""When each decoded frame of a video stream is shown."""

import heapq
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

# Packets that are looked at before the rule is chosen.
LOOK_AHEAD = 32


class FrameClock:
    """The times of the frames of one stream, by one of two rules.

    Timestamps: a frame is shown at its pts. So it is in every container that stores them.

    Order: decoders return frames in the order of presentation, so that the n-th frame is shown at the n-th
    smallest time stamp. So it is where stamps run in the order of decoding: in AVI, which stores none but
    counts chunks; where most packets have no pts; and where pts - dts is the same for all of the first
    packets of a codec that reorders frames. Where frames are not reordered, both rules give the same times.
    A packet whose frame never appears gives its time back at the next frame that is no B-frame: all that was
    sent before that one has been shown or lost.

    Args:
        stream: video stream of PyAV.
        ahead: its first packets, `LOOK_AHEAD` or fewer.
    """

    def __init__(self, stream: Any, ahead: Sequence[Any]) -> None:
        stamped = [p for p in ahead if p.size and p.dts is not None]
        without_pts = sum(p.pts is None for p in stamped)
        lags = {p.pts - p.dts for p in stamped if p.pts is not None}
        counts_chunks = stream.container.format.name == "avi"
        self._use_dts = counts_chunks or (without_pts > 0 and 2 * without_pts >= len(stamped))
        one_lag = len(lags) == 1 and len(stamped) > 2 and bool(stream.codec_context.has_b_frames)
        self.by_order = self._use_dts or one_lag
        self._base: Fraction = stream.time_base
        self._free: list[int] = []  # a heap: stamps that no frame has been given
        self._waiting: set[int] = set()  # stamps of packets whose frames have not appeared
        self._lacking = False

    def send(self, packet: Any) -> None:
        """Note a packet before it is decoded."""
        if not packet.size:
            return
        stamp = packet.dts if self._use_dts or packet.pts is None else packet.pts
        if self.by_order and stamp is not None:
            packet.pts = stamp
            heapq.heappush(self._free, stamp)
            self._waiting.add(stamp)
        elif packet.pts is None:
            self._lacking = True
        elif self._lacking:
            self._waiting.add(packet.pts)

    def time_s(self, frame: Any) -> float | None:
        """Return when a frame is shown, in seconds of the container's clock; None where nothing says so."""
        if not self.by_order:
            # PyAV numbers frames that have no pts.
            if frame.pts is None or (self._lacking and frame.pts not in self._waiting):
                return None
            self._waiting.discard(frame.pts)
            return float(frame.pts * self._base)
        if frame.pts in self._waiting:
            self._waiting.discard(frame.pts)
            if frame.pict_type != 3:  # av.video.frame.PictureType.B
                lost = {stamp for stamp in self._waiting if stamp < frame.pts}
                self._waiting -= lost
                for _ in range(min(len(lost), len(self._free) - 1)):
                    heapq.heappop(self._free)
        return float(heapq.heappop(self._free) * self._base) if self._free else None
