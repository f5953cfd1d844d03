"""The configuration: what is refused and with which words, and what the stages are given."""

import copy
import dataclasses
import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from difftalk.config import validate as module
from difftalk.config.settings import from_json
from difftalk.config.validate import SCHEMA, check, dataset, models, read_yaml, shards, with_defaults
from difftalk.runtime.errors import UserError
from difftalk.runtime.fingerprint import imported_modules
from difftalk.stages.crops import SyncGate

ROOT = Path(__file__).resolve().parents[1]
FILE = "config/mine.yaml"

# Section of the configuration, the stage that reads it, and the settings that come from elsewhere.
SECTIONS = [
    ("landmarks", "difftalk.stages.landmarks", {"gates"}),
    ("crops", "difftalk.stages.crops", {"gates"}),
    ("speech", "difftalk.stages.speech", set()),
    ("autoencoder_training", "difftalk.stages.autoencoder", set()),
    ("syncnet_training", "difftalk.stages.syncnet", set()),
    ("encode", "difftalk.stages.encode", set()),
    ("training", "difftalk.stages.train", {"conditions", "smoothing", "seed"}),
    ("sampling", "difftalk.stages.sample", set()),
    ("evaluation", "difftalk.stages.score", set()),
    ("report", "difftalk.stages.report", {"run"}),
]


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return read_yaml(SCHEMA)


@pytest.fixture
def default(schema: dict[str, Any]) -> dict[str, Any]:
    return with_defaults(read_yaml(ROOT / "config.yaml"), schema)


def merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """As snakemake merges configuration files."""
    merged = dict(below)
    for key, value in above.items():
        inside = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if inside else value
    return merged


def complaint(default: dict[str, Any], schema: dict[str, Any], overlay: dict[str, Any]) -> str:
    sources = [("config.yaml", default), (FILE, overlay), ("--config", {})]
    with pytest.raises(UserError) as raised:
        check(merge(default, overlay), schema, sources)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(
    "file", ["config.yaml", *sorted(p.relative_to(ROOT) for p in ROOT.glob("config/*.yaml"))]
)
def test_the_files_of_the_repository_are_valid(file: str | Path, schema: dict[str, Any]) -> None:
    check(merge(read_yaml(ROOT / "config.yaml"), read_yaml(ROOT / file)), schema, [])


@pytest.mark.parametrize(
    ("overlay", "words"),
    [
        ({"trainin": {}}, "trainin is not a known key (did you mean training?)"),
        (
            {"training": {"batchsize": 3}},
            "training.batchsize is not a known key (did you mean training.batch_size?)",
        ),
        (
            {"detect_every": 3},
            "detect_every is not a known key (did you mean landmarks.detect_every?)",
        ),
        (
            {"experiments": {"difftalk": {"training": {"step": 9}}}},
            (
                "experiments.difftalk.training.step is not a known key "
                "(did you mean experiments.difftalk.training.steps?)"
            ),
        ),
        ({"shards": {"validation": 1}}, "shards.validation is not a known key; known here: train, test"),
        ({"training": {"steps": 2.5}}, "training.steps is 2.5, not a whole number"),
        ({"training": {"steps": 0}}, "training.steps is 0, but has to be at least 1"),
        ({"training": {"learning_rate": 0}}, "training.learning_rate is 0, but has to be above 0"),
        (
            {"training": {"learning_rate": "1e-4"}},
            'training.learning_rate is "1e-4", not a number or null (in YAML write 1.0e-04, without quotes)',
        ),
        (
            {"training": {"precision": False}},
            'training.precision is false, not one of no, bf16 (in YAML write "no", with quotes)',
        ),
        ({"training": None}, "training is null, not a section of keys"),
        ({"training": {"channels": [32, "x"]}}, 'training.channels.1 is "x", not a whole number'),
        ({"experiments": {"new": {"smoothing": False}}}, "experiments.new.conditions is missing"),
        (
            {"experiments": {"new": {"conditions": ["sound"], "smoothing": False}}},
            'experiments.new.conditions.0 is "sound", not one of audio, landmarks, masked, reference',
        ),
        (
            {"experiments": {"syncnet": {"conditions": ["audio"], "smoothing": False}}},
            'experiments "syncnet" is not usable as a name: it has a meaning of its own in results/',
        ),
        ({"run": "a/b"}, 'run "a/b" is not usable as a name: letters, digits and _ make one'),
    ],
)
def test_says_in_one_line_where_and_what_is_wrong(
    overlay: dict[str, Any], words: str, default: dict[str, Any], schema: dict[str, Any]
) -> None:
    assert complaint(default, schema, overlay) == f"{FILE}: {words}"


