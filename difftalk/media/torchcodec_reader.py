"""Read a source with torchcodec, which decodes on a GPU (NVDEC): the frames of `video.read_lazy_frames`.

Which frame of the file is shown at each time is decided here, by the timestamps of its packets and the rules
of `difftalk.media.video`; torchcodec decodes those frames. A file that asks for more (interlaced, of high
dynamic range, with timestamps that need care) is read with PyAV, and so is the rest of one that does not
decode as its packets say.
"""

import itertools
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from difftalk.media import video
from difftalk.media.clock import FPS
from difftalk.media.damage import packets_of, reading
from difftalk.media.display import is_hdr, orientation
from difftalk.media.lazy_frame import LazyFrame
from difftalk.media.probe import open_media, origin_s, probe, video_stream
from difftalk.media.timeline import LOOK_AHEAD, FrameClock
from difftalk.runtime.errors import ClipError, UserError, is_machine_fault

CONTAINERS = frozenset(("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"))
CODECS = frozenset(("h264", "hevc", "vp8", "vp9", "av1", "mpeg4"))
PIX_FMTS = frozenset(("yuv420p", "yuvj420p"))
NOT_INTERLACED = (0, 1)  # FFmpeg's field orders: unknown, progressive
# Frames that are decoded at once: 50 MB at 1080p.
BATCH = 8

logger = logging.getLogger(__name__)


class Unsuited(Exception):
    """Why a file is read with PyAV."""


@dataclass(frozen=True)
class FrameTable:
    """The frames of a file, in the order in which they are shown.

    Args:
        stream: number of the video stream in the file.
        pts_s: `(n,)` seconds of the container's clock.
        times_s: `(n,)` seconds of the file's clock, 0 being its first frame.
        end_s: end of the last frame, on the same clock.
        mappings: the table as torchcodec takes it.
    """

    stream: int
    pts_s: np.ndarray
    times_s: np.ndarray
    end_s: float
    mappings: str

    def shown(self, start_s: float, end_s: float, duration_s: float) -> np.ndarray:
        """Return the number of the frame that is shown at each 25th of a second, `(k,)`.

        Args:
            start_s: of the clip, on the file's clock.
            end_s: of the clip.
            duration_s: of the file.

        Raises:
            Unsuited: where `video.read_lazy_frames` may raise an error.
        """
        if self.end_s < min(end_s, duration_s) - video.SHORTFALL_S or self.end_s < start_s:
            raise Unsuited(f"its frames end at {self.end_s:.2f} s")
        if np.diff(self.times_s, append=self.end_s).max() > video.MAX_STILL_S:
            raise Unsuited("a frame stands still")
        at = start_s + np.arange(max(round((end_s - start_s) * FPS), 0)) / FPS
        at = at[(at < self.end_s + 0.5 / FPS) | (at < self.times_s[-1] - video.TIME_TOLERANCE_S)]
        numbers = np.searchsorted(self.times_s - video.TIME_TOLERANCE_S, at, side="right") - 1
        return np.maximum(numbers, 0)


def check_installed(asked_by: str) -> None:
    """Import torchcodec.

    Args:
        asked_by: what needs it, such as `landmarks.reader: torchcodec`.

    Raises:
        UserError: if it is not there, or FFmpeg's libraries are not.
    """
    try:
        import torchcodec
        import torchcodec.decoders
    except (ImportError, OSError, RuntimeError) as e:
        raise UserError(
            f"{asked_by} needs the package torchcodec, in the version for the installed torch: "
            f'pip install -e ".[torchcodec]" ({e})'
        ) from None
    if torchcodec.ffmpeg_major_version is None:
        raise UserError(
            f"{asked_by}: torchcodec finds no shared libraries of FFmpeg (libavcodec and others): install "
            "them, such as with `apt-get install ffmpeg` or `conda install -c conda-forge ffmpeg`"
        )


def read_frames(
    path: str | Path, start_s: float = 0.0, end_s: float | None = None, device: str = "cpu"
) -> Iterator[np.ndarray | LazyFrame]:
    """Yield the frames of `video.read_lazy_frames`, those that torchcodec decodes as `(H, W, 3)` uint8 RGB.

    Why a file is not decoded by it, or not to its end, is logged in one line.

    Args:
        path: as there.
        start_s: as there.
        end_s: as there.
        device: `cpu`, or `cuda` to decode on the GPU; frames are copied to the host.

    Raises:
        ClipError: as there. A damaged stream whose decoder says nothing gives concealed frames.
    """
    done = 0
    try:
        info = probe(path)
        wanted_end = info.duration_s if end_s is None or np.isnan(end_s) else end_s
        table = frame_table(path)
        for frame in _decoded(path, table, table.shown(start_s, wanted_end, info.duration_s), device):
            yield frame
            done += 1
    except Unsuited as e:
        where = f" from frame {done} of the clip on" if done else ""
        logger.info("%s: read with PyAV%s, since %s", Path(path).name, where, e)
        yield from itertools.islice(video.read_lazy_frames(path, start_s, end_s), done, None)


