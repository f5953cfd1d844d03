"""Parquet tables that one stage hands to the next, with checksums of every page and of the file."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from difftalk.runtime.checksums import verify
from difftalk.runtime.errors import UserError
from difftalk.runtime.files import atomic_file

UNREADABLE = (pa.ArrowException, OSError, ValueError, OverflowError)


def write_parquet(path: Path, table: pa.Table) -> None:
    """Write a table, whole or not at all, with its record."""
    with atomic_file(path, recorded=True) as tmp:
        pq.write_table(table, tmp, write_page_checksum=True)


@contextmanager
def parquet_writer(path: Path, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """Yield a writer of a table that grows, whole or not at all, with its record."""
    with (
        atomic_file(path, recorded=True) as tmp,
        pq.ParquetWriter(tmp, schema, write_page_checksum=True) as writer,
    ):
        yield writer


def read_parquet(path: str | Path, stage: str, columns: Mapping[str, pa.DataType]) -> pa.Table:
    """Return all of a table.

    Args:
        path: the file.
        stage: the command that writes it, for errors.
        columns: those that it must have, with their types. More may be there.

    Raises:
        UserError: if the file is missing, damaged, no Parquet, or lacks a column.
    """
    path = Path(path)
    what = f"{path} is no table of `difftalk {stage}`"
    if not path.is_file():
        raise UserError(f"{path}: no such file; `difftalk {stage}` writes it")
    try:
        table = pq.read_table(verify(path), page_checksum_verification=True)
    except UNREADABLE as e:
        reason = " ".join(str(e).split())[:200]
        raise UserError(f"{what}: {reason}; delete it, and snakemake writes it again") from None
    for name, kind in columns.items():
        if (position := table.schema.get_field_index(name)) < 0:
            raise UserError(f"{what}: it has no column {name}")
        try:
            if table.schema.types[position] != kind:
                table = table.set_column(position, name, table.column(position).cast(kind))
        except pa.ArrowException:
            found = table.schema.types[position]
            raise UserError(f"{what}: its column {name} is of type {found}, not {kind}") from None
    return table


def types_of(schema: pa.Schema, *names: str) -> dict[str, pa.DataType]:
    """Return the types of some columns of a schema, or of all, as `read_parquet` takes them."""
    return {name: schema.field(name).type for name in names or schema.names}