def test_names_the_strongest_source_that_sets_the_key(
    default: dict[str, Any], schema: dict[str, Any]
) -> None:
    wrong = merge(default, {"training": {"steps": "many"}})
    weaker, stronger = {"training": {"steps": "few"}}, {"training": {"steps": "many"}}
    with pytest.raises(UserError, match="^--config: training.steps"):
        check(wrong, schema, [("config.yaml", default), (FILE, weaker), ("--config", stronger)])


def test_broken_yaml_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text("a: [1,\nb: 2")
    with pytest.raises(UserError, match=r"broken\.yaml: not YAML: .* line 2"):
        read_yaml(tmp_path / "broken.yaml")


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (
            {"training": {"steps": "300", "prediction": "epsilon"}},
            {"training": {"steps": 300, "prediction": "epsilon"}},
        ),
        ({"training": {"precision": "no"}}, {"training": {"precision": "no"}}),
        ({"training": {"channels": ["32", "64"]}}, {"training": {"channels": [32, 64]}}),
        ({"experiments": {"a": {"smoothing": "false"}}}, {"experiments": {"a": {"smoothing": False}}}),
        ({"experiments": {"a": "null"}}, {"experiments": {"a": None}}),
        (
            {"experiments": {"a": {"training": {"learning_rate": "1.0e-4"}}}},
            {"experiments": {"a": {"training": {"learning_rate": 1e-4}}}},
        ),
        ({"videos": 2024, "run": 7}, {"videos": "2024", "run": "7"}),
        ({"videos": "null"}, {"videos": None}),
        ({"autoencoder": "train"}, {"autoencoder": "train"}),
        ({"trainin": {"steps": "300"}}, {"trainin": {"steps": 300}}),
    ],
)
def test_texts_of_the_command_line_become_what_the_schema_asks_for(
    given: dict[str, Any], meant: dict[str, Any], schema: dict[str, Any]
) -> None:
    assert module.typed(given, schema) == meant


def test_absent_keys_get_the_defaults_of_the_schema(schema: dict[str, Any]) -> None:
    filled = with_defaults({"run": "mine", "training": {"steps": 3}, "experiments": {}}, schema)
    assert filled["training"]["steps"] == 3
    assert (
        filled["training"]["batch_size"]
        == schema["properties"]["training"]["properties"]["batch_size"]["default"]
    )
    assert filled["landmarks"]["backend"] == "dlib"


def test_defaults_do_not_leak_into_the_overrides_of_an_experiment(schema: dict[str, Any]) -> None:
    experiment = {"conditions": ["audio"], "smoothing": True, "training": {"steps": 3}}
    filled = with_defaults({"training": {"batch_size": 2}, "experiments": {"a": experiment}}, schema)
    assert models(filled)["a"]["batch_size"] == 2


def test_every_seed_is_a_model_and_an_override_is_its_experiments_alone(default: dict[str, Any]) -> None:
    config = copy.deepcopy(default)
    experiment = {"conditions": ["audio"], "smoothing": True}
    config["training"]["steps"] = 100
    config["experiments"] = {
        "difftalk": {**experiment, "seeds": [1, 2], "training": {"steps": 7}},
        "a": experiment,
        "dropped": None,
    }
    found = models(config)
    assert list(found) == ["difftalk", "difftalk-seed2", "a"]
    assert [found[name]["steps"] for name in found] == [7, 7, 100]
    assert [found[name]["seed"] for name in found] == [1, 2, 1]
    assert found["a"] == config["training"] | experiment | {"steps": 100, "seed": 1}


def test_shards_are_numbered_per_split() -> None:
    config = {"shards": {"train": 2, "test": 1}}
    assert shards(config, "train", "test") == ["train-000", "train-001", "test-000"]


