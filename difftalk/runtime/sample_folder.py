"""The videos of a method in a folder: named by clip id, and what is told of them beside."""

from pathlib import Path

from difftalk.runtime.errors import UserError
from difftalk.runtime.files import read_csv

SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm")
# Of what takes time: clip_id, seconds, frames, steps. Of a method from elsewhere: a row a clip.
TIMING, DIFFERENCES = "timing.csv", "differences.csv"


def find_video(folder: Path, clip_id: str) -> Path | None:
    """Return the video of a clip, its suffix in small or capital letters; None where there is none."""
    names = (f"{clip_id}{suffix}" for small in SUFFIXES for suffix in (small, small.upper()))
    return next((path for name in names if (path := folder / name).is_file()), None)


def read_rates(folder: Path) -> dict[str, float]:
    """Return how many frames a second were made of each clip of which that was noted.

    Raises:
        UserError: if `timing.csv` cannot be read.
    """
    try:
        return {
            row["clip_id"]: int(row["frames"]) / float(row["seconds"])
            for row in _rows(folder / TIMING, "clip_id", "frames", "seconds")
            if float(row["seconds"])
        }
    except (ValueError, TypeError) as e:
        raise UserError(f"{folder / TIMING}: frames and seconds are no numbers ({e})") from None


def read_problems(folder: Path) -> dict[str, str]:
    """Return why clips have no video, of a method from elsewhere.

    Raises:
        UserError: if `differences.csv` cannot be read.
    """
    rows = _rows(folder / DIFFERENCES, "clip_id", "problem")
    return {row["clip_id"]: row["problem"] for row in rows if row["problem"]}


def _rows(path: Path, *columns: str) -> list[dict[str, str]]:
    """Return the rows of a table that a folder may have; none where it has none."""
    rows = read_csv(path) if path.is_file() else []
    if rows and (missing := [column for column in columns if column not in rows[0]]):
        raise UserError(f"{path}: has no column {missing[0]}; a file of another meaning has to go elsewhere")
    return rows
