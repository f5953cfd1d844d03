"""The clip table: one row per clip, read by every stage; and the folder of sources that it points into."""

import dataclasses
import itertools
import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import pyarrow as pa

from difftalk.media.clock import FPS
from difftalk.runtime.checksums import verify_folder
from difftalk.runtime.errors import UserError
from difftalk.runtime.parquet import parquet_writer, read_parquet, types_of
from difftalk.runtime.suggest import did_you_mean

SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("source_id", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("identity", pa.string()),
        ("split", pa.string()),
        ("shard", pa.string()),
        ("uri", pa.string()),
        ("box", pa.list_(pa.float32())),
        ("box_height", pa.float32()),
        ("subset", pa.string()),
        ("sha256", pa.string()),
        ("left_out", pa.string()),
        ("crop_ratio", pa.float32()),
        ("tags", pa.string()),
        ("box_width", pa.float32()),
    ]
)

# Of a table that may be put together by hand.
REQUIRED = ("clip_id", "source_id", "start_s", "end_s", "identity", "split")
STAGE = "plan"
# In a row group, at most, unless a single shard has more.
ROWS_OF_GROUP = 8192
# In the metadata of the table: the names of all shards, as JSON.
SHARDS = b"shards"
# No source's id holds a dot.
USABLE = ".clips"


@dataclass(frozen=True, slots=True)
class Clip:
    """A stretch of a source with one speaker.

    Args:
        clip_id, source_id: letters, digits, `-` and `_` only: they name files.
        start_s, end_s: seconds on the source's clock (0 = first frame); both 0 where the length is not known,
            since the file could not be read: such a clip ends as a reject of `fetch`.
        identity: who speaks; an identity is on one side of the split.
        split: `train` or `test`.
        shard: such as `train-003`.
        uri: where the dataset finds the source.
        box: face region (x0, y0, x1, y1) in pixels where the dataset gives one.
        box_height: height in pixels of the frame that `box` refers to; None means that of the source.
        subset: part of the dataset that the funnel counts apart, such as `RD`; empty where there are none.
        sha256: of the source's file, where the plan is a frozen one; empty where any file will do.
        left_out: `reason: detail` where the dataset itself knows that the clip is not to be used.
        crop_ratio: factor of the square around the face of a clip without box; None means 1.
        tags: what the dataset says of the clip, such as `gender=female;interview`, separated by `;`.
        box_width: width in pixels of the frame that `box` refers to, where a frame of another shape may be
            fetched; None means that both sides scale as the height does. With both 1 the box is in parts of
            the frame.
    """

    clip_id: str
    source_id: str
    start_s: float
    end_s: float
    identity: str
    split: str
    shard: str = ""
    uri: str = ""
    box: tuple[float, ...] | None = None
    box_height: float | None = None
    subset: str = ""
    sha256: str = ""
    left_out: str = ""
    crop_ratio: float | None = None
    tags: str = ""
    box_width: float | None = None

    @property
    def frames(self) -> int:
        """Number of frames that the clip should have at 25 a second."""
        return round((self.end_s - self.start_s) * FPS)


FIELDS = tuple(field.name for field in dataclasses.fields(Clip))
# The values of a clip, in the order of its fields.
values_of = attrgetter(*FIELDS)
_AT_SHARD = FIELDS.index("shard")


def in_shard(clip: Clip, shard: str) -> Clip:
    """Return a clip with its shard; for a million, `dataclasses.replace` would be slow."""
    values = list(values_of(clip))
    values[_AT_SHARD] = shard
    return Clip(*values)


def write_plan(path: str | Path, clips: list[Clip], shards: Iterable[str] = ()) -> None:
    """Write the clip table, whole or not at all.

    Args:
        path: the file.
        clips: of all shards.
        shards: names of all shards, since one may have no clip.
    """
    names = sorted({*shards, *(clip.shard for clip in clips)})
    schema = SCHEMA.with_metadata({SHARDS: json.dumps(names)})
    begin = 0
    with parquet_writer(Path(path), schema) as writer:
        for count in _row_groups(clip.shard for clip in clips):
            group = clips[begin : begin + count]
            begin += count
            columns = [pa.array(list(map(attrgetter(field.name), group)), field.type) for field in SCHEMA]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def _row_groups(shards: Iterable[str]) -> list[int]:
    """Return the lengths of the row groups of a table by shard: each of whole shards, and some thousand rows.

    A group a shard would make the footer, which every job reads, the larger part of the file.

    >>> _row_groups(["a", "a", "b"])
    [3]
    """
    lengths = [0]
    for _, of_shard in itertools.groupby(shards):
        count = sum(1 for _ in of_shard)
        if lengths[-1] and lengths[-1] + count > ROWS_OF_GROUP:
            lengths.append(0)
        lengths[-1] += count
    return lengths


