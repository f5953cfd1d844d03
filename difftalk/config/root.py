"""The whole configuration, as `config.yaml` and its overlays have it."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from difftalk.config.autoencoder import AutoencoderTraining
from difftalk.config.cache import Cache
from difftalk.config.crops import Crops
from difftalk.config.dataset import Dataset, Demo, Shards
from difftalk.config.download import Download
from difftalk.config.encode import Encode
from difftalk.config.evaluation import Evaluation
from difftalk.config.gates import Gates
from difftalk.config.landmarks import Landmarks
from difftalk.config.methods import Method
from difftalk.config.numbers import Share, TrainingNodes, TrainingProcesses, TrainingWorkers
from difftalk.config.report import Report
from difftalk.config.sampling import Sampling
from difftalk.config.section import Section
from difftalk.config.speech import Speech
from difftalk.config.syncnet import SyncnetTraining
from difftalk.config.training import Experiment, ExperimentName, Training


def _folder_name(name: str) -> str:
    if not re.fullmatch("[A-Za-z0-9_-]+", name):
        raise ValueError("is not usable as a name: letters, digits, - and _ make one")
    return name


class Config(Section):
    """Configuration of the difftalk workflow."""

    run: Annotated[str, AfterValidator(_folder_name)] = Field(
        "demo", description="Name of the run; all its outputs are below `results/{run}/`."
    )
    gpu: int = Field(
        0,
        ge=0,
        le=1,
        description="GPUs that each job of training, encoding, sampling and scoring requests; where torch "
        "finds none, it fails. With 0 such jobs run side by side, and use a GPU all the same where there is "
        "one.",
    )
    training_threads: int = Field(
        1,
        ge=1,
        description="CPU threads of each training, sampling and scoring. On a CPU several of one thread "
        "each, side by side, are faster than one after the other.",
    )
    training_processes: TrainingProcesses = Field(
        1,
        description="Processes of each training, on one machine: as many GPUs, and no more than there are. "
        "On CPUs they share `training_threads`. The model is the same whatever their number, to rounding.",
    )
    training_nodes: TrainingNodes = Field(
        1,
        description="Nodes of each training, in a SLURM job: `training_processes` run on each of them.",
    )
    training_workers: TrainingWorkers = Field(
        0,
        description="For each of those, processes that prepare batches ahead: 2 to 4 keep a GPU busy. 0 "
        "prepares them in the training process.",
    )
    videos: str | None = Field(
        None, description="A folder with videos of your own, instead of the embedded demo."
    )
    store: str = Field(
        "results/store", description="Folder that keeps every fetched source once, for all runs."
    )
    cache: Cache = Field(
        Cache(), description="What is kept of clips for other runs (docs/reruns.md); causes no rerun."
    )
    weights: str = Field(
        "results/weights", description="Folder of pretrained weights; `difftalk weights` fills it."
    )
    max_reject_fraction: Share = Field(
        0.5, description="A stage fails where more than this part of a shard's clips is rejected."
    )
    frozen_plan: str | None = Field(
        None,
        description="A `frozen_plan.csv` of an earlier run: its clips are planned and no others, and "
        "their files must have the recorded checksums.",
    )
    dataset: Dataset = Field(
        Demo(),
        description="What the clips are: the embedded demo (`demo`), your own videos (`local`, implied by "
        "`videos`), HDTF (`hdtf`) or a table of clips (`table`).",
    )
    download: Download = Field(
        Download(), description="How videos are downloaded; nothing here causes a rerun."
    )
    shards: Shards = Field(
        Shards(), description="Number of shards of each split. A shard is one job of each stage."
    )
    landmarks: Landmarks = Field(Landmarks(), description="Face track and 68 points per frame.")
    crops: Crops = Field(description="The square face crop.")
    gates: Gates = Field(
        Gates(),
        description="Quality gates on clips; null switches a gate off. Others stand with their stage: "
        "landmarks.min_detection_rate, landmarks.min_face_px, crops.min_frames, speech.silence_db.",
    )
    speech: Speech = Field(Speech(), description="Speech features.")
    autoencoder: str = Field(
        "embedded",
        description="The first stage: `embedded` (the one in the package), `train` (on this run's "
        "training split), `vq-f4` (the paper's, from `difftalk weights`) or the path of a "
        "folder in diffusers' format.",
    )
    autoencoder_training: AutoencoderTraining = Field(
        AutoencoderTraining(),
        description="How the first stage is trained; read where `autoencoder` is `train`.",
    )
    syncnet: str = Field(
        "embedded",
        description="The sync expert that scores lip-sync: `embedded`, `train` (on this run's training "
        "split), `syncnet-v2` (the usual one, from `difftalk weights`) or the path of a "
        "folder.",
    )
    syncnet_training: SyncnetTraining = Field(
        SyncnetTraining(), description="How the sync expert is trained; read where `syncnet` is `train`."
    )
    encode: Encode = Field(Encode(), description="Frozen first-stage latents of the crops.")
    training: Training = Field(Training(), description="Training of the models, common to all experiments.")
    experiments: dict[ExperimentName, Annotated[Experiment | None, Field(description="One experiment.")]] = (
        Field(
            {},
            description="The models to train. The name becomes that of the model and of its row in the "
            "tables; null drops an experiment that another file defines.",
        )
    )
    methods: dict[ExperimentName, Annotated[Method | None, Field(description="One method.")]] = Field(
        {},
        description="Methods from elsewhere: rows of the tables beside those of this run, measured on the "
        "same clips. A folder of videos, or a command that is run for each clip (docs/methods.md); null "
        "drops one that another file defines.",
    )
    sampling: Sampling = Field(Sampling(), description="How the trained models sample videos.")
    evaluation: Evaluation = Field(Evaluation(), description="The protocol by which videos are scored.")
    report: Report = Field(Report(), description="The page of a run.")
