"""What the adapters share: entries that are rows or say why not, and published files read or refused."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from difftalk.datasets.table_file import Row, check_row
from difftalk.runtime.errors import UserError

YOUTUBE = "https://www.youtube.com/watch?v="


@dataclass(frozen=True)
class Entry:
    """One clip of a published dataset.

    Args:
        name: as the dataset calls it.
        row: for the table; None where it cannot be one.
        problem: why not.
    """

    name: str
    row: Row | None
    problem: str = ""


def entry(name: str, read: Callable[[], Row]) -> Entry:
    """Return an entry with the row that `read` returns, or with what is wrong in it."""
    try:
        row = read()
        check_row(row)
    except KeyError as e:
        return Entry(name, None, f"no {e.args[0]!r} in it")
    except (ValueError, TypeError, AttributeError, OverflowError) as e:
        return Entry(name, None, " ".join(str(e).split()))
    return Entry(name, row)


def once(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Yield the entries; one with the id of an earlier one cannot be a row, and says so."""
    seen = set()
    for found in entries:
        clip_id = "" if found.row is None else found.row.clip_id
        if clip_id and clip_id in seen:
            yield Entry(found.name, None, f"an earlier entry has its id {clip_id!a}")
        else:
            yield found
        seen.add(clip_id)


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        UserError: if there is none.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as e:
        raise UserError(f"{path}: cannot be read ({e.strerror})") from None
    except (ValueError, RecursionError) as e:
        raise UserError(f"{path}: not JSON: {e}") from None


def text_files(folder: Path, what: str) -> list[Path]:
    """Return the `.txt` files below a folder, sorted.

    Args:
        folder: the folder.
        what: the folder is, for the message.

    Raises:
        UserError: if there are none.
    """
    found = sorted(folder.rglob("*.txt")) if folder.is_dir() else []
    if not found:
        raise UserError(f"{folder}: no folder with .txt files: give {what}")
    return found


def read_text(path: Path) -> str:
    """Return the text of a file.

    Raises:
        ValueError: if it is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None


def labels(**values: object) -> tuple[str, ...]:
    """Return tags `name=value`, without those that have no value.

    >>> labels(gender="Male", age="", language=None)
    ('gender=Male',)
    """
    return tuple(
        f"{name}={' '.join(str(value).replace(';', ',').split())}" for name, value in values.items() if value
    )
