"""What a stage reads of the config: a dataclass, filled from JSON, strict about names and types."""

import dataclasses
import difflib
import json
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

from difftalk.runtime.errors import UserError

T = TypeVar("T")


def from_json(kind: type[T], text: str, where: str = "--settings") -> T:
    """A `kind` (a dataclass) from JSON text, or from the file that `text` names if it does not start with `{`.

    Raises:
        UserError: naming the key that is unknown, missing or of the wrong type, and the nearest known one.
    """
    if not text.lstrip().startswith("{"):
        if not Path(text).is_file():
            raise UserError(f"{where}: neither JSON that starts with {{ nor a file: {text}")
        where, text = text, Path(text).read_text(encoding="utf-8")
    try:
        values = json.loads(text)
    except json.JSONDecodeError as e:
        raise UserError(f"{where}: not JSON: {e}") from None
    return from_dict(kind, values, where)


def from_dict(kind: type[T], values: dict[str, Any], where: str) -> T:
    """As `from_json`, from a dict; nested dataclasses are filled from nested dicts."""
    hints = typing.get_type_hints(kind)
    known = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    given: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f" (did you mean {near[0]}?)" if near else f"; known: {', '.join(known)}"
            raise UserError(f"{where}: {key} is not a known key{hint}")
        given[key] = _convert(hints[key], value, f"{where}: {key}")
    needed = (dataclasses.MISSING, dataclasses.MISSING)
    missing = [k for k, f in known.items() if k not in given and (f.default, f.default_factory) == needed]
    if missing:
        raise UserError(f"{where}: {', '.join(missing)} missing")
    return kind(**given)


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _convert(next(a for a in args if a is not type(None)), value, where)
    if origin is typing.Literal:
        if value not in args:
            raise UserError(f"{where}: {value!r} is not one of {', '.join(map(str, args))}")
        return value
    if isinstance(hint, type) and dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return from_dict(hint, value, where)
    if origin is tuple and isinstance(value, list):
        return tuple(_convert(args[0], v, where) for v in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    expected = origin or hint
    if not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool):
        raise UserError(f"{where}: {value!r} is not of type {getattr(hint, '__name__', hint)}")
    return value
