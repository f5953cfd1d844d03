"""A trained DiffTalk as one diffusers pipeline: load, save, and a call from frames and speech to frames."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, UNet2DConditionModel, VQModel
from diffusers.utils import BaseOutput

from difftalk.config.sampling import Sampling
from difftalk.config.training import CONDITIONS
from difftalk.models.autoencoder import downsampling, encode_frames, load_autoencoder
from difftalk.models.conditioning import SPEECH_WINDOW, Conditioner
from difftalk.models.denoiser import Denoiser, use_one_token_shortcut
from difftalk.reporting.card import model_card
from difftalk.runtime.checksums import SUMS, verify_folder, write_sums
from difftalk.runtime.errors import UserError, is_machine_fault
from difftalk.runtime.files import atomic_folder, json_lines, read_json, write_json
from difftalk.sampling.clip_sampler import ClipSampler
from difftalk.sampling.frame_sampler import FrameSampler
from difftalk.sampling.inputs import encode_inputs
from difftalk.sampling.references import reference_frame
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
        known_region: what the denoiser was trained to see outside the inpainting mask: `noised` or `clean`
            latents.
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
        known_region: str = "noised",
    ) -> None:
        super().__init__()
        self.register_modules(unet=unet, conditioner=conditioner, scheduler=scheduler, vqvae=vqvae)
        self.register_to_config(conditions=list(conditions), facts=facts, known_region=known_region)

    @property
    def known_region(self) -> Literal["noised", "clean"]:
        """What the denoiser was trained to see outside the inpainting mask."""
        return "clean" if getattr(self.config, "known_region", "noised") == "clean" else "noised"

    def denoiser(self) -> Denoiser:
        """Return UNet and condition encoders as one module."""
        return Denoiser(self.unet, self.conditioner, self.conditions)

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
            its_own = (p for p in autoencoder.rglob("*") if p.is_file() and not p.name.startswith("."))
            for file in sorted(p for p in its_own if p.name != SUMS):
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

    def __call__(
        self,
        frames: np.ndarray,
        landmarks: np.ndarray,
        speech: np.ndarray,
        settings: Sampling = Sampling(),  # noqa: B008 - frozen
        *,
        reference: np.ndarray | None = None,
        clip_id: str = "clip",
    ) -> DiffTalkOutput:
        """Generate the lower face of each frame so that the person says `speech`; all else is as in `frames`.

        Args:
            frames: (T, H, H, 3) uint8, a face crop at 25 fps, cut as in training.
            landmarks: (T, 68, 2) in pixels of the crop.
            speech: (2 T, features) float32, 50 steps a second, as the stage `speech` makes them.
            settings: of the sampling; its `reference` is read where none is given, its `interpolation` not.
            reference: (H, H, 3) uint8, another frame of the same person.
            clip_id: of the noise, of which each (seed, clip, frame) has its own.

        Raises:
            UserError: if the arrays do not fit each other or the model.
        """
        self._check(frames, landmarks, speech)
        sampler = FrameSampler(self, settings)
        everything = np.arange(len(frames))
        windows = neighbour_windows(
            speech.astype(np.float32), everything, self.conditioner.neighbours, SPEECH_WINDOW
        )
        inputs = encode_inputs(self.vqvae, frames, landmarks, windows, settings)
        shown = inputs.known[reference_frame(clip_id, len(frames), settings)]
        if reference is not None:
            shown = encode_frames(self.vqvae, np.stack([reference]))[0]
        of_clip = ClipSampler(sampler, clip_id, shown)
        parts = []
        for numbers in self.progress_bar(np.array_split(everything, -(-len(frames) // settings.batch_size))):
            parts.append(of_clip.sample(inputs.take(numbers), numbers.tolist()))
        latents = torch.cat(parts)
        return DiffTalkOutput(frames=sampler.decode(latents), latents=latents)

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
