"""Which test clips are evaluated: some of them, by a hash of their names, and the first seconds of each."""

import hashlib
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from difftalk.config.evaluation import EvaluatedClips
from difftalk.media.clock import FPS
from difftalk.runtime.files import read_csv, write_csv


@dataclass(frozen=True)
class Candidate:
    """A test clip that could be evaluated.

    Args:
        clip_id, source_id, shard: as in the plan.
        frames: of its crop, at 25 fps.
    """

    clip_id: str
    source_id: str
    shard: str
    frames: int


@dataclass(frozen=True)
class Chosen:
    """A test clip that is evaluated: a row of `plan/evaluated.csv`.

    Args:
        clip_id, source_id, shard, frames: as of the candidate.
        evaluated_frames: how many of them count, from the first.
        md5: of the clip id, by which clips are ordered.
    """

    clip_id: str
    source_id: str
    shard: str
    frames: int
    evaluated_frames: int
    md5: str


COLUMNS = tuple(field.name for field in fields(Chosen))


def choose(candidates: Iterable[Candidate], settings: EvaluatedClips) -> list[Chosen]:
    """Return the clips that are evaluated, in the order of the MD5 of their ids.

    One clip of each source, the first in that order that is long enough; a clip that is shorter than
    `seconds` is passed over. There are fewer than `count` where there are no more.
    """
    seconds = settings.seconds
    wanted = None if seconds is None else round(seconds * FPS)
    chosen: dict[str, Chosen] = {}
    for clip in sorted(candidates, key=lambda c: _md5(c.clip_id)):
        if len(chosen) == settings.count:
            break
        if clip.source_id not in chosen and (wanted is None or clip.frames >= wanted):
            counted = clip.frames if wanted is None else wanted
            chosen[clip.source_id] = Chosen(**vars(clip), evaluated_frames=counted, md5=_md5(clip.clip_id))
    return list(chosen.values())


def write_chosen(path: Path, chosen: Iterable[Chosen]) -> None:
    """Write the list of the clips that are evaluated."""
    write_csv(path, COLUMNS, (astuple(clip) for clip in chosen))


def read_chosen(path: Path) -> dict[str, int]:
    """Return how many frames of each clip count, by its id, from the list.

    Raises:
        UserError: if it cannot be read.
    """
    return {row["clip_id"]: int(row["evaluated_frames"]) for row in read_csv(path, COLUMNS)}


def _md5(clip_id: str) -> str:
    return hashlib.md5(clip_id.encode(), usedforsecurity=False).hexdigest()
