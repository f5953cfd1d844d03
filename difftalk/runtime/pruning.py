"""Show what a cache holds, and delete what has not been used for long, or is too much."""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from difftalk.runtime.cache import DAY_S, TMP


@dataclass(frozen=True)
class Entry:
    """One file of a cache.

    Args:
        path: of the file.
        stage: whose result it is.
        size: bytes.
        used: when it was last written or read, seconds since the epoch. A file system that notes no reads
            knows those of its owner alone, to the day.
        is_whole: whether it has been written to its end: others were left by processes that were killed.
    """

    path: Path
    stage: str
    size: int
    used: float
    is_whole: bool = True


def entries_in(folder: Path) -> Iterator[Entry]:
    """Yield the entries of a cache; what lies in the folder besides is no part of it."""
    for stage in sorted(found.name for found in _listed(folder) if found.is_dir(follow_symlinks=False)):
        for part in _listed(folder / stage):
            if len(part.name) != 2 or not part.is_dir(follow_symlinks=False):
                continue
            for file in _listed(part.path):
                is_tmp = file.name.endswith(TMP)
                if not (is_tmp or len(file.name) == 62) or not file.is_file(follow_symlinks=False):
                    continue
                with suppress(FileNotFoundError):  # deleted meanwhile
                    about = file.stat(follow_symlinks=False)
                    used = max(about.st_mtime, about.st_atime)
                    yield Entry(Path(file.path), stage, about.st_size, used, not is_tmp)


def to_prune(
    entries: list[Entry], older_than_days: float | None = None, max_bytes: float | None = None
) -> list[Entry]:
    """Return the entries to delete, those that were not used for longest first.

    Args:
        entries: of a cache.
        older_than_days: those that were not used for longer go.
        max_bytes: of the others as many go as are too many for this.

    Files of writers that were killed, older than a day, go in any case.
    """
    now = time.time()
    oldest = sorted(entries, key=lambda e: e.used)
    gone = [e for e in oldest if not e.is_whole and e.used < now - DAY_S]
    left = [e for e in oldest if e.is_whole]
    if older_than_days is not None:
        gone += [e for e in left if e.used < now - older_than_days * DAY_S]
        left = [e for e in left if e.used >= now - older_than_days * DAY_S]
    if max_bytes is not None:
        size = sum(e.size for e in left)
        for e in left:
            if size <= max_bytes:
                break
            gone.append(e)
            size -= e.size
    return gone


def delete(entries: list[Entry]) -> list[Entry]:
    """Delete entries; return those that this user may not delete."""
    kept = []
    for entry in entries:
        try:
            entry.path.unlink(missing_ok=True)
        except PermissionError:
            kept.append(entry)
    return kept


def _listed(folder: Path | str) -> list[os.DirEntry[str]]:
    with suppress(FileNotFoundError), os.scandir(folder) as found:
        return list(found)
    return []
