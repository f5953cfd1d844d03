# What the rules share: the checked configuration, the names of shards and methods, and how a command is run.

import os
import shlex
import subprocess
import sys
from glob import glob

from snakemake.utils import update_config

# The code that is fingerprinted here and the code that the jobs run are this checkout's, whatever is installed.
sys.path.insert(0, str(ROOT))

from difftalk.config import backends
from difftalk.config import workflow as configuration
from difftalk.pretrained import table as pretrained
from difftalk.pretrained.model_folder import folder_of
from difftalk.reporting import published
from difftalk.runtime import accounting, ancestors, device, remembered
from difftalk.runtime.checksums import digest_of_model
from difftalk.runtime.errors import UserError
from difftalk.runtime.fingerprint import fingerprint, fingerprint_files
from difftalk.runtime.rejects import REJECTING_STAGES
from difftalk.runtime.suggest import did_you_mean

# What was computed of code and weights when this was read before, in Snakemake's own folder.
remembered.use_file(Path(".snakemake", "difftalk.json").absolute())


def config_sources(schema):
    """What the configuration is merged from, the strongest last: for the error that names the file.

    A module is given its own by the workflow that uses it, whose files and `--config` are not meant for it.
    """
    if IS_MODULE:
        return [(f"config of the module {workflow.modifier.namespace}", dict(config))]
    files = list(dict.fromkeys(map(str, [*workflow.configfiles[-1:], *workflow.overwrite_configfiles])))
    sources = [(os.path.relpath(f), configuration.read_yaml(f)) for f in files]
    # Snakemake hands on what is inside {} as text, and reads other values as numbers: run=007 as 7.
    given = configuration.as_given(
        workflow.config_settings.config, workflow.config_settings.config_args, schema
    )
    return [*sources, ("--config", configuration.coerce(given, schema))]


try:
    sources = config_sources(configuration.config_schema())
    update_config(config, sources[-1][1])
    CONFIG = configuration.load(config, sources)
    DATASET = configuration.dataset_settings(CONFIG)
    GIVEN_METHODS = configuration.given_methods(CONFIG)
    CROSS_DRIVEN = configuration.cross_driven(CONFIG)
    published.check_sources(CONFIG.report.published)
    SETTINGS = {
        stage: configuration.as_json(configuration.stage_settings(CONFIG, stage))
        for stage in [
            "landmarks",
            "gates",
            "crops",
            "overlap",
            "speech",
            "encode",
            "sample",
            "score",
            "tables",
            "report",
        ]
    }
except UserError as error:
    # A line for a person. Raised, it would come with the lines of this file.
    sys.exit(f"difftalk: {error}")

config.update(CONFIG.as_dict())

# As in the jobs: the rules ask `pretrained.recorded` what lies there.
pretrained.use_folder(CONFIG.weights)

RUN = f"results/{CONFIG.run}"


def placed(path):
    """A path that is no input or output, where those of this workflow are: under the prefix of a module."""
    return path and workflow.modifier.path_modifier.replace_prefix(path)


