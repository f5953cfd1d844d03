"""The command line: one verb per stage, each a thin door to its module's `run`; and `weights`, with verbs of its own."""

import argparse
import importlib
import json
import signal
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from difftalk import __version__
from difftalk.config import settings
from difftalk.runtime import launch, progress
from difftalk.runtime.errors import UserError


@dataclass(frozen=True)
class Stage:
    """A verb: the module whose `function` it calls, and the flags that become the function's arguments.

    In `flags`, a name stands for itself; `name...` takes several values; `name?` may be left out, or left empty.
    `NAME` in capitals stands without a flag.
    """

    module: str
    help: str
    flags: str
    function: str = "run"


STAGES = {
    "plan": Stage("difftalk.stages.plan", "decide clips, splits and shards", "dataset shards=json frozen? out"),
    "fetch": Stage(
        "difftalk.stages.fetch",
        "download, render or link the sources of a shard",
        "plan shard dataset download store out manifest rejects max-reject-fraction workers",
    ),
    "landmarks": Stage(
        "difftalk.stages.landmarks",
        "find the face and its 68 points in every frame of a shard",
        "plan shard sources settings out quality rejects max-reject-fraction workers",
    ),
    "crops": Stage(
        "difftalk.stages.crops",
        "cut the square face crops of a shard, with their sound",
        "plan shard sources landmarks syncnet? settings out rejects max-reject-fraction workers",
    ),
    "speech": Stage(
        "difftalk.stages.speech",
        "compute the speech features of a shard, 50 steps a second",
        "crops settings out rejects max-reject-fraction",
    ),
    "autoencoder": Stage(
        "difftalk.stages.autoencoder",
        "train the first stage, or put an existing one in its place",
        "crops... settings source state out",
    ),
    "encode": Stage(
        "difftalk.stages.encode",
        "write a shard for training: latents, speech, landmarks",
        "crops speech autoencoder settings out rejects max-reject-fraction",
    ),
    "train": Stage(
        "difftalk.stages.train",
        "train the model of one experiment",
        "shards... autoencoder settings state curves? data-workers processes out",
    ),
    "sample": Stage(
        "difftalk.stages.sample",
        "make the videos of one method for a shard",
        "method crops shard-file autoencoder model? settings out",
    ),
    "syncnet": Stage(
        "difftalk.stages.syncnet",
        "train the sync expert, or put an existing one in its place",
        "crops... settings source state out",
    ),
    "score": Stage(
        "difftalk.stages.score",
        "measure the videos of one method against the truth",
        "method samples crops shard-file? syncnet settings out",
    ),
    "tables": Stage(
        "difftalk.stages.tables", "add the measurements up to the paper's tables", "metrics... plan settings out"
    ),
    "funnel": Stage(
        "difftalk.stages.funnel",
        "say which clips were lost where, and why",
        "plan rejects... quality... crops... out by-subset page",
    ),
    "freeze": Stage(
        "difftalk.stages.freeze",
        "write out the clips that were kept, with checksums, to be planned from another day",
        "plan manifests... rejects... out",
    ),
    "report": Stage(
        "difftalk.stages.report",
        "write the page with tables, curves and videos",
        "tables funnel quality... models... samples... crops... settings out zip",
    ),
}  # fmt: skip

WEIGHTS = {
    "list": Stage("difftalk.stages.weights", "say which weights there are, and which are here", "", "show"),
    "fetch": Stage("difftalk.stages.weights", "download weights and convert them", "NAMES... url?", "fetch"),
    "import": Stage(
        "difftalk.stages.weights", "convert weights from a file that was got elsewhere", "NAME FILE", "import_file"
    ),
    "import-model": Stage(
        "difftalk.sampling.formats", "turn an official DiffTalk checkpoint into a model folder", "FILE out", "import_model"
    ),
    "export-model": Stage(
        "difftalk.sampling.formats", "turn a model folder into an official checkpoint", "FOLDER out", "export_model"
    ),
}  # fmt: skip

# Of flags that may be left out.
DEFAULTS = {"workers": 1, "data-workers": 0, "processes": 1}

TYPES: dict[str, Any] = {
    "data-workers": int,
    "dataset": json.loads,
    "download": json.loads,
    "json": json.loads,
    "method": str,
    "name": str,
    "names": str,
    "processes": int,
    "shard": str,
    "source": str,
    "settings": str,
    "url": str,
    "max-reject-fraction": float,
    "workers": int,
}

