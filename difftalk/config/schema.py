"""What is made from the models of the sections: JSON schema, table of keys, texts read as typed values."""

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

Schema = Mapping[str, Any]

TABLE_START, TABLE_END = "<!-- config keys: make config-docs -->", "<!-- /config keys -->"


def plain(schema: Schema) -> dict[str, Any]:
    """Return pydantic's JSON schema without references: nested as the configuration is.

    A value that may be null has both types in `type`. A section of several kinds, told apart by `name`,
    becomes one section with the keys of all kinds, whose descriptions say which kind reads them.
    """
    definitions = schema.get("$defs", {})

    def walk(node: Schema) -> dict[str, Any]:
        if "$ref" in node:
            target = definitions[node["$ref"].rsplit("/", 1)[1]]
            node = {**target, **{key: value for key, value in node.items() if key != "$ref"}}
        if "discriminator" in node:
            kinds = {name: walk({"$ref": ref}) for name, ref in node["discriminator"]["mapping"].items()}
            node = {**_one_section(kinds), "description": node.get("description", "")}
        if "anyOf" in node:
            (real,) = (walk(option) for option in node["anyOf"] if option != {"type": "null"})
            own = {key: value for key, value in node.items() if key != "anyOf"}
            node = {**real, **own, "type": [real["type"], "null"]}
        walked = {key: value for key, value in node.items() if key not in ("title", "$defs")}
        if "properties" in walked:
            walked["properties"] = {key: walk(inner) for key, inner in walked["properties"].items()}
            if all("default" in inner for inner in walked["properties"].values()) and walked.get("default"):
                del walked["default"]  # it says the same as those of its keys
        for key in ("items", "additionalProperties"):
            if isinstance(walked.get(key), dict):
                walked[key] = walk(walked[key])
        return walked

    return walk(schema)


def _one_section(kinds: Mapping[str, Schema]) -> dict[str, Any]:
    """Merge the kinds of a section into one, with a description that says which kind reads a key."""
    names = list(kinds)
    properties: dict[str, Any] = {
        "name": {"description": "Kind of dataset.", "enum": names, "default": names[0], "type": "string"}
    }
    for key in dict.fromkeys(key for kind in kinds.values() for key in kind["properties"] if key != "name"):
        having = {name: kind["properties"][key] for name, kind in kinds.items() if key in kind["properties"]}
        merged = max(having.values(), key=lambda inner: isinstance(inner.get("type"), list))
        said: dict[str, list[str]] = {}
        for name, inner in having.items():
            said.setdefault(inner["description"], []).append(name)
        defaults = [inner.get("default") for inner in having.values()]
        merged = {**merged, "description": " ".join(f"{', '.join(of)}: {text}" for text, of in said.items())}
        if any(default != defaults[0] for default in defaults):
            del merged["default"]
            shown = ", ".join(f"{name} {_yaml(inner.get('default'))}" for name, inner in having.items())
            merged["description"] += f" Default: {shown}."
        properties[key] = merged
    return {"type": "object", "additionalProperties": False, "properties": properties}


def keys(schema: Schema, above: str = "") -> Iterator[tuple[str, Schema]]:
    """Yield each key as a dotted name with its part of a plain schema.

    `NAME` stands for names that the user chooses.
    """
    named = schema.get("additionalProperties")
    inside = dict(schema.get("properties", {})) | ({"NAME": named} if isinstance(named, dict) else {})
    for key, inner in inside.items():
        yield f"{above}{key}", inner
        if not inner.get("x-overrides"):
            yield from keys(inner, f"{above}{key}.")


def coerce(value: Any, schema: Schema) -> Any:
    """Return `value` with texts read as the numbers, booleans or nulls of a plain schema.

    Snakemake's `--config 'training={steps: 300}'` gives the text "300". What cannot be read stays as it is.
    """
    if isinstance(value, dict):
        properties, named = schema.get("properties", {}), schema.get("additionalProperties") or {}
        return {key: coerce(inner, properties.get(key, named)) for key, inner in value.items()}
    if isinstance(value, list):
        return [coerce(item, schema.get("items", {})) for item in value]
    wanted = schema.get("type", [])
    if isinstance(value, str) and value not in schema.get("enum", ()) and wanted != "string":
        try:
            read = yaml.safe_load(value)
        except yaml.YAMLError:
            return value
        return read if read is None or "string" not in wanted else value
    if isinstance(value, int | float) and not isinstance(value, bool) and "string" in wanted:
        return str(value)
    return value


def key_table(schema: Schema) -> str:
    """Return the keys of a plain schema, their defaults and what they mean, as a Markdown table."""
    lines = ["| key | default | meaning |", "|---|---|---|"]
    for dotted, inner in keys(schema):
        if inner.get("properties") and "default" not in inner:
            lines.append(f"| **{dotted}** | | {inner['description']} |")
            continue
        shown = f"`{_yaml(inner['default'])}`" if "default" in inner else ""
        choice = f" One of {', '.join(f'`{_yaml(c)}`' for c in inner['enum'])}." if "enum" in inner else ""
        lines.append(f"| `{dotted}` | {shown} | {inner['description']}{choice} |")
    return "\n".join(lines)


def with_key_table(readme: str, schema: Schema) -> str:
    """Return the text of a README with the table between its marks brought up to date.

    Raises:
        ValueError: if the marks are missing.
    """
    head, _, rest = readme.partition(TABLE_START)
    _, mark, tail = rest.partition(TABLE_END)
    if not mark:
        raise ValueError(f"the marks {TABLE_START} and {TABLE_END} are missing")
    return f"{head}{TABLE_START}\n\n{key_table(schema)}\n\n{mark}{tail}"


def _yaml(value: Any) -> str:
    return str(yaml.safe_dump(value, default_flow_style=True, width=1000).split("\n")[0])
