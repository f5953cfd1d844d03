"""Write outputs that are either whole or absent: to a temporary name in the same folder, then renamed.

They are on the disk before they have their name, so that this holds after a loss of power too.
"""

import csv
import errno
import glob
import json
import math
import os
import platform
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from difftalk.runtime.checksums import (
    FOREIGN,
    SUMS,
    checksum,
    is_foreign,
    line_of,
    record_of,
    verify,
    write_record,
    write_sums,
)
from difftalk.runtime.errors import UserError
from difftalk.runtime.faults import CONTINUES, writing

R = TypeVar("R")

HOST = platform.node()
# Of file systems that cannot be asked to write a folder.
NO_SYNC = (errno.EINVAL, errno.ENOTSUP)


@contextmanager
def atomic_file(
    path: str | Path,
    reassurance: str = CONTINUES,
    *,
    needs: int | None = None,
    recorded: bool = False,
    record: Callable[[], str] | None = None,
) -> Iterator[Path]:
    """Yield a temporary path to write to; it replaces `path` when the block ends without an error.

    The temporary name is in the same folder and keeps the suffix, by which some writers choose a format.

    Args:
        path: the file.
        reassurance: what is intact where it cannot be written, for the message.
        needs: bytes that it will have, where they are known, for the same.
        recorded: keep its sha256 beside it, by which `checksums.verify` finds damage.
        record: what to keep beside it instead, asked for when the block has ended.

    Raises:
        UserError: if it cannot be written, as `difftalk.runtime.faults.writing`.
    """
    path = Path(path)
    tmp = _tmp(path)
    try:
        with writing(path, reassurance, tmp=tmp, needs=needs):
            path.parent.mkdir(parents=True, exist_ok=True)
            _remove_stale(path)
            yield tmp
            sync(tmp)
            kept = record() if record is not None else line_of(checksum(tmp), path.name) if recorded else ""
            # Never beside a file that it is not of: a kill in between leaves a file without a record.
            record_of(path).unlink(missing_ok=True)
            os.replace(tmp, path)
            if kept:
                write_record(path, kept)
            sync(path.parent)
    finally:
        with suppress(OSError):
            tmp.unlink()


def sync(path: Path) -> None:
    """Wait until a file, or what a folder lists, is on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as e:
        if e.errno not in NO_SYNC:
            raise
    finally:
        os.close(number)


def _remove_stale(path: Path) -> None:
    """Remove temporary files of `path` whose writers, on this machine, were killed."""
    for tmp in path.parent.glob(
        f".{glob.escape(path.stem)}.{glob.escape(HOST)}-*.part{glob.escape(path.suffix)}"
    ):
        process = re.search(r"-(\d+)\.part", tmp.name)
        if not process or _is_running(int(process[1])):
            continue
        if tmp.is_dir():
            shutil.rmtree(tmp, ignore_errors=True)
        else:
            tmp.unlink(missing_ok=True)


def _tmp(path: Path) -> Path:
    """Return a name of this process's own, with the suffix kept."""
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
    """Yield an empty temporary folder to fill; it replaces `path` when the block ends without an error.

    Its `SHA256SUMS` is written, unless the block has done that. A folder that lacks one, and is not empty, is
    not replaced: it may be a person's own.

    Raises:
        UserError: if there is such a folder; if it cannot be written, as `difftalk.runtime.faults.writing`.
    """
    path = Path(path)
    tmp = _tmp(path)
    if is_foreign(path):
        raise UserError(f"{path}: {FOREIGN}")
    try:
        with writing(path, tmp=tmp):
            path.parent.mkdir(parents=True, exist_ok=True)
            _remove_stale(path)
            shutil.rmtree(tmp, ignore_errors=True)
            tmp.mkdir()
            yield tmp
            for weights in tmp.rglob("*.safetensors"):  # written for the owner alone
                weights.chmod(tmp.stat().st_mode & 0o666)
            if not (tmp / SUMS).exists():
                write_sums(tmp)
            for inside_it in (tmp, *tmp.rglob("*")):
                if not inside_it.is_symlink():
                    sync(inside_it)
            shutil.rmtree(path, ignore_errors=True)
            os.replace(tmp, path)
            sync(path.parent)
    finally:
        shutil.rmtree(tmp, ignore_errors=True)


