"""Read a table that came from elsewhere, CSV or Parquet, with the place of each row for messages."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from difftalk.runtime.errors import UserError

# How a Parquet file begins.
PARQUET = b"PAR1"


def read_tabular(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the rows of a table, each with its place: `FILE:LINE`, or `FILE: row N` of Parquet.

    CSV is UTF-8 with a header, with or without a byte order mark. Its values are text without spaces around
    it; those of Parquet have their types. Blank lines are left out.

    Raises:
        UserError: naming the file, and the line where there is one, that cannot be read.
    """
    try:
        with path.open("rb") as source:
            is_parquet = source.read(len(PARQUET)) == PARQUET
    except OSError as e:
        raise UserError(f"{path}: cannot be read ({e.strerror})") from None
    yield from _parquet_rows(path) if is_parquet else _csv_rows(path)


def _csv_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as source:
            reader = csv.reader(source, strict=True)
            header = [name.strip() for name in next(reader, [])]
            if not any(header):
                raise UserError(f"{path}:1: no header: its first line names the columns, separated by commas")
            if double := sorted({name for name in header if header.count(name) > 1}):
                raise UserError(f"{path}:1: two columns are called {double[0]!r}")
            begin = reader.line_num + 1
            for fields in reader:
                where, begin = f"{path}:{begin}", reader.line_num + 1
                if not any(field.strip() for field in fields):
                    continue
                if len(fields) != len(header):
                    raise UserError(
                        f"{where}: {len(fields)} fields, {len(header)} expected; a field that "
                        'holds a comma stands in double quotes ("a, b")'
                    )
                row = {name: field.strip() for name, field in zip(header, fields, strict=True)}
                yield where, row
    except UnicodeDecodeError:
        raise UserError(f"{path}: neither CSV in UTF-8 nor Parquet") from None
    except csv.Error as e:
        raise UserError(f"{path}:{reader.line_num}: no CSV ({e})") from None


def _parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            names = file.schema_arrow.names
            if double := sorted({name for name in names if names.count(name) > 1}):
                raise UserError(f"{path}: two columns are called {double[0]!r}")
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}: row {number}", row
    except (pa.ArrowException, OSError, ValueError, OverflowError) as e:
        raise UserError(
            f"{path}: a value that cannot be read, or damaged Parquet ({' '.join(str(e).split())})"
        ) from None
