"""The training of the first stage, a VQ autoencoder.

The recipe is VQGAN's (Esser et al. 2021): absolute error, LPIPS, codebook and commitment loss and, from a
later step on, the adversarial loss of a patch discriminator under the adaptive weight. Each term has its key;
the two that cost most are off by default.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import VQModel
from torch import Tensor
from torch.nn import functional as F

from difftalk.config.autoencoder import AutoencoderTraining
from difftalk.models.autoencoder import build_autoencoder, checkpoint_activations, load_autoencoder
from difftalk.models.block_means import start_from_block_means
from difftalk.models.discriminator import PatchDiscriminator, adaptive_weight, hinge_loss
from difftalk.models.perceptual import Perceptual
from difftalk.models.quantiser import quantise
from difftalk.pretrained import table as weights
from difftalk.runtime.device import default_device
from difftalk.runtime.errors import UserError
from difftalk.runtime.files import write_json_lines
from difftalk.runtime.progress import Progress
from difftalk.training.checkpoint import provenance, resume, save_checkpoint
from difftalk.training.frames import FrameBatches, prepared
from difftalk.training.muon import Muon
from difftalk.training.reconstruction import codebook_use, measure, psnr_db
from difftalk.training.schedule import warmup_cosine
from difftalk.training.signals import deferred_signals, end_after
from difftalk.training.warm_start import start_network

# May differ from the checkpoint's: it changes the result by rounding at most.
MAY_CHANGE = frozenset({"gradient_checkpointing"})
# VQGAN's betas of both optimisers, from the first step on where there is a discriminator at all.
ADVERSARIAL_BETAS = (0.5, 0.9)
# Unused codes are redrawn every so many steps, until this part of the training.
REDRAW_EVERY, REDRAW_UNTIL = 200, 0.8
# Epochs shorter than this are measured together.
STEPS_BETWEEN_MEASUREMENTS = 200
LATENT_STD_BATCHES = 16  # batches over which the spread of the latents is taken


@dataclass
class Trained:
    """A trained first stage.

    Args:
        model: on the CPU, frozen.
        report: its figures, for `training.json`.
        log: an entry per log step.
    """

    model: VQModel
    report: dict[str, Any]
    log: list[dict[str, Any]] = field(default_factory=list)


def train_autoencoder(
    batches: FrameBatches,
    settings: AutoencoderTraining,
    state: Path,
    held_out: np.ndarray | None = None,
    perceptual: Perceptual | None = None,
    base: Path | None = None,
    origin: str | None = None,
) -> Trained:
    """Train to reconstruct, first without and then with quantisation.

    Args:
        batches: of the frames to train on.
        settings: of the training.
        state: folder of the log so far and of checkpoints, from the newest of which an interrupted training
            resumes.
        held_out: frames (N, H, W, 3) uint8 to measure on after each epoch and at the end.
        perceptual: needed where `settings.perceptual_weight` is above 0; else it measures only.
        base: folder of a first stage to start from, which is quantised from the first step on.
        origin: of `origin_of`, where it is known: it takes a look at all frames.

    Raises:
        UserError: if the loss is no longer finite, or `base` has other sizes.
        SystemExit: after SIGTERM or SIGUSR1, with a checkpoint written.
    """
    trainer = FirstStageTrainer(settings, default_device(), perceptual, base)
    origin = origin or origin_of(batches, settings, base)
    start = 0
    if (checkpoint := resume(state, origin, MAY_CHANGE)) is not None:
        start = checkpoint["step"]
        trainer.load_state(checkpoint)

    epoch = batches.frames_per_epoch / settings.batch_size  # steps
    measure_every = math.ceil(max(1, round(STEPS_BETWEEN_MEASUREMENTS / epoch)) * epoch)
    note = ""
    with deferred_signals() as stop, Progress(settings.steps - start, "autoencoder", "steps") as progress:
        for step, batch in enumerate(prepared(batches, start, settings.steps), start):
            trainer.step(step, batch.to(trainer.device))
            done = step + 1
            measured = done == settings.steps or done % measure_every == 0
            if measured or done % settings.log_every == 0:
                trainer.check_loss(done, state)
                entry = trainer.log(done, epoch, held_out if measured else None)
                write_json_lines(state / "log.jsonl", trainer.entries)
                note = f"PSNR {entry['train_psnr_db']:.2f} dB, {trainer.codes_in_use()} codes in use"
            if stop.signal or done % settings.checkpoint_every == 0:
                trainer.check_loss(done, state)
                saved = save_checkpoint(state, done, origin, trainer.state())
                if stop.signal:
                    end_after(stop.signal, "autoencoder", done, saved)
            progress.advance(note=note)
    return trainer.finish(batches)


def origin_of(batches: FrameBatches, settings: AutoencoderTraining, base: Path | None) -> str:
    """Return what the result of a training depends on, as `provenance` does."""
    return provenance(settings, batches.identifying_arrays(), __name__, base)


def load_perceptual(settings: AutoencoderTraining) -> Perceptual | None:
    """Load LPIPS where the loss includes it, or where its backbone is there to measure with.

    Raises:
        UserError: if `perceptual_weight` is above 0 and the backbone is missing.
    """
    if settings.perceptual_weight or weights.recorded("vgg16"):
        return Perceptual(weights.locate("vgg16", asked_by="autoencoder_training.perceptual_weight"))
    return None


class FirstStageTrainer:
    """Networks, optimisers and running figures of one training.

    Args:
        settings: of the training.
        device: of the networks.
        perceptual: LPIPS, for the loss and to measure with.
        base: folder of a first stage to start from.
    """

    def __init__(
        self,
        settings: AutoencoderTraining,
        device: str,
        perceptual: Perceptual | None,
        base: Path | None = None,
    ) -> None:
        torch.manual_seed(settings.seed)
        self.settings, self.device = settings, device
        self.perceptual = None if perceptual is None else perceptual.to(device)
        self.model = build_autoencoder(settings.channels, settings.layers, settings.codes)
        if settings.initial == "block_means":
            start_from_block_means(self.model)
        self.model.to(device)
        if base is not None:
            start_network(self.model, load_autoencoder(base), "autoencoder_training", base)
        if settings.gradient_checkpointing:
            checkpoint_activations(self.model)
        self.adversarial = settings.discriminator_weight > 0
        betas = ADVERSARIAL_BETAS if self.adversarial else (0.9, 0.999)
        self.optimiser: torch.optim.AdamW
        if settings.optimiser == "muon":
            self.optimiser = Muon(self.model, settings.learning_rate, betas)
        else:
            self.optimiser = torch.optim.AdamW(
                self.model.parameters(), lr=settings.learning_rate, betas=betas, weight_decay=0.0
            )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimiser, lambda step: warmup_cosine(step, settings.steps)
        )
        self.discriminator = PatchDiscriminator(
            settings.discriminator_channels, settings.discriminator_layers
        ).to(device)
        self.discriminator_optimiser = torch.optim.AdamW(
            self.discriminator.parameters(), betas=betas, weight_decay=0.0
        )
        self.has_codes = base is not None
        self.quantise_from = 0 if self.has_codes else int(settings.steps * settings.quantise_from)
        self.adversarial_from = (
            int(settings.steps * settings.discriminator_from) if self.adversarial else settings.steps
        )
        self.learning_rate = math.nan
        self.code_counts = torch.zeros(settings.codes, device=device)  # since unused codes were last redrawn
        self.mean_squared_error = torch.tensor(math.nan, device=device)  # running mean
        self.sums: dict[str, Tensor] = {}  # of each term since the last log entry, and of how many steps
        self.entries: list[dict[str, Any]] = []

    def step(self, step: int, frames: Tensor) -> None:
        """Update the autoencoder and then the discriminator on frames (B, 3, H, W) in [-1, 1]."""
        adversarial = step >= self.adversarial_from
        self.learning_rate = float(self.schedule.get_last_lr()[0])
        self.optimiser.zero_grad(set_to_none=True)
        parts = frames.chunk(self.settings.gradient_accumulation_steps)
        self._redraw_codes(step, parts)
        made = [self._part(step, part, len(parts), adversarial) for part in parts]
        decoded, terms = zip(*made, strict=True)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.schedule.step()
        means = {name: torch.stack([of_part[name].detach() for of_part in terms]).mean() for name in terms[0]}
        if adversarial:
            means["discriminator"] = self._discriminator_step(parts, decoded)
        self._accumulate(step, means)

    def _part(
        self, step: int, frames: Tensor, parts: int, adversarial: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Add the gradient of one of the `parts`; return its decoded frames, and its loss with its terms."""
        with self._autocast():
            latents = self.model.encode(frames).latents.float()
        quantised, codebook_loss = self._quantise(latents, step)
        with self._autocast():
            decoded = self.model.decoder(self.model.post_quant_conv(quantised)).float()
        loss, terms = self._loss(frames, decoded, codebook_loss, adversarial)
        (loss / parts).backward()
        return decoded.detach(), {"loss": loss, **terms}

    def _redraw_codes(self, step: int, parts: Sequence[Tensor]) -> None:
        """Draw the codebook from the encoder's own outputs when quantisation begins, unless it came trained.

        Codes that fall out of use are redrawn later on: trained from the usual initialisation,
        three-dimensional codes collapse to a few.
        """
        begins = step == self.quantise_from
        redraw = step % REDRAW_EVERY == 0 and self.quantise_from <= step < self.settings.steps * REDRAW_UNTIL
        if (redraw or begins) and not (begins and self.has_codes):
            with torch.no_grad(), self._autocast():
                latents = torch.cat([self.model.encode(part).latents.float() for part in parts])
            redraw_unused(self.model, latents, self.code_counts, self.settings.seed + step)
            self.code_counts.zero_()

    def _quantise(self, latents: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Quantise from step `quantise_from` on; return latents, and codebook and commitment loss."""
        if step < self.quantise_from:
            return latents, torch.zeros((), device=self.device)
        quantised, loss, indices = quantise(self.model, latents)
        # Not by `bincount`, for whose size a GPU would be waited for.
        self.code_counts.index_add_(0, indices, torch.ones_like(self.code_counts[:1]).expand(len(indices)))
        return quantised, loss

    def _loss(
        self, frames: Tensor, decoded: Tensor, codebook_loss: Tensor, adversarial: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the autoencoder's loss, and its terms without their weights."""
        terms = {
            "codebook": codebook_loss,
            "absolute": F.l1_loss(decoded, frames),
            "squared": F.mse_loss(decoded, frames),
        }
        reconstruction = terms["absolute"] + self.settings.squared_weight * terms["squared"]
        if self.settings.perceptual_weight:
            assert self.perceptual is not None
            terms["perceptual"] = self.perceptual(frames, decoded, bf16=self.settings.bf16).mean()
            reconstruction = reconstruction + self.settings.perceptual_weight * terms["perceptual"]
        loss = reconstruction + self.settings.codebook_weight * terms["codebook"]
        if adversarial:
            self.discriminator.requires_grad_(False)
            with self._autocast():
                terms["adversarial"] = -self.discriminator(decoded).float().mean()
            last_layer = self.model.decoder.conv_out.weight
            terms["adaptive_weight"] = adaptive_weight(reconstruction, terms["adversarial"], last_layer)
            weight = self.settings.discriminator_weight * terms["adaptive_weight"]
            loss = loss + weight * terms["adversarial"]
        return loss, terms

    def _discriminator_step(self, frames: Sequence[Tensor], decoded: Sequence[Tensor]) -> Tensor:
        """Update the discriminator at the autoencoder's learning rate, part by part; return its loss."""
        self.discriminator.requires_grad_(True)
        self.discriminator_optimiser.param_groups[0]["lr"] = self.learning_rate
        self.discriminator_optimiser.zero_grad(set_to_none=True)
        losses = []
        for truth, made in zip(frames, decoded, strict=True):
            with self._autocast():
                real, generated = self.discriminator(truth).float(), self.discriminator(made).float()
            losses.append(hinge_loss(real, generated))
            (losses[-1] / len(frames)).backward()
        self.discriminator_optimiser.step()
        return torch.stack([loss.detach() for loss in losses]).mean()

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device, torch.bfloat16, enabled=self.settings.bf16)

    def _accumulate(self, step: int, terms: dict[str, Tensor]) -> None:
        """Add the terms of a step to the running figures, without waiting for the device."""
        error = terms["squared"].detach()
        self.mean_squared_error = error if step == 0 else 0.98 * self.mean_squared_error + 0.02 * error
        for name, term in terms.items():
            total = self.sums.setdefault(name, torch.zeros(2, device=self.device))
            total += torch.stack([term.detach(), torch.ones_like(error)])

    def check_loss(self, done: int, state: Path) -> None:
        """Stop before a loss that is not finite gets into a checkpoint.

        Raises:
            UserError: if it is not.
        """
        if "loss" in self.sums and not math.isfinite(total := self.sums["loss"][0].item()):
            raise UserError(
                f"autoencoder: the loss became {total} in the steps before {done}; the newest checkpoint in "
                f"{state} is from before it. Lower autoencoder_training.learning_rate "
                f"({self.settings.learning_rate:g})"
            )

    def log(self, done: int, epoch: float, held_out: np.ndarray | None) -> dict[str, Any]:
        """Add the entry of the steps since the last one to the log, and return it.

        Args:
            done: steps so far.
            epoch: its length in steps.
            held_out: frames (N, H, W, 3) uint8 to measure on, if any.
        """
        quantised = done > self.quantise_from
        entry = {"step": done, "epoch": round(done / epoch, 3), "learning_rate": self.learning_rate}
        entry |= {name: (total / n).item() for name, (total, n) in self.sums.items()}
        entry |= {"train_psnr_db": psnr_db(self.mean_squared_error.item())}
        if quantised:
            entry |= codebook_use(self.code_counts, "train_")
        if held_out is not None:
            entry |= measure(self.model, held_out, quantised, self.perceptual)
        self.entries.append(entry)
        self.sums = {}
        return entry

    def codes_in_use(self) -> int:
        """Return how many codes were used since the unused ones were last redrawn."""
        return int((self.code_counts > 0).sum())

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds: everything but the perceptual network."""
        state = {
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "code_counts": self.code_counts,
            "mean_squared_error": self.mean_squared_error,
            "sums": self.sums,
            "log": self.entries,
        }
        if self.adversarial:
            state["discriminator"] = self.discriminator.state_dict()
            state["discriminator_optimiser"] = self.discriminator_optimiser.state_dict()
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up what `state` returned."""
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.code_counts = state["code_counts"].to(self.device)
        self.mean_squared_error = state["mean_squared_error"].to(self.device)
        self.sums = {name: value.to(self.device) for name, value in state["sums"].items()}
        self.entries = state["log"]
        if self.adversarial:
            self.discriminator.load_state_dict(state["discriminator"])
            self.discriminator_optimiser.load_state_dict(state["discriminator_optimiser"])

    def finish(self, batches: FrameBatches) -> Trained:
        """Freeze the model, scale its latents to unit variance, and report its figures."""
        steps, model = self.settings.steps, self.model.eval().requires_grad_(False)
        with torch.no_grad():
            frames = (batches.at(steps + i).to(self.device) for i in range(LATENT_STD_BATCHES))
            latent_std = torch.cat([model.encode(x).latents.flatten() for x in frames]).std().item()
        model.register_to_config(scaling_factor=1.0 / latent_std)
        report: dict[str, Any] = {
            "steps": steps,
            "latent_std": latent_std,
            "train_psnr_db": round(psnr_db(self.mean_squared_error.item()), 2),
        }
        for name in ("psnr", "ssim", "lpips_vgg", "codes_used", "perplexity"):
            if self.entries and name in self.entries[-1]:
                report[f"held_out_{name}"] = round(self.entries[-1][name], 4)
        return Trained(model.cpu(), report, self.entries)


@torch.no_grad()
def redraw_unused(model: VQModel, latents: Tensor, counts: Tensor, seed: int) -> None:
    """Set codes whose count is 0 to random latents of this batch, (B, C, h, w)."""
    cells = latents.permute(0, 2, 3, 1).reshape(-1, latents.shape[1])
    unused = (counts == 0).nonzero().squeeze(1)
    picks = torch.randint(len(cells), (len(unused),), generator=torch.Generator().manual_seed(seed))
    model.quantize.embedding.weight[unused] = cells[picks.to(cells.device)]
