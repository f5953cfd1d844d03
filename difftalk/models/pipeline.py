"""A trained DiffTalk as one folder, and how it makes frames: conditioning, DDIM with the known region kept, decoding."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel

from difftalk.errors import UserError
from difftalk.files import atomic_folder
from difftalk.models.conditioning import Conditioner
from difftalk.models.denoiser import stack_inputs, use_one_token_shortcut


class DiffTalkPipeline:
    """Denoiser, conditioning and noise schedule of one experiment.

    On disk it is a folder of diffusers' layout: `unet/`, `conditioner/`, `scheduler/` and `vqvae/`, each with its
    config and safetensors, and `model_index.json`.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        conditioner: Conditioner,
        scheduler: DDIMScheduler,
        conditions: tuple[str, ...],
    ) -> None:
        self.unet, self.conditioner, self.scheduler, self.conditions = (
            unet,
            conditioner,
            scheduler,
            conditions,
        )

    @classmethod
    def from_pretrained(cls, folder: Path, device: str | torch.device = "cpu") -> "DiffTalkPipeline":
        """Load a folder that `save` wrote; its first stage is loaded apart, by `load_autoencoder(folder / "vqvae")`.

        Raises:
            UserError: if the folder is not one of ours.
        """
        index = folder / "model_index.json"
        if not index.is_file():
            raise UserError(f"{folder}: no model_index.json: not a trained DiffTalk model")
        offline = {"use_safetensors": True, "local_files_only": True}
        unet = UNet2DConditionModel.from_pretrained(folder / "unet", **offline).to(device).eval()
        use_one_token_shortcut(unet)
        conditioner = Conditioner.from_pretrained(folder / "conditioner", **offline).to(device).eval()
        scheduler = DDIMScheduler.from_pretrained(folder / "scheduler", local_files_only=True)
        conditions = tuple(json.loads(index.read_text())["conditions"])
        return cls(unet.requires_grad_(False), conditioner.requires_grad_(False), scheduler, conditions)

    def save(self, out: Path, *, autoencoder: Path, facts: dict[str, Any], log: list[dict[str, Any]]) -> None:
        """Write the folder, with the first stage it was trained on, the facts of its training and its log."""
        index = {
            "_class_name": type(self).__name__,
            "unet": ["diffusers", "UNet2DConditionModel"],
            "conditioner": ["difftalk.models.conditioning", "Conditioner"],
            "scheduler": ["diffusers", "DDIMScheduler"],
            "vqvae": ["diffusers", "VQModel"],
            "conditions": list(self.conditions),
        }
        with atomic_folder(out) as beside:
            for name in ("unet", "conditioner", "scheduler"):
                getattr(self, name).save_pretrained(beside / name)
            shutil.copytree(autoencoder, beside / "vqvae")
            (beside / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
            (beside / "model_index.json").write_text(json.dumps(index, indent=1) + "\n")
            (beside / "training.json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")

    @torch.no_grad()
    def sample(
        self,
        *,
        known: torch.Tensor,
        generated: torch.Tensor,
        masked: torch.Tensor,
        reference: torch.Tensor,
        speech: torch.Tensor,
        landmarks: torch.Tensor,
        steps: int,
        eta: float,
        generator: torch.Generator,
    ) -> torch.Tensor:
        """Latents (B, C, h, w) of B frames; arguments as the attributes of `difftalk.training.data.Examples`.

        Args:
            known: latents of the real frame, used where `generated` is False.
            steps: DDIM steps.
            eta: 0 is deterministic DDIM, 1 is DDPM's noise.
            generator: on the CPU, so that every device draws the same noise.
        """
        context = self.conditioner(speech, landmarks)

        def predict(noisy: torch.Tensor, timestep: int) -> torch.Tensor:
            return self.unet(
                stack_inputs(noisy, masked, reference, self.conditions), timestep, context
            ).sample

        return ddim_inpaint(predict, self.scheduler, known, generated, steps, eta, generator)


def ddim_inpaint(
    predict: Callable[[torch.Tensor, int], torch.Tensor],
    scheduler: DDIMScheduler,
    known: torch.Tensor,
    generated: torch.Tensor,
    steps: int,
    eta: float,
    generator: torch.Generator,
) -> torch.Tensor:
    """DDIM (Song et al. 2021) in which the known region follows the real frame's own noising at every step.

    Before each step z_t <- m q(z_t | z_known) + (1 - m) z_t with fresh noise, m being 1 where nothing is generated
    (Sec. 3.3 of DiffTalk). The result is the last prediction, with the known latents put back exactly.

    Args:
        predict: (z_t, t) to what the schedule says is predicted, noise or velocity.
        known: (B, C, h, w); generated: (B, 1, h, w) bool.
    """

    def noise() -> torch.Tensor:
        return torch.randn(known.shape, generator=generator).to(known.device)

    scheduler.set_timesteps(steps)
    z = noise()
    for t in scheduler.timesteps:
        z = torch.where(generated, z, scheduler.add_noise(known, noise(), t[None].to(known.device)))
        step_noise = noise() if eta > 0 else None
        z = scheduler.step(predict(z, int(t)), t, z, eta=eta, variance_noise=step_noise).prev_sample
    return torch.where(generated, z, known)
