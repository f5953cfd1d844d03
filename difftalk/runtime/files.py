"""Outputs that are either whole or absent: written beside their place, then renamed."""

import glob
import hashlib
import os
import platform
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from difftalk.runtime.errors import UserError

HOST = platform.node()


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; it takes the place of `path` when the block ends well.

    The temporary name keeps the suffix, so that writers which choose a format by it still do.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear_left_behind(path)
    beside = _beside(path)
    try:
        yield beside
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def _clear_left_behind(path: Path) -> None:
    """Remove what writers of `path` on this machine that have been killed left beside it."""
    for beside in path.parent.glob(
        f".{glob.escape(path.stem)}.{glob.escape(HOST)}-*.part{glob.escape(path.suffix)}"
    ):
        process = re.search(r"-(\d+)\.part", beside.name)
        if not process or _is_running(int(process[1])):
            continue
        if beside.is_dir():
            shutil.rmtree(beside, ignore_errors=True)
        else:
            beside.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    """A name of this process's own, with the suffix kept."""
    return path.with_name(f".{path.stem}.{HOST}-{os.getpid()}.part{path.suffix}")


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield an empty folder beside `path` to fill; it takes the place of `path` when the block ends well."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear_left_behind(path)
    beside = _beside(path)
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    try:
        yield beside
        shutil.rmtree(path, ignore_errors=True)
        os.replace(beside, path)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def inside(folder: Path, name: str) -> Path:
    """`folder / name`, refused where `name`, which came from outside, would lead out of `folder`.

    Raises:
        UserError: if `name` holds a path separator or is `.`, `..` or empty.
    """
    if not name or name in {".", ".."} or "/" in name or "\\" in name or "\0" in name:
        raise UserError(f"{name!r} is no file name: it would leave the folder {folder}")
    return folder / name


def checksum(path: Path, kind: str = "sha256") -> str:
    """The checksum of a file, in hexadecimal digits; `kind` as of `hashlib`."""
    with path.open("rb") as source:
        return hashlib.file_digest(source, kind).hexdigest()
