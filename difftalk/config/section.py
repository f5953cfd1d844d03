"""The base of all sections, and how the settings of a stage are read from JSON."""

import json
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Strict, TypeAdapter, ValidationError

from difftalk.runtime.errors import UserError

T = TypeVar("T")
Values = TypeVar("Values")

# A list of YAML or JSON; its items are as strict as everything else.
List = Annotated[tuple[Values, ...], Strict(False)]


class Section(BaseModel):
    """A section of the configuration: unknown keys, other types and values out of bounds are refused.

    A subclass has one line a key: its type, default, bounds and description.
    Nothing else lists keys or defaults.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, serialize_by_alias=True
    )

    def as_dict(self) -> dict[str, Any]:
        """The keys and values as JSON has them."""
        return self.model_dump(mode="json")


def from_json(kind: type[T], text: str, where: str = "--settings") -> T:
    """Read a `kind`, such as a `Section`, from JSON text, or from the file that `text` names.

    Raises:
        UserError: in one line, naming the key that is unknown, missing, of the wrong type or out of bounds.
    """
    if not text.lstrip().startswith("{"):
        try:
            is_file = Path(text).is_file()
        except OSError:  # too long for a name
            is_file = False
        if not is_file:
            raise UserError(f"{where}: neither JSON that starts with {{ nor a file: {text}")
        where = text
        try:
            text = Path(where).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as e:
            raise UserError(f"{where}: cannot be read ({e})") from None
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise UserError(f"{where}: not JSON: {e}") from None
    return from_dict(kind, values, where)


def from_dict(kind: type[T], values: Any, where: str) -> T:
    """As `from_json`, from a dict."""
    adapter = TypeAdapter(kind)
    try:
        return adapter.validate_python(values)
    except ValidationError as e:
        from difftalk.config.explain import (  # a stage whose settings are right does not need it
            dotted,
            explain,
        )

        key, message = explain(e, adapter.json_schema())
        raise UserError(f"{where}: {f'{dotted(key)} ' if key else ''}{message}") from None
