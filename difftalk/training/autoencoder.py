"""Train the first stage on face crops, or take one that is already trained."""

import json
import math
import shutil
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from diffusers import VQModel
from torch.nn import functional as F

from difftalk import weights
from difftalk.errors import UserError
from difftalk.files import atomic_folder
from difftalk.models.autoencoder import build_autoencoder, load_autoencoder, to_pixels
from difftalk.progress import Progress
from difftalk.training.checkpoints import load_newest, made_of, save_checkpoint

EMBEDDED = Path(str(files("difftalk") / "assets" / "autoencoder"))


@dataclass(frozen=True)
class Settings:
    """How a first stage is trained; the defaults suit 64-px crops on a CPU."""

    channels: tuple[int, ...] = (32, 64, 96)  # per resolution; len - 1 halvings
    layers: int = 1  # residual blocks per resolution
    codes: int = 2048  # size of the codebook
    steps: int = 2000
    batch_size: int = 16
    learning_rate: float = 1.0e-3  # peak; warm-up over 5 % of the steps, then cosine to zero
    quantise_from: float = 0.3  # fraction of the steps after which latents are quantised
    codebook_weight: float = 0.5
    bf16: bool = False  # convolutions in bfloat16: twice as fast where the processor has it
    checkpoint_every: int = 500  # steps
    seed: int = 1


def run(*, crops: list[Path], settings: Settings, source: str, state: Path, out: Path) -> None:
    """Write the first stage to the folder `out`.

    Args:
        crops: crop shards to train on; read only where `source` is `train`.
        source: `embedded` (the one in the package), `train`, a name of the table of weights (`vq-f4`), or the path
            of a folder in diffusers' format.
        state: where checkpoints of an unfinished training are kept.

    Raises:
        UserError: if the weights that `source` names are not there.
    """
    if source == "train":
        frames = _frames_of(crops)
        model, report = train_autoencoder(
            Batches(frames, settings.batch_size, settings.seed), settings, state
        )
    else:
        folder = EMBEDDED if source == "embedded" else Path(source)
        report = {"imported_from": source}
        if weights.stands_for("autoencoder", source):
            folder = weights.locate(source, asked_by=f"autoencoder: {source}")
            report["sha256"] = weights.recorded(source)
        model = load_autoencoder(folder)
        recorded = folder / "training.json"
        if recorded.is_file():
            report |= json.loads(recorded.read_text())
    write_autoencoder(model, report, out)
    shutil.rmtree(state, ignore_errors=True)


def write_autoencoder(model: VQModel, report: dict[str, object], out: Path) -> None:
    with atomic_folder(out) as beside:
        model.save_pretrained(beside, safe_serialization=True)
        (beside / "training.json").write_text(json.dumps(report, indent=1, sort_keys=True) + "\n")


def _frames_of(crops: list[Path]) -> np.ndarray:
    """All frames of all crops, (N, H, W, 3) uint8."""
    from difftalk.shards import read_crops

    frames = [crop.frames() for path in crops for crop in read_crops(path)]
    if not frames:
        raise UserError("autoencoder: the train crops hold no clip to train on")
    return np.concatenate(frames)


@dataclass(frozen=True)
class Batches:
    """Batch `step` of an endless, seeded order: a pure function of the step, so that a resumed run sees the same."""

    frames: np.ndarray  # (N, H, W, 3) uint8
    batch_size: int
    seed: int

    def at(self, step: int) -> torch.Tensor:
        """(B, 3, H, W) in [-1, 1], each mirrored with probability one half."""
        rng = np.random.default_rng((self.seed, step))
        chosen = self.frames[rng.integers(len(self.frames), size=self.batch_size)]
        mirrored = rng.random(self.batch_size) < 0.5
        chosen[mirrored] = chosen[mirrored, :, ::-1]
        return to_pixels(chosen)


