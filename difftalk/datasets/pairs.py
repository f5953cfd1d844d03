"""Which voice drives which test clip besides its own: a fixed permutation, never of the same person."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from difftalk.runtime.files import read_csv, write_csv


@dataclass(frozen=True)
class Speaking:
    """A test clip that can drive another.

    Args:
        clip_id, identity, shard: as in the plan.
        frames: of its crop that are evaluated, at 25 fps.
    """

    clip_id: str
    identity: str
    shard: str
    frames: int


@dataclass(frozen=True)
class VoicePair:
    """A clip, and whose voice drives it: a row of `cross_driven/pairs.csv`.

    Args:
        clip_id, shard: the clip.
        driven_by, driven_by_shard: the clip whose voice it is; empty where there is no other person.
        frames: of the shorter one, to which both are cut.
    """

    clip_id: str
    shard: str
    driven_by: str
    driven_by_shard: str
    frames: int


COLUMNS = tuple(field.name for field in fields(VoicePair))


def voice_pairs(clips: Sequence[Speaking]) -> list[VoicePair]:
    """Return a pair for each clip, sorted by clip id.

    Sorted by id, the clips are rotated by the least number of places at which nobody gets a voice of the same
    identity, so that each voice is used once. Where there is no such number, each clip gets the next clip of
    another identity.
    """
    ordered = sorted(clips, key=lambda clip: clip.clip_id)
    count = len(ordered)
    for places in range(1, count):
        rotated = ordered[places:] + ordered[:places]
        if all(a.identity != b.identity for a, b in zip(ordered, rotated, strict=True)):
            return [_pair(a, b) for a, b in zip(ordered, rotated, strict=True)]
    following = (
        next(
            (other for k in range(1, count) if (other := ordered[(i + k) % count]).identity != clip.identity),
            None,
        )
        for i, clip in enumerate(ordered)
    )
    return [_pair(clip, other) for clip, other in zip(ordered, following, strict=True)]


def _pair(clip: Speaking, other: Speaking | None) -> VoicePair:
    if other is None:
        return VoicePair(clip.clip_id, clip.shard, "", "", clip.frames)
    frames = min(clip.frames, other.frames)
    return VoicePair(clip.clip_id, clip.shard, other.clip_id, other.shard, frames)


def write_pairs(path: Path, pairs: Sequence[VoicePair]) -> None:
    """Write the pairs."""
    write_csv(path, COLUMNS, (astuple(pair) for pair in pairs))


def read_pairs(path: Path, shard: str) -> dict[str, VoicePair]:
    """Return the pairs of the clips of a shard, by clip id.

    Raises:
        UserError: if the file cannot be read.
    """
    rows = read_csv(path, COLUMNS)
    return {
        row["clip_id"]: VoicePair(**row | {"frames": int(row["frames"])})  # type: ignore[arg-type]
        for row in rows
        if row["shard"] == shard
    }
