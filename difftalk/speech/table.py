"""The speech table of a shard: one row a 20 ms step, written by `speech` and read by `encode`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa

from difftalk.runtime.parquet import parquet_writer, read_parquet, types_of

SCHEMA = pa.schema([("clip_id", pa.string()), ("step", pa.int32()), ("features", pa.list_(pa.float32()))])


@contextmanager
def speech_writer(path: Path) -> Iterator[Callable[[str, np.ndarray], None]]:
    """Yield a function `(clip_id, features)` that appends a clip's features `(S, D)` to a table.

    It is written whole or not at all.
    """
    with parquet_writer(path, SCHEMA) as writer:

        def write(clip_id: str, features: np.ndarray) -> None:
            columns = {
                "clip_id": [clip_id] * len(features),
                "step": np.arange(len(features), dtype=np.int32),
                "features": list(features),
            }
            writer.write_table(pa.table(columns, schema=SCHEMA))

        yield write


def read_speech(path: str | Path) -> dict[str, np.ndarray]:
    """Return `{clip_id: (S, D) float32}` of a shard's speech table.

    Raises:
        UserError: if the file is missing, damaged or no such table.
    """
    table = read_parquet(path, "speech", types_of(SCHEMA))
    found: dict[str, np.ndarray] = {}
    if table.num_rows == 0:
        return found
    names = np.asarray(table["clip_id"].to_pylist())
    features = table["features"].combine_chunks()
    values = np.asarray(features.flatten()).reshape(table.num_rows, -1)
    starts = np.flatnonzero(np.r_[True, names[1:] != names[:-1]])
    for start, end in zip(starts, np.r_[starts[1:], len(names)], strict=True):
        found[str(names[start])] = values[start:end]
    return found