def train_autoencoder(batches: Batches, settings: Settings, state: Path) -> tuple[VQModel, dict[str, object]]:
    """Train to reconstruct, first without and then with quantisation; returns the model and figures of it.

    The codebook is drawn from the encoder's own outputs when quantisation begins and codes that fall out of use
    are redrawn: trained from the usual initialisation, three-dimensional codes collapse to a few.
    The loss is mean absolute plus mean squared error, plus the codebook and commitment terms of VQ-VAE.
    """
    torch.manual_seed(settings.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = build_autoencoder(settings.channels, settings.layers, settings.codes).to(device)
    model.quantize.legacy = False
    optimiser = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda s: _rate(s, settings))
    start, used, loss_mean = 0, torch.zeros(settings.codes, device=device), math.nan
    origin = made_of(settings, [batches.frames], __name__)
    if (checkpoint := load_newest(state, origin)) is not None:
        start, used, loss_mean = checkpoint["step"], checkpoint["used"].to(device), checkpoint["loss_mean"]
        model.load_state_dict(checkpoint["model"])
        optimiser.load_state_dict(checkpoint["optimiser"])
        schedule.load_state_dict(checkpoint["schedule"])
    quantise_from = int(settings.steps * settings.quantise_from)

    with Progress(settings.steps - start, "autoencoder", "steps") as shown:
        for step in range(start, settings.steps):
            x = batches.at(step).to(device)
            with torch.autocast(device, torch.bfloat16, enabled=settings.bf16):
                latents = model.encode(x).latents.float()
            if step < quantise_from:
                quantised, codebook_loss = latents, torch.zeros((), device=device)
            else:
                if step == quantise_from or (step % 200 == 0 and step < settings.steps * 0.8):
                    _redraw_unused(model, latents.detach(), used, settings.seed + step)
                    used.zero_()
                quantised, codebook_loss, (_, _, indices) = model.quantize(latents)
                used += torch.bincount(indices, minlength=settings.codes)
            with torch.autocast(device, torch.bfloat16, enabled=settings.bf16):
                decoded = model.decoder(model.post_quant_conv(quantised))
            error = F.mse_loss(decoded.float(), x)
            loss = F.l1_loss(decoded.float(), x) + error + settings.codebook_weight * codebook_loss
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            loss_mean = error.item() if math.isnan(loss_mean) else 0.98 * loss_mean + 0.02 * error.item()
            shown.advance(note=f"PSNR {_psnr(loss_mean):.2f} dB, {int((used > 0).sum())} codes in use")
            if (step + 1) % settings.checkpoint_every == 0:
                tensors = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "used": used}
                tensors |= {"schedule": schedule.state_dict(), "loss_mean": loss_mean}
                save_checkpoint(state, step + 1, origin, tensors)

    model.eval().requires_grad_(False)
    with torch.no_grad():
        seen = (batches.at(settings.steps + i).to(device) for i in range(16))
        spread = torch.cat([model.encode(x).latents for x in seen]).std().item()
    model.register_to_config(scaling_factor=1.0 / spread)
    report: dict[str, object] = {
        "steps": settings.steps,
        "latent_std": spread,
        "train_psnr_db": round(_psnr(loss_mean), 2),
    }
    return model.cpu(), report


def _rate(step: int, settings: Settings) -> float:
    warm_up = max(1, settings.steps // 20)
    return min(1.0, (step + 1) / warm_up) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / settings.steps)))


@torch.no_grad()
def _redraw_unused(model: VQModel, latents: torch.Tensor, used: torch.Tensor, seed: int) -> None:
    """Put codes that nothing fell on since the last call onto random latents of this batch, (B, C, h, w)."""
    cells = latents.permute(0, 2, 3, 1).reshape(-1, latents.shape[1])
    unused = (used == 0).nonzero().squeeze(1)
    picks = torch.randint(len(cells), (len(unused),), generator=torch.Generator().manual_seed(seed))
    model.quantize.embedding.weight[unused] = cells[picks.to(cells.device)]


def _psnr(mean_squared_error: float) -> float:
    """dB, for images in [-1, 1], whose range is 2."""
    return 10 * math.log10(4.0 / max(mean_squared_error, 1e-12))
