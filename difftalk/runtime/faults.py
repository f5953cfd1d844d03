"""Say in a sentence what the machine refused: room on a disk, permission, memory."""

import errno
import math
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from difftalk.runtime.errors import UserError, errno_of, is_memory_fault

# Of a write alone, whatever was read meanwhile.
WRITE_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "the file is larger than the system allows here (ulimit -f)",
    errno.EROFS: "the file system is read-only",
}
REASONS = {
    **WRITE_REASONS,
    errno.EIO: "the disk, or the connection to it, failed",
    errno.ESTALE: "the file system, or the connection to it, is gone",
    errno.EMFILE: "too many files are open at once (ulimit -n)",
    errno.ENFILE: "too many files are open on this machine",
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
    errno.ENOENT: "no such file or folder",
    errno.EISDIR: "it is a folder, not a file",
    errno.ENOTDIR: "a part of its path is a file, not a folder",
}
TEMPORARY = re.compile(rf"^\.(.+)\.{re.escape(platform.node())}-\d+\.part(.*)$")
CONTINUES = "the same command continues"


@contextmanager
def writing(
    path: Path, reassurance: str = CONTINUES, *, tmp: Path | None = None, needs: int | None = None
) -> Iterator[None]:
    """Turn a failed write of `path` into a `UserError` that says why, and how much room there was.

    What fails in the block for another reason, such as a file that it reads, is raised as it is.

    Args:
        path: the file or folder that is written inside the block.
        reassurance: what is intact nevertheless, for the end of the message.
        tmp: the temporary file or folder that is written first.
        needs: bytes that it will have, where they are known.
    """
    try:
        yield
    except Exception as e:
        number = errno_of(e)
        # The name that the system gives, if it does: a stage may write more than one file at once.
        named = Path(e.filename) if isinstance(e, OSError) and isinstance(e.filename, str) else None
        is_own = named is None or named in (path, tmp, *path.parents) or tmp in named.parents
        if isinstance(e, UserError) or not number or not is_own:
            raise
        if number not in WRITE_REASONS and (named is None or os.access(path.parent, os.W_OK | os.X_OK)):
            raise
        reason = REASONS.get(number, os.strerror(number))
        said = (
            f"{_final(path)} could not be written: {reason}{_room(path, tmp, number, needs)}; {reassurance}"
        )
        raise UserError(said) from e


def sentence(error: BaseException) -> str | None:
    """Return in a sentence what the machine refused; None for an exception that is no fault of it."""
    at = "".join(f", {note}" for note in getattr(error, "__notes__", ()))
    if is_memory_fault(error):
        detail = " ".join(str(error).split())[:150]
        return (
            f"the memory is not enough{at}{f' ({detail})' if detail else ''}: run it with fewer workers or "
            f"smaller batches, or give the job more memory; {CONTINUES}"
        )
    # It may be raised in the middle of writing a checkpoint, whose end then fails too.
    first: BaseException | None = error
    while first is not None and "DataLoader worker" not in str(first):
        first = first.__context__
    if isinstance(first, RuntimeError):
        detail = " ".join(str(first).split())[:150]
        return (
            f"a process that prepares batches was killed ({detail}): most likely the memory was not enough. "
            f"Run it with fewer of them (--data-workers, training_workers), or more memory; {CONTINUES}"
        )
    number = errno_of(error)
    name = error.filename if isinstance(error, OSError) else None
    if number not in REASONS:
        return None
    if number in WRITE_REASONS:
        what = name or f"a temporary file (in {tempfile.gettempdir()} or /dev/shm)"
        room = _room(Path(name), None, number, None) if name else ""
        return f"{what} could not be written{at}: {REASONS[number]}{room}; {CONTINUES}"
    return f"{name or 'a file'}{at}: {REASONS[number]}"


def _room(path: Path, tmp: Path | None, number: int, needs: int | None) -> str:
    """How much room there is for a file, with what was written of it, and how much it needs."""
    if number not in (errno.ENOSPC, errno.EDQUOT):
        return ""
    written = _size(tmp) if tmp is not None else 0
    wanted = "more" if needs is None else readable(needs)
    if number == errno.EDQUOT:
        return f" ({readable(written)} were written, it needs {wanted}). Free some"
    folder = next((p for p in path.absolute().parents if p.is_dir()), Path("/"))
    room = shutil.disk_usage(folder).free + written
    return f" ({readable(room)} for it in {_final(folder)}, it needs {wanted}). Free some"


def _final(path: Path) -> Path:
    """Return where a file will be whose folder has a temporary name (`difftalk.runtime.files`)."""
    return Path(*(TEMPORARY.sub(r"\1\2", part) for part in path.parts))


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def readable(size: float) -> str:
    """Return a size in decimal units.

    >>> readable(52_300), readable(8.39e9)
    ('52.3 kB', '8.39 GB')
    """
    power = min(int(math.log10(max(size, 1))) // 3, 4)
    return f"{size / 1000**power:.3g} {('bytes', 'kB', 'MB', 'GB', 'TB')[power]}"
