"""The landmark table of a shard: one row a frame with a face, in pixels of the source."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa

from difftalk.face.tracks import Track
from difftalk.runtime.parquet import parquet_writer, read_parquet, types_of

SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("frame", pa.int32()),
        ("box", pa.list_(pa.float32())),
        ("points", pa.list_(pa.float32())),
        ("score", pa.float32()),
    ]
)


@contextmanager
def landmark_writer(path: Path) -> Iterator[Callable[[str, Track], None]]:
    """Yield a function `(clip_id, track)` that appends the track of a clip to a landmark table.

    It is written whole or not at all.
    """
    with parquet_writer(path, SCHEMA) as writer:

        def write(clip_id: str, track: Track) -> None:
            columns = {
                "clip_id": [clip_id] * len(track.frames),
                "frame": track.frames,
                "box": list(track.boxes),
                "points": list(track.points.reshape(-1, 136)),
                "score": track.scores,
            }
            writer.write_table(pa.table(columns, schema=SCHEMA))

        yield write


def read_landmarks(path: str | Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return `{clip_id: (frames (n,), points (n, 68, 2) float32)}` of a shard's landmark table.

    Raises:
        UserError: if the file is missing, damaged or no such table.
    """
    table = read_parquet(path, "landmarks", types_of(SCHEMA, "clip_id", "frame", "points"))
    if table.num_rows == 0:
        return {}
    names = np.asarray(table["clip_id"].to_pylist())
    frames = table["frame"].to_numpy()
    points = table["points"].combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(-1, 68, 2)
    return {str(n): (frames[names == n], points[names == n]) for n in dict.fromkeys(names)}
