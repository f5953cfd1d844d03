"""The configuration: what is refused and with which words, and what the stages are given."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from difftalk.config.backends import DATASET_MODULES, LANDMARK_MODULES, SPEECH_MODULES
from difftalk.config.crops import CropsSettings
from difftalk.config.dataset import DatasetSettings
from difftalk.config.gates import FaceGates, FrameGates
from difftalk.config.schema import Schema, coerce, keys
from difftalk.config.section import Section, from_dict, from_json
from difftalk.config.training import TrainingSettings
from difftalk.config.workflow import (
    as_given,
    config_schema,
    dataset_settings,
    folder_digest,
    load,
    models,
    read_yaml,
    shards,
    stage_settings,
)
from difftalk.runtime.errors import UserError
from difftalk.runtime.fingerprint import imported_modules

FILE = "config/mine.yaml"
SETTINGS_OF_STAGES = (
    "landmarks",
    "gates",
    "crops",
    "speech",
    "encode",
    "sample",
    "score",
    "tables",
    "report",
)


@pytest.fixture(scope="module")
def schema() -> Schema:
    return config_schema()


@pytest.fixture
def default() -> dict[str, Any]:
    values: dict[str, Any] = read_yaml(ROOT / "config.yaml")
    return values


def merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """As snakemake merges configuration files."""
    merged = dict(below)
    for key, value in above.items():
        inside = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if inside else value
    return merged


def complaint(default: dict[str, Any], overlay: dict[str, Any]) -> str:
    sources = [("config.yaml", default), (FILE, overlay), ("--config", {})]
    with pytest.raises(UserError) as raised:
        load(merge(default, overlay), sources)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(
    "file", ["config.yaml", *sorted(p.relative_to(ROOT) for p in ROOT.glob("config/*.yaml"))]
)
def test_the_files_of_the_repository_are_valid(file: str | Path) -> None:
    load(merge(read_yaml(ROOT / "config.yaml"), read_yaml(ROOT / file)))


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
        ({"shards": {"validation": 1}}, "shards.validation is not a known key; known: train, test"),
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
        ({"run": "a/b"}, 'run "a/b" is not usable as a name: letters, digits, - and _ make one'),
        (
            {"experiments": {"9": {"conditions": ["audio"], "smoothing": False}}},
            'experiments "9" is not usable as a name: letters, digits and _ make one',
        ),
        (
            {"experiments": {"new": {"conditions": ["audio", "audio"], "smoothing": False}}},
            'experiments.new.conditions ["audio", "audio"] has a value twice',
        ),
        ({"crops": {"size": 65}}, "crops.size is 65, but has to be a multiple of 2"),
        ({"training": {"channels": [32]}}, "training.channels is [32], but needs 2 values or more"),
        ({"training": {"steps": True}}, "training.steps is true, not a whole number"),
        ({"gates": {"frozen_seconds": float("nan")}}, "gates.frozen_seconds is NaN, not a finite number"),
        ({"gates": {"sync": {"max_offset": 16}}}, "gates.sync.max_offset is 16, but has to be at most 15"),
        ({"dataset": {"name": "vox"}}, 'dataset.name is "vox", not one of demo, local, hdtf, table'),
        ({"dataset": {"sead": 2}}, "dataset.sead is not a known key (did you mean dataset.seed?)"),
        (
            {"dataset": {"name": "hdtf", "split": "half"}},
            'dataset.split is "half", not one of paper, random, identity',
        ),
    ],
)
def test_says_in_one_line_where_and_what_is_wrong(
    overlay: dict[str, Any], words: str, default: dict[str, Any]
) -> None:
    assert complaint(default, overlay) == f"{FILE}: {words}"


def test_names_the_strongest_source_that_sets_the_key(default: dict[str, Any]) -> None:
    wrong = merge(default, {"training": {"steps": "many"}})
    weaker, stronger = {"training": {"steps": "few"}}, {"training": {"steps": "many"}}
    with pytest.raises(UserError, match="^--config: training.steps"):
        load(wrong, [("config.yaml", default), (FILE, weaker), ("--config", stronger)])


def test_broken_yaml_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text("a: [1,\nb: 2")
    with pytest.raises(UserError, match=r"broken\.yaml: not YAML: .* line 2"):
        read_yaml(tmp_path / "broken.yaml")


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (
            {"training": {"steps": "300", "prediction_type": "epsilon"}},
            {"training": {"steps": 300, "prediction_type": "epsilon"}},
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
    given: dict[str, Any], meant: dict[str, Any], schema: Schema
) -> None:
    assert coerce(given, schema) == meant


@pytest.mark.parametrize("text", ["007", "2024_05_01", "00012", "1e5", "true", "{x} y", "a: b", "a #1"])
def test_a_text_of_the_command_line_is_as_given(text: str, schema: Schema) -> None:
    read_as_snakemake_does = {"run": 7, "videos": {"x": ""}, "gpu": 1}
    arguments = [f"run={text}", f"videos={text}", "gpu=1"]
    given = as_given(read_as_snakemake_does, arguments, schema)
    assert coerce(given, schema) == {"run": text, "videos": text, "gpu": 1}
    assert as_given({"run": 7}, ["run='007'"], schema) == {"run": "007"}
    assert as_given({"videos": None}, ["videos="], schema) == {"videos": None}


def test_absent_keys_get_their_defaults() -> None:
    filled = load({"run": "mine", "crops": {"size": 64}, "training": {"steps": 3}})
    assert filled.training.steps == 3
    assert filled.training.batch_size == 64
    assert filled.landmarks.backend == "dlib"
    assert load(filled.as_dict()) == filled


def test_the_keys_of_an_experiment_override_those_of_training_alone() -> None:
    experiment = {"conditions": ["audio"], "smoothing": True, "training": {"steps": 3}}
    config = load({"crops": {"size": 64}, "training": {"batch_size": 2}, "experiments": {"a": experiment}})
    assert (models(config)["a"].batch_size, models(config)["a"].steps) == (2, 3)


def test_every_seed_is_a_model_and_an_override_is_its_experiments_alone(default: dict[str, Any]) -> None:
    experiment = {"conditions": ["audio"], "smoothing": True}
    default["training"]["steps"] = 100
    default["experiments"] = {
        "difftalk": {**experiment, "seeds": [1, 2], "training": {"steps": 7}},
        "a": experiment,
        "dropped": None,
    }
    config = load(default)
    found = models(config)
    assert list(found) == ["difftalk", "difftalk-seed2", "a"]
    assert [found[name].steps for name in found] == [7, 7, 100]
    assert [found[name].seed for name in found] == [1, 2, 1]
    common = config.training.as_dict()
    assert found["a"].as_dict() == common | {"conditions": ["audio"], "smoothing": True, "seed": 1}


def test_shards_are_numbered_per_split(default: dict[str, Any]) -> None:
    config = load(default | {"shards": {"train": 2, "test": 1}})
    assert shards(config, "train", "test") == ["train-000", "train-001", "test-000"]


def test_a_folder_of_videos_replaces_the_demo(default: dict[str, Any], tmp_path: Path) -> None:
    demo = dataset_settings(load(default)).as_dict()
    assert demo["name"] == "demo" and "test_fraction" not in demo
    assert dataset_settings(load(default | {"videos": str(tmp_path)})).as_dict() == {
        "name": "local",
        "videos": str(tmp_path),
        "clip_seconds": 6.0,
        "test_fraction": 0.25,
        "split": "identity",
        "seed": 1,
        "clip_at_cuts": True,
        "same_person_distance": 0.6,
        "near_duplicates": "together",
    }


def test_a_reference_from_training_needs_speakers_on_both_sides(
    default: dict[str, Any], tmp_path: Path
) -> None:
    wanted = merge(default, {"sampling": {"reference": "training"}})
    by_time = {"videos": str(tmp_path), "dataset": {"name": "local", "split": "time"}}
    for shared in (by_time, {"dataset": {"name": "hdtf"}}):
        assert stage_settings(load(merge(wanted, shared)), "sample").as_dict()["reference"] == "training"
    for unlike in ({}, {"videos": str(tmp_path)}, {"dataset": {"name": "hdtf", "split": "identity"}}):
        with pytest.raises(UserError, match="needs speakers on both sides of the split"):
            stage_settings(load(merge(wanted, unlike)), "sample")


def test_each_kind_of_dataset_has_its_own_default_of_a_key(default: dict[str, Any], tmp_path: Path) -> None:
    hdtf = load(merge(default, {"dataset": {"name": "hdtf", "split": "identity"}}))
    assert dataset_settings(hdtf).as_dict()["test_fraction"] == 0.2
    local = load(default | {"videos": str(tmp_path)})
    assert dataset_settings(local).as_dict()["test_fraction"] == 0.25


def test_a_folder_that_is_not_there_is_named(default: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="videos: no folder nowhere"):
        dataset_settings(load(default | {"videos": "nowhere"}))
    with pytest.raises(UserError, match="--config videos=DIR"):
        dataset_settings(load(merge(default, {"dataset": {"name": "local"}})))
    with pytest.raises(UserError, match=r"dataset\.files: nowhere does not exist"):
        dataset_settings(load(merge(default, {"dataset": {"name": "hdtf", "files": "nowhere"}})))


def test_the_digest_of_a_folder_changes_with_its_files(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"1")
    before = folder_digest(tmp_path)
    assert folder_digest(tmp_path) == before
    (tmp_path / "b.mp4").write_bytes(b"1")
    assert folder_digest(tmp_path) != before


def test_the_digest_of_a_folder_counts_videos_and_speakers_alone(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"1")
    before = folder_digest(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / ".b.mp4").write_bytes(b"1")
    (tmp_path / "c.mp4").symlink_to("gone.mp4")
    (tmp_path / "results" / "run" / "samples").mkdir(parents=True)
    (tmp_path / "results" / "run" / "samples" / "a.mp4").write_bytes(b"1")
    assert folder_digest(tmp_path) == before
    (tmp_path / "speakers.csv").write_text("file,speaker\n")
    named = folder_digest(tmp_path)
    (tmp_path / "Ann").mkdir()
    (tmp_path / "Ann" / "a.vob").write_bytes(b"1")
    assert len({before, named, folder_digest(tmp_path)}) == 3


# Settings of the stages


@pytest.mark.parametrize("stage", SETTINGS_OF_STAGES)
def test_a_stage_reads_what_the_workflow_hands_it(stage: str, default: dict[str, Any]) -> None:
    settings = stage_settings(load(default), stage)
    assert from_json(type(settings), json.dumps(settings.as_dict())) == settings


def test_a_stage_gets_the_gates_that_it_applies(default: dict[str, Any]) -> None:
    config = load(merge(default, {"gates": {"frozen_seconds": 2.0, "length_mismatch_seconds": None}}))
    gates = stage_settings(config, "gates").as_dict()
    assert gates["frozen_seconds"] == 2.0
    assert set(gates) == {*FaceGates.model_fields, *FrameGates.model_fields}
    assert stage_settings(config, "crops").as_dict()["gates"] == {
        "length_mismatch_seconds": None,
        "sync": None,
    }


def test_no_threshold_is_among_the_settings_of_the_stage_that_measures(default: dict[str, Any]) -> None:
    usual = stage_settings(load(default), "landmarks")
    changed = {"min_face_px": 100, "min_detection_rate": None}
    for overlay in ({"landmarks": changed}, {"gates": {"scene_cut_ratio": None, "frozen_seconds": 9.0}}):
        assert stage_settings(load(merge(default, overlay)), "landmarks") == usual


def test_smaller_faces_are_searched_for_where_the_gate_lets_them_through(default: dict[str, Any]) -> None:
    searched = {
        limit: stage_settings(load(merge(default, {"landmarks": {"min_face_px": limit}})), "landmarks")
        for limit in (20, 48, 100, None)
    }
    assert {k: s.as_dict()["searched_face_px"] for k, s in searched.items()} == {
        20: 20, 48: 48, 100: 48, None: 40,
    }  # fmt: skip


def test_a_sync_gate_does_not_wait_for_an_expert_that_waits_for_crops(default: dict[str, Any]) -> None:
    gated = merge(default, {"gates": {"sync": {}}})
    sync = stage_settings(load(gated | {"syncnet": "embedded"}), "crops").as_dict()["gates"]["sync"]
    assert sync == {"min_confidence": 3.0, "max_offset": 5}
    with pytest.raises(UserError, match=r"gates\.sync .* syncnet is `train`: set"):
        stage_settings(load(gated | {"syncnet": "train"}), "crops")


@pytest.mark.parametrize(
    ("kind", "given", "words"),
    [
        (CropsSettings, {"sise": 64}, "sise is not a known key (did you mean size?)"),
        (CropsSettings, {}, "size is missing"),
        (CropsSettings, {"size": 64, "crf": -1}, "crf is -1, but has to be at least 0"),
        (
            CropsSettings,
            {"size": 64, "gates": {"sync": {"max_ofset": 1}}},
            "gates.sync.max_ofset is not a known key (did you mean gates.sync.max_offset?)",
        ),
        (TrainingSettings, {"batch_size": 0}, "batch_size is 0, but has to be at least 1"),
        (TrainingSettings, [], "is [], not a section of keys"),
        (DatasetSettings, {"name": "local", "videos": "x", "skip": []}, "skip is not a known key"),
        (DatasetSettings, {"name": "hdtf", "split": "half"}, 'split is "half", not one of paper'),
    ],
)
def test_a_verb_refuses_what_the_configuration_refuses(kind: type[Section], given: Any, words: str) -> None:
    with pytest.raises(UserError) as raised:
        from_dict(kind, given, "--settings")
    assert str(raised.value).startswith(f"--settings: {words}")
    assert "\n" not in str(raised.value)


def test_settings_may_stand_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "crops.json").write_text('{"size": 64}')
    assert from_json(CropsSettings, str(tmp_path / "crops.json")).size == 64
    with pytest.raises(UserError, match="neither JSON that starts with { nor a file"):
        from_json(CropsSettings, "size=64")
    with pytest.raises(UserError, match="--settings: not JSON"):
        from_json(CropsSettings, "{size: 64}")


# What is made from the models


@pytest.mark.parametrize(
    ("section", "key", "stage", "modules"),
    [
        ("dataset", "name", "fetch", DATASET_MODULES),
        ("landmarks", "backend", "landmarks", LANDMARK_MODULES),
        ("speech", "backend", "speech", SPEECH_MODULES),
    ],
)
def test_a_stage_that_chooses_a_module_can_reach_each_of_them(
    section: str, key: str, stage: str, modules: dict[str, str], schema: Schema
) -> None:
    assert set(schema["properties"][section]["properties"][key]["enum"]) == set(modules)
    assert set(modules.values()) <= set(imported_modules(f"difftalk.stages.{stage}"))


def test_every_section_is_strict_and_every_key_described(schema: Schema) -> None:
    for dotted, inner in keys(schema):
        assert inner.get("description"), dotted
        if inner.get("type") == "object":
            assert inner.get("additionalProperties") is not None, dotted


def test_schema_and_table_of_keys_are_those_of_the_models() -> None:
    spec = importlib.util.spec_from_file_location("config_docs", ROOT / "tools" / "config_docs.py")
    assert spec is not None and spec.loader is not None
    config_docs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(config_docs)
    assert config_docs.SCHEMA.read_text(encoding="utf-8") == config_docs.schema_text(), (
        "run `make config-docs`"
    )
    assert config_docs.README.read_text(encoding="utf-8") == config_docs.readme_text(), (
        "run `make config-docs`"
    )


def test_the_configuration_is_read_without_heavy_imports() -> None:
    program = (
        "import sys, difftalk.config.workflow;"
        "print([m for m in ('torch', 'cv2', 'numpy', 'pyarrow', 'av') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
