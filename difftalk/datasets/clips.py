"""The clip table: one row per clip, read by every stage; and the folder of sources that it points into."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from difftalk.media.clock import FPS
from difftalk.runtime.errors import UserError
from difftalk.runtime.files import atomic_file

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

# No source's id holds a dot.
USABLE = ".clips"


@dataclass(frozen=True)
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


def write_plan(path: str | Path, clips: list[Clip]) -> None:
    """Write the clip table, whole or not at all."""
    rows = [dataclasses.asdict(c) for c in clips]
    with atomic_file(path) as tmp:
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), tmp)


def read_plan(path: str | Path, shard: str | None = None) -> list[Clip]:
    """Return the clips of one shard (which may have none), or of all.

    Raises:
        UserError: if `path` is no clip table.
    """
    try:
        filters = [("shard", "=", shard)] if shard is not None else None
        rows = pq.read_table(path, filters=filters).to_pylist()
        names = {f.name for f in dataclasses.fields(Clip)}
        return [Clip(**{k: v for k, v in row.items() if k in names}) for row in rows]
    except (pa.ArrowInvalid, FileNotFoundError, TypeError) as e:
        raise UserError(f"{path} is no clip table of `difftalk plan` ({e})") from e


def source_file(sources: Path, source_id: str) -> Path | None:
    """Return the video file of a source in a `sources/{shard}` folder; None where `fetch` rejected it."""
    found = [p for p in sorted(sources.glob(f"{source_id}.*")) if p.stem == source_id and p.suffix != ".npy"]
    return found[0] if found else None


def write_usable(sources: Path, clip_ids: list[str]) -> None:
    """Record in a `sources/{shard}` folder which clips of its sources are to be used."""
    (sources / USABLE).write_text("".join(f"{clip_id}\n" for clip_id in sorted(clip_ids)), encoding="utf-8")


def clips_with_sources(plan: Path, shard: str, sources: Path) -> list[tuple[Clip, Path]]:
    """Return the clips of a shard that `fetch` has not rejected, each with its file.

    Raises:
        UserError: if `plan` is no clip table, or a source is gone from the store.
    """
    planned = read_plan(plan, shard)
    if (sources / USABLE).is_file():  # a folder put together by hand has none: all clips of what is in it
        usable = set((sources / USABLE).read_text(encoding="utf-8").split())
        planned = [c for c in planned if c.clip_id in usable]
    pairs = [(c, source_file(sources, c.source_id)) for c in planned]
    for _, path in pairs:
        if path is not None and not path.exists():
            raise UserError(f"{path}: the file that it links to is gone; delete {sources} and run again")
    return [(c, path) for c, path in pairs if path is not None]
