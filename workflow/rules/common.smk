# What the rules share: the checked configuration, the names of shards and methods, and how a command is run.

import json
import os
import shlex
import sys

from snakemake.utils import update_config

# The code that is fingerprinted here and the code that the jobs run are this checkout's, whatever is installed.
sys.path.insert(0, str(ROOT))

from difftalk.config import validate as configuration
from difftalk.pretrained import table as weights
from difftalk.runtime.errors import UserError
from difftalk.runtime.fingerprint import fingerprint, fingerprint_files


def config_sources(schema):
    """What the configuration is merged from, the strongest last: for the error that names the file."""
    files = list(dict.fromkeys(map(str, [*workflow.configfiles[-1:], *workflow.overwrite_configfiles])))
    sources = [(os.path.relpath(f), configuration.read_yaml(f)) for f in files]
    # Snakemake hands on what is inside {} as text.
    return [*sources, ("--config", configuration.typed(workflow.config_settings.config, schema))]


try:
    schema = configuration.read_yaml(ROOT / "workflow/schemas/config.schema.yaml")
    sources = config_sources(schema)
    update_config(config, sources[-1][1])
    configuration.check(config, schema, sources)
    config.update(configuration.with_defaults(config, schema))
    DATASET = configuration.dataset(config)
    GATED = {stage: json.dumps(configuration.gated(config, stage)) for stage in configuration.GATES}
except UserError as error:
    # A line for a person. Raised, it would come with the lines of this file.
    sys.exit(f"difftalk: {error}")

# As in the jobs: the rules ask `weights.recorded` what lies there.
weights.use_folder(config["weights"])

RUN = f"results/{config['run']}"
TRAIN_SHARDS = configuration.shards(config, "train")
TEST_SHARDS = configuration.shards(config, "test")
SHARDS = TRAIN_SHARDS + TEST_SHARDS
MODELS = configuration.models(config)
METHODS = [*configuration.BASELINES, *MODELS]
IS_DOWNLOADED = DATASET["name"] == "hdtf"
ALL_REJECTS = expand(
    "<run>/rejects/{stage}/{shard}.csv",
    stage=["fetch", "landmarks", "crops", "speech", "encode"],
    shard=SHARDS,
)
SYNC_GATE = config["gates"]["sync"] is not None
OTHER_DATASETS = configuration.others(configuration.DATASET_MODULES, DATASET["name"])
OTHER_BACKENDS = configuration.others(configuration.LANDMARK_MODULES, config["landmarks"]["backend"])
FACE_ALIGNMENT = config["landmarks"]["backend"] == "face_alignment"
OTHER_SPEECH = configuration.others(configuration.SPEECH_MODULES, config["speech"]["backend"])
DEEPSPEECH = config["speech"]["backend"] == "deepspeech"


pathvars:
    run=RUN,


wildcard_constraints:
    shard="|".join(SHARDS),
    model="|".join(MODELS),
    method="|".join(METHODS),


# How commands run, as opposed to what they make: a change here reruns nothing.
with_conda = "conda" in {str(m).lower() for m in workflow.deployment_settings.deployment_method}
shell.prefix(
    f"export PYTHONPATH={shlex.quote(str(ROOT))} DIFFTALK_WEIGHTS={shlex.quote(config['weights'])}; "
    f"max_reject_fraction={config['max_reject_fraction']}; "
    f"download={shlex.quote(json.dumps(config['download']).replace('{', '{{').replace('}', '}}'))}; "
    f"training_processes={config['training_processes']} training_workers={config['training_workers']}; "
    f"difftalk() {{{{ {'python' if with_conda else shlex.quote(sys.executable)} -m difftalk \"$@\"; }}}}; "
)


def settings(section):
    """A section of the configuration as the JSON that `difftalk STAGE --settings` reads."""
    return json.dumps(config[section])


def part_settings(name):
    """Settings of the first stage or the sync expert: what its training reads, if it is trained."""
    return settings(f"{name}_training") if config[name] == "train" else "{}"


def part_crops(name):
    """The crops that the training of the first stage or the sync expert reads."""
    return expand("<run>/crops/{shard}.tar", shard=TRAIN_SHARDS) if config[name] == "train" else []


def part_weights(name):
    """A hash over the weights that stand for the first stage or the sync expert, if it is not trained.

    Weights of the table may still be missing when the graph is made: the job that needs them says so.
    """
    if config[name] == "train":
        return None
    if weights.stands_for(name, config[name]):
        return weights.recorded(config[name])
    folder = ROOT / "difftalk/assets" / name if config[name] == "embedded" else Path(config[name])
    if not folder.exists():
        sys.exit(f"difftalk: config: {name}: {folder} does not exist")
    return fingerprint_files(folder)


def train_settings(wildcards):
    return json.dumps(MODELS[wildcards.model])


def model_of(wildcards):
    """The model that a method samples from; the baselines have none."""
    return f"<run>/models/{wildcards.method}" if wildcards.method in MODELS else []
