"""A trained DiffTalk as one diffusers pipeline: load, save, and a call from frames and speech to frames."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, UNet2DConditionModel, VQModel
from diffusers.utils import BaseOutput

from difftalk.config.training import CONDITIONS
from difftalk.models.autoencoder import decode_latents, downsampling, encode_frames, load_autoencoder
from difftalk.models.conditioning import LANDMARKS_SEEN, SPEECH_WINDOW, Conditioner
from difftalk.models.denoiser import Denoiser, use_one_token_shortcut
from difftalk.models.masks import generated_mask, mask_image
from difftalk.reporting.card import model_card
from difftalk.runtime.checksums import SUMS, verify_folder, write_sums
from difftalk.runtime.errors import UserError, is_machine_fault
from difftalk.runtime.files import atomic_folder, json_lines, read_json, write_json
from difftalk.sampling.ddim import ddim_inpaint
from difftalk.speech.windows import neighbour_windows


@dataclass
class DiffTalkOutput(BaseOutput):
    """Generated frames (T, H, W, 3) uint8 and the latents (T, C, h, w) that they were decoded from."""

    frames: np.ndarray
    latents: torch.Tensor


class DiffTalkPipeline(DiffusionPipeline):
    """Denoiser, conditioning, noise schedule and first stage of one experiment.

    On disk it is a folder in diffusers' format: `unet/`, `conditioner/`, `scheduler/` and `vqvae/`, each with
    config and safetensors; and `model_index.json`, `README.md`, `training.json`, `log.jsonl`, `SHA256SUMS`.

    Args:
        unet: the denoiser.
        conditioner: the encoders of speech and landmarks.
        scheduler: the noise schedule.
        conditions: the conditioning inputs, of `CONDITIONS`.
        vqvae: the first stage; None where a caller only needs latents.
        facts: of the training, as `save` was given them.
    """

    _optional_components: ClassVar[list[str]] = ["vqvae"]

    def __init__(
        self,
        unet: UNet2DConditionModel,
        conditioner: Conditioner,
        scheduler: DDIMScheduler,
        conditions: list[str] | tuple[str, ...] = CONDITIONS,
        vqvae: VQModel | None = None,
        facts: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(unet=unet, conditioner=conditioner, scheduler=scheduler, vqvae=vqvae)
        self.register_to_config(conditions=list(conditions), facts=facts)

    @property
    def conditions(self) -> tuple[str, ...]:
        """The conditioning inputs of this model, of `CONDITIONS`."""
        return tuple(self.config.conditions)

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, device: str | torch.device = "cpu", **options: Any
    ) -> "DiffTalkPipeline":
        """Load a folder that `save` wrote, ready to sample: frozen, with the one-token shortcut.

        No network is used. Files that the folder has checksums of are compared with them.

        Args:
            folder: the model.
            device: device to load it to.
            options: as of `DiffusionPipeline.from_pretrained`; `vqvae=None` leaves out the first stage.

        Raises:
            UserError: if the folder is not one of ours, or a file is missing, damaged or was edited.
        """
        index = Path(folder) / "model_index.json"
        about = read_json(index) if index.is_file() else None
        if not isinstance(about, dict) or about.get("_class_name") != cls.__name__:
            raise UserError(
                f"{folder}: no model_index.json of a {cls.__name__}: not a trained DiffTalk model"
            )
        verify_folder(Path(folder))
        offline = {"use_safetensors": True, "local_files_only": True}
        try:
            pipeline = super().from_pretrained(str(folder), **{**offline, **options}).to(device)
        except Exception as e:
            if is_machine_fault(e):
                raise
            raise UserError(f"{folder}: cannot be loaded: {' '.join(str(e).split())[:200]}") from None
        use_one_token_shortcut(pipeline.unet)
        for part in (pipeline.unet, pipeline.conditioner, pipeline.vqvae):
            if part is not None:
                part.eval().requires_grad_(False)
        return pipeline

    def save(self, out: Path, *, autoencoder: Path, facts: dict[str, Any], log: list[dict[str, Any]]) -> None:
        """Write the folder, with its first stage, the facts of its training, its log and a model card.

        Args:
            out: the folder; replaced where it exists.
            autoencoder: folder of the first stage that the model was trained on.
            facts: of the training, such as its settings and data, as JSON has them.
            log: entries of the training's log.
        """
        plain = {k: v for k, v in facts.items() if isinstance(v, str | int | float)}
        self.register_to_config(facts=plain)
        self.register_modules(vqvae=load_autoencoder(autoencoder))
        with atomic_folder(out) as tmp:
            self.save_pretrained(tmp, safe_serialization=True)
            # The files themselves: what is stored in half precision stays so, and its own facts come along.
            for file in sorted(p for p in autoencoder.rglob("*") if p.is_file() and p.name != SUMS):
                target = tmp / "vqvae" / file.relative_to(autoencoder)
                target.parent.mkdir(exist_ok=True)
                shutil.copyfile(file, target)
            write_sums(tmp / "vqvae")
            (tmp / "log.jsonl").write_text(json_lines(log), encoding="utf-8")
            write_json(tmp / "training.json", facts)
            (tmp / "README.md").write_text(self._card(out.name, autoencoder, facts, log), encoding="utf-8")

    def _card(self, name: str, autoencoder: Path, facts: dict[str, Any], log: list[dict[str, Any]]) -> str:
        nets = ("unet", "conditioner", "vqvae")
        parameters = {net: sum(p.numel() for p in getattr(self, net).parameters()) for net in nets}
        about = autoencoder / "training.json"
        first_stage = read_json(about) if about.is_file() else {}
        known = facts | {"parameters": parameters, "first_stage": first_stage}
        return model_card(name, self.conditions, known, log)

    @torch.no_grad()
    def __call__(
        self,
        frames: np.ndarray,
        landmarks: np.ndarray,
        speech: np.ndarray,
        *,
        reference: np.ndarray | None = None,
        num_inference_steps: int = 200,
        eta: float = 0.0,
        generator: torch.Generator | None = None,
        batch_size: int = 64,
    ) -> DiffTalkOutput:
        """Generate the lower face of each frame so that the person says `speech`; all else is as in `frames`.

        Args:
            frames: (T, H, H, 3) uint8, a face crop at 25 fps, cut as in training.
            landmarks: (T, 68, 2) in pixels of the crop.
            speech: (2 T, features) float32, 50 steps a second, as the stage `speech` makes them.
            reference: (H, H, 3) uint8, another frame of the same person; None is the first of `frames`.
            num_inference_steps: DDIM steps.
            eta: 0 is deterministic DDIM, 1 is DDPM's noise.
            generator: on the CPU, so that every device draws the same noise.
            batch_size: frames at a time.

        Raises:
            UserError: if the arrays do not fit each other or the model.
        """
        self._check(frames, landmarks, speech)
        size = frames.shape[1]
        generated = generated_mask(landmarks, size, size // downsampling(self.vqvae))
        scaled = (landmarks[:, LANDMARKS_SEEN] / size).astype(np.float32)
        shown = None if reference is None else encode_frames(self.vqvae, np.stack([reference]))
        neighbours = self.conditioner.neighbours
        parts = []
        for first in self.progress_bar(range(0, len(frames), batch_size)):
            chosen = np.arange(first, min(first + batch_size, len(frames)))
            known = encode_frames(self.vqvae, frames[chosen], batch_size)
            shown = known[:1] if shown is None else shown
            inputs = {
                "known": known,
                "masked": encode_frames(
                    self.vqvae, mask_image(frames[chosen], landmarks[chosen]), batch_size
                ),
                "reference": shown.expand(len(chosen), -1, -1, -1),
                "generated": torch.from_numpy(generated[chosen]).unsqueeze(1),
                "speech": torch.from_numpy(
                    neighbour_windows(speech.astype(np.float32), chosen, neighbours, SPEECH_WINDOW)
                ),
                "landmarks": torch.from_numpy(scaled[chosen]),
            }
            on_device = {name: value.to(self.device) for name, value in inputs.items()}
            latents = self.sample(**on_device, steps=num_inference_steps, eta=eta, generator=generator)
            parts.append(latents.float().cpu())
        latents = torch.cat(parts)
        return DiffTalkOutput(frames=decode_latents(self.vqvae, latents, batch_size), latents=latents)

    def _check(self, frames: np.ndarray, landmarks: np.ndarray, speech: np.ndarray) -> None:
        if self.vqvae is None:
            raise UserError("DiffTalkPipeline: loaded without its first stage, it samples latents only")
        size = self.unet.config.sample_size * downsampling(self.vqvae)
        if frames.dtype != np.uint8 or frames.shape[1:] != (size, size, 3):
            raise UserError(
                f"frames are {frames.shape} {frames.dtype}, not (T, {size}, {size}, 3) uint8, "
                "the model's crop size"
            )
        if landmarks.shape != (len(frames), 68, 2):
            raise UserError(f"landmarks are {landmarks.shape}, not {(len(frames), 68, 2)}")
        features = self.conditioner.config.speech_features
        if "audio" in self.conditions and (speech.ndim != 2 or speech.shape[1] != features):
            raise UserError(
                f"speech is {speech.shape}, not (steps, {features}): made by another speech.backend?"
            )

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
        generator: torch.Generator | None,
    ) -> torch.Tensor:
        """Sample the latents (B, C, h, w) of B frames.

        Args:
            known: (B, C, h, w) latents of the real frames, used where `generated` is False.
            generated: (B, 1, h, w) bool, True where the latent cell is generated.
            masked: (B, C, h, w) latents of the frames with the mouth masked.
            reference: (B, C, h, w) latents of another frame of the clip, one for each frame.
            speech: (B, neighbours, 16, features).
            landmarks: (B, 39, 2) in [0, 1] of the crop.
            steps: DDIM steps.
            eta: 0 is deterministic DDIM, 1 is DDPM's noise.
            generator: on the CPU, so that every device draws the same noise.
        """
        denoiser = Denoiser(self.unet, self.conditioner, self.conditions)
        context = denoiser.context(speech, landmarks)

        def predict(noisy: torch.Tensor, timestep: int) -> torch.Tensor:
            return denoiser.predict(noisy, timestep, masked, reference, context)

        return ddim_inpaint(predict, self.scheduler, known, generated, steps, eta, generator)