def read_plan(path: str | Path, shard: str | None = None) -> list[Clip]:
    """Return the clips of one shard (which may have none), or of all.

    Raises:
        UserError: if `path` is no clip table, or has no shard of that name.
    """
    if shard is None:
        table = read_parquet(path, STAGE, types_of(SCHEMA, *REQUIRED))
    else:
        table = read_parquet(path, STAGE, types_of(SCHEMA, *REQUIRED, "shard"), only=("shard", shard))
    for name in REQUIRED:
        if table[name].null_count:
            raise UserError(f"{path} is no table of `difftalk {STAGE}`: a row has no {name}")
    if shard is not None and not table.num_rows and shard not in (known := _shards_of(path, table)):
        raise UserError(f"{path}: the plan has no shard {shard}; {did_you_mean(shard, sorted(known))}")
    names = [name for name in FIELDS if name in table.schema.names]
    columns = [_values(table[name]) for name in names]
    if "box" in names:
        columns[names.index("box")] = [box and tuple(box) for box in columns[names.index("box")]]
    if tuple(names) == FIELDS:
        return list(map(Clip, *columns))
    return [Clip(**dict(zip(names, values, strict=True))) for values in zip(*columns, strict=True)]


def read_columns(path: str | Path, *required: str) -> list[dict[str, Any]]:
    """Return the rows of a clip table, which may be of other software.

    Args:
        path: the file.
        required: the columns that it must have.

    Raises:
        UserError: if the file cannot be read, or lacks one of them.
    """
    return read_parquet(path, STAGE, types_of(SCHEMA, *required)).to_pylist()


def _values(column: pa.ChunkedArray) -> list[Any]:
    """Return the values of a column, in which equal texts are one object: there may be a million rows."""
    if not pa.types.is_string(column.type):
        return column.to_pylist()
    one: dict[str, str] = {}
    return [one.setdefault(text, text) for chunk in column.chunks for text in chunk.to_pylist()]


def _shards_of(path: str | Path, table: pa.Table) -> set[str]:
    """Return the names of all shards of a plan: those of its clips, and those that it says that it has."""
    with suppress(ValueError, TypeError):
        if said := json.loads((table.schema.metadata or {}).get(SHARDS, b"[]")):
            return set(said)
    return set(read_parquet(path, STAGE, types_of(SCHEMA, "shard"))["shard"].to_pylist())


def source_files(sources: Path) -> dict[str, Path]:
    """Return the video file of each source in a `sources/{shard}` folder; `fetch` rejected the others."""
    found: dict[str, Path] = {}
    for path in sorted(sources.iterdir()):
        if path.suffix not in ("", ".npy"):
            found.setdefault(path.stem, path)
    return found


def write_usable(sources: Path, clip_ids: list[str]) -> None:
    """Record in a `sources/{shard}` folder which clips of its sources are to be used."""
    (sources / USABLE).write_text("".join(f"{clip_id}\n" for clip_id in sorted(clip_ids)), encoding="utf-8")


def clips_with_sources(plan: Path, shard: str, sources: Path) -> list[tuple[Clip, Path]]:
    """Return the clips of a shard that `fetch` has not rejected, each with its file.

    Every file of the folder is compared with its checksum: once per stage, before the first is opened.

    Raises:
        UserError: if `plan` is no clip table or has no such shard, the folder is missing, or a source is
            gone, damaged, or another file than was fetched.
    """
    planned = read_plan(plan, shard)
    if not sources.is_dir():
        raise UserError(f"{sources}: no such folder; `difftalk fetch` fills it")
    verify_folder(sources, f"delete {sources}, and snakemake fetches it again")
    if (sources / USABLE).is_file():  # a folder put together by hand has none: all clips of what is in it
        usable = set((sources / USABLE).read_text(encoding="utf-8").split())
        planned = [c for c in planned if c.clip_id in usable]
    elif not any(sources.iterdir()):
        raise UserError(f"{sources}: an empty folder; `difftalk fetch` fills it")
    files = source_files(sources)
    pairs = [(clip, files[clip.source_id]) for clip in planned if clip.source_id in files]
    for path in dict.fromkeys(path for _, path in pairs):
        if not path.exists():
            raise UserError(f"{path}: the file that it links to is gone; delete {sources} and run again")
    return pairs
