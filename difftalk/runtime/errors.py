"""The kinds of failure: a user's mistake, a clip that cannot be used, a fault of the machine."""

import errno
import os

# What the system says of disks, quotas and open files, whatever is in the file.
MACHINE_ERRNOS = frozenset(
    (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
    + (errno.ESTALE, errno.ETIMEDOUT, errno.ENODEV, errno.ENXIO)
)


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


def is_machine_fault(error: BaseException) -> bool:
    """Whether an exception tells of the machine or the installation, and of no single clip.

    That is memory, of the GPU too, a full or failing disk, a package that does not import, and a file whose
    permissions are really missing. FFmpeg says EPERM, EIO and ENOMEM of damaged files as well: what it raises
    is judged in `difftalk.media.damage`.
    """
    if isinstance(error, MemoryError | ImportError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, PermissionError):
        return error.filename is None or not os.access(error.filename, os.R_OK)
    return isinstance(error, OSError) and error.errno in MACHINE_ERRNOS