def inside(folder: Path, name: str) -> Path:
    """Return `folder / name`, where `name`, which came from outside, must not lead out of `folder`.

    Raises:
        UserError: if `name` holds a path separator or is `.`, `..` or empty.
    """
    if not name or name in {".", ".."} or "/" in name or "\\" in name or "\0" in name:
        raise UserError(f"{name!r} is no file name: it would leave the folder {folder}")
    return folder / name


def write_json(path: str | Path, content: Any) -> None:
    """Write JSON with sorted keys, whole or not at all; the same content gives the same bytes."""
    with atomic_file(path) as tmp:
        tmp.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """Return what a JSON file holds.

    Raises:
        UserError: if the file cannot be read, is not what was written, or is no JSON.
    """
    try:
        return json.loads(verify(Path(path)).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as e:
        raise UserError(f"{path}: cannot be read ({e})") from None


def json_lines(entries: Iterable[dict[str, Any]]) -> str:
    """Return the text of a JSON-lines file, one object a line."""
    return "".join(json.dumps(entry) + "\n" for entry in entries)


def write_json_lines(path: str | Path, entries: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object a line, whole or not at all."""
    with atomic_file(path) as tmp:
        tmp.write_text(json_lines(entries), encoding="utf-8")


def write_csv(
    path: str | Path, columns: Sequence[str], rows: Iterable[Sequence[object]], *, recorded: bool = True
) -> None:
    """Write a CSV file with a header and Unix line ends, whole or not at all; None is an empty cell.

    A byte of a file's name that is no UTF-8 is escaped.

    Args:
        path: the file.
        columns: its header.
        rows: its cells.
        recorded: as of `atomic_file`; false for a table that people are meant to edit.
    """
    with (
        atomic_file(path, recorded=recorded) as tmp,
        tmp.open("w", newline="", encoding="utf-8", errors="backslashreplace") as target,
    ):
        writer = csv.writer(target, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def read_csv(
    path: str | Path, columns: Sequence[str] | None = None, later: Sequence[str] = ()
) -> list[dict[str, str]]:
    """Return the rows of a CSV file that has a header.

    Args:
        path: the file.
        columns: what the header has to be, if given.
        later: the last of `columns`, which a file may lack that was written before there were any.

    Raises:
        UserError: if the file cannot be read, is not what was written, or has another header.
    """
    try:
        with verify(Path(path)).open(newline="", encoding="utf-8") as source:
            reader = csv.DictReader(source)
            found = tuple(reader.fieldnames or ())
            if columns is not None and found not in {
                tuple(columns[: len(columns) - lacking]) for lacking in range(len(later) + 1)
            }:
                raise UserError(f"{path}:1: the columns are not {','.join(columns)}")
            if not found:
                raise UserError(f"{path}: empty, without a header")
            rows = []
            for row in reader:
                if None in row or None in row.values():
                    raise UserError(f"{path}:{reader.line_num}: not the {len(found)} fields of the header")
                rows.append(row)
            return rows
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise UserError(f"{path}: cannot be read ({e})") from None


def parse_csv(
    path: str | Path, columns: Sequence[str] | None, parse: Callable[[dict[str, str]], R]
) -> list[R]:
    """Return what `parse` makes of each row of a CSV file.

    Args:
        path: the file.
        columns: as of `read_csv`.
        parse: from the cells of a row by column; its ValueError or KeyError is the row's fault.

    Raises:
        UserError: as `read_csv`; naming the row that cannot be parsed.
    """
    parsed = []
    for number, row in enumerate(read_csv(path, columns), start=1):
        try:
            parsed.append(parse(row))
        except (ValueError, KeyError) as e:
            raise UserError(f"{path}: row {number} is none of such a file ({e})") from None
    return parsed


def finite(text: str) -> float:
    """Read a number.

    Raises:
        ValueError: if it is none, or not finite.
    """
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text!a} is not a finite number")
    return number
