"""Work on clips that fails in the ways that real work does; it imports little, since worker processes do."""

import errno
import os
import signal

from difftalk.runtime.errors import ClipError


def fails(how: str) -> str:
    """Work on a clip, and fail as `how` says."""
    if how == "type":
        raise TypeError("an unexpected word")
    if how == "clip":
        raise ClipError("silent", "level -90 dB")
    if how == "memory":
        raise MemoryError
    if how == "disk":
        raise OSError(errno.ENOSPC, "No space left on device")
    if how in ("SEGV", "KILL"):
        os.kill(os.getpid(), signal.Signals[f"SIG{how}"])
    return how
