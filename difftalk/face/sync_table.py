"""The sync table of a shard: offset and confidence of each clip that the sync expert has judged."""

from collections.abc import Iterable
from pathlib import Path

from difftalk.runtime.files import finite, parse_csv, write_csv

COLUMNS = ("clip_id", "sync_offset", "sync_confidence")


def write_sync(path: Path, rows: Iterable[tuple[str, int, float]]) -> None:
    """Write clip_id, offset (frames, positive where the audio leads) and confidence, sorted by clip."""
    write_csv(path, COLUMNS, sorted((clip, offset, f"{confidence:.4f}") for clip, offset, confidence in rows))


def read_sync(paths: Iterable[Path]) -> dict[str, tuple[int, float]]:
    """Return offset and confidence by clip.

    Raises:
        UserError: if a file cannot be read or has other columns.
    """

    def parse(row: dict[str, str]) -> tuple[str, tuple[int, float]]:
        return row["clip_id"], (int(row["sync_offset"]), finite(row["sync_confidence"]))

    return dict(pair for path in paths for pair in parse_csv(path, COLUMNS, parse))
