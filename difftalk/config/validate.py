"""The workflow's configuration: checked against its schema, and read out as what each stage asks for.

`python -m difftalk.config.validate config/README.md` writes the schema's table of keys between the marks of that file.
"""

import difflib
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from difftalk.runtime.errors import UserError

SCHEMA = Path(__file__).resolve().parents[2] / "workflow" / "schemas" / "config.schema.yaml"

# The keys of the section `dataset` that each kind of dataset reads.
DATASET_KEYS = {
    "demo": ("name", "identities", "clips_per_identity", "clip_seconds", "size", "seed"),
    "local": ("name", "clip_seconds", "test_fraction", "seed"),
    "hdtf": (
        "name",
        "split",
        "train_videos",
        "test_fraction",
        "seed",
        "max_frames",
        "table",
        "files",
        "skip",
    ),
}

# The modules of which a stage uses one, so that its fingerprint can leave out the others.
DATASET_MODULES = {
    "demo": "difftalk.datasets.demo.dataset",
    "local": "difftalk.datasets.local",
    "hdtf": "difftalk.datasets.hdtf.dataset",
}
LANDMARK_MODULES = {
    "dlib": "difftalk.face.dlib_backend",
    "face_alignment": "difftalk.face.face_alignment_backend",
}
SPEECH_MODULES = {"mfcc": "difftalk.speech.mfcc", "deepspeech": "difftalk.speech.deepspeech"}

# The gates that each stage asks; a stage's settings hold them, so that a gate reruns its own stage alone.
GATES = {
    "landmarks": ("scene_cut_ratio", "several_faces_share", "frozen_seconds"),
    "crops": ("length_mismatch_seconds", "sync"),
}

# Methods that have no model: the truth, the ceiling and the floor.
BASELINES = ("ground_truth", "reconstruction", "reference_copy")

TYPE_NAMES = {
    "object": "a section of keys",
    "array": "a list",
    "string": "a text",
    "number": "a number",
    "integer": "a whole number",
    "boolean": "true or false",
    "null": "null",
}

TABLE_START, TABLE_END = "<!-- config keys: make config-table -->", "<!-- /config keys -->"

Config = dict[str, Any]
Key = tuple[str | int, ...]


def read_yaml(path: str | Path) -> Any:
    """The content of a YAML file.

    Raises:
        UserError: naming the file and the line that is no YAML.
    """
    try:
        return yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except yaml.YAMLError as e:
        raise UserError(f"{path}: not YAML: {' '.join(str(e).split())}") from None


def check(config: Config, schema: Mapping[str, Any], sources: Sequence[tuple[str, Any]]) -> None:
    """Compare a merged configuration with its schema.

    Args:
        sources: what it was merged from, `(name, content)`, the strongest last.

    Raises:
        UserError: one line with the source and the dotted name of the first key that is wrong, and what would
            be right: the nearest known key, the type, the bounds.
    """
    errors = jsonschema.Draft202012Validator(schema).iter_errors(config)
    found = sorted(errors, key=lambda e: ([*map(str, e.absolute_path)], str(e.validator)))
    if found:
        key, message = _explain(found[0], schema)
        raise UserError(f"{_origin(key, sources)}: {_dotted(key)} {message}")


def with_defaults(config: Config, schema: Mapping[str, Any]) -> Config:
    """`config` with the schema's default wherever a key of a section is absent."""
    filled = dict(config)
    for key, inner in schema.get("properties", {}).items():
        if "default" in inner:
            filled.setdefault(key, inner["default"])
        if "properties" in inner and filled.get(key, {}) is not None:
            filled[key] = with_defaults(filled.get(key, {}), inner)
    return filled


def typed(value: Any, schema: Mapping[str, Any], whole: Mapping[str, Any] | None = None) -> Any:
    """`value` with texts read as the numbers, booleans or nulls that the schema asks for in their place.

    Snakemake's `--config 'training={steps: 300}'` gives the text "300". What cannot be read stays as it is.
    """
    whole = whole or schema
    if schema.get("$ref") == "#/properties/training":
        schema = whole["properties"]["training"]
    if isinstance(value, dict):
        properties, named = schema.get("properties", {}), schema.get("additionalProperties") or {}
        return {k: typed(v, properties.get(k, named), whole) for k, v in value.items()}
    if isinstance(value, list):
        return [typed(item, schema.get("items", {}), whole) for item in value]
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


