"""The sampler: DDIM that generates one region of the latents and keeps the rest."""

from collections.abc import Callable

import torch
from diffusers import DDIMScheduler


def ddim_inpaint(
    predict: Callable[[torch.Tensor, int], torch.Tensor],
    scheduler: DDIMScheduler,
    z_known: torch.Tensor,
    generated: torch.Tensor,
    steps: int,
    eta: float,
    generator: torch.Generator | None,
) -> torch.Tensor:
    """Sample z_0 by DDIM (Song et al. 2021), with the known region taken from the real frame at every step.

    Before each step, z_t is kept where `generated` is True; elsewhere it is drawn from q(z_t | z_known) with
    fresh noise (Sec. 3.3 of DiffTalk). In the result, the known region is `z_known` exactly.

    Args:
        predict: maps (z_t, t) to what the schedule is trained to predict, noise or velocity.
        scheduler: the noise schedule; its timesteps are set.
        z_known: (B, C, h, w) latents of the real frames.
        generated: (B, 1, h, w) bool, True where the latent is generated.
        steps: DDIM steps.
        eta: 0 is deterministic after the first noise, 1 is DDPM's noise.
        generator: on the CPU, so that every device draws the same noise.

    Returns:
        z_0, (B, C, h, w).
    """

    def noise() -> torch.Tensor:
        return torch.randn(z_known.shape, generator=generator).to(z_known.device)

    scheduler.set_timesteps(steps)
    z_t = noise()
    for t in scheduler.timesteps:
        z_t_known = scheduler.add_noise(z_known, noise(), t[None].to(z_known.device))
        z_t = torch.where(generated, z_t, z_t_known)
        variance_noise = noise() if eta > 0 else None
        z_t = scheduler.step(predict(z_t, int(t)), t, z_t, eta=eta, variance_noise=variance_noise).prev_sample
    return torch.where(generated, z_t, z_known)
