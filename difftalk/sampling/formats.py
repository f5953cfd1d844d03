"""Whole models in the official format: a checkpoint of the released code to a model folder of ours, and back."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel, VQModel

from difftalk.models.autoencoder import load_autoencoder
from difftalk.models.conditioning import Conditioner
from difftalk.models.denoiser import noise_schedule
from difftalk.models.formats.ldm import CONDITIONS, EMA, check_schedule, from_official, to_official
from difftalk.models.formats.torch_file import read_state_dict
from difftalk.runtime.errors import UserError
from difftalk.runtime.files import atomic_file
from difftalk.sampling.pipeline import DiffTalkPipeline


def import_model(file: Path, out: Path) -> None:
    """Write an official checkpoint as a model folder of ours: the UNet's moving averages, the encoders as they are.

    Raises:
        UserError: if its tensors are not exactly those of the format, which are listed.
    """
    state = read_state_dict(file)
    averaged = any(name.startswith(EMA) for name in state)
    unet, conditioner, first_stage = from_official(state, str(file))
    facts = {"imported_from": file.name, "unet": "moving averages" if averaged else "last weights"}
    _write_pipeline(unet, conditioner, first_stage, out, facts)


def export_model(folder: Path, out: Path) -> None:
    """Write a model folder of ours as an official checkpoint; the UNet and its moving averages are the same there.

    Raises:
        UserError: if the model has what the format has no place for: other conditions, another prediction.
    """
    unet, conditioner, scheduler, conditions = _read_pipeline(folder)
    if set(conditions) != set(CONDITIONS) or conditioner.temporal_filter is None:
        raise UserError(
            f"{folder}: the official format has all of {', '.join(CONDITIONS)} and audio smoothing; this model has "
            f"{', '.join(conditions)}{'' if conditioner.temporal_filter is not None else ' and no smoothing'}"
        )
    check_schedule({"alphas_cumprod": scheduler.alphas_cumprod}, str(folder))
    if scheduler.config.prediction_type != "epsilon":
        raise UserError(
            f"{folder}: predicts {scheduler.config.prediction_type}; the official format predicts the noise"
        )
    state = to_official(unet, conditioner, load_autoencoder(folder / "vqvae"), str(folder))
    with atomic_file(out) as beside:
        torch.save({"state_dict": state}, beside)


def _write_pipeline(
    unet: UNet2DConditionModel,
    conditioner: Conditioner,
    first_stage: VQModel,
    out: Path,
    facts: dict[str, Any],
) -> None:
    pipeline = DiffTalkPipeline(unet, conditioner, noise_schedule("epsilon"), CONDITIONS)
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as beside:
        first_stage.save_pretrained(beside, safe_serialization=True)
        pipeline.save(out, autoencoder=Path(beside), facts=facts, log=[])


def _read_pipeline(
    folder: Path,
) -> tuple[UNet2DConditionModel, Conditioner, DDIMScheduler, tuple[str, ...]]:
    found = DiffTalkPipeline.from_pretrained(folder)
    return found.unet, found.conditioner, found.scheduler, found.conditions
