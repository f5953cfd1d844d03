"""Tell whether a file is what was written: every output has a record of its sha256.

A file `NAME` has it beside it, in `.NAME.sha256`; the files of a folder that is one output have it in the
folder's `SHA256SUMS`. Both are in the format of `sha256sum`, which checks them too (`sha256sum -c`). A file
without a record, such as one that was put there by hand, is taken as it is. Shards have checksums of their
own (`difftalk.media.members`).
"""

import hashlib
import os
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from difftalk.runtime.errors import UserError
from difftalk.runtime.fingerprint import fingerprint_files

SUMS = "SHA256SUMS"
LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")
# People complete them, and no stage reads them.
PROSE = ("README.md",)
FOREIGN = "a folder with files that no command wrote: name another one, or delete it yourself"

# What was found whole in this process: path, what changes when a file is written, and the sha256.
_whole: set[tuple[str, int, int, int, str]] = set()


def checksum(path: Path, kind: str = "sha256") -> str:
    """Return the checksum of a file, in hexadecimal digits; `kind` as of `hashlib`."""
    with path.open("rb") as source:
        return hashlib.file_digest(source, kind).hexdigest()


def line_of(sha256: str, name: str) -> str:
    """Return a line of a record."""
    return f"{sha256}  {name}\n"


def record_of(path: Path) -> Path:
    """Return where the record of a single file is."""
    return path.with_name(f".{path.name}.sha256")


def write_record(path: Path, line: str) -> None:
    """Write the record of a file that has just been written: a `line_of` it."""
    record = record_of(path)
    tmp = record.with_name(f"{record.name}.{os.getpid()}.part")
    tmp.write_text(line, encoding="utf-8", errors="surrogateescape")
    os.replace(tmp, record)


def read_record(path: Path) -> dict[str, str] | None:
    """Return the record of a single file, the sha256 by name; None where there is none.

    A link, such as Snakemake makes into its cache, has none: what lies beside it is that of an earlier file.

    Raises:
        UserError: if the record is damaged.
    """
    return None if path.is_symlink() else _read(record_of(path), remedy_of(path))


def remedy_of(path: Path) -> str:
    """Return what to do about a file, or a folder, that is not what its record says."""
    record = path / SUMS if path.is_dir() else record_of(path)
    return (
        f"where a run wrote it, delete {path}, and snakemake writes it again; to use it as it is, "
        f"delete the record, {record}"
    )


def write_sums(folder: Path, known: Mapping[str, str] | None = None) -> None:
    """Write `SHA256SUMS` of all files below a folder, links followed.

    Args:
        folder: not yet in its place.
        known: sha256 of some of them, by name in the folder, which need not be read for it.
    """
    known = known or {}
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    lines = [line_of(known.get(n) or checksum(folder / n), n) for n in names if n != SUMS]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8", errors="surrogateescape")


def read_sums(folder: Path) -> dict[str, str] | None:
    """Return the sha256 of each file of a folder by its name; None where there is no record.

    Raises:
        UserError: if the record is damaged.
    """
    return _read(folder / SUMS, remedy_of(folder))


def digest_of_model(folder: Path) -> str:
    """Return a sha256 over a folder: over its record, where it has one, or else over its files.

    Raises:
        UserError: if the record is damaged.
    """
    listed = read_sums(folder)
    if listed is None:
        return fingerprint_files(folder)
    lines = (line_of(sha256, name) for name, sha256 in sorted(listed.items()) if name not in PROSE)
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def is_foreign(folder: Path) -> bool:
    """Whether a folder is there and has files, but no record: it is not to be replaced by an output."""
    return folder.is_dir() and not (folder / SUMS).exists() and any(folder.iterdir())


def verify(path: Path, remedy: str = "") -> Path:
    """Return `path`, if its content is what was written; each file is read once per process.

    Args:
        path: a file.
        remedy: what to do, for the error; without it, what to delete.

    Raises:
        UserError: naming the file that is damaged or was edited.
    """
    record, own = record_of(path), path
    is_own = path.exists() and not path.is_symlink()
    listed = _read(record, remedy or remedy_of(own)) if is_own else None
    if listed is None:
        record, own = path.parent / SUMS, path.parent
        listed = _read(record, remedy or remedy_of(own))
    expected = (listed or {}).get(path.name)
    if expected is not None:
        _compare(path, expected, record, remedy or remedy_of(own))
    return path


def is_whole(path: Path) -> bool:
    """Whether a file is there, has a record of its own, and is what that says."""
    try:
        listed = _read(record_of(path), "")
        return listed is not None and path.is_file() and checksum(path) == listed.get(path.name)
    except UserError:
        return False


def verify_folder(folder: Path, remedy: str = "") -> None:
    """Check that every file in the record of a folder is there and is what was written.

    Files that a person may complete (`PROSE`), and those that are not in the record, are not looked at; nor
    is a folder without a record.

    Args:
        folder: one output of a stage.
        remedy: what to do, for the error; without it, to delete the folder.

    Raises:
        UserError: naming the file that is missing, damaged or was edited.
    """
    remedy = remedy or remedy_of(folder)
    listed = _read(folder / SUMS, remedy) or {}
    paths = [(folder / name, sha256) for name, sha256 in listed.items() if Path(name).name not in PROSE]
    # Hashing releases Python's lock, and large files are what takes time.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        for _ in threads.map(lambda pair: _compare(pair[0], pair[1], folder / SUMS, remedy), paths):
            pass


def _compare(path: Path, expected: str, record: Path, remedy: str) -> None:
    try:
        found = path.stat()
        signature = (os.fspath(path.resolve()), found.st_ino, found.st_size, found.st_mtime_ns, expected)
        if signature in _whole:
            return
        sha256 = checksum(path)
    except FileNotFoundError:
        raise UserError(f"{path} is gone: {remedy}") from None
    except OSError as e:
        raise UserError(f"{path} cannot be read ({e.strerror})") from None
    if sha256 != expected:
        raise UserError(
            f"{path} is damaged or was edited: its sha256 is {sha256[:12]}..., not {expected[:12]}... as in "
            f"{record.name}; {remedy}"
        )
    _whole.add(signature)


def _read(record: Path, remedy: str) -> dict[str, str] | None:
    try:
        text = record.read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return None
    except OSError as e:
        raise UserError(f"{record} cannot be read ({e.strerror})") from None
    found = {}
    if not text and (record.name != SUMS or len(list(record.parent.iterdir())) > 1):
        raise UserError(f"{record} is damaged: an empty file; {remedy}")
    for line in text.splitlines():
        match = LINE.fullmatch(line)
        if match is None:
            raise UserError(f"{record} is damaged: it is no list of checksums; {remedy}")
        found[match[2]] = match[1]
    return found
