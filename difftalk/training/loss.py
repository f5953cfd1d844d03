"""The denoiser's loss: squared error over all latent cells or the generated ones."""

from collections.abc import Callable

import torch
from diffusers import DDIMScheduler

from difftalk.config.training import TrainingSettings
from difftalk.training.data import TrainingBatch


def squared_error(
    model: Callable[..., torch.Tensor],
    scheduler: DDIMScheduler,
    batch: TrainingBatch,
    settings: TrainingSettings,
) -> torch.Tensor:
    """Return the squared error of the prediction, summed over the cells that count; a scalar.

    Args:
        model: a `Denoiser`, or what wraps one.
        scheduler: adds the noise, and says what the velocity is.
        batch: of one process, or a part of it.
        settings: `prediction_type`, `loss_region` and `known_region` are read.
    """
    examples = batch.examples
    noisy = scheduler.add_noise(examples.target, batch.noise, batch.timesteps)
    if settings.known_region == "clean":
        noisy = torch.where(examples.generated, noisy, examples.target)
    predicted = model(
        noisy, batch.timesteps, examples.masked, examples.reference, examples.speech, examples.landmarks
    )
    wanted = batch.noise
    if settings.prediction_type == "v_prediction":
        wanted = scheduler.get_velocity(examples.target, batch.noise, batch.timesteps)
    error = (predicted.float() - wanted).square()
    return (error * examples.generated).sum() if _masked(settings) else error.sum()


def counted_cells(batch: TrainingBatch, settings: TrainingSettings) -> torch.Tensor:
    """Return how many numbers of the prediction count in the loss, as a scalar tensor."""
    if _masked(settings):
        return batch.examples.generated.sum() * batch.noise.shape[1]
    return torch.tensor(batch.noise.numel(), device=batch.noise.device)


def _masked(settings: TrainingSettings) -> bool:
    """Whether the generated cells alone count: of what is seen as it is, nothing is to be predicted."""
    return settings.loss_region == "generated" or settings.known_region == "clean"
