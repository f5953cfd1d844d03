"""The quality table of a shard: how well the landmarks of each clip were found."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from difftalk.runtime.files import finite, parse_csv, write_csv

QUALITY_COLUMNS = ("clip_id", "frames", "detected", "nme")


@dataclass
class Quality:
    """How well the landmarks of some clips were found.

    Args:
        detection_rate: frames with a face over all frames, 0..1.
        nme: mean distance to the true landmarks over that of the outer eye corners; None without ground
            truth.
    """

    detection_rate: float
    nme: float | None


def write_quality(path: Path, rows: Iterable[tuple[str, int, int, float | None]]) -> None:
    """Write the quality table of a shard, sorted by clip.

    Args:
        path: `landmarks/{shard}.quality.csv`.
        rows: clip_id, frames, frames with a face, and normalised mean error (None without ground truth) of
            each clip.
    """
    table = [(clip, frames, found, "" if nme is None else f"{nme:.5f}") for clip, frames, found, nme in rows]
    write_csv(path, QUALITY_COLUMNS, sorted(table))


def read_quality(paths: Iterable[Path]) -> dict[str, tuple[int, int, float | None]]:
    """Return frames, frames with a face, and normalised mean error of each clip.

    Raises:
        UserError: if a file cannot be read or has other columns.
    """

    def parse(row: dict[str, str]) -> tuple[str, tuple[int, int, float | None]]:
        nme = finite(row["nme"]) if row["nme"] else None
        return row["clip_id"], (int(row["frames"]), int(row["detected"]), nme)

    return dict(pair for path in paths for pair in parse_csv(path, QUALITY_COLUMNS, parse))


def quality_of(clips: set[str], found: dict[str, tuple[int, int, float | None]]) -> Quality | None:
    """Return the quality over all frames of `clips`; None where nothing is known.

    Args:
        clips: their ids.
        found: of `read_quality`.
    """
    known = [found[c] for c in clips if c in found]
    frames = sum(f for f, _, _ in known)
    if not frames:
        return None
    errors = [(nme, detected) for _, detected, nme in known if nme is not None and detected]
    weight = sum(d for _, d in errors)
    nme = sum(n * d for n, d in errors) / weight if weight else None
    return Quality(sum(d for _, d, _ in known) / frames, nme)
