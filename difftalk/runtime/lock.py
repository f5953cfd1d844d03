"""A lock on a file, so that of several processes one at a time works on what it stands for."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from difftalk.runtime.errors import UserError


@contextmanager
def file_lock(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold an exclusive lock on a file; it ends with the process at the latest.

    Args:
        path: created where it is missing; its content stays.
        wait: wait for another process that holds the lock. If false, refuse at once, and go on unlocked where
            the file system has no locks.

    Raises:
        UserError: without `wait`, if another process holds the lock.
    """
    with path.open("ab") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{path} is in use by another process") from None
        except OSError:
            if wait:
                raise
        yield
