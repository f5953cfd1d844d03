"""Files that outlive a run: the frozen plan of its kept clips, and the manifest of a shard's sources."""

import csv
import dataclasses
from pathlib import Path
from typing import Any

from difftalk.datasets.clips import Clip
from difftalk.runtime.errors import UserError
from difftalk.runtime.files import atomic_file

# A run's shards, and what the dataset had to say against a clip, are not of the clips that it kept.
COLUMNS = tuple(f.name for f in dataclasses.fields(Clip) if f.name not in {"shard", "left_out"})
SOURCE_COLUMNS = ("source_id", "file", "bytes", "sha256")


def read_frozen(path: Path) -> list[Clip]:
    """The clips of a file that `run` wrote, without shards.

    Raises:
        UserError: naming the file, and the line that is none of such a file.
    """
    clips = []
    for number, row in enumerate(read_rows(path, COLUMNS), start=2):
        try:
            values: dict[str, Any] = dict(row)
            values["start_s"], values["end_s"] = float(row["start_s"]), float(row["end_s"])
            values["box"] = tuple(map(float, row["box"].split())) or None
            for column in ("box_height", "crop_ratio"):
                values[column] = float(row[column]) if row[column] else None
            if row["split"] not in ("train", "test"):
                raise ValueError(f"split {row['split']!r}")
            for name in (row["clip_id"], row["source_id"]):
                if not name.replace("-", "").replace("_", "").isalnum() or not name.isascii():
                    raise ValueError(f"{name!a} cannot name a file")
        except (ValueError, AttributeError) as e:
            raise UserError(f"{path}:{number}: no line of a frozen plan ({e})") from None
        clips.append(Clip(**values))
    return clips


def write_manifest(path: Path, sources: dict[str, tuple[str, int, str]]) -> None:
    """Write `sources/{shard}.csv`: of each source its file, size in bytes and sha256."""
    with atomic_file(path) as beside, beside.open("w", newline="", encoding="utf-8") as target:
        writer = csv.writer(target, lineterminator="\n")
        writer.writerow(SOURCE_COLUMNS)
        writer.writerows([source_id, *sources[source_id]] for source_id in sorted(sources))


def read_rows(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as source:
            reader = csv.DictReader(source)
            if tuple(reader.fieldnames or ()) != columns:
                raise UserError(f"{path}:1: the columns are not {','.join(columns)}")
            return list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise UserError(f"{path}: cannot be read ({e})") from None
