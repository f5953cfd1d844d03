"""What the Snakefile asks of the configuration: checked, complete, and cut into what each stage reads."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from difftalk.config.crops import CropsSettings
from difftalk.config.dataset import Demo, Hdtf, LocalSettings, Table
from difftalk.config.explain import dotted, explain, origin
from difftalk.config.gates import AudioGates, FaceGates, FrameGates, GatesSettings, OverlapSettings
from difftalk.config.landmarks import LandmarksSettings
from difftalk.config.methods import Method, MethodSettings
from difftalk.config.own_files import dataset_files, folder_digest, own_paths
from difftalk.config.report import ReportSettings, TablesSettings
from difftalk.config.root import Config
from difftalk.config.schema import Schema, coerce, plain
from difftalk.config.section import Section
from difftalk.config.training import COPIED_METHODS, UNTRAINED_METHODS, TrainingSettings
from difftalk.media.clock import FPS
from difftalk.runtime.errors import UserError
from difftalk.runtime.suggest import did_you_mean

__all__ = [
    "COPIED_METHODS", "UNTRAINED_METHODS", "as_given", "as_json", "cache_of", "coerce", "config_schema",
    "cross_driven", "dataset_files", "dataset_settings", "expected_test_frames", "folder_digest",
    "given_methods", "load", "method_files", "models", "read_yaml", "shards", "stage_settings",
]  # fmt: skip


def read_yaml(path: str | Path) -> Any:
    """Return the content of a YAML file.

    Raises:
        UserError: naming the file and the line that is no YAML.
    """
    try:
        return yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except yaml.YAMLError as e:
        raise UserError(f"{path}: not YAML: {' '.join(str(e).split())}") from None


def as_given(config: Mapping[str, Any], arguments: Sequence[str] | None, schema: Schema) -> dict[str, Any]:
    """Return the values of `--config` with those of keys that are a text as they were given.

    Snakemake takes `run=007` for the number 7, `run=2024_05_01` for 20240501, and `videos={x}` for a section.

    Args:
        config: what Snakemake made of them.
        arguments: them, `key=value` each.
        schema: a plain schema.
    """
    values = dict(config)
    for argument in arguments or ():
        key, _, text = argument.partition("=")
        kind = schema.get("properties", {}).get(key, {}).get("type", [])
        if "string" in ([kind] if isinstance(kind, str) else kind) and text:
            quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
            values[key] = text[1:-1] if quoted else text
    return values


def config_schema() -> Schema:
    """Return the JSON schema of the whole configuration, without references."""
    return plain(Config.model_json_schema())


def load(config: Mapping[str, Any], sources: Sequence[tuple[str, Any]] = ()) -> Config:
    """Check a merged configuration and fill in its defaults.

    Args:
        config: the merged configuration.
        sources: what it was merged from, `(name, content)`, the strongest last.

    Raises:
        UserError: in one line, with the source and the dotted name of the first key that is wrong, and what
            would be right: the nearest known key, the type, the bounds.
    """
    values = dict(config)
    if values.get("videos") is not None and isinstance(values.get("dataset", {}), dict):
        values["dataset"] = values.get("dataset", {}) | {"name": "local"}
    try:
        return Config.model_validate(values)
    except ValidationError as e:
        key, message = explain(e, Config.model_json_schema())
        raise UserError(f"{origin(key, sources)}: {dotted(key)} {message}") from None


def dataset_settings(config: Config) -> Section:
    """Return what `difftalk plan --dataset` and `fetch --dataset` read.

    Raises:
        UserError: if a folder or file that the dataset names does not exist.
    """
    dataset: Section = config.dataset
    if config.dataset.name == "local":
        if config.videos is None:
            raise UserError(
                "config: dataset.name is local, so videos must name a folder: --config videos=DIR"
            )
        if not Path(config.videos).is_dir():
            raise UserError(f"config: videos: no folder {config.videos} (seen from {Path.cwd()})")
        dataset = LocalSettings(**config.dataset.model_dump(), videos=config.videos)
    for key, path in own_paths(dataset).items():
        if not Path(path).exists():
            raise UserError(f"config: dataset.{key}: {path} does not exist (seen from {Path.cwd()})")
    return dataset


def stage_settings(config: Config, stage: str) -> Section:
    """Return what a stage reads of the configuration: its section, with the gates that it applies.

    Raises:
        UserError: if crops are to be judged by a sync expert that is trained on those crops, or the reader of
            videos is not for the backend of landmarks.
    """
    if config.gates.sync is not None and config.syncnet == "train":
        raise UserError(
            "config: gates.sync needs a sync expert before there are crops to train one on, but syncnet is "
            "`train`: set syncnet to `embedded` or a path, or gates.sync to null"
        )
    if config.landmarks.reader == "torchcodec" and config.landmarks.backend != "face_alignment":
        raise UserError(
            f"config: landmarks.reader: torchcodec is not for landmarks.backend: {config.landmarks.backend}, "
            "which runs on CPUs: set reader to `pyav`, or backend to `face_alignment`"
        )
    match stage:
        case "landmarks":
            return LandmarksSettings.of(config.landmarks)
        case "gates":
            of_face = {key: getattr(config.landmarks, key) for key in FaceGates.model_fields}
            of_frames = {key: getattr(config.gates, key) for key in FrameGates.model_fields}
            return GatesSettings(**of_face, **of_frames)
        case "overlap":
            return _overlap_settings(config)
        case "crops":
            gates = {key: getattr(config.gates, key) for key in AudioGates.model_fields}
            return CropsSettings(**config.crops.model_dump(), gates=AudioGates(**gates))
        case "speech":
            return config.speech
        case "encode":
            return config.encode
        case "sample":
            _refuse_no_reference(config)
            return config.sampling
        case "score":
            return config.evaluation.model_copy(update={"clips": None, "cross_driven": ()})
        case "tables":
            notes = {"sampling": config.sampling.as_dict()}
            shown = {key: getattr(config.report, key) for key in ("subgroups", "published")}
            return TablesSettings(run=config.run, notes=notes, **shown)
        case "report":
            return ReportSettings(run=config.run, **config.report.model_dump())
    raise KeyError(stage)


def _refuse_no_reference(config: Config) -> None:
    """Check that a reference from the training split can be there: that a speaker is on both sides."""
    dataset = config.dataset
    shared = dataset.shared_identities if isinstance(dataset, Table) else (
        getattr(dataset, "split", "identity") != "identity"
    )  # fmt: skip
    if config.sampling.reference == "training" and not shared:
        raise UserError(
            "config: sampling.reference: training needs speakers on both sides of the split, which "
            f"dataset.name: {dataset.name} has not with these keys: set reference to `first`"
        )


def _overlap_settings(config: Config) -> OverlapSettings:
    """Return what becomes of overlap: of a folder `plan` has seen to it, and drawn speakers have none."""
    dataset = config.dataset
    if not isinstance(dataset, Hdtf | Table):
        return OverlapSettings(overlap="ignore")
    promised = dataset.split == "identity" if isinstance(dataset, Hdtf) else not dataset.shared_identities
    return OverlapSettings(
        overlap=config.gates.overlap or ("reject" if promised else "report"),
        same_person_distance=config.gates.same_person_distance,
        named_speakers=isinstance(dataset, Table),
    )


def models(config: Config) -> dict[str, TrainingSettings]:
    """Return the settings of `difftalk train` for each model, by its name.

    The first seed of an experiment gives the model its plain name, others a suffix: `difftalk-seed2`.
    An experiment set to null is left out.
    """
    return {
        name if seed == experiment.seeds[0] else f"{name}-seed{seed}": experiment.settings(
            config.training, seed
        )
        for name, experiment in config.experiments.items()
        if experiment is not None
        for seed in experiment.seeds
    }


def given_methods(config: Config) -> dict[str, MethodSettings]:
    """Return what `difftalk run_method` reads of each method from elsewhere, by its name.

    Raises:
        UserError: if a name is that of a model of the run, or a folder that an entry names does not exist.
    """
    found = {name: entry for name, entry in config.methods.items() if entry is not None}
    for name, entry in found.items():
        if name in models(config):
            raise UserError(f"config: methods.{name} has the name of a model of the run: choose another")
        for key in ("videos", "directory"):
            if (path := getattr(entry, key)) is not None and not Path(path).is_dir():
                raise UserError(f"config: methods.{name}.{key}: no folder {path} (seen from {Path.cwd()})")
        if entry.environment is not None and not Path(entry.environment).exists():
            place = f"{entry.environment} does not exist (seen from {Path.cwd()})"
            raise UserError(f"config: methods.{name}.environment: {place}")
    return {
        name: MethodSettings(
            **entry.model_dump(),
            max_missing_frames=config.evaluation.max_missing_frames,
            reference=config.sampling.reference,
            seed=config.sampling.seed,
            crops=CropsSettings(**config.crops.model_dump()) if entry.needs_sources else None,
        )
        for name, entry in found.items()
    }


def cross_driven(config: Config) -> list[str]:
    """Return the methods that are also driven by other sounds: `ground_truth`, and those that are named.

    Raises:
        UserError: if one of them is no model of the run.
    """
    named, known = config.evaluation.cross_driven, models(config)
    for name in named:
        if name not in known:
            hint = did_you_mean(name, [*known])
            raise UserError(f"config: evaluation.cross_driven: {name} is no model of the run; {hint}")
    return ["ground_truth", *named] if named else []


def expected_test_frames(config: Config) -> float | None:
    """Return how many frames are evaluated at most, where the configuration says it."""
    clips, dataset = config.evaluation.clips, config.dataset
    if clips is not None and clips.count is not None and clips.seconds is not None:
        return clips.count * clips.seconds * FPS
    if isinstance(dataset, Demo):
        return dataset.identities.test * dataset.clips_per_identity * dataset.clip_seconds * FPS
    return None


def method_files(entry: Method) -> str:
    """Return a hash over the files of a method that are watched: its videos, or those its command names."""
    if entry.videos is not None:
        return folder_digest(entry.videos)
    lines = []
    for word in entry.command or ():
        path = Path(entry.directory or ".", word)
        if "{" not in word and path.is_file():
            at = path.stat()
            lines.append(f"{word} {at.st_size} {at.st_mtime_ns}")
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()


def shards(config: Config, *splits: str) -> list[str]:
    """Return the names of the shards of `splits`, such as `train-003`."""
    return config.shards.names(*splits)


def cache_of(config: Config, stage: str) -> str:
    """Return the folder of the cache for a stage; empty where nothing of it is kept."""
    folder = config.cache.folder or str(Path(config.store, "cache"))
    return folder if stage in config.cache.keeps else ""


def as_json(section: Section) -> str:
    """Return a section as the JSON that a stage reads from its command line."""
    return json.dumps(section.as_dict())
