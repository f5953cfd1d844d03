"""Inpainting by diffusion: one region of the latents is generated, the rest is known."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from diffusers import DDIMScheduler


def inpaint(
    predict: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    scheduler: Any,
    schedule: DDIMScheduler,
    z_known: torch.Tensor,
    generated: torch.Tensor,
    noise: Callable[[], torch.Tensor],
    *,
    eta: float = 0.0,
    known_region: Literal["noised", "clean"] = "noised",
    keep_known: bool = True,
) -> torch.Tensor:
    """Sample z_0, with the known region taken from the real frame at every step.

    Before each step, z_t is kept where `generated` is True; elsewhere it is drawn from q(z_t | z_known) with
    fresh noise (Sec. 3.3 of DiffTalk), or is z_known itself where the denoiser was trained so.

    Args:
        predict: maps (z_t, t) to what the schedule is trained to predict, noise or velocity; t is a scalar.
        scheduler: the sampler, with its timesteps set; it keeps the state of one batch.
        schedule: of the training, for q(z_t | z_known).
        z_known: (B, C, h, w) latents of the real frames.
        generated: (B, 1, h, w) bool, True where the latent is generated.
        noise: returns the next noise, (B, C, h, w).
        eta: of DDIM; 0 is deterministic after the first noise, 1 is DDPM's noise.
        known_region: what the denoiser sees there, as in its training.
        keep_known: put `z_known` back at the end, exactly; else the known region is what the last step made
            of it, as in the released code.

    Returns:
        z_0, (B, C, h, w).
    """
    z_t = noise() * scheduler.init_noise_sigma
    for t, timestep in zip(scheduler.timesteps, scheduler.timesteps.to(z_known.device), strict=True):
        seen = z_known
        if known_region == "noised":
            seen = schedule.add_noise(z_known, noise(), timestep[None])
        z_t = torch.where(generated, z_t, seen)
        # Only DDIM has these.
        options = {"eta": eta, "variance_noise": noise() if eta > 0 else None} if eta else {}
        z_t = scheduler.step(predict(z_t, timestep), t, z_t, **options).prev_sample
    return torch.where(generated, z_t, z_known) if keep_known else z_t
