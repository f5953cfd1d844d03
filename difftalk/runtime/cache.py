"""A cache of what was made of clips and files, by all that it was made of: for all runs and users.

An entry is one file of arrays. It is named by a hash over what it depends on: content, settings, code,
weights, versions. So nothing in it outdates, and two writers of one entry write the same. It is written under
another name, renamed, and never changed; it begins with the sha256 of the rest, so that a damaged one is made
again. Who may read and write is what the folder itself says: with mode 2775 and a group, all of that group.
"""

import functools
import hashlib
import importlib.metadata
import io
import json
import logging
import os
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from difftalk.runtime.errors import ClipError
from difftalk.runtime.parallel import guarded, map_clips
from difftalk.runtime.progress import say
from difftalk.runtime.rejects import Reject

J = TypeVar("J")
R = TypeVar("R")
Arrays = dict[str, np.ndarray]

DAY_S = 86_400.0
# Of files that are being written. One that is older than a day was left by a killed process.
TMP = ".part"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cache:
    """The entries of one stage.

    Args:
        folder: of the cache; None keeps nothing.
        stage: whose results these are.
    """

    folder: Path | None
    stage: str

    def entry(self, depends_on: Mapping[str, Any]) -> Path | None:
        """Return the file of what depends on these facts, given as JSON; None where nothing is kept."""
        if self.folder is None:
            return None
        text = json.dumps(depends_on, sort_keys=True)
        name = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        return self.folder / self.stage / name[:2] / name[2:]

    def read(self, entry: Path | None) -> Arrays | None:
        """Return what an entry holds; None where it is not there or damaged."""
        if entry is None:
            return None
        try:
            digest, _, content = entry.read_bytes().partition(b"\n")
            if hashlib.sha256(content).hexdigest().encode() != digest:
                raise ValueError("another checksum")
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                found = dict(arrays)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as e:
            logger.warning("%s: cannot be read, so it is made again (%s)", entry, e)
            return None
        with suppress(OSError):  # of another user
            if entry.stat().st_mtime < time.time() - DAY_S:
                os.utime(entry)
        return found

    def write(self, entry: Path | None, arrays: Arrays) -> None:
        """Write an entry. Where it cannot be written, it will be made again."""
        if entry is None or self.folder is None:
            return
        content = io.BytesIO()
        np.savez(content, **arrays)  # type: ignore[arg-type]
        digest = hashlib.sha256(content.getbuffer()).hexdigest()
        try:
            mode = _made(entry.parent, self.folder)
            number, tmp = tempfile.mkstemp(TMP, f".{entry.name[:8]}-", entry.parent)
            try:
                with open(number, "wb") as file:
                    file.write(f"{digest}\n".encode())
                    file.write(content.getbuffer())
                os.chmod(tmp, mode & 0o444)
                os.replace(tmp, entry)
            except BaseException:
                with suppress(OSError):
                    os.unlink(tmp)
                raise
        except OSError as e:
            logger.warning("%s: not kept (%s)", entry, e)

    def made(self, depends_on: Mapping[str, Any], make: Callable[[], Arrays]) -> Arrays:
        """Return what `make` returns, from its entry where there is one."""
        entry = self.entry(depends_on)
        found = self.read(entry)
        if found is None:
            found = make()
            self.write(entry, found)
        return found


def _made(folder: Path, root: Path) -> int:
    """Make a folder below the root of a cache, for those who may use the root; return the root's mode."""
    if not root.is_dir():
        root.mkdir(parents=True, exist_ok=True)
    mode = root.stat().st_mode
    for new in (folder.parent, folder):
        with suppress(FileExistsError):
            new.mkdir()
            os.chmod(new, mode & 0o7777)  # whatever the umask says
    return mode


@dataclass(frozen=True)
class Keeping(Generic[J, R]):
    """Work on a job whose result is kept; picklable, as `map_clips` asks for.

    Args:
        cache: where results are kept.
        work: what is done to a job.
        pack: arrays of a result; None where it is not kept.
    """

    cache: Cache
    work: Callable[[J], R]
    pack: Callable[[R], Arrays | None]

    def __call__(self, job: tuple[J, Path | None]) -> R:
        """Return the result of a job, and keep it in the given entry."""
        found = self.work(job[0])
        if job[1] is not None and (arrays := self.pack(found)) is not None:
            self.cache.write(job[1], arrays)
        return found


def map_kept(
    keeping: Keeping[J, R],
    unpack: Callable[[str, Arrays], R],
    jobs: Sequence[tuple[str, J]],
    entries: Sequence[Path | None],
    *,
    lengths: Sequence[float] | None = None,
    **options: Any,
) -> Iterator[tuple[str, R | Reject]]:
    """Yield `(clip_id, result)` of each job as `map_clips` does, from its entry where there is one.

    Rejects are not kept: what could not be read or fetched today may be there tomorrow.

    Args:
        keeping: what is done to a job that has no entry.
        unpack: from the clip's id and the arrays of an entry to a result.
        jobs: of all clips.
        entries: of all clips, as of `Cache.entry`.
        lengths: as of `map_clips`.
        options: others of `map_clips`.

    Raises:
        UserError, Exception: as `map_clips`.
    """
    is_kept = [entry is not None and entry.is_file() for entry in entries]
    left = [k for k, kept in enumerate(is_kept) if not kept]
    if len(left) < len(jobs):
        say(f"{options['stage']}: {len(jobs) - len(left)} of {len(jobs)} clips are in the cache")
    late = [(jobs[k][0], (jobs[k][1], entries[k])) for k in left]
    if lengths is not None:
        lengths = [lengths[k] for k in left]
    new = iter(map_clips(keeping, late, lengths=lengths, **options) if late else ())
    for k, (clip_id, job) in enumerate(jobs):
        if not is_kept[k]:
            yield next(new)
            continue
        arrays = keeping.cache.read(entries[k])
        if arrays is not None:
            yield clip_id, unpack(clip_id, arrays)
            continue
        done = guarded(keeping, (job, entries[k]), clip_id)  # damaged, or deleted meanwhile
        yield clip_id, Reject.of(clip_id, options["stage"], done) if isinstance(done, ClipError) else done
    # It ends its progress bar.
    yield from new


def text_array(value: Any) -> np.ndarray:
    """Return a JSON value as an array, to be kept beside others."""
    return np.frombuffer(json.dumps(value).encode(), np.uint8)


def from_text_array(array: np.ndarray) -> Any:
    """Return the JSON value of `text_array`."""
    return json.loads(array.tobytes())


@functools.cache
def versions(packages: frozenset[str] | tuple[str, ...]) -> str:
    """Return the names and versions of packages, of those installed."""
    found = []
    for package in sorted(packages):
        with suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{package} {importlib.metadata.version(package)}")
    return ", ".join(found)
