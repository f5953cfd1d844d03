"""Read the weights of an ONNX file, and which layer has which: no graph is built, nothing is run.

The format is that of protocol buffers; the numbers of the fields are those of `onnx.proto`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from difftalk.runtime.errors import UserError

# The graph of a model; the nodes and the initializers of a graph; inputs and type of a node; and of a tensor
# its sizes, the type of its values, these as floats or as bytes, and its name.
_GRAPH, _NODE, _INITIALIZER = 7, 1, 5
_INPUT, _OP_TYPE = 1, 4
_DIMS, _DATA_TYPE, _FLOATS, _NAME, _RAW = 1, 2, 4, 8, 9
_FLOAT32 = 1

Layer = tuple[str, list[np.ndarray]]


def read_tensors(file: Path) -> dict[str, np.ndarray]:
    """Return the float32 weights of a model by name.

    Raises:
        UserError: if the file is no ONNX model.
    """
    return _read(file)[0]


def read_layers(file: Path) -> list[Layer]:
    """Return the layers of a model that have weights, in the order in which they are computed.

    Each is its type, such as `Conv`, and its float32 weights in the order of its inputs.

    Raises:
        UserError: if the file is no ONNX model.
    """
    tensors, nodes = _read(file)
    with_weights = ((kind, [tensors[name] for name in names if name in tensors]) for kind, names in nodes)
    return [(kind, weights) for kind, weights in with_weights if weights]


def _read(file: Path) -> tuple[dict[str, np.ndarray], list[tuple[str, list[str]]]]:
    """The weights by name, and the type and the names of the inputs of each node."""
    tensors, nodes = {}, []
    try:
        model = memoryview(file.read_bytes())
        for graph in (content for number, content in _fields(model) if number == _GRAPH):
            for number, content in _fields(graph):
                if number == _INITIALIZER:
                    tensors.update(_tensor(content))
                elif number == _NODE:
                    parts = list(_fields(content))
                    kind = [bytes(part).decode() for at, part in parts if at == _OP_TYPE]
                    nodes.append((kind[0], [bytes(part).decode() for at, part in parts if at == _INPUT]))
    except (IndexError, KeyError, TypeError, ValueError) as e:
        raise UserError(f"{file} is no ONNX model: {type(e).__name__}: {e}") from None
    if not tensors:
        raise UserError(f"{file} is no ONNX model with weights")
    return tensors, nodes


def _tensor(message: memoryview) -> dict[str, np.ndarray]:
    """The name and the values of a tensor of float32; nothing of one of another type."""
    parts = list(_fields(message))
    shape: list[int] = []
    for number, size in parts:
        if number == _DIMS:
            shape += [size] if isinstance(size, int) else list(_varints(size))
    of = dict(parts)
    if of.get(_DATA_TYPE) != _FLOAT32:
        return {}
    raw = of[_RAW] if _RAW in of else of[_FLOATS]
    return {bytes(of[_NAME]).decode(): np.frombuffer(raw, "<f4").reshape(shape)}


def _fields(message: memoryview) -> Iterator[tuple[int, Any]]:
    """Yield number and content of each field of a message: an int, or its bytes."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, kind = divmod(key, 8)
        if kind == 0:
            value, at = _varint(message, at)
            yield number, value
            continue
        if kind == 2:
            length, at = _varint(message, at)
        else:
            length = {1: 8, 5: 4}[kind]
        if at + length > len(message):
            raise ValueError("it is cut short")
        yield number, message[at : at + length]
        at += length


def _varints(message: memoryview) -> Iterator[int]:
    """Yield the integers that are packed into a field."""
    at = 0
    while at < len(message):
        value, at = _varint(message, at)
        yield value


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """The integer that starts at a byte, seven bits a byte, and where it ends."""
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at
