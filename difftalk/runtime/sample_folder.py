"""The videos of a method in a folder: named by clip id, and what is told of them beside."""

from pathlib import Path

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
    rows = read_csv(folder / TIMING) if (folder / TIMING).is_file() else []
    return {
        row["clip_id"]: int(row["frames"]) / float(row["seconds"]) for row in rows if float(row["seconds"])
    }


def read_problems(folder: Path) -> dict[str, str]:
    """Return why clips have no video, of a method from elsewhere.

    Raises:
        UserError: if `differences.csv` cannot be read.
    """
    rows = read_csv(folder / DIFFERENCES) if (folder / DIFFERENCES).is_file() else []
    return {row["clip_id"]: row["problem"] for row in rows if row["problem"]}
