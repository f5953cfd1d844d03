"""Weights that others trained: what there is, where it comes from, and where it lies on this machine.

They are kept below one folder, `DIFFTALK_WEIGHTS` or `results/weights`, each under its name: a file or a folder in a
format of ours, never one that needs unpickling, with `NAME.json` beside it that says what it was made from.
`difftalk.stages.weights` puts them there.
"""

import json
import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from difftalk.runtime.errors import UserError


@dataclass(frozen=True)
class Weight:
    """One row of the table.

    Args:
        url: where the release lies.
        sha256: of the released file, or its first characters where no more is published; empty where nothing is.
        licence: of the weights.
        needed_by: the configuration that asks for them.
        kept_as: name below the weights folder.
        member: pattern for the one file wanted of a release that is a zip archive; empty where it is none.
        sha1: of that file, where its release gives one.
    """

    url: str
    sha256: str
    licence: str
    needed_by: str
    kept_as: str
    member: str = ""
    sha1: str = ""


WEIGHTS = {
    "vq-f4": Weight(
        "https://ommer-lab.com/files/latent-diffusion/vq-f4.zip",
        "",
        "MIT (CompVis/latent-diffusion)",
        "autoencoder: vq-f4",
        "vq-f4",
        member="model.ckpt",
    ),
    "deepspeech-0.1.0": Weight(
        "https://github.com/osmr/deepspeech_features/releases/download/v0.0.1/deepspeech-0_1_0-b90017e8.pb.zip",
        "",
        "MPL-2.0 (mozilla/DeepSpeech)",
        "speech.backend: deepspeech",
        "deepspeech-0.1.0.safetensors",
        member="*.pb",
        sha1="b90017e816572ddce84f5843f1fa21e6a377975e",
    ),
    "syncnet-v2": Weight(
        "http://www.robots.ox.ac.uk/~vgg/software/lipsync/data/syncnet_v2.model",
        "",
        "MIT (joonson/syncnet_python)",
        "syncnet: syncnet-v2",
        "syncnet-v2",
    ),
    "s3fd": Weight(
        "https://www.adrianbulat.com/downloads/python-fan/s3fd-619a316812.pth",
        "619a316812",
        "BSD-3-Clause (1adrianb/face-alignment)",
        "landmarks.backend: face_alignment",
        "s3fd.safetensors",
    ),
    "2dfan4": Weight(
        "https://www.adrianbulat.com/downloads/python-fan/2DFAN4-11f355bf06.pth.tar",
        "11f355bf06",
        "BSD-3-Clause (1adrianb/face-alignment)",
        "landmarks.backend: face_alignment",
        "2dfan4.safetensors",
    ),
    "alexnet": Weight(
        "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
        "7be5be79",
        "BSD-3-Clause (torchvision)",
        "LPIPS of the tables",
        "alexnet.safetensors",
    ),
    "vgg16": Weight(
        "https://download.pytorch.org/models/vgg16-397923af.pth",
        "397923af",
        "BSD-3-Clause (torchvision)",
        "autoencoder_training.perceptual_weight",
        "vgg16.safetensors",
    ),
}


DEFAULT_FOLDER = "results/weights"


def folder() -> Path:
    """Where weights lie: the environment variable DIFFTALK_WEIGHTS, else `results/weights`."""
    return Path(os.environ.get("DIFFTALK_WEIGHTS") or DEFAULT_FOLDER)


def use_folder(path: str | Path) -> None:
    """Let this process, and those that it starts, look for weights below `path`."""
    os.environ["DIFFTALK_WEIGHTS"] = str(path)


def locate(name: str, *, asked_by: str) -> Path:
    """The file or folder of a weight of the table.

    Args:
        asked_by: the configuration key that wants it, for the error.

    Raises:
        UserError: if it is not there, with both ways to get it.
    """
    if (path := present(name)) is None:
        # The workflow's folder need not be that of the shell the command is typed into.
        here = "" if str(folder()) == DEFAULT_FOLDER else f"DIFFTALK_WEIGHTS={shlex.quote(str(folder()))} "
        raise UserError(
            f"{asked_by} needs the weights {name}, which are not in {folder()}: `{here}difftalk weights fetch {name}` "
            f"downloads them from {WEIGHTS[name].url}; without a network, get that file elsewhere and "
            f"`{here}difftalk weights import {name} FILE`"
        )
    return path


def present(name: str) -> Path | None:
    """The file or folder of a weight of the table; None where it is not there, or not with its `NAME.json`."""
    path = folder() / WEIGHTS[name].kept_as
    return path if note(name) is not None and path.exists() else None


def recorded(name: str) -> str | None:
    """The sha256 of the file that a weight was imported from; None where it was not. Reads a few bytes only."""
    found = note(name)
    return None if found is None else str(found["sha256"])


def note_path(name: str) -> Path:
    """Where it is written what a weight was made from."""
    return folder() / f"{name}.json"


def note(name: str) -> dict[str, Any] | None:
    """What a weight was made from; None where nothing readable says so."""
    try:
        found = json.loads(note_path(name).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) and "sha256" in found else None


def stands_for(key: str, value: str) -> bool:
    """Whether `key: value` of the configuration names a weight of the table, such as `autoencoder: vq-f4`."""
    return value in WEIGHTS and WEIGHTS[value].needed_by == f"{key}: {value}"