def test_a_folder_of_videos_replaces_the_demo(default: dict[str, Any], tmp_path: Path) -> None:
    assert dataset(default)["name"] == "demo"
    assert "test_fraction" not in dataset(default)
    config = default | {"videos": str(tmp_path)}
    expected = {
        "name": "local",
        "videos": str(tmp_path),
        "clip_seconds": 6.0,
        "test_fraction": 0.25,
        "seed": 1,
    }
    assert dataset(config) == expected


def test_a_folder_that_is_not_there_is_named(default: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="videos: no folder nowhere"):
        dataset(default | {"videos": "nowhere"})
    with pytest.raises(UserError, match="--config videos=DIR"):
        dataset(default | {"dataset": default["dataset"] | {"name": "local"}})


def test_the_listing_of_a_folder_changes_with_its_files(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"1")
    before = module.listing(tmp_path)
    assert module.listing(tmp_path) == before
    (tmp_path / "b.mp4").write_bytes(b"1")
    assert module.listing(tmp_path) != before


@pytest.mark.parametrize(("section", "stage", "elsewhere"), SECTIONS)
def test_the_schema_has_the_keys_and_defaults_of_the_stages_settings(
    section: str, stage: str, elsewhere: set[str], schema: dict[str, Any]
) -> None:
    fields = dataclasses.fields(importlib.import_module(stage).Settings)
    wanted: dict[str, Any] = {}
    for field in fields:
        if field.name not in elsewhere:
            factory = field.default_factory
            default = factory() if factory is not dataclasses.MISSING else field.default
            wanted[field.name] = list(default) if isinstance(default, tuple) else default
    described = schema["properties"][section]["properties"]
    assert {key: inner.get("default", dataclasses.MISSING) for key, inner in described.items()} == wanted


def test_every_gate_is_asked_by_one_stage_with_the_default_of_the_schema(
    default: dict[str, Any], schema: dict[str, Any]
) -> None:
    asked = {}
    for stage in module.GATES:
        kind = importlib.import_module(f"difftalk.face.{stage}").Settings
        settings = from_json(kind, json.dumps(module.gated(default, stage)))
        asked |= dataclasses.asdict(settings.gates)
    described = schema["properties"]["gates"]["properties"]
    assert asked == {key: inner["default"] for key, inner in described.items()}
    sync = {key: inner["default"] for key, inner in described["sync"]["properties"].items()}
    assert dataclasses.asdict(SyncGate()) == sync


def test_a_sync_gate_does_not_wait_for_an_expert_that_waits_for_crops(default: dict[str, Any]) -> None:
    config = default | {"gates": default["gates"] | {"sync": {}}}
    assert module.gated(config | {"syncnet": "embedded"}, "crops")["gates"]["sync"] == {}
    with pytest.raises(UserError, match=r"gates\.sync .* syncnet is `train`: set"):
        module.gated(config | {"syncnet": "train"}, "crops")


def test_the_datasets_read_the_keys_that_they_are_given(schema: dict[str, Any]) -> None:
    described = set(schema["properties"]["dataset"]["properties"])
    for name, stage in module.DATASET_MODULES.items():
        fields = {field.name for field in dataclasses.fields(importlib.import_module(stage).Settings)}
        assert fields - {"videos"} == set(module.DATASET_KEYS[name]) - {"name"}
        assert fields - {"videos"} <= described


@pytest.mark.parametrize(
    ("choice", "stage", "modules"),
    [
        (("dataset", "name"), "difftalk.stages.fetch", module.DATASET_MODULES),
        (("landmarks", "backend"), "difftalk.stages.landmarks", module.LANDMARK_MODULES),
    ],
)
def test_a_stage_that_chooses_a_module_can_reach_each_of_them(
    choice: tuple[str, str], stage: str, modules: dict[str, str], schema: dict[str, Any]
) -> None:
    section, key = choice
    assert schema["properties"][section]["properties"][key]["enum"] == list(modules)
    assert set(modules.values()) <= set(imported_modules(stage))


def test_every_section_is_strict_and_every_key_described(schema: dict[str, Any]) -> None:
    for dotted, inner in module.keys(schema):
        assert inner.get("description"), dotted
        if inner.get("type") == "object":
            assert inner.get("additionalProperties") is not None, dotted


def test_the_readme_has_the_table_of_keys(schema: dict[str, Any]) -> None:
    readme = (ROOT / "config/README.md").read_text(encoding="utf-8")
    assert module.write_key_table(readme, schema) == readme, "run `make config-table`"