STATE, LOGS, STORE = placed(f"{RUN}/state"), placed(f"{RUN}/logs"), placed(CONFIG.store)
TRAIN_SHARDS = configuration.shards(CONFIG, "train")
TEST_SHARDS = configuration.shards(CONFIG, "test")
SHARDS = TRAIN_SHARDS + TEST_SHARDS
MODELS = configuration.models(CONFIG)
# Those that `sample` makes, and those that are from elsewhere.
SAMPLED = [*configuration.UNTRAINED_METHODS, *MODELS]
METHODS = [*SAMPLED, *GIVEN_METHODS]
# The list of the test clips that are evaluated, where these are not all.
EVALUATED = "<run>/plan/evaluated.csv" if CONFIG.evaluation.clips is not None else []
IS_DOWNLOADED = DATASET.name in ("hdtf", "table")
IS_FOLDER = DATASET.name == "local"
# Of what is downloaded: content and persons that both sides of the split have.
OVERLAP = configuration.stage_settings(CONFIG, "overlap").overlap
STAGES_THAT_REJECT = [stage for stage in REJECTING_STAGES if stage != "overlap" or OVERLAP != "ignore"]
ALL_REJECTS = expand("<run>/rejects/{stage}/{shard}.csv", stage=STAGES_THAT_REJECT, shard=SHARDS)
SYNC_GATE = CONFIG.gates.sync is not None
# One that is trained on the run's own crops is no judge of them; one whose weights are missing judges nothing.
SYNC_EXPERT = CONFIG.syncnet != "train" and (
    not pretrained.stands_for("syncnet", CONFIG.syncnet) or pretrained.recorded(CONFIG.syncnet) is not None
)
SYNC_SCORES = expand("<run>/sync/{shard}.csv", shard=SHARDS) if SYNC_EXPERT or SYNC_GATE else []
OTHER_DATASETS = backends.unused_modules(backends.DATASET_MODULES, DATASET.name)
# Files of a folder alone are cut where the scene changes.
NOT_PLANNED_WITH = OTHER_DATASETS + ([] if IS_FOLDER else ["difftalk.face.scenes"])
OTHER_BACKENDS = backends.unused_modules(backends.LANDMARK_MODULES, CONFIG.landmarks.backend)
FACE_ALIGNMENT = CONFIG.landmarks.backend == "face_alignment"
OTHER_SPEECH = backends.unused_modules(backends.SPEECH_MODULES, CONFIG.speech.backend)
DEEPSPEECH = CONFIG.speech.backend == "deepspeech"
# A minute of crops of 512 px is 1.2 GB, and while it is decoded twice as much.
LARGE_CROPS = CONFIG.crops.size > 256
# Whose results for single clips other runs may take over.
CACHED_STAGES = ("plan", "landmarks", "crops", "speech", "encode", "score")
# `--cache` is given. Snakemake's hash is over the steps to a file and not over its content, so that nothing may be
# cached that was made of downloads: a link that was dead for a day would be so in all other folders.
IS_CACHING = workflow.enable_cache
MAY_BE_CACHED = IS_CACHING and not IS_DOWNLOADED
# Whether params are compared, or kept for that: not in the process of a job, as on a node of a cluster. That process
# has no settings of submissions.
IS_SUBMITTING_AT_ONCE = getattr(workflow.remote_execution_settings, "immediate_submit", False)
IS_DECIDING = workflow.is_main_process or IS_SUBMITTING_AT_ONCE or IS_CACHING
# It decides whether a training starts, and nothing of what comes out of it.
CHECK_OF_SIDES = ["difftalk.datasets.sides"]
# How processes are started, which changes the result by rounding at most.
HOW_IT_STARTS = ["difftalk.training.launcher", "difftalk.training.slurm"]
# What the first stage and the sync expert import to be trained, and not to be copied.
TRAINING_OF_PART = {
    name: [*modules, "difftalk.training.checkpoint", "difftalk.runtime.owner"]
    for name, modules in {
        "autoencoder": ["difftalk.training.first_stage", "difftalk.training.frames"],
        "syncnet": ["difftalk.training.sync_expert", "difftalk.media.shards"],
    }.items()
}
# GPUs that a job of each stage requests. A part that is copied needs none.
GPUS = {
    "landmarks": CONFIG.gpu if FACE_ALIGNMENT else 0,
    "crops": CONFIG.gpu if SYNC_GATE else 0,
    "sync": CONFIG.gpu,
    "speech": CONFIG.gpu if DEEPSPEECH else 0,
    "autoencoder": CONFIG.gpu if CONFIG.autoencoder == "train" else 0,
    "syncnet": CONFIG.gpu if CONFIG.syncnet == "train" else 0,
    "encode": CONFIG.gpu,
    "train": CONFIG.gpu * CONFIG.training_processes * CONFIG.training_nodes,
    "sample": CONFIG.gpu,
    "cross_drive": CONFIG.gpu,
    "cross_score": CONFIG.gpu if CONFIG.evaluation.device == "cuda" else 0,
    "score": CONFIG.gpu if CONFIG.evaluation.device == "cuda" else 0,
}
# A training on several nodes: the SLURM plugin leaves it to the job to call `srun`, and asks for GPUs by node.
ON_NODES = (
    {
        "mpi": "srun",
        "tasks": CONFIG.training_nodes,
        "tasks_per_gpu": 0,
        **({"gres": f"gpu:{CONFIG.training_processes}"} if CONFIG.gpu else {}),
    }
    if CONFIG.training_nodes > 1
    else {}
)
# Columns appear when their weights do.
WEIGHTS_OF_COLUMNS = {
    name: pretrained.recorded(name)
    for name, weight in pretrained.WEIGHTS.items()
    if weight.needed_by.endswith("of the tables")
}
TEMPLATES = fingerprint_files(ROOT / "difftalk/reporting/templates")


pathvars:
    run=RUN,


