"""The table of clips that any published dataset can be written as: its columns, read and written.

docs/datasets.md describes the columns.
"""

import itertools
import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from difftalk.runtime.errors import UserError
from difftalk.runtime.files import write_csv
from difftalk.runtime.progress import say
from difftalk.runtime.suggest import nearest
from difftalk.runtime.tabular import read_tabular

COLUMNS = (
    "url", "path", "start", "end", "clip_id", "identity", "split", "subset", "tags", "box", "box_width",
    "box_height", "crop_ratio",
)  # fmt: skip
# A box in parts of the frame may stand in four columns instead.
PARTS = ("x", "y", "w", "h")
SPLITS = ("train", "test")
MAX_SIDE = 1e6  # of a box, pixels
SHOWN = 5  # bad rows named in one message

YOUTUBE_ID = re.compile(r"[A-Za-z0-9_-]{11}")
# How most tables write its page, told without taking the address apart.
YOUTUBE_PAGE = re.compile(r"https://www\.youtube\.com/watch\?v=([A-Za-z0-9_-]{11})")
YOUTUBE_HOSTS = {"youtube.com", "youtube-nocookie.com"}


@dataclass(frozen=True, slots=True)
class Row:
    """A clip as a table has it.

    Args:
        url: `youtube:ID`, or an http or https address; empty where there is a `path`.
        path: of a file, relative to the dataset's folder or absolute; empty where there is a `url`.
        start_s, end_s: seconds on the source's clock (0 = first frame); None: to the end of a file.
        clip_id, identity, split, subset: empty where the table does not say.
        tags: such as `gender=female`.
        box: (x0, y0, x1, y1) in pixels of a frame `box_width` x `box_height`; None stands for the source's
            own frame, and for a width that scales as the height does; with both 1 in parts of the frame.
        crop_ratio: as of a `Clip`.
        where: file and line, for messages.
    """

    url: str = ""
    path: str = ""
    start_s: float = 0.0
    end_s: float | None = None
    clip_id: str = ""
    identity: str = ""
    split: str = ""
    subset: str = ""
    tags: tuple[str, ...] = ()
    box: tuple[float, ...] | None = None
    box_width: float | None = None
    box_height: float | None = None
    crop_ratio: float | None = None
    where: str = ""


