"""Whether the files of the user's own have changed: hashes over their names, sizes and times.

None is read. Up to some thousand, each is looked at whenever the workflow is read. Of more, the hash is
remembered as long as no folder that they are in has changed, which a file that is added, removed or renamed
does, and one that is written over does not.
"""

import hashlib
import itertools
import json
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from difftalk.config.dataset import Table
from difftalk.config.section import Section
from difftalk.runtime.errors import UserError
from difftalk.runtime.remembered import keep, recall, remembered
from difftalk.runtime.tabular import read_tabular
from difftalk.runtime.video_folder import SPEAKERS, list_videos, sub_folders

# Files that are looked at each time: on a local disk, a tenth of a second.
LOOKED_AT = 20_000
# A folder that has just changed may change again within the same tick of its file system's clock.
SETTLED_S = 3.0


def own_paths(dataset: Section) -> dict[str, str]:
    """Return the files and folders that a dataset names, by their keys."""
    paths = {key: getattr(dataset, key, None) for key in ("videos", "files", "table", "root")}
    return {key: path for key, path in paths.items() if path is not None}


def dataset_files(dataset: Section) -> str | None:
    """Return a hash over the files of the user's own that a dataset reads; None without any."""
    digests = [folder_digest(path) for key, path in own_paths(dataset).items() if key != "root"]
    if isinstance(dataset, Table):
        digests.append(_digest_of_named_files(dataset))
    return " ".join(digests) or None


def folder_digest(folder: str | Path) -> str:
    """Return a hash over names, sizes and times of the videos of `folder`, which may be a file.

    Of a folder that has a `speakers.csv`, that counts too. Nothing else in it does.
    """
    if not os.path.isdir(folder):
        return _digest_of(folder, ["."])[0]
    path = os.path.realpath(folder)
    speakers = _line(path, SPEAKERS) or ""
    return _while_folders_stay(
        f"{path} {_changed(path)} {speakers}",
        lambda: [path, *sub_folders(path)],
        lambda: _digest_of(path, [SPEAKERS, *list_videos(folder).videos]),
    )


def _digest_of_named_files(dataset: Table) -> str:
    """Return a hash over the files that a table names; `plan` refuses what is no table."""
    table = Path(dataset.table)
    root = table.parent if dataset.root is None else Path(dataset.root)

    def named() -> list[str]:
        try:
            rows = read_tabular(table)
            # A table of addresses alone is not read whole: it may have a million rows.
            paths = itertools.takewhile(lambda found: "path" in found[1], rows)
            return sorted({str(row["path"] or "") for _, row in paths} - {""})
        except UserError:
            return []

    return _while_folders_stay(
        f"{os.path.realpath(root)} {_line(os.path.realpath(table.parent), table.name)}",
        lambda: sorted({os.path.dirname(os.path.join(root, name)) for name in named()}),
        lambda: _digest_of(root, named(), missing=True),
    )


def _while_folders_stay(
    key: str, folders: Callable[[], list[str]], digest: Callable[[], tuple[str, int]]
) -> str:
    """Return a digest of files, remembered as long as their folders stay as they are, if they are many.

    Args:
        key: all else that the digest, and which folders there are, depends on.
        folders: that the files are in.
        digest: the digest, and of how many files.
    """
    named = json.loads(remembered(f"folders {key}", lambda: json.dumps(folders())))
    times = [_changed(folder) for folder in named]
    whole = f"files {key} {hashlib.sha256(repr(times).encode()).hexdigest()}"
    if (known := recall(whole)) is not None:
        return known
    found, count = digest()
    if count > LOOKED_AT and max(times, default=0) < time.time_ns() - SETTLED_S * 1e9:
        keep(whole, found)
    return found


def _changed(folder: str) -> int:
    try:
        return os.stat(folder).st_mtime_ns
    except (OSError, ValueError):
        return 0


def _digest_of(folder: str | Path, names: Iterable[str], missing: bool = False) -> tuple[str, int]:
    """Return a hash over sizes and times of files, and their number; those that are missing may count."""
    lines = []
    for name in names:
        if (line := _line(folder, name)) is not None:
            lines.append(line)
        elif missing:
            lines.append(f"{name} -")
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest(), len(lines)


def _line(folder: str | Path, name: str) -> str | None:
    path = os.path.join(folder, name) if name != "." else folder
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return f"{name} {found.st_size} {found.st_mtime_ns}"
