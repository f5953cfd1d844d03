"""Ways in which a file of a run can be damaged, for `benchmarks/damage.py`: bytes in, bytes out."""

import csv
import io
import json
import math
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.numpy

HEADER = 64  # bytes in which a bit of the header is flipped
END = 1000  # bytes in which a bit of the end is flipped
PAGE = 4096  # bytes that a torn write leaves as zeros
LINES = (".csv", ".jsonl", ".clips", ".sha256", "SHA256SUMS")

Rng = np.random.Generator
Damage = Callable[[bytes, str, Rng], bytes | None]


def kind_of(name: str) -> str:
    """Return the format of a file: its suffix, or its whole name where that is all there is."""
    return Path(name).suffix or Path(name).name


def empty(data: bytes, kind: str, rng: Rng) -> bytes:
    return b""


def cut_half(data: bytes, kind: str, rng: Rng) -> bytes:
    return data[: len(data) // 2]


def cut_tenth(data: bytes, kind: str, rng: Rng) -> bytes:
    return data[: min(math.ceil(len(data) * 0.9), len(data) - 1)]


def cut_member(data: bytes, kind: str, rng: Rng) -> bytes | None:
    """Cut where a clip of a tar, or a row of a table, ends: what is left is well-formed."""
    if kind == ".tar":
        members = _members(data)
        clips = [m.name.split(".")[0] for m in members]
        starts = [
            m.offset for m, before, clip in zip(members[1:], clips, clips[1:], strict=False) if clip != before
        ]
        return data[: starts[(len(starts) - 1) // 2]] if starts else None
    lines = data.splitlines(keepends=True)
    return b"".join(lines[:-1]) if kind in LINES and len(lines) > 1 else None


def bit_middle(data: bytes, kind: str, rng: Rng) -> bytes:
    return _flipped(data, int(rng.integers(len(data) // 3, max(2 * len(data) // 3, len(data) // 3 + 1))), rng)


def bit_header(data: bytes, kind: str, rng: Rng) -> bytes:
    """Flip a bit at the beginning; in a tar, in the header of a member in the middle."""
    if kind == ".tar" and (members := _members(data)):
        return _flipped(data, members[len(members) // 2].offset + int(rng.integers(HEADER)), rng)
    return _flipped(data, int(rng.integers(min(HEADER, len(data)))), rng)


def bit_end(data: bytes, kind: str, rng: Rng) -> bytes:
    """Flip a bit near the end; in a tar, before the zeros that fill it up."""
    length = len(data)
    if kind == ".tar" and (members := _members(data)):
        length = members[-1].offset_data + members[-1].size
    return _flipped(data, length - 1 - int(rng.integers(min(END, length))), rng)


def zeros(data: bytes, kind: str, rng: Rng) -> bytes:
    """Blank a page in the middle, or a quarter of what is shorter than four pages."""
    size = min(PAGE, len(data) // 4)
    begin = (len(data) - size) // 2 // size * size if size else 0
    return data[:begin] + bytes(size) + data[begin + size :]


def noise(data: bytes, kind: str, rng: Rng) -> bytes:
    return rng.bytes(len(data))


def nan(data: bytes, kind: str, rng: Rng) -> bytes | None:
    """Put NaN in place of the first numbers, in a file that is otherwise as its writer would write it."""
    if kind == ".parquet":
        table = pq.read_table(io.BytesIO(data))
        columns = [_nan_first(table.column(k)) for k in range(table.num_columns)]
        return _parquet(pa.table(columns, schema=table.schema)) if table.num_rows else None
    if kind == ".csv":
        rows = list(csv.reader(io.StringIO(data.decode())))
        numbers = [i for i, cell in enumerate(rows[1]) if _is_number(cell)] if len(rows) > 1 else []
        for i in numbers:
            rows[1][i] = "nan"
        return _csv(rows) if numbers else None
    if kind in (".json", ".jsonl"):
        values = [json.loads(line) for line in (data.splitlines() if kind == ".jsonl" else [data])]
        return _json([_nan_leaves(value) for value in values], kind)
    if kind == ".npy":
        array = np.load(io.BytesIO(data))
        return _npy(_nan_array(array))
    if kind == ".safetensors":
        tensors = safetensors.numpy.load(data)
        first = min(tensors)
        return safetensors.numpy.save(tensors | {first: _nan_array(tensors[first])}, _metadata(data))
    if kind == ".tar":
        return _rewritten(data, lambda name, member: _nan_member(member) if name.endswith(".npy") else member)
    return None


def no_column(data: bytes, kind: str, rng: Rng) -> bytes | None:
    """Leave out a column of a table, a key, a tensor, or a file of one clip of a tar."""
    if kind == ".parquet":
        table = pq.read_table(io.BytesIO(data))
        return _parquet(table.drop_columns([str(rng.choice(table.column_names))]))
    if kind == ".csv":
        rows = list(csv.reader(io.StringIO(data.decode())))
        at = int(rng.integers(len(rows[0])))
        return _csv([row[:at] + row[at + 1 :] for row in rows])
    if kind in (".json", ".jsonl"):
        values = [json.loads(line) for line in (data.splitlines() if kind == ".jsonl" else [data])]
        key = str(rng.choice(sorted(values[0]))) if values and values[0] else None
        return (
            _json([{k: v for k, v in value.items() if k != key} for value in values], kind) if key else None
        )
    if kind == ".safetensors":
        tensors = safetensors.numpy.load(data)
        lost = str(rng.choice(sorted(tensors)))
        return safetensors.numpy.save({k: v for k, v in tensors.items() if k != lost}, _metadata(data))
    if kind == ".tar" and (members := _members(data)):
        lost = str(rng.choice([m.name for m in members]))
        return _rewritten(data, lambda name, member: None if name == lost else member)
    return None


# `missing` has no bytes; `other_kind` and `swapped` are bytes of other files of the run.
DAMAGES: dict[str, Damage] = {
    f.__name__: f
    for f in (
        empty, cut_half, cut_tenth, cut_member, bit_middle, bit_header, bit_end, zeros, noise, nan, no_column,
    )
}  # fmt: skip


def damaged(data: bytes, name: str, damage: str, rng: Rng) -> bytes | None:
    """Return the damaged bytes of a file; None where this damage does not apply or changes nothing."""
    if not data:
        return None
    found = DAMAGES[damage](data, kind_of(name), rng)
    return None if found == data else found


def _flipped(data: bytes, at: int, rng: Rng) -> bytes:
    return data[:at] + bytes([data[at] ^ 1 << int(rng.integers(8))]) + data[at + 1 :]


def _members(data: bytes) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        return tar.getmembers()


def _rewritten(data: bytes, change: Callable[[str, bytes], bytes | None]) -> bytes:
    """A tar with other members, as `change(name, bytes)` says; None leaves one out."""
    out = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(data)) as old,
        tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as new,
    ):
        for member in old.getmembers():
            content = old.extractfile(member)
            changed = None if content is None else change(member.name, content.read())
            if changed is not None:
                member.size = len(changed)
                new.addfile(member, io.BytesIO(changed))
    return out.getvalue()


def _nan_member(member: bytes) -> bytes:
    array = np.load(io.BytesIO(member))
    return _npy(_nan_array(array)) if array.dtype.kind == "f" else member


def _nan_array(array: np.ndarray) -> np.ndarray:
    out = array.copy()
    if out.dtype.kind == "f":
        out.reshape(-1)[:1] = np.nan
    return out


def _nan_first(column: pa.ChunkedArray) -> pa.Array:
    values = column.to_pylist()
    if pa.types.is_floating(column.type):
        values[0] = math.nan
    elif pa.types.is_list(column.type) and pa.types.is_floating(column.type.value_type) and values[0]:
        values[0] = [math.nan, *values[0][1:]]
    return pa.array(values, column.type)


def _nan_leaves(value: Any) -> Any:
    """NaN in place of each number that is no integer; of all numbers where there are none but integers."""

    def replaced(value: Any, types: Any) -> Any:
        if isinstance(value, dict):
            return {k: replaced(v, types) for k, v in value.items()}
        if isinstance(value, list):
            return [replaced(v, types) for v in value]
        return math.nan if isinstance(value, types) and not isinstance(value, bool) else value

    floats = replaced(value, float)
    return floats if repr(floats) != repr(value) else replaced(value, int)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _parquet(table: pa.Table) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out, write_page_checksum=True)
    return out.getvalue()


def _csv(rows: list[list[str]]) -> bytes:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue().encode()


def _json(values: list[Any], kind: str) -> bytes:
    if kind == ".jsonl":
        return "".join(json.dumps(value) + "\n" for value in values).encode()
    return (json.dumps(values[0], indent=1, sort_keys=True) + "\n").encode()


def _npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def _metadata(data: bytes) -> dict[str, str] | None:
    """The metadata of a file of safetensors, which its readers may want."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    found: dict[str, str] | None = header.get("__metadata__")
    return found
