"""Parquet tables that one stage hands to the next, with checksums of every page and of the file."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
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


def read_parquet(
    path: str | Path,
    stage: str,
    columns: Mapping[str, pa.DataType],
    only: tuple[str, str] | None = None,
) -> pa.Table:
    """Return a table, or some rows of it.

    Args:
        path: the file.
        stage: the command that writes it, for errors.
        columns: those that it must have, with their types. More may be there.
        only: one of these columns, of text, and the value of the rows that are wanted. Row groups that cannot
            have it are not decoded.

    Raises:
        UserError: if the file is missing, damaged, no Parquet, or lacks a column.
    """
    path = Path(path)
    what = f"{path} is no table of `difftalk {stage}`"
    if not path.is_file():
        raise UserError(f"{path}: no such file; `difftalk {stage}` writes it")
    try:
        with pq.ParquetFile(verify(path), page_checksum_verification=True) as file:
            groups = list(range(file.num_row_groups))
            if only is not None:
                groups = [k for k in groups if _may_have(file.metadata.row_group(k), *only)]
            table = file.read_row_groups(groups)
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
    return table if only is None else table.filter(pc.field(only[0]) == only[1])


def _may_have(group: pq.RowGroupMetaData, column: str, value: str) -> bool:
    """Whether a row group can have a value, by its statistics."""
    for k in range(group.num_columns):
        found = group.column(k)
        if found.path_in_schema == column and found.is_stats_set and found.statistics.has_min_max:
            least, most = found.statistics.min, found.statistics.max
            return not isinstance(least, str) or least <= value <= most
    return True


def types_of(schema: pa.Schema, *names: str) -> dict[str, pa.DataType]:
    """Return the types of some columns of a schema, or of all, as `read_parquet` takes them."""
    return {name: schema.field(name).type for name in names or schema.names}