def dataset(config: Config) -> Config:
    """What `difftalk plan --dataset` and `fetch --dataset` get: the keys that this kind of dataset reads.

    Raises:
        UserError: if `videos` is asked for and is no folder.
    """
    videos = config["videos"]
    name = config["dataset"]["name"] if videos is None else "local"
    chosen = {key: value for key, value in config["dataset"].items() if key in DATASET_KEYS[name]}
    if name == "local":
        if videos is None:
            raise UserError(
                "config: dataset.name is local, so videos must name a folder: --config videos=DIR"
            )
        if not Path(videos).is_dir():
            raise UserError(f"config: videos: no folder {videos} (seen from {Path.cwd()})")
        chosen["videos"] = str(videos)
    for key in ("files", "table"):
        if chosen.get(key) is not None and not Path(chosen[key]).exists():
            raise UserError(f"config: dataset.{key}: {chosen[key]} does not exist (seen from {Path.cwd()})")
    return chosen | {"name": name}


def dataset_files(dataset: Config) -> str | None:
    """A hash over the files of the user's own that a dataset (as `dataset` gives it) reads; None without any."""
    folders = [dataset[key] for key in ("videos", "files", "table") if dataset.get(key) is not None]
    return " ".join(listing(folder) for folder in folders) or None


def gated(config: Config, stage: str) -> Config:
    """Settings of the stage `landmarks` or `crops`: its section with the gates that it asks.

    Raises:
        UserError: if crops are to be judged by a sync expert that is trained on those crops.
    """
    gates = config["gates"]
    if gates["sync"] is not None and config["syncnet"] == "train":
        raise UserError(
            "config: gates.sync needs a sync expert before there are crops to train one on, but syncnet is `train`: "
            "set syncnet to `embedded` or a path, or gates.sync to null"
        )
    return config[stage] | {"gates": {key: gates[key] for key in GATES[stage]}}


def others(modules: Mapping[str, str], chosen: str) -> list[str]:
    """The modules that are not used where `chosen` is."""
    return [module for name, module in modules.items() if name != chosen]


