"""The frozen plan of the clips that a run kept, and the manifest of a shard's sources: both CSV."""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from difftalk.datasets.clips import Clip
from difftalk.runtime.errors import UserError
from difftalk.runtime.files import finite, parse_csv, read_csv, write_csv

# The shard is of one run; no kept clip is left out.
COLUMNS = tuple(f.name for f in dataclasses.fields(Clip) if f.name not in {"shard", "left_out"})
# What frozen plans of earlier versions lack, at the end.
LATER_COLUMNS = ("tags", "box_width")
SOURCE_COLUMNS = ("source_id", "file", "bytes", "sha256")
SHA256 = re.compile("[0-9a-f]{64}")


def read_frozen(path: Path) -> list[Clip]:
    """Return the clips of a frozen plan, without shards.

    Raises:
        UserError: naming the file, and the line that is none of such a file.
    """
    clips = []
    for number, row in enumerate(read_csv(path, COLUMNS, later=LATER_COLUMNS), start=2):
        try:
            values: dict[str, Any] = dict(row)
            values["start_s"], values["end_s"] = finite(row["start_s"]), finite(row["end_s"])
            values["box"] = tuple(map(finite, row["box"].split())) or None
            for column in ("box_height", "crop_ratio", "box_width"):
                values[column] = finite(row[column]) if row.get(column) else None
            if row["split"] not in ("train", "test"):
                raise ValueError(f"split {row['split']!r}")
            for name in (row["clip_id"], row["source_id"]):
                if not name.replace("-", "").replace("_", "").isalnum() or not name.isascii():
                    raise ValueError(f"{name!a} cannot name a file")
        except (ValueError, AttributeError) as e:
            raise UserError(f"{path}:{number}: no line of a frozen plan ({e})") from None
        clips.append(Clip(**values))
    return clips


def write_frozen(path: Path, clips: Iterable[Clip], sha256: Mapping[str, str]) -> None:
    """Write clips as a frozen plan, sorted by clip.

    Args:
        path: the file to write.
        clips: the clips that a run kept.
        sha256: of the file of each source.

    Raises:
        UserError: naming a source that has no checksum.
    """
    rows = []
    for clip in sorted(clips, key=lambda c: c.clip_id):
        if clip.source_id not in sha256:
            raise UserError(
                f"freeze: {clip.source_id} is in no sources/SHARD.csv, and no stage rejected {clip.clip_id}: "
                "outputs of several runs are mixed"
            )
        values = dataclasses.asdict(clip) | {"sha256": sha256[clip.source_id]}
        values["box"] = " ".join(f"{v:g}" for v in clip.box or ())
        rows.append([values[column] for column in COLUMNS])
    write_csv(path, COLUMNS, rows)


def write_manifest(path: Path, sources: Mapping[str, tuple[str, int, str]]) -> None:
    """Write `sources/{shard}.csv`: of each source its file, size in bytes and sha256."""
    write_csv(path, SOURCE_COLUMNS, ([source_id, *sources[source_id]] for source_id in sorted(sources)))


def read_checksums(manifests: Iterable[Path]) -> dict[str, str]:
    """Return `{source_id: sha256}` of the sources in some manifests.

    Raises:
        UserError: naming the file that is no manifest.
    """

    def parse(row: dict[str, str]) -> tuple[str, str]:
        if not SHA256.fullmatch(row["sha256"]):
            raise ValueError(f"{row['sha256']!r} is no sha256")
        return row["source_id"], row["sha256"]

    return dict(pair for path in manifests for pair in parse_csv(path, SOURCE_COLUMNS, parse))