def read_rows(path: Path) -> list[Row]:
    """Return the clips of a table, CSV or Parquet.

    Columns that are not known are left out, and named on the terminal.

    Raises:
        UserError: naming the file and the line of each bad row, up to five, or the column that is missing.
    """
    found = read_tabular(path)
    first = next(found, None)
    if first is None:
        raise UserError(f"{path}: no clip in it")
    header = list(first[1])
    if not {"url", "path"} & set(header):
        meant = next((f" (is {name!r} meant?)" for name in header if nearest(name, ("url", "path"))), "")
        raise UserError(f"{path}:1: neither a column url nor a column path{meant}")
    if unknown := [name for name in header if name not in COLUMNS and name not in PARTS]:
        said = (f"{n} (is {near} meant?)" if (near := nearest(n, COLUMNS)) else n for n in unknown)
        say(f"{path}: columns that are not read: {', '.join(said)}")
    rows, bad = [], []
    for where, values in itertools.chain([first], found):
        try:
            rows.append(_row(values, where))
        except ValueError as e:
            bad.append(f"{where}: {e}")
    if bad:
        more = f"; and {len(bad) - SHOWN} more rows" if len(bad) > SHOWN else ""
        raise UserError("; ".join(bad[:SHOWN]) + more)
    return rows


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write clips as a CSV table, without the columns that no clip has a value in.

    Raises:
        UserError: without any clip.
    """
    lines = [_cells(row) for row in rows]
    if not lines:
        raise UserError(f"{path} is not written: no clip was found")
    used = [c for c in COLUMNS if any(line[c] for line in lines)]
    # People edit it.
    write_csv(path, used, ([line[c] for c in used] for line in lines), recorded=False)


def _site(host: str) -> str:
    return re.sub(r"^(www|m|music)\.", "", host.lower())


def youtube_id(url: str) -> str | None:
    """Return the id of a YouTube video by the address of its page, or None where it is none.

    >>> youtube_id("https://www.youtube.com/watch?v=XtySvTwIOfw&t=5s")
    'XtySvTwIOfw'
    >>> youtube_id("https://youtu.be/XtySvTwIOfw")
    'XtySvTwIOfw'
    """
    if page := YOUTUBE_PAGE.fullmatch(url):
        return page[1]
    if url.startswith("youtube:"):
        found = url.removeprefix("youtube:")
    else:
        parts = urlsplit(url)
        host = _site(parts.hostname or "")
        steps = parts.path.strip("/").split("/")
        if host == "youtu.be":
            found = steps[0]
        elif host in YOUTUBE_HOSTS and steps == ["watch"]:
            found = parse_qs(parts.query).get("v", [""])[0]
        elif host in YOUTUBE_HOSTS and len(steps) == 2 and steps[0] in {"shorts", "embed", "live", "v"}:
            found = steps[1]
        else:
            return None
    return found if YOUTUBE_ID.fullmatch(found) else None


def _row(values: Mapping[str, Any], where: str) -> Row:
    """Read one row.

    Raises:
        ValueError: saying what is wrong in it.
    """
    box, box_width, box_height = _box(values)
    # Texts of several rows are one object: there may be a million rows.
    row = Row(
        url=sys.intern(_text(values, "url")),
        path=sys.intern(_text(values, "path")),
        start_s=_number(values, "start") or 0.0,
        end_s=_number(values, "end"),
        clip_id=_text(values, "clip_id"),
        identity=sys.intern(_text(values, "identity")),
        split=sys.intern(_text(values, "split")),
        subset=sys.intern(_text(values, "subset")),
        tags=_tags(values.get("tags")),
        box=box,
        box_width=box_width,
        box_height=box_height,
        crop_ratio=_number(values, "crop_ratio"),
        where=where,
    )
    check_row(row)
    return row


def check_row(row: Row) -> None:
    """Check that a row can be a clip.

    Raises:
        ValueError: saying what is wrong in it.
    """
    if bool(row.url) == bool(row.path):
        raise ValueError(
            "a clip has either a url or a path, this row has " + ("both" if row.url else "neither")
        )
    if row.url:
        _check_url(row.url)
    if not 0 <= row.start_s < math.inf:
        raise ValueError(f"start is {row.start_s:g}, before the first frame")
    if row.end_s is None and row.url:
        raise ValueError("no end: a clip of a url has its start and end in seconds")
    if row.end_s is not None and not row.start_s < row.end_s < math.inf:
        raise ValueError(f"ends at {row.end_s:g} s, and starts at {row.start_s:g} s")
    if row.split and row.split not in SPLITS:
        raise ValueError(f"split is {row.split!a}: train, test or empty")
    if row.box is not None and not _is_box(row.box):
        raise ValueError(f"box is {row.box}, not x0 y0 x1 y1 with x0 < x1 and y0 < y1")
    if any(side is not None and side <= 0 for side in (row.box_width, row.box_height)):
        raise ValueError("box_width and box_height are above 0")
    if row.crop_ratio is not None and not 0.1 <= row.crop_ratio <= 10:
        raise ValueError(f"crop_ratio is {row.crop_ratio:g}, not from 0.1 to 10")


def _is_box(box: Sequence[float]) -> bool:
    return len(box) == 4 and all(abs(side) < MAX_SIDE for side in box) and box[0] < box[2] and box[1] < box[3]


def _check_url(url: str) -> None:
    if url.startswith("youtube:"):
        if youtube_id(url) is None:
            raise ValueError(f"{url!a}: after youtube: comes an id of 11 characters")
        return
    if YOUTUBE_PAGE.fullmatch(url):
        return
    try:
        parts = urlsplit(url)
        is_web = parts.scheme in {"http", "https"} and bool(parts.hostname)
    except ValueError:
        is_web = False
    if not is_web or re.search(r"[\x00-\x20\x7f]", url):
        raise ValueError(f"{url!a} is no http or https address")
    if (
        parts.hostname is not None
        and _site(parts.hostname) in {*YOUTUBE_HOSTS, "youtu.be"}
        and youtube_id(url) is None
    ):
        raise ValueError(f"{url!a} is the page of no YouTube video")


def _text(values: Mapping[str, Any], column: str) -> str:
    value = values.get(column)
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, float) and math.isnan(value):  # how data frames write that there is none
        return ""
    if isinstance(value, float) and value.is_integer():  # a number of which Parquet made a float
        value = int(value)
    return "" if value is None else str(value).strip()


def _number(values: Mapping[str, Any], column: str) -> float | None:
    text = _text(values, column)
    if not text:
        return None
    try:
        number = float(text if "_" not in text else "")  # which Python takes for part of a number
    except ValueError:
        raise ValueError(f"{column} is {text!a}, no number") from None
    if not math.isfinite(number):
        raise ValueError(f"{column} is {text!a}, no finite number")
    return number


def _tags(value: Any) -> tuple[str, ...]:
    return _split_tags(tuple(map(str, value)) if isinstance(value, list) else str(value or ""))


@lru_cache
def _split_tags(given: str | tuple[str, ...]) -> tuple[str, ...]:
    each = given.split(";") if isinstance(given, str) else given
    tags = (" ".join(tag.replace(";", ",").split()) for tag in each)
    return tuple(dict.fromkeys(tag for tag in tags if tag))


def _box(values: Mapping[str, Any]) -> tuple[tuple[float, ...] | None, float | None, float | None]:
    """Return the box of a row with the width and height of the frame that it refers to."""
    given = values.get("box")
    numbers: list[Any] = list(given) if isinstance(given, list) else str(given or "").split()
    parts = [_number(values, column) for column in PARTS]
    width, height = _number(values, "box_width"), _number(values, "box_height")
    if width is not None and height is None:
        raise ValueError("box_width without box_height")
    if any(v is not None for v in parts):
        if numbers:
            raise ValueError("a box in `box` and one in x, y, w, h: give one of them")
        if any(v is None for v in parts):
            raise ValueError("x, y, w, h: some of them are empty")
        x, y, w, h = (v for v in parts if v is not None)
        if max(abs(x), abs(y), w, h) > 2:
            raise ValueError(
                "x, y, w, h are in parts of the frame (0 to 1); pixels go into `box` as x0 y0 x1 y1"
            )
        numbers, width, height = [x, y, x + w, y + h], 1.0, 1.0
    if not numbers:
        return None, width, height
    try:
        box = tuple(map(float, numbers))
    except (TypeError, ValueError):
        box = ()
    if not _is_box(box):
        raise ValueError(f"box is {given or numbers!a}, not x0 y0 x1 y1 with x0 < x1 and y0 < y1")
    return box, width, height


def _cells(row: Row) -> dict[str, str]:
    def shown(value: float | None) -> str:
        return "" if value is None else f"{value:.12g}"

    return {
        "url": row.url,
        "path": row.path,
        "start": shown(row.start_s),
        "end": shown(row.end_s),
        "clip_id": row.clip_id,
        "identity": row.identity,
        "split": row.split,
        "subset": row.subset,
        "tags": ";".join(row.tags),
        "box": " ".join(map(shown, row.box or ())),
        "box_width": shown(row.box_width),
        "box_height": shown(row.box_height),
        "crop_ratio": shown(row.crop_ratio),
    }