wildcard_constraints:
    shard=CONFIG.shards.pattern(),
    model="|".join(MODELS),
    method="|".join(METHODS),


def write_unfinished_funnel():
    """Write the funnel of a run that has failed, from what is there: why it failed may be in it."""
    if not Path(RUN, "plan/clips.parquet").is_file():
        return
    flags = {
        "--plan": [Path(RUN, "plan/clips.parquet")],
        "--rejects": [f for stage in STAGES_THAT_REJECT for f in Path(RUN, "rejects", stage).glob("*.csv")],
        "--quality": [f for shard in SHARDS if (f := Path(RUN, f"landmarks/{shard}.quality.csv")).is_file()],
        "--crops": [f for shard in SHARDS if (f := Path(RUN, f"crops/{shard}.tar")).is_file()],
        "--out": [Path(RUN, "funnel.csv")],
        "--by-subset": [Path(RUN, "funnel_by_subset.csv")],
        "--page": [Path(RUN, "funnel.html")],
        "--not-videos": [f for f in [Path(RUN, "plan/not_videos.csv")] if f.is_file()],
        "--unfinished": [1],
        "--log": [Path(RUN, "logs/funnel.log")],
    }
    words = [str(word) for flag, values in flags.items() for word in (flag, *values)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-m", "difftalk", "funnel", *words], env=environment, check=False)
    print(f"The clips so far, and why others are not among them: {RUN}/funnel.html", file=sys.stderr)


def check_accounting():
    """End the run where it submits jobs to SLURM and would not learn how they end."""
    try:
        accounting.check_status_command(getattr(workflow.executor_settings, "status_command", None))
    except UserError as error:
        sys.exit(f"difftalk: {error}")


def say_what_sampling_costs():
    """Say how many frames the models will sample, and how long that takes, where that was measured before."""
    from difftalk.sampling.cost import sampling_cost

    jobs = [job for job in workflow.dag.needrun_jobs() if job.rule.name == "sample"]
    pairs = [(j.wildcards.method, j.wildcards.shard) for j in jobs if j.wildcards.method in MODELS]
    # Each of these once by another voice, and once by silence.
    again = [job.wildcards for job in workflow.dag.needrun_jobs() if job.rule.name == "cross_drive"]
    pairs += 2 * [(found.method, found.shard) for found in again if found.method in MODELS]
    expected = configuration.expected_test_frames(CONFIG)
    of_shard = None if expected is None else expected / len(TEST_SHARDS)
    cost = sampling_cost(Path(RUN), pairs, CONFIG.sampling.steps, CONFIG.evaluation.clips, of_shard)
    if cost is not None:
        print(cost.line(), file=sys.stderr)


def has_gpu(stage):
    """Whether the jobs of a stage get a GPU: as the configuration says, if no profile takes it off them.

    A profile that asks for one in another way, such as by `gres`, sets `gpu: 0` as well.
    """
    rule_name = workflow.modifier.modify_rulename(stage)
    given = workflow.resource_settings.overwrite_resources.get(rule_name, {})
    said = {name: str(getattr(value, "raw", value)) for name, value in given.items()}
    in_another_way = any("gpu" in said.get(name, "") for name in ("gres", "slurm_extra"))
    return GPUS[stage] > 0 and (said.get("gpu") != "0" or in_another_way)


# In the environment, as nothing else reaches what a killed job leaves behind.
ancestors.announce()

with_conda = "conda" in {str(m).lower() for m in workflow.deployment_settings.deployment_method}


class How(dict):
    """How commands run, as opposed to what they make: the param `how` of each rule.

    An empty dictionary with attributes. What is in it, nothing, is what Snakemake records and compares, and
    what it hashes for `--cache`: a change here reruns nothing. Not in `shell.prefix`, which all modules of a
    workflow share.
    """

    def __init__(self, **values):
        super().__init__()
        self.__dict__.update(values)


def flags(**values):
    """Flags of a command, those with a value, as words of a shell."""
    return shlex.join(word for name, value in values.items() if value for word in (f"--{name}", str(value)))


def how(stages):
    """How commands run where these stages have a GPU."""
    environment = {
        "PYTHONPATH": str(ROOT),
        "DIFFTALK_WEIGHTS": CONFIG.weights,
        device.VARIABLE: " ".join(stages),
    }
    return How(
        difftalk=" ".join(
            [
                *(f"{name}={shlex.quote(value)}" for name, value in environment.items()),
                "python" if with_conda else shlex.quote(sys.executable),
                "-m difftalk",
            ]
        ),
        max_reject_fraction=CONFIG.max_reject_fraction,
        # Nothing where nothing of the stage is kept.
        cache={stage: flags(cache=placed(configuration.cache_of(CONFIG, stage))) for stage in CACHED_STAGES},
        download=configuration.as_json(CONFIG.download),
        # The sync expert judges crops: with its gate, there is nothing to cut before it is trained.
        early_crops="" if SYNC_GATE else flags(crops=SETTINGS["crops"], gates=SETTINGS["gates"]),
        processes=CONFIG.training_processes,
        workers=CONFIG.training_workers,
        nodes=CONFIG.training_nodes,
    )


HOW, HOW_WITHOUT_GPU = how(filter(has_gpu, GPUS)), how([])


def how_to_sample(wildcards):
    """Frames that are copied need no GPU, and wait for none."""
    return HOW_WITHOUT_GPU if wildcards.method in configuration.COPIED_METHODS else HOW


def gpus_to_sample(stage):
    """GPUs that a job of `sample` or `cross_drive` requests: a function of its method."""
    return lambda wildcards: 0 if wildcards.method in configuration.COPIED_METHODS else GPUS[stage]


def dataset_json(wildcards):
    """The section `dataset`. A function, since Snakemake takes `{x}` in a text for a wildcard."""
    return configuration.as_json(DATASET)


def store_path(wildcards):
    """The folder `store`. A function, as `dataset_json`."""
    return STORE


def plan_of_shard(wildcards):
    """What stands for the rows of a shard in the clip table: a job that reads others of them need not rerun."""
    if workflow.is_main_process:
        checkpoints.plan.get()
    return "<run>/plan/shards/{shard}.sha256"


def frozen_plan(wildcards):
    """The frozen plan. A function, as `dataset_json`."""
    return CONFIG.frozen_plan or []


def frozen_content():
    """A hash over the frozen plan; None without any."""
    if CONFIG.frozen_plan is None:
        return None
    if not Path(CONFIG.frozen_plan).is_file():
        sys.exit(f"difftalk: config: frozen_plan: {CONFIG.frozen_plan} does not exist")
    return fingerprint_files(CONFIG.frozen_plan)


def part_source(name):
    """What stands for the first stage or the sync expert: a function for the rule, as `dataset_json`."""
    return lambda wildcards: getattr(CONFIG, name)


def part_settings(name):
    """Settings of the first stage or the sync expert: what its training reads, if it is trained."""
    section = getattr(CONFIG, f"{name}_training")
    return configuration.as_json(section) if config[name] == "train" else "{}"


def part_code(name):
    """The fingerprint of the first stage or the sync expert: of what copies it, or else trains it."""
    unused = [] if config[name] == "train" else TRAINING_OF_PART[name]
    return fingerprint(f"difftalk.stages.{name}", without=CHECK_OF_SIDES + unused)


def part_mem_mb(name):
    """Memory of the job of the first stage or the sync expert; a training keeps frames in memory, as it is told."""
    kept = CONFIG.autoencoder_training.memory_mb if name == "autoencoder" and config[name] == "train" else 0
    return 8000 + int(kept)


def part_crops(name):
    """The crops that the training of the first stage or the sync expert reads."""
    return expand("<run>/crops/{shard}.tar", shard=TRAIN_SHARDS) if config[name] == "train" else []


def part_plan(name):
    """The clip table, where a small folder could leave a side of the split empty: that ends the run at once."""
    return ancient("<run>/plan/clips.parquet") if IS_FOLDER and config[name] == "train" else []


def part_rejects(name):
    """The rejects of the stages before the training of the first stage or the sync expert.

    Of a folder as for `part_plan`; of what is downloaded, the clips that must not be trained on.
    """
    if config[name] == "train" and OVERLAP == "reject":
        return expand("<run>/rejects/overlap/{shard}.csv", shard=TRAIN_SHARDS)
    if not (IS_FOLDER and config[name] == "train"):
        return []
    stages = REJECTING_STAGES[: REJECTING_STAGES.index("crops") + 1]
    return ancient(expand("<run>/rejects/{stage}/{shard}.csv", stage=stages, shard=SHARDS))


def overlap_of_shard(wildcards):
    """The clips of a training shard that the test side has too, where these are kept out of its data."""
    is_training = OVERLAP == "reject" and wildcards.shard in TRAIN_SHARDS
    return "<run>/rejects/overlap/{shard}.csv" if is_training else []


def part_weights(name):
    """A hash over the weights that stand for the first stage or the sync expert, if it is not trained.

    Pretrained weights may still be missing when the graph is made: the job that needs them says so.
    """
    if config[name] == "train":
        return None
    if pretrained.stands_for(name, config[name]):
        return pretrained.recorded(config[name])
    folder = folder_of(config[name], name)
    if not folder.exists():
        sys.exit(f"difftalk: config: {name}: {folder} does not exist")
    return fingerprint_files(folder)


def part_base(name):
    """A hash over the first stage or the sync expert from which the training of one starts."""
    base = getattr(CONFIG, f"{name}_training").base if config[name] == "train" else None
    if base is None:
        return None
    folder = folder_of(base, name)
    if not folder.is_dir():
        hint = did_you_mean(base, ["embedded", *glob(f"results/*/models/{name}")])
        sys.exit(f"difftalk: config: {name}_training.from: no folder {base} (seen from {Path.cwd()}); {hint}")
    return digest_of_model(folder)


OWN_MODELS = {f"results/{CONFIG.run}/models/{name}": name for name in MODELS}


def check_bases():
    """Check that each model a training starts from is there, or is made by this run before it."""
    starts = {
        name: str(Path(settings.base)) for name, settings in MODELS.items() if settings.base is not None
    }
    for name, base in starts.items():
        if base not in OWN_MODELS and not Path(base, "model_index.json").is_file():
            found = [str(Path(path).parent) for path in glob("results/*/models/*/model_index.json")]
            hint = did_you_mean(base, sorted({*found, *OWN_MODELS}))
            sys.exit(
                f"difftalk: config: training.from of {name}: no model in {base} (seen from {Path.cwd()}); {hint}"
            )
        seen = [name]
        while (base := starts.get(seen[-1], "")) in OWN_MODELS:
            seen.append(OWN_MODELS[base])
            if seen[-1] in seen[:-1]:
                sys.exit(f"difftalk: config: training.from of {name}: in a circle: {' from '.join(seen)}")


check_bases()


def base_of(wildcards):
    """The model that a training starts from: of this run, or one that is there, whose content alone counts."""
    base = MODELS[wildcards.model].base
    if base is None:
        return []
    return str(Path(base)) if str(Path(base)) in OWN_MODELS else ancient(str(Path(base)))


def base_content(wildcards):
    """A hash over a model of another run that a training starts from."""
    base = MODELS[wildcards.model].base
    return None if base is None or str(Path(base)) in OWN_MODELS else digest_of_model(Path(base))


def train_settings(wildcards):
    return configuration.as_json(MODELS[wildcards.model])


def model_of(wildcards):
    """The model that a method samples from; the untrained methods have none."""
    return f"<run>/models/{wildcards.method}" if wildcards.method in MODELS else []


def entry_of(wildcards):
    """The entry of a method from elsewhere. A function, as `dataset_json`."""
    return configuration.as_json(GIVEN_METHODS[wildcards.method])


def files_of(wildcards):
    """A hash over the videos of a method from elsewhere, or over the files that its command names."""
    return configuration.method_files(GIVEN_METHODS[wildcards.method])


def gpus_of(wildcards):
    """GPUs that a job of a method from elsewhere requests."""
    entry = GIVEN_METHODS[wildcards.method]
    return 0 if entry.command is None else CONFIG.gpu if entry.gpu is None else entry.gpu


def plan_of(wildcards):
    """The clip table, where a method from elsewhere is given whole frames or gives them."""
    return ancient("<run>/plan/clips.parquet") if GIVEN_METHODS[wildcards.method].needs_sources else []


def sources_of(wildcards):
    """The sources, as for `plan_of`."""
    return "<run>/sources/{shard}" if GIVEN_METHODS[wildcards.method].needs_sources else []


def landmarks_of(wildcards):
    """The landmarks in them, as for `plan_of`."""
    return "<run>/landmarks/{shard}.parquet" if GIVEN_METHODS[wildcards.method].needs_sources else []


def autoencoder_of(wildcards):
    """The first stage, for a method that has a model."""
    return "<run>/models/autoencoder" if wildcards.method in MODELS else []


def references_of(wildcards):
    """The crops from which a method takes the references of test clips that are to have none of their own."""
    needs_one = wildcards.method in MODELS or wildcards.method == "reference_copy"
    from_training = CONFIG.sampling.reference == "training" and needs_one
    return expand("<run>/crops/{shard}.tar", shard=TRAIN_SHARDS) if from_training else []
