"""The kinds of failure: a user's mistake, a clip that cannot be used, a fault of the machine."""

import errno
import os

# What the system says of disks, quotas and open files, whatever is in the file.
MACHINE_ERRNOS = frozenset(
    (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
    + (errno.ESTALE, errno.ETIMEDOUT, errno.ENODEV, errno.ENXIO)
)

# Of torch on a CPU and in a DataLoader, and of OpenCV; and of the system's loader.
MEMORY_WORDS = ("can't allocate memory", "out of memory", "insufficient shared memory", "Failed to allocate")
LIBRARY_MEMORY_WORDS = ("failed to map segment", "cannot allocate memory", "Cannot allocate memory")


class UserError(Exception):
    """A mistake that the user can correct: the message says what is wrong, where, and what to do.

    The command line prints it as one line, without a traceback, and exits with status 2.
    """


class ClipError(Exception):
    """One clip cannot be used. It ends as a row of the stage's rejects, and the stage goes on.

    Args:
        reason: one of `difftalk.runtime.rejects.REASONS`.
        detail: one line for a person: which file, which frame, which value against which threshold.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.reason, self.detail)


def errno_of(error: BaseException | None) -> int:
    """Return the system's number of an error, or of what caused it; 0 where it has none.

    Some libraries raise errors of their own types on top of the system's, or with its words alone.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno:
            return error.errno
        of_library = isinstance(error, OSError | RuntimeError) or type(error).__name__ == "SafetensorError"
        for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG):
            if of_library and os.strerror(number) in str(error):
                return number
        error = error.__cause__ or (error.__context__ if of_library else None)
    return 0


def is_memory_fault(error: BaseException) -> bool:
    """Whether an exception says that memory, of the GPU too, was not enough."""
    kind, said = type(error).__name__, str(error)
    if isinstance(error, MemoryError) or kind == "OutOfMemoryError":
        return True
    if isinstance(error, OSError | ImportError):  # the latter of a library that does not fit
        return getattr(error, "errno", None) == errno.ENOMEM or any(w in said for w in LIBRARY_MEMORY_WORDS)
    # `error` is OpenCV's.
    return (isinstance(error, RuntimeError) or kind == "error") and any(w in said for w in MEMORY_WORDS)


def is_machine_fault(error: BaseException) -> bool:
    """Whether an exception tells of the machine or the installation, and of no single clip.

    That is memory, of the GPU too, a full or failing disk, a package that does not import, and a file whose
    permissions are really missing. FFmpeg says EPERM, EIO and ENOMEM of damaged files as well: what it raises
    is judged in `difftalk.media.damage`.
    """
    if isinstance(error, ImportError) or is_memory_fault(error):
        return True
    if isinstance(error, PermissionError):
        return error.filename is None or not os.access(error.filename, os.R_OK)
    return errno_of(error) in MACHINE_ERRNOS
