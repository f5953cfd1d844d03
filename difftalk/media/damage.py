"""Turn what a damaged file raises, of whatever type, into the `ClipError` of that file."""

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av

from difftalk.runtime.errors import ClipError, UserError, is_machine_fault

logger = logging.getLogger(__name__)

# FFmpeg's words on a disk; its EPERM and ENOMEM are those of absurd numbers in a header.
DISK_ERRNOS = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE))


LONGER_TRY = {"probesize": "100000000", "analyzeduration": "120000000"}  # bytes, microseconds


def open_container(path: str | Path) -> Any:
    """Return an open PyAV container with all of its streams, as PyAV raises."""
    container = av.open(os.path.abspath(path), metadata_errors="replace")
    if container.format.name == "mpeg" and not container.streams.audio:
        # Program streams have no table of streams, and audio may begin beyond the 5 MB that FFmpeg tries.
        container.close()
        container = av.open(os.path.abspath(path), metadata_errors="replace", options=LONGER_TRY)
    return container


@contextmanager
def reading(path: str | Path, when: str = "") -> Iterator[None]:
    """Turn exceptions of the block into `cannot_decode` with the file's name.

    Args:
        path: the file that the block reads.
        when: what it does with it, for the message, such as `does not open`.

    Raises:
        ClipError: as the block, or `cannot_decode` for what else it raises. What neither FFmpeg nor a missing
            file explains is logged with its traceback.
        UserError: as the block.
        Exception: a fault of the machine.
    """
    try:
        yield
    except (ClipError, UserError):
        raise
    except Exception as e:
        if _is_machine_fault(e, path):
            raise
        said = reason_of(e)
        if not isinstance(e, av.FFmpegError):
            logger.exception("%s: unexpected error", path)
            said = f"{type(e).__name__}: {said}"
        what = f"{when} ({said})" if when else said
        raise ClipError("cannot_decode", f"{Path(path).name}: {what}") from e


def packets_of(container: Any, *streams: Any) -> Iterator[Any]:
    """Yield the packets of streams, then an empty one of each, which drains its decoder.

    PyAV's `demux` ends with an `IndexError`, some streams not drained, where a stream appeared on the way.
    """
    drained = set()
    try:
        for packet in container.demux(*streams):
            if not packet.size and packet.dts is None:
                drained.add(packet.stream_index)
            yield packet
    except IndexError:
        logger.debug("%s: a stream appears within the file", container.name)
        for stream in streams:
            if stream.index not in drained:
                drain = av.Packet()
                drain.stream = stream
                yield drain


def reason_of(error: Exception) -> str:
    """Return FFmpeg's message, on one line."""
    return (getattr(error, "strerror", None) or str(error)).replace("\n", " ")


def _is_machine_fault(error: Exception, path: str | Path) -> bool:
    if not isinstance(error, av.FFmpegError):
        return is_machine_fault(error)
    if error.errno == errno.EIO:
        return not _readable(path)
    return error.errno in DISK_ERRNOS


def _readable(path: str | Path) -> bool:
    """Whether the disk gives every byte of a file: FFmpeg says EIO where one merely ends too early, too."""
    try:
        with open(path, "rb") as file:
            while file.read(1 << 20):
                pass
    except OSError:
        return False
    return True
