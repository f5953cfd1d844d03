"""The table of pretrained weights: name, URL, sha256, licence, purpose; and where they are on this machine.

They are kept in one folder, `DIFFTALK_WEIGHTS` or `results/weights`, each under its name: a file or a folder
that needs no unpickling, and `NAME.json`, which records what it was imported from. `difftalk weights`
fills the folder.
"""

import json
import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from difftalk.runtime.checksums import verify, verify_folder
from difftalk.runtime.errors import UserError
from difftalk.runtime.suggest import did_you_mean


@dataclass(frozen=True)
class Weight:
    """One row of the table.

    Args:
        url: of the released file.
        sha256: of the released file, or as many characters as are published, perhaps none.
        licence: of the weights.
        needed_by: the configuration that needs them.
        kept_as: name in the weights folder.
        member: pattern of the one file needed of a release that is a zip archive; empty where it is none.
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
    "inception-fid": Weight(
        "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
        "6726825d",
        "Apache-2.0 (tensorflow/models)",
        "FID of the tables",
        "inception-fid.safetensors",
    ),
    "i3d-fvd": Weight(
        "https://www.dropbox.com/s/ge9e5ujwgetktms/i3d_torchscript.pt?dl=1",
        "",
        "Apache-2.0 (google-deepmind/kinetics-i3d)",
        "FVD of the tables",
        "i3d-fvd.safetensors",
    ),
    "arcface": Weight(
        "https://github.com/deepinsight/insightface/releases/download/v0.7/buffalo_l.zip",
        "",
        "non-commercial research only (deepinsight/insightface)",
        "CSIM of the tables",
        "arcface.safetensors",
        member="w600k_r50.onnx",
    ),
    "stable-syncnet": Weight(
        "https://huggingface.co/ByteDance/LatentSync-1.6/resolve/main/stable_syncnet.pt",
        "",
        "OpenRAIL++ (ByteDance/LatentSync-1.6)",
        "second sync expert of the tables",
        "stable-syncnet.safetensors",
    ),
}

DEFAULT_FOLDER = "results/weights"


def row(name: str) -> Weight:
    """Return the row of the table.

    Raises:
        UserError: for an unknown name, with the nearest one.
    """
    if name not in WEIGHTS:
        raise UserError(f"no weights are called {name}; {did_you_mean(name, WEIGHTS)}")
    return WEIGHTS[name]


def folder() -> Path:
    """Return the weights folder: the environment variable DIFFTALK_WEIGHTS, else `results/weights`."""
    return Path(os.environ.get("DIFFTALK_WEIGHTS") or DEFAULT_FOLDER)


def use_folder(path: str | Path) -> None:
    """Let this process, and those that it starts, look for weights in `path`."""
    os.environ["DIFFTALK_WEIGHTS"] = str(path)


def locate(name: str, *, asked_by: str) -> Path:
    """Return the file or folder of pretrained weights.

    Args:
        name: of the table.
        asked_by: the configuration key that needs them, for the error.

    Raises:
        UserError: if they are not there, with both ways to get them; if they are not what was imported.
    """
    if (path := present(name)) is None:
        # The workflow's folder need not be that of the shell the command is typed into.
        here = "" if str(folder()) == DEFAULT_FOLDER else f"DIFFTALK_WEIGHTS={shlex.quote(str(folder()))} "
        raise UserError(
            f"{asked_by} needs the weights {name}, which are not in {folder()}: "
            f"`{here}difftalk weights fetch {name}` downloads them from {WEIGHTS[name].url}; "
            "without a network, get that file elsewhere and "
            f"`{here}difftalk weights import {name} FILE`"
        )
    again = f"delete it, and fetch or import the weights {name} again (`difftalk weights`)"
    if path.is_dir():
        verify_folder(path, again)
    else:
        verify(path, again)
    return path


def present(name: str) -> Path | None:
    """Return the file or folder of pretrained weights; None where it, or its `NAME.json`, is missing."""
    path = folder() / WEIGHTS[name].kept_as
    return path if note(name) is not None and path.exists() else None


def recorded(name: str) -> str | None:
    """Return the recorded sha256 of the file that weights were imported from; None where they are missing."""
    found = note(name)
    return None if found is None else str(found["sha256"])


def note_path(name: str) -> Path:
    """Return the path of the record of an import."""
    return folder() / f"{name}.json"


def note(name: str) -> dict[str, Any] | None:
    """Return the record of an import; None where there is none that is valid."""
    try:
        found = json.loads(note_path(name).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) and "sha256" in found else None


def stands_for(key: str, value: str) -> bool:
    """Whether `key: value` of the configuration names a row of the table, such as `autoencoder: vq-f4`."""
    return value in WEIGHTS and WEIGHTS[value].needed_by == f"{key}: {value}"