def listing(folder: str | Path) -> str:
    """A hash over names, sizes and times of the files below `folder`, which may be a file: changes when they do,
    reads none of them."""
    files = sorted(p for p in [Path(folder), *Path(folder).rglob("*")] if p.is_file())
    lines = [f"{p.relative_to(folder)} {p.stat().st_size} {p.stat().st_mtime_ns}" for p in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def shards(config: Config, *splits: str) -> list[str]:
    """Names of the shards of `splits`, such as `train-003`."""
    return [f"{split}-{number:03d}" for split in splits for number in range(config["shards"][split])]


def models(config: Config) -> dict[str, Config]:
    """Settings of `difftalk train` for each model: the section `training`, overridden by the experiment's own.

    The first seed of an experiment gives the model its plain name, others a suffix: `difftalk-seed2`.
    An experiment set to null is left out.
    """
    found = {}
    for name, experiment in config["experiments"].items():
        if experiment is None:
            continue
        seeds = experiment.get("seeds", [1])
        for seed in seeds:
            settings = config["training"] | experiment.get("training", {})
            settings |= {"conditions": experiment["conditions"], "smoothing": experiment["smoothing"]}
            found[name if seed == seeds[0] else f"{name}-seed{seed}"] = settings | {"seed": seed}
    return found


def _explain(error: jsonschema.ValidationError, schema: Mapping[str, Any]) -> tuple[Key, str]:
    """The key that is wrong, and what is."""
    key, value = tuple(error.absolute_path), error.instance
    rule: Any = error.validator_value
    said = json.dumps(value, default=str)
    match error.validator:
        case "additionalProperties":
            unknown = next(k for k in value if k not in error.schema["properties"])
            return (*key, unknown), f"is not a known key{_hint((*key, unknown), error.schema, schema)}"
        case "required":
            missing = next(k for k in rule if k not in value)
            return (*key, missing), "is missing"
        case "type":
            wanted = [rule] if isinstance(rule, str) else rule
            names = " or ".join(TYPE_NAMES[name] for name in wanted)
            return key, f"is {said}, not {names}{_number_hint(value, wanted)}"
        case "enum":
            hint = ' (in YAML write "no", with quotes)' if value is False and "no" in rule else ""
            return key, f"is {said}, not one of {', '.join(map(str, rule))}{hint}"
        case "minimum" | "exclusiveMinimum" | "maximum" | "exclusiveMaximum":
            words = {"minimum": "at least", "maximum": "at most"}
            bound = words.get(error.validator, "above" if "Min" in error.validator else "below")
            return key, f"is {said}, but has to be {bound} {rule}"
        case "pattern":
            return key, f"{said} is not usable as a name: letters, digits and _ make one"
        case "not":
            return key, f"{said} is not usable as a name: it has a meaning of its own in results/"
    return key, error.message


def _hint(key: Key, section: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """Where the writer of an unknown key probably wanted to go."""
    siblings = list(section["properties"])
    word = str(key[-1])
    near = difflib.get_close_matches(word, siblings, n=1)
    if near:
        return f" (did you mean {_dotted((*key[:-1], near[0]))}?)"
    elsewhere = [dotted for dotted, _ in keys(schema) if dotted.split(".")[-1] == word]
    if elsewhere:
        return f" (did you mean {' or '.join(elsewhere)}?)"
    return f"; known here: {', '.join(siblings)}"


def _number_hint(value: Any, wanted: Sequence[str]) -> str:
    """YAML 1.1 reads 1e-4 as a word."""
    if not isinstance(value, str) or not {"number", "integer"} & set(wanted):
        return ""
    try:
        number = float(value)
    except ValueError:
        return ""
    plain = f"{number:.1e}" if "e" in value.lower() else f"{number:g}"
    return f" (in YAML write {plain}, without quotes)"


def _dotted(key: Key) -> str:
    return ".".join(map(str, key))


def _origin(key: Key, sources: Sequence[tuple[str, Any]]) -> str:
    """The name of the strongest source that sets `key`, or a section or list around it."""
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


def keys(schema: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each key with its part of the schema, as dotted names; `NAME` stands for names that the user chooses."""
    named = schema.get("additionalProperties")
    inside = dict(schema.get("properties", {})) | ({"NAME": named} if isinstance(named, dict) else {})
    for key, inner in inside.items():
        yield f"{above}{key}", inner
        yield from keys(inner, f"{above}{key}.")


def key_table(schema: Mapping[str, Any]) -> str:
    """The keys, their defaults and what they mean, as a Markdown table."""
    lines = ["| key | default | meaning |", "|---|---|---|"]
    for dotted, inner in keys(schema):
        if inner.get("properties") and "default" not in inner:
            lines.append(f"| **{dotted}** | | {inner['description']} |")
            continue
        default = inner.get("default", "")
        shown = (
            f"`{yaml.safe_dump(default, default_flow_style=True).split(chr(10))[0]}`"
            if "default" in inner
            else ""
        )
        choice = f" One of {', '.join(f'`{c}`' for c in inner['enum'])}." if "enum" in inner else ""
        lines.append(f"| `{dotted}` | {shown} | {inner['description']}{choice} |")
    return "\n".join(lines)


def write_key_table(readme: str, schema: Mapping[str, Any]) -> str:
    """The text of a README with the table between its marks brought up to date."""
    head, _, rest = readme.partition(TABLE_START)
    _, mark, tail = rest.partition(TABLE_END)
    if not mark:
        raise UserError(f"the marks {TABLE_START} and {TABLE_END} are missing")
    return f"{head}{TABLE_START}\n\n{key_table(schema)}\n\n{mark}{tail}"


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.write_text(
        write_key_table(target.read_text(encoding="utf-8"), read_yaml(SCHEMA)), encoding="utf-8"
    )