HELP = {
    "autoencoder": "folder of the first stage",
    "by-subset": "the same for each subset of the dataset",
    "crops": "crops/SHARD.tar",
    "curves": "folder for TensorBoard",
    "data-workers": "processes that prepare batches ahead, for each that trains; 0: none",
    "dataset": "what the dataset is, as JSON",
    "download": "how to go about downloads, as JSON",
    "frozen": "a file of `difftalk freeze`: its clips are planned",
    "file": "the file to read",
    "folder": "the folder to read",
    "funnel": "funnel.csv",
    "landmarks": "landmarks/SHARD.parquet",
    "manifest": "sources/SHARD.csv, with the checksums of the files",
    "manifests": "sources/SHARD.csv",
    "max-reject-fraction": "fail where more than this part of the clips is rejected",
    "method": "ground_truth, reconstruction, reference_copy or the name of a model",
    "metrics": "metrics/METHOD/SHARD.parquet",
    "model": "folder of the model, for methods that have one",
    "models": "folders of the models",
    "page": "the same as a page",
    "name": "as `difftalk weights list` has it",
    "names": "as `difftalk weights list` has them",
    "out": "the file or folder to write",
    "plan": "plan/clips.parquet",
    "processes": "processes that train together, one for each GPU",
    "quality": "landmarks/SHARD.quality.csv",
    "rejects": "rejects/STAGE/SHARD.csv",
    "samples": "samples/METHOD/SHARD",
    "settings": "what the stage reads of the config, as JSON or a file of it",
    "shard": "name of the shard, such as train-003",
    "shard-file": "shards/SHARD.tar",
    "shards": "shards/SHARD.tar; for `plan` the number of shards of each split, as JSON",
    "source": "embedded, train, or the path of an existing one",
    "sources": "sources/SHARD",
    "speech": "speech/SHARD.parquet",
    "state": "folder for checkpoints; the newest is resumed from",
    "store": "folder that keeps every source once",
    "syncnet": "folder of the sync expert",
    "tables": "folder of the tables",
    "url": "another place to download the file from",
    "workers": "processes to share the clips among",
    "zip": "the same page as one file",
}


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    top = argparse.ArgumentParser(
        prog="difftalk",
        description="The stages of the workflow, one by one. `snakemake --cores all` calls them in order.",
    )
    top.add_argument("--version", action="version", version=f"difftalk {__version__}")
    verbs = top.add_subparsers(dest="stage", metavar="STAGE", required=True)
    for name, stage in STAGES.items():
        _add_verb(verbs, name, stage, f"difftalk {name}")
    whole = "the weights that others trained, and checkpoints in the official format"
    group = verbs.add_parser("weights", help=whole, description=f"difftalk weights: {whole}.")
    actions = group.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, stage in WEIGHTS.items():
        _add_verb(actions, name, stage, f"difftalk weights {name}")
    return top


def _add_verb(verbs: Any, name: str, stage: Stage, called: str) -> None:
    verb = verbs.add_parser(name, help=stage.help, description=f"{called}: {stage.help}.")
    for flag in stage.flags.split():
        _add_flag(verb, flag)
    verb.add_argument("--log", type=Path, help="send all output there; the terminal keeps bar and errors")


def _add_flag(verb: argparse.ArgumentParser, flag: str) -> None:
    flag, _, kind = flag.partition("=")
    name = flag.rstrip(".?")
    if name.isupper():
        key = name.lower()
        nargs = "+" if flag.endswith("...") else None
        verb.add_argument(key, metavar=name, type=TYPES.get(key, Path), help=HELP[key], nargs=nargs)
        return
    options: dict[str, Any] = {"type": TYPES.get(kind or name, Path), "help": HELP[name]}
    if name in DEFAULTS:
        options["default"] = DEFAULTS[name]
    elif flag.endswith("..."):
        options.update(nargs="*", default=[])
    elif flag.endswith("?"):
        options["nargs"] = "?"
    else:
        options["required"] = True
    verb.add_argument(f"--{name}", **options)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one stage. Exit status 0: done, 1: a fault of ours or the machine's, 2: the user can put it right.

    128 + the number of a signal: it ended the stage. The same command takes the work up again.
    """
    argv = sys.argv[1:] if argv is None else argv
    values = vars(parser().parse_args(argv))
    name, log = values.pop("stage"), values.pop("log")
    stage = STAGES.get(name)
    if stage is None:
        action = values.pop("action")
        name, stage = f"{name} {action}", WEIGHTS[action]
    rank = launch.rank()
    if (processes := values.pop("processes", 1)) > 1 and rank is None:
        return launch.launch(processes, argv)
    # Ends like any other exit: unfinished outputs are cleared away and worker processes ended.
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGUSR1, _stop)
    if log is not None:
        label = "" if log.stem == name else log.stem.replace(".", " ")
        progress.log_to(log, label, is_second=bool(rank))
    try:
        _run(stage, values)
    except UserError as e:
        progress.say(f"difftalk {name}: {e}")
        return 2
    except KeyboardInterrupt:
        progress.say(f"difftalk {name}: interrupted")
        return 130
    except Exception as e:  # noqa: BLE001 - outermost: whatever it was, it is told and ends as status 1
        traceback.print_exc()
        if log is not None:
            line = f"difftalk {name}: {type(e).__name__}: {e} (where, is in {log})"
            progress.say(line, in_log=False)
        return 1
    return 0


def _run(stage: Stage, values: dict[str, Any]) -> None:
    module = importlib.import_module(stage.module)
    if "settings" in values:
        values["settings"] = settings.from_json(module.Settings, values["settings"])
    getattr(module, stage.function)(**values)


def _stop(signum: int, frame: FrameType | None) -> None:
    sys.exit(128 + signum)
