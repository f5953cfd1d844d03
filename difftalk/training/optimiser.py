"""Optimiser, learning rate and moving average of the denoiser's weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers.training_utils import EMAModel
from torch import nn

from difftalk.config.training import TrainingSettings
from difftalk.models.denoiser import Denoiser


def build_optimiser(model: Denoiser, settings: TrainingSettings) -> torch.optim.AdamW:
    """Build AdamW with two groups, the UNet and the condition encoders, for two learning rates."""
    groups = [
        {"params": list(model.unet.parameters()), "lr_scale": 1.0},
        {"params": list(model.conditioner.parameters()), "lr_scale": settings.conditioner_lr_scale},
    ]
    return torch.optim.AdamW(groups, weight_decay=settings.weight_decay, fused=True)


def learning_rate(step: int, settings: TrainingSettings) -> float:
    """Return the UNet's learning rate at a step: warm-up, then constant or falling linearly.

    The peak is `settings.learning_rate`, or LDM's rule: `base_learning_rate` times the batch size.
    """
    peak = settings.learning_rate
    if peak is None:
        peak = settings.base_learning_rate * settings.batch_size
    warmup = min(1.0, (step + 1) / settings.warmup_steps) if settings.warmup_steps else 1.0
    return peak * warmup * (1 + (settings.final_lr_fraction - 1) * min(1.0, step / settings.steps))


def set_learning_rate(optimiser: torch.optim.Optimizer, value: float) -> None:
    """Give each group of `build_optimiser` its multiple of the UNet's learning rate `value`."""
    for group in optimiser.param_groups:
        group["lr"] = group["lr_scale"] * value


def build_ema(model: nn.Module, settings: TrainingSettings) -> EMAModel:
    """Build the moving average; its decay at step n is min(`ema_decay`, 1 - (1 + n) ** -0.75)."""
    return EMAModel(
        model.parameters(), decay=settings.ema_decay, use_ema_warmup=True, power=0.75, foreach=True
    )


@contextmanager
def averaged_weights(model: nn.Module, ema: EMAModel) -> Iterator[None]:
    """Let the model have its averaged weights inside the block."""
    ema.store(model.parameters())
    ema.copy_to(model.parameters())
    try:
        yield
    finally:
        ema.restore(model.parameters())
