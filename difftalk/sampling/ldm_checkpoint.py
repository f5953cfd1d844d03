"""Convert whole models: a checkpoint of DiffTalk's released code to a model folder of ours, and back."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel, VQModel

from difftalk.models.autoencoder import load_autoencoder
from difftalk.models.conditioning import Conditioner
from difftalk.models.denoiser import noise_schedule
from difftalk.models.formats.ldm import CONDITIONS, check_schedule, from_ldm, to_ldm
from difftalk.models.formats.ldm_names import EMA
from difftalk.models.formats.torch_file import read_state_dict
from difftalk.runtime.errors import UserError
from difftalk.runtime.files import atomic_file
from difftalk.sampling.pipeline import DiffTalkPipeline


def import_checkpoint(file: Path, out: Path) -> None:
    """Write a checkpoint as a model folder: the UNet's moving averages, the encoders as they are.

    Raises:
        UserError: listing the tensors that are not those of the format, or missing.
    """
    state = read_state_dict(file)
    averaged = any(name.startswith(EMA) for name in state)
    unet, conditioner, first_stage = from_ldm(state, str(file))
    facts = {"imported_from": file.name, "unet": "moving averages" if averaged else "last weights"}
    _write_pipeline(unet, conditioner, first_stage, out, facts)


def export_checkpoint(folder: Path, out: Path) -> None:
    """Write a model folder as a checkpoint, in which the UNet and its moving averages are the same.

    Raises:
        UserError: if the model has what the format cannot hold: other conditions, another prediction.
    """
    unet, conditioner, scheduler, conditions = _read_pipeline(folder)
    if set(conditions) != set(CONDITIONS) or conditioner.temporal_filter is None:
        raise UserError(
            f"{folder}: the LDM/DiffTalk format has all of {', '.join(CONDITIONS)} and audio smoothing; this "
            f"model has {', '.join(conditions)}"
            f"{'' if conditioner.temporal_filter is not None else ' and no smoothing'}"
        )
    check_schedule({"alphas_cumprod": scheduler.alphas_cumprod}, str(folder))
    if scheduler.config.prediction_type != "epsilon":
        raise UserError(
            f"{folder}: predicts {scheduler.config.prediction_type}; the LDM/DiffTalk format predicts the "
            "noise"
        )
    state = to_ldm(unet, conditioner, load_autoencoder(folder / "vqvae"), str(folder))
    with atomic_file(out) as tmp:
        torch.save({"state_dict": state}, tmp)


def _write_pipeline(
    unet: UNet2DConditionModel,
    conditioner: Conditioner,
    first_stage: VQModel,
    out: Path,
    facts: dict[str, Any],
) -> None:
    pipeline = DiffTalkPipeline(unet, conditioner, noise_schedule("epsilon"), CONDITIONS)
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as tmp:
        first_stage.save_pretrained(tmp, safe_serialization=True)
        pipeline.save(out, autoencoder=Path(tmp), facts=facts, log=[])


def _read_pipeline(
    folder: Path,
) -> tuple[UNet2DConditionModel, Conditioner, DDIMScheduler, tuple[str, ...]]:
    found = DiffTalkPipeline.from_pretrained(folder)
    return found.unet, found.conditioner, found.scheduler, found.conditions
