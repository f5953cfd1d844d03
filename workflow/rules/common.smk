# What the rules share: the checked configuration, the names of shards and methods, and how a command is run.

import os
import shlex
import sys

from snakemake.utils import update_config

# The code that is fingerprinted here and the code that the jobs run are this checkout's, whatever is installed.
sys.path.insert(0, str(ROOT))

from difftalk.config import workflow as configuration
from difftalk.pretrained import table as pretrained
from difftalk.runtime.errors import UserError
from difftalk.runtime.fingerprint import fingerprint, fingerprint_files
from difftalk.runtime.rejects import REJECTING_STAGES


def config_sources(schema):
    """What the configuration is merged from, the strongest last: for the error that names the file."""
    files = list(dict.fromkeys(map(str, [*workflow.configfiles[-1:], *workflow.overwrite_configfiles])))
    sources = [(os.path.relpath(f), configuration.read_yaml(f)) for f in files]
    # Snakemake hands on what is inside {} as text.
    return [*sources, ("--config", configuration.coerce(workflow.config_settings.config, schema))]


try:
    sources = config_sources(configuration.config_schema())
    update_config(config, sources[-1][1])
    CONFIG = configuration.load(config, sources)
    DATASET = configuration.dataset_settings(CONFIG)
    SETTINGS = {
        stage: configuration.as_json(configuration.stage_settings(CONFIG, stage))
        for stage in ["landmarks", "gates", "crops", "speech", "encode", "sample", "score", "tables", "report"]
    }
except UserError as error:
    # A line for a person. Raised, it would come with the lines of this file.
    sys.exit(f"difftalk: {error}")

config.update(CONFIG.as_dict())

# As in the jobs: the rules ask `pretrained.recorded` what lies there.
pretrained.use_folder(CONFIG.weights)

RUN = f"results/{CONFIG.run}"
TRAIN_SHARDS = configuration.shards(CONFIG, "train")
TEST_SHARDS = configuration.shards(CONFIG, "test")
SHARDS = TRAIN_SHARDS + TEST_SHARDS
MODELS = configuration.models(CONFIG)
METHODS = [*configuration.UNTRAINED_METHODS, *MODELS]
IS_DOWNLOADED = DATASET.name == "hdtf"
ALL_REJECTS = expand("<run>/rejects/{stage}/{shard}.csv", stage=REJECTING_STAGES, shard=SHARDS)
SYNC_GATE = CONFIG.gates.sync is not None
# One that is trained on the run's own crops is no judge of them; one whose weights are missing judges nothing.
SYNC_EXPERT = CONFIG.syncnet != "train" and (
    not pretrained.stands_for("syncnet", CONFIG.syncnet) or pretrained.recorded(CONFIG.syncnet) is not None
)
SYNC_SCORES = expand("<run>/sync/{shard}.csv", shard=SHARDS) if SYNC_EXPERT or SYNC_GATE else []
OTHER_DATASETS = configuration.unused_modules(configuration.DATASET_MODULES, DATASET.name)
OTHER_BACKENDS = configuration.unused_modules(configuration.LANDMARK_MODULES, CONFIG.landmarks.backend)
FACE_ALIGNMENT = CONFIG.landmarks.backend == "face_alignment"
OTHER_SPEECH = configuration.unused_modules(configuration.SPEECH_MODULES, CONFIG.speech.backend)
DEEPSPEECH = CONFIG.speech.backend == "deepspeech"
TEMPLATES = fingerprint_files(ROOT / "difftalk/reporting/templates")


pathvars:
    run=RUN,


wildcard_constraints:
    shard="|".join(SHARDS),
    model="|".join(MODELS),
    method="|".join(METHODS),


# How commands run, as opposed to what they make: a change here reruns nothing.
with_conda = "conda" in {str(m).lower() for m in workflow.deployment_settings.deployment_method}
shell.prefix(
    f"export PYTHONPATH={shlex.quote(str(ROOT))} DIFFTALK_WEIGHTS={shlex.quote(CONFIG.weights)}; "
    f"max_reject_fraction={CONFIG.max_reject_fraction}; "
    f"download={shlex.quote(configuration.as_json(CONFIG.download).replace('{', '{{').replace('}', '}}'))}; "
    f"training_processes={CONFIG.training_processes} training_workers={CONFIG.training_workers}; "
    f"difftalk() {{{{ {'python' if with_conda else shlex.quote(sys.executable)} -m difftalk \"$@\"; }}}}; "
)


def part_settings(name):
    """Settings of the first stage or the sync expert: what its training reads, if it is trained."""
    section = getattr(CONFIG, f"{name}_training")
    return configuration.as_json(section) if config[name] == "train" else "{}"


def part_crops(name):
    """The crops that the training of the first stage or the sync expert reads."""
    return expand("<run>/crops/{shard}.tar", shard=TRAIN_SHARDS) if config[name] == "train" else []


def part_weights(name):
    """A hash over the weights that stand for the first stage or the sync expert, if it is not trained.

    Pretrained weights may still be missing when the graph is made: the job that needs them says so.
    """
    if config[name] == "train":
        return None
    if pretrained.stands_for(name, config[name]):
        return pretrained.recorded(config[name])
    folder = ROOT / "difftalk/assets" / name if config[name] == "embedded" else Path(config[name])
    if not folder.exists():
        sys.exit(f"difftalk: config: {name}: {folder} does not exist")
    return fingerprint_files(folder)


def train_settings(wildcards):
    return configuration.as_json(MODELS[wildcards.model])


def model_of(wildcards):
    """The model that a method samples from; the untrained methods have none."""
    return f"<run>/models/{wildcards.method}" if wildcards.method in MODELS else []