def frame_table(path: str | Path) -> FrameTable:
    """Return the frames of a file by its packets; its first frame alone is decoded.

    Asked again for the same file, a process answers from memory.

    Raises:
        Unsuited: where torchcodec would show other frames than PyAV.
    """
    about = Path(path).stat()
    table = _frame_table(str(path), about.st_size, about.st_mtime_ns)
    if isinstance(table, str):
        raise Unsuited(table)
    return table


@lru_cache(maxsize=16)
def _frame_table(path: str, _size: int, _changed: int) -> FrameTable | str:
    try:
        with reading(path), open_media(path) as container:
            try:
                return _read_table(container, video_stream(container, path))
            except Unsuited as e:
                return str(e)
    except ClipError as e:
        return str(e)


def _read_table(container: Any, stream: Any) -> FrameTable:
    """Return the frames of a stream.

    Raises:
        Unsuited: as `frame_table`.
    """
    first: Any = None
    ahead: list[Any] = []
    rows: list[tuple[int, int, int]] = []
    stream.codec_context.thread_count = 1
    for packet in packets_of(container, stream):
        if first is None:
            first = next(iter(packet.decode()), None)
        if not packet.size:
            continue
        if packet.pts is None:
            raise Unsuited("some of its packets have no timestamps")
        if packet.is_discard or packet.is_corrupt or packet.has_sidedata("new_extradata"):
            raise Unsuited("some of its packets are not to be shown, damaged, or of another format")
        ahead += [packet] if len(ahead) < LOOK_AHEAD else []
        rows.append((packet.pts, packet.duration or 0, int(packet.is_keyframe)))
    if first is None or stream.start_time is None:
        raise Unsuited("it does not say when its frames are shown")
    _check_kind(container, stream, first)
    if FrameClock(stream, ahead).by_order:
        raise Unsuited("its timestamps are not those of its frames")
    first_pts, _, from_key = rows[0]
    rows.sort()
    pts = np.array([row[0] for row in rows])
    if not from_key or first_pts != pts[0] or (np.diff(pts) <= 0).any():
        raise Unsuited("its frames do not follow each other from a key frame on")
    fps = float(stream.average_rate or stream.guessed_rate or FPS)
    last_s = float(rows[-1][1] * stream.time_base) or 1.0 / fps
    pts_s = pts * float(stream.time_base)
    times_s = np.array([float(p * stream.time_base) for p in pts.tolist()]) - origin_s(stream)
    frames = [{"pts": p, "duration": d, "key_frame": k} for p, d, k in rows]
    mappings = json.dumps({"frames": frames})
    return FrameTable(stream.index, pts_s, times_s, float(times_s[-1]) + last_s, mappings)


def _check_kind(container: Any, stream: Any, first: Any) -> None:
    context = stream.codec_context
    shown = orientation(first)
    if container.format.name not in CONTAINERS or context.name not in CODECS:
        raise Unsuited(f"it is {context.name} in {container.format.name}")
    if first.format.name not in PIX_FMTS or is_hdr(first):
        raise Unsuited(f"its pixels are {first.format.name}{' of high dynamic range' * is_hdr(first)}")
    if first.interlaced_frame or context.field_order not in NOT_INTERLACED:
        raise Unsuited("it is interlaced")
    if stream.sample_aspect_ratio not in (None, 0, 1):
        raise Unsuited("its pixels are not square")
    # Turned by a quarter or a half: rows and columns are exchanged with one of both mirrored, or both are.
    if shown.transposed == (shown.upside_down == shown.mirrored):
        raise Unsuited("it is mirrored")


def _decoded(path: str | Path, table: FrameTable, numbers: np.ndarray, device: str) -> Iterator[np.ndarray]:
    """Yield the frames of the given numbers.

    Raises:
        Unsuited: where one does not decode, or has another time than its packet.
    """
    from torchcodec.decoders import VideoDecoder

    try:
        decoder = VideoDecoder(
            path,
            stream_index=table.stream,
            dimension_order="NHWC",
            device=device,
            custom_frame_mappings=table.mappings,
        )
        for k in range(0, len(numbers), BATCH):
            some = numbers[k : k + BATCH]
            batch = decoder.get_frames_at(some.tolist())
            pixels, found_s = batch.data.cpu().numpy(), batch.pts_seconds.cpu().numpy()
            if (np.abs(found_s - table.pts_s[some]) > video.TIME_TOLERANCE_S).any():
                raise Unsuited("it does not decode as its packets say")
            yield from pixels
    except (RuntimeError, ValueError, IndexError) as e:
        if is_machine_fault(e):
            raise
        raise Unsuited(f"torchcodec says: {' '.join(str(e).split())}") from e
