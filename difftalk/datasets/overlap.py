"""What the two sides of a split have in common: the same content, and the same person, whatever its name.

A split that is published, or drawn by names, may have both. The plan is made before anything is downloaded,
so this is found out when there are crops. Clips of the training side are then rejected, and never those of
the test side: its scores stay those of the same clips.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from difftalk.config.gates import OverlapSettings
from difftalk.datasets.clips import Clip
from difftalk.datasets.copies import Content, copies_among
from difftalk.runtime.files import read_csv, write_csv
from difftalk.runtime.parquet import read_parquet, types_of, write_parquet
from difftalk.runtime.rejects import Reject

STAGE = "overlap"
SCHEMA = pa.schema(
    [("clip_id", pa.string()), ("audio", pa.list_(pa.uint32())), ("face", pa.list_(pa.float64()))]
)
COLUMNS = ("clip_id", "split", "identity", "nearest", "distance", "copy_of", "on_both_sides", "detail")
AT_ONCE = 1024  # clips that are compared with all of the other side


def write_contents(path: Path, contents: Iterable[tuple[str, Content]]) -> None:
    """Write `descriptors/{shard}.parquet`, whole or not at all."""
    rows = [{"clip_id": clip_id, "audio": c.audio, "face": c.face} for clip_id, c in contents]
    write_parquet(path, pa.Table.from_pylist(rows, schema=SCHEMA))


def read_contents(paths: Iterable[Path]) -> dict[str, Content]:
    """Return what tells clips apart, by clip.

    Raises:
        UserError: as `read_parquet`.
    """
    contents = {}
    for path in paths:
        for row in read_parquet(path, "descriptors", types_of(SCHEMA)).to_pylist():
            audio, face = np.array(row["audio"], np.uint32), np.array(row["face"])
            contents[row["clip_id"]] = Content(audio, np.zeros((0, 2, 64), bool), face)
    return contents


@dataclass(frozen=True)
class Overlap:
    """What a clip has in common with others.

    Args:
        clip_id, split, identity: of the clip.
        nearest: clip of the other side of the split with the most similar face; empty without one.
        distance: of the two descriptors.
        copy_of: first clip of the same content, on either side; empty for that one and for others.
        on_both_sides: what the other side has, too: `content`, `person` or nothing.
        detail: how that is known.
    """

    clip_id: str
    split: str
    identity: str
    nearest: str = ""
    distance: float = np.inf
    copy_of: str = ""
    on_both_sides: str = ""
    detail: str = ""


def find_overlap(
    planned: Sequence[Clip], contents: Mapping[str, Content], settings: OverlapSettings
) -> list[Overlap]:
    """Return a row per clip that has been measured, in the order of the plan.

    A person is on both sides where one speaker has clips on both, by name, or where two faces are less than
    `same_person_distance` apart. With `named_speakers`, two speakers that the dataset names are told apart by
    their names. All clips of the speaker then have that person.

    Args:
        planned: the clip table.
        contents: by clip, of those that have crops.
        settings: the limits.
    """
    clips = [clip for clip in planned if clip.clip_id in contents]
    rows = {clip.clip_id: Overlap(clip.clip_id, clip.split, clip.identity) for clip in clips}
    sides = [[clip for clip in clips if clip.split == side] for side in ("train", "test")]
    people: dict[str, str] = {}
    for mine, others in (sides, sides[::-1]):
        of_others = {clip.identity: clip.clip_id for clip in reversed(others)}
        for clip in mine:
            if clip.identity in of_others:
                people.setdefault(clip.identity, f"{clip.identity} speaks in {of_others[clip.identity]} too")
        if settings.same_person_distance is None or not others:
            continue
        for clip, other, distance in _nearest(mine, others, contents, settings.named_speakers):
            rows[clip.clip_id] = replace(rows[clip.clip_id], nearest=other.clip_id, distance=distance)
            if distance < settings.same_person_distance:
                said = f"the face is {distance:.3f} from that of {other.identity} in {other.clip_id}"
                people.setdefault(clip.identity, said)
    for clip in clips:
        if clip.identity in people:
            rows[clip.clip_id] = replace(
                rows[clip.clip_id], on_both_sides="person", detail=people[clip.identity]
            )
    for early, late in copies_among([contents[clip.clip_id] for clip in clips]):
        first, second = clips[early], clips[late]
        if not rows[second.clip_id].copy_of:
            rows[second.clip_id] = replace(rows[second.clip_id], copy_of=first.clip_id)
        if first.split != second.split:
            for clip, its in ((first, second), (second, first)):
                said = f"the audio and face of {its.clip_id}"
                rows[clip.clip_id] = replace(rows[clip.clip_id], on_both_sides="content", detail=said)
    return [rows[clip.clip_id] for clip in clips]


def _nearest(
    mine: Sequence[Clip], others: Sequence[Clip], contents: Mapping[str, Content], named: bool
) -> Iterable[tuple[Clip, Clip, float]]:
    """Yield each clip with the one of the other side whose face is most similar, and the distance."""
    theirs = np.array([contents[clip.clip_id].face for clip in others])
    unnamed = np.array([not (named and is_named(clip)) for clip in others])
    for first in range(0, len(mine), AT_ONCE):
        some = mine[first : first + AT_ONCE]
        faces = np.array([contents[clip.clip_id].face for clip in some])
        squares = (faces**2).sum(axis=1)[:, None] + (theirs**2).sum(axis=1) - 2 * faces @ theirs.T
        distances = np.sqrt(np.maximum(squares, 0.0))
        for clip, row in zip(some, distances, strict=True):
            if named and is_named(clip):
                row = np.where(unnamed, row, np.inf)
            closest = int(np.argmin(row))
            if np.isfinite(row[closest]):
                yield clip, others[closest], float(row[closest])


def is_named(clip: Clip) -> bool:
    """Whether the dataset says who speaks: else each source is a speaker, called as the source."""
    return not clip.identity.startswith(clip.source_id)


def rejects_of(rows: Iterable[Overlap]) -> list[Reject]:
    """Return the clips of the training side that have something of the test side."""
    reasons = {"content": "duplicate", "person": "shared_speaker"}
    return [
        Reject(row.clip_id, STAGE, reasons[row.on_both_sides], f"on the test side too: {row.detail}")
        for row in rows
        if row.split == "train" and row.on_both_sides
    ]


def write_overlap(path: Path, rows: Iterable[Overlap]) -> None:
    """Write `overlap.csv`, one row per clip that has been measured."""
    write_csv(
        path,
        COLUMNS,
        (
            (r.clip_id, r.split, r.identity, r.nearest, f"{r.distance:.4f}" if r.nearest else "", r.copy_of)
            + (r.on_both_sides, r.detail)
            for r in rows
        ),
    )


def read_overlap(path: Path) -> dict[str, Overlap]:
    """Return the rows by clip.

    Raises:
        UserError: if the file cannot be read or has other columns.
    """
    found = {}
    for row in read_csv(path, COLUMNS):
        distance = float(row.pop("distance") or np.inf)
        found[row["clip_id"]] = Overlap(**row, distance=distance)
    return found
