"""How long a method took for each clip: `timing.csv` in the folder of its videos."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from difftalk.runtime.files import write_csv
from difftalk.runtime.sample_folder import TIMING

COLUMNS = ("clip_id", "seconds", "frames", "steps")


@dataclass(frozen=True)
class Took:
    """What one clip took.

    Args:
        seconds: of sampling and decoding its frames, or of the whole command that made them.
        frames: of the clip.
        steps: of the sampler; None of a command.
    """

    seconds: float
    frames: int
    steps: int | None = None


def write_timing(folder: Path, times: Mapping[str, Took]) -> None:
    """Write `timing.csv`, a row a clip; no clip, no file."""
    if times:
        rows = (
            (clip_id, f"{took.seconds:.3f}", took.frames, took.steps)
            for clip_id, took in sorted(times.items())
        )
        write_csv(folder / TIMING, COLUMNS, rows, recorded=False)


def duration(seconds: float) -> str:
    """Return a length of time for people.

    >>> duration(42), duration(240), duration(5000)
    ('42 s', '4 min', '1.4 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"
