"""What is wrong with a configuration, in one line for a person."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from difftalk.config.schema import Schema, keys, plain
from difftalk.runtime.suggest import did_you_mean, nearest

Key = tuple[str | int, ...]

TYPE_NAMES = {
    "object": "a section of keys",
    "array": "a list",
    "string": "a text",
    "number": "a number",
    "integer": "a whole number",
    "boolean": "true or false",
    "null": "null",
}
BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("above", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("below", "lt"),
    "multiple_of": ("a multiple of", "multiple_of"),
}


def explain(error: ValidationError, schema: Schema) -> tuple[Key, str]:
    """Return the first key that is wrong, and what is: unknown, missing, of another type, out of bounds.

    Args:
        error: what validation raised.
        schema: pydantic's JSON schema of what was validated.
    """
    whole = plain(schema)
    # A list with a wrong item is reported as too short as well: the item is what its writer should hear of.
    found = sorted(
        error.errors(include_url=False), key=lambda e: (e["type"] == "too_short", [*map(str, e["loc"])])
    )
    return _explain(found[0], whole)


def dotted(key: Key) -> str:
    """Return a key as people write it, such as `training.steps`."""
    return ".".join(map(str, key))


def origin(key: Key, sources: Sequence[tuple[str, Any]]) -> str:
    """Return the name of the strongest source that sets `key`, or a section or list around it."""
    for length in range(len(key), 0, -1):
        for name, content in reversed(sources):
            for part in key[:length]:
                inside = isinstance(content, dict) and part in content
                if not (
                    inside or (isinstance(content, list) and isinstance(part, int) and part < len(content))
                ):
                    break
                content = content[part]
            else:
                return name
    return "config"


def _explain(error: Mapping[str, Any], whole: Schema) -> tuple[Key, str]:
    key, node = _descend(error["loc"], whole)
    value, kind, context = error["input"], error["type"], error.get("ctx", {})
    said = json.dumps(value, default=str)
    if kind == "extra_forbidden":
        section = _descend(error["loc"][:-1], whole)[1]
        return key, f"is not a known key{_hint(key, section, whole)}"
    if kind == "missing":
        return key, "is missing"
    if kind == "union_tag_not_found":
        return (*key, "name"), "is missing"
    if kind == "union_tag_invalid":
        names = context["expected_tags"].replace("'", "")
        return (*key, "name"), f"is {json.dumps(context['tag'])}, not one of {names}"
    if kind == "literal_error":
        choices = node.get("enum") or [node.get("const")]
        hint = ' (in YAML write "no", with quotes)' if value is False and "no" in choices else ""
        return key, f"is {said}, not one of {', '.join(_text(c) for c in choices)}{hint}"
    if kind in BOUNDS:
        words, name = BOUNDS[kind]
        return key, f"is {said}, but has to be {words} {context[name]:g}"
    if kind == "too_short":
        return key, f"is {said}, but needs {context['min_length']} values or more"
    if kind == "finite_number":
        return key, f"is {said}, not a finite number"
    if kind.endswith("_type") or kind == "int_from_float":
        wanted = node.get("type", [])
        wanted = [wanted] if isinstance(wanted, str) else wanted
        if wanted:
            names = " or ".join(TYPE_NAMES[name] for name in wanted)
            return key, f"is {said}, not {names}{_number_hint(value, wanted)}"
    if kind == "string_pattern_mismatch":
        return key, f"{said} does not match {context['pattern']}"
    return key, f"{said} {context.get('error', error['msg'])}"


def _descend(loc: Key, whole: Schema) -> tuple[Key, Schema]:
    """The key at which an error lies, without pydantic's own marks, and its part of the plain schema."""
    node: Schema = whole
    key: list[str | int] = []
    is_first = True  # of the parts inside `node`: there alone stands the kind of a section of several kinds
    for part in loc:
        properties = node.get("properties", {})
        if part == "[key]":
            return tuple(key[:-1]), node
        if is_first and part in properties.get("name", {}).get("enum", ()):
            is_first = False
            continue
        is_first = True
        key.append(part)
        named = node.get("additionalProperties")
        inner = properties.get(part) or (node.get("items") if isinstance(part, int) else named)
        node = inner if isinstance(inner, Mapping) else {}
    return tuple(key), node


def _hint(key: Key, section: Schema, whole: Schema) -> str:
    """Where the writer of an unknown key probably wanted to go."""
    siblings = list(section.get("properties", {}))
    word = str(key[-1])
    if (near := nearest(word, siblings)) is not None:
        return f" (did you mean {dotted((*key[:-1], near))}?)"
    elsewhere = [name for name, _ in keys(whole) if name.split(".")[-1] == word]
    if elsewhere:
        return f" (did you mean {' or '.join(elsewhere)}?)"
    return f"; {did_you_mean(word, siblings)}"


def _number_hint(value: Any, wanted: Sequence[str]) -> str:
    """YAML 1.1 reads 1e-4 as a word."""
    if not isinstance(value, str) or not {"number", "integer"} & set(wanted):
        return ""
    try:
        number = float(value)
    except ValueError:
        return ""
    shown = f"{number:.1e}" if "e" in value.lower() else f"{number:g}"
    return f" (in YAML write {shown}, without quotes)"


def _text(choice: Any) -> str:
    return choice if isinstance(choice, str) else json.dumps(choice)
