"""Start a training from a trained model, in place of random weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from difftalk.config.training import TrainingSettings
from difftalk.models.denoiser import Denoiser
from difftalk.pretrained.model_folder import FIRST_STAGE
from difftalk.runtime.checksums import read_sums
from difftalk.runtime.errors import UserError
from difftalk.runtime.progress import say

# What decides the networks' shapes, and the key of the configuration that does.
OF_UNET = {
    "block_out_channels": "training.channels",
    "layers_per_block": "training.layers",
    "attention_head_dim": "training.head_channels",
    "in_channels": "conditions",
    "cross_attention_dim": "conditions",
}
OF_CONDITIONER = {
    "audio": "conditions",
    "landmarks": "conditions",
    "speech_features": "speech.backend",
    "neighbours": "training.smoothing_frames, smoothing",
}


def start_denoiser(
    model: Denoiser, settings: TrainingSettings, folder: Path, autoencoder: Path, *, verbose: bool
) -> None:
    """Give a denoiser the weights of a trained model: its moving averages.

    The size of the crops may be another one, since the UNet is convolutional.

    Args:
        model: as built for this training.
        settings: of this training.
        folder: of the trained model.
        autoencoder: folder of the first stage that encoded the shards.
        verbose: print where it starts from, and whether that was trained on another first stage.

    Raises:
        UserError: if the folder holds no model, or one that differs in its networks, its conditions or what
            it predicts; each key is named, with both values.
    """
    from difftalk.sampling.pipeline import DiffTalkPipeline

    base = DiffTalkPipeline.from_pretrained(folder, vqvae=None)
    unlike = [
        *_differences(base.unet.config, model.unet.config, OF_UNET),
        *_differences(base.conditioner.config, model.conditioner.config, OF_CONDITIONER),
    ]
    for key, theirs, ours in (
        ("conditions", list(base.conditions), list(settings.conditions)),
        ("training.prediction_type", base.scheduler.config.prediction_type, settings.prediction_type),
        ("training.known_region", base.known_region, settings.known_region),
    ):
        if theirs != ours:
            unlike.append(f"{key} {theirs} there, {ours} here")
    if unlike:
        raise UserError(
            f"train: training.from: {folder} is another kind of model: {'; '.join(unlike)}. Set these "
            "to what they are there, or training.from of this experiment to another model or null"
        )
    model.unet.load_state_dict(base.unet.state_dict())
    model.conditioner.load_state_dict(base.conditioner.state_dict())
    if verbose:
        say(f"train: starts from {folder}")
        if _weights(folder / "vqvae") != _weights(autoencoder):
            say(
                f"train: {folder} was trained on the latents of another first stage than {autoencoder}: "
                "it has to learn these first, unless the one was fine-tuned from the other"
            )


def _differences(theirs: Mapping[str, Any], ours: Mapping[str, Any], keys: Mapping[str, str]) -> list[str]:
    """Say which keys have other values."""
    found = []
    for key, name in keys.items():
        there, here = theirs[key], ours[key]
        if tuple(np.atleast_1d(there)) != tuple(np.atleast_1d(here)):
            found.append(f"{name} ({key} {there} there, {here} here)")
    return found


def _weights(first_stage: Path) -> str | None:
    """The sha256 of a first stage's weights, as recorded; None where it is not."""
    return (read_sums(first_stage) or {}).get(FIRST_STAGE.weights_name)


def start_network(network: torch.nn.Module, base: torch.nn.Module, key: str, folder: Path) -> None:
    """Give a network the weights of another of the same shape.

    Args:
        network: as built for this training; it stays trainable.
        base: the trained one.
        key: of the configuration, for the error.
        folder: of the trained one, for the error.

    Raises:
        UserError: if their weights have other names or shapes.
    """
    there = {name: tuple(value.shape) for name, value in base.state_dict().items()}
    here = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    if there != here:
        name = min(n for n in there.keys() | here.keys() if there.get(n) != here.get(n))
        raise UserError(
            f"{key}: the networks of {folder} have other sizes than this section asks for: {name} is "
            f"{there.get(name, 'absent')} there, {here.get(name, 'absent')} here"
        )
    network.load_state_dict(base.state_dict())
