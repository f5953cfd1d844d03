"""Train the first stage on face crops, or take one that is already trained.

The recipe is VQGAN's (Esser et al. 2021): absolute error, LPIPS, codebook and commitment loss and, after a warm-up, a
patch discriminator under the adaptive weight; each part has its key, and the two that cost most are off by default.
"""

import json
import math
import shutil
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import VQModel
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch.nn import functional as F

from difftalk.models.autoencoder import build_autoencoder, load_autoencoder, to_frames, to_pixels
from difftalk.models.discriminator import PatchDiscriminator, adaptive_weight, hinge_loss
from difftalk.models.perceptual import Perceptual
from difftalk.pretrained import table as weights
from difftalk.runtime.errors import UserError
from difftalk.runtime.files import atomic_file, atomic_folder
from difftalk.runtime.progress import Progress
from difftalk.training.checkpoints import load_newest, made_of, save_checkpoint
from difftalk.training.frames import FrameBatches, batches_of, find_videos, held_out_frames, hold_out

EMBEDDED = Path(str(files("difftalk") / "assets" / "autoencoder"))
# VQGAN's betas for both players, from the start where there is a discriminator at all.
ADVERSARIAL_BETAS = (0.5, 0.9)
# Epochs shorter than this are measured together.
STEPS_BETWEEN_MEASUREMENTS = 200
MEASURED_AT_ONCE = 8  # frames
# As in the tables; not imported from there, or an edit of the metrics would train all anew.
SSIM_WINDOW = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}


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
    squared_weight: float = 1.0  # of the squared error, beside the absolute one
    perceptual_weight: float = 0.0  # of LPIPS (VGG16)
    discriminator_weight: float = 0.0  # on top of the adaptive weight; 0 trains without one
    discriminator_from: float = 0.5  # fraction of the steps after which it plays
    discriminator_channels: int = 64
    discriminator_layers: int = 3
    bf16: bool = False  # convolutions in bfloat16: twice as fast where the processor has it
    held_out: float = 0.05  # part of the clips that measure and are not trained on
    memory_mb: float = 1000.0  # for decoded frames; crops that need more go through a pool of this size
    log_every: int = 100  # steps
    checkpoint_every: int = 500  # steps
    seed: int = 1


@dataclass
class Trained:
    """A first stage that is done: the model (on the CPU, frozen), figures of it, and a line per log step."""

    model: VQModel
    report: dict[str, Any]
    log: list[dict[str, Any]] = field(default_factory=list)


def run(*, crops: list[Path], settings: Settings, source: str, state: Path, out: Path) -> None:
    """Write the first stage to the folder `out`, with `training.json` and, where it was trained here, `log.jsonl`.

    Args:
        crops: crop shards to train on; read only where `source` is `train`.
        source: `embedded` (the one in the package), `train`, a name of the table of weights (`vq-f4`), or the path
            of a folder in diffusers' format.
        state: where checkpoints of an unfinished training are kept.

    Raises:
        UserError: if the weights that `source` names are not there.
    """
    if source == "train":
        perceptual = perceptual_of(settings)
        train, held_out = hold_out(find_videos(crops), settings.held_out)
        batches = batches_of(train, settings.batch_size, settings.seed, settings.memory_mb)
        trained = train_autoencoder(batches, settings, state, held_out_frames(held_out), perceptual)
        trained.report |= {"clips": len(train), "held_out_clips": len(held_out), "settings": asdict(settings)}
    else:
        folder = EMBEDDED if source == "embedded" else Path(source)
        report: dict[str, Any] = {"imported_from": source}
        if weights.stands_for("autoencoder", source):
            folder = weights.locate(source, asked_by=f"autoencoder: {source}")
            report["sha256"] = weights.recorded(source)
        facts = folder / "training.json"
        if facts.is_file():
            report |= json.loads(facts.read_text())
        trained = Trained(load_autoencoder(folder), report)
    write_autoencoder(trained, out)
    shutil.rmtree(state, ignore_errors=True)


def write_autoencoder(trained: Trained, out: Path) -> None:
    with atomic_folder(out) as beside:
        trained.model.save_pretrained(beside, safe_serialization=True)
        (beside / "training.json").write_text(json.dumps(trained.report, indent=1, sort_keys=True) + "\n")
        if trained.log:
            (beside / "log.jsonl").write_text(_lines(trained.log))


def perceptual_of(settings: Settings) -> Perceptual | None:
    """LPIPS where the loss asks for it; also where its trunk just happens to be there, to measure with.

    Raises:
        UserError: if `perceptual_weight` asks for it and there is no trunk.
    """
    if settings.perceptual_weight or weights.recorded("vgg16"):
        return Perceptual(weights.locate("vgg16", asked_by="autoencoder_training.perceptual_weight"))
    return None


def train_autoencoder(
    batches: FrameBatches,
    settings: Settings,
    state: Path,
    held_out: np.ndarray | None = None,
    perceptual: Perceptual | None = None,
) -> Trained:
    """Train to reconstruct, first without and then with quantisation.

    The codebook is drawn from the encoder's own outputs when quantisation begins and codes that fall out of use
    are redrawn: trained from the usual initialisation, three-dimensional codes collapse to a few.

    Args:
        state: folder of checkpoints, from the newest of which a killed training goes on, and of the log so far.
        held_out: frames (N, H, W, 3) uint8 to measure on after each epoch and at the end.
        perceptual: needed where `settings.perceptual_weight` is above 0.

    Raises:
        UserError: if the loss stops being a number.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(settings.seed)
    model = build_autoencoder(settings.channels, settings.layers, settings.codes).to(device)
    model.quantize.legacy = False
    adversarial = settings.discriminator_weight > 0
    betas = ADVERSARIAL_BETAS if adversarial else (0.9, 0.999)
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, betas=betas, weight_decay=0.0
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda s: _rate(s, settings))
    discriminator = PatchDiscriminator(settings.discriminator_channels, settings.discriminator_layers).to(
        device
    )
    discriminator_optimiser = torch.optim.AdamW(discriminator.parameters(), betas=betas, weight_decay=0.0)
    if perceptual is not None:
        perceptual.to(device)

    # Continue where a killed run stopped.
    origin = made_of(settings, batches.extract(), __name__)
    start, log = 0, []
    used = torch.zeros(settings.codes, device=device)
    error_mean = torch.tensor(math.nan, device=device)
    sums: dict[str, torch.Tensor] = {}
    if (checkpoint := load_newest(state, origin)) is not None:
        start, log = checkpoint["step"], checkpoint["log"]
        model.load_state_dict(checkpoint["model"])
        optimiser.load_state_dict(checkpoint["optimiser"])
        schedule.load_state_dict(checkpoint["schedule"])
        used, error_mean = checkpoint["used"].to(device), checkpoint["error_mean"].to(device)
        sums = {name: value.to(device) for name, value in checkpoint["sums"].items()}
        if adversarial:
            discriminator.load_state_dict(checkpoint["discriminator"])
            discriminator_optimiser.load_state_dict(checkpoint["discriminator_optimiser"])

    quantise_from = int(settings.steps * settings.quantise_from)
    play_from = int(settings.steps * settings.discriminator_from) if adversarial else settings.steps
    epoch = batches.frames_per_epoch / settings.batch_size  # steps
    measure_every = math.ceil(max(1, round(STEPS_BETWEEN_MEASUREMENTS / epoch)) * epoch)
    note = ""

    with Progress(settings.steps - start, "autoencoder", "steps") as shown:
        for step in range(start, settings.steps):
            x = batches.at(step).to(device)
            rate = schedule.get_last_lr()[0]
            terms: dict[str, torch.Tensor] = {}

            # Encode and, once it is time, quantise.
            with torch.autocast(device, torch.bfloat16, enabled=settings.bf16):
                latents = model.encode(x).latents.float()
            if step < quantise_from:
                quantised, terms["codebook"] = latents, torch.zeros((), device=device)
            else:
                if step == quantise_from or (step % 200 == 0 and step < settings.steps * 0.8):
                    _redraw_unused(model, latents.detach(), used, settings.seed + step)
                    used.zero_()
                quantised, terms["codebook"], (_, _, indices) = model.quantize(latents)
                used += torch.bincount(indices, minlength=settings.codes)
            with torch.autocast(device, torch.bfloat16, enabled=settings.bf16):
                decoded = model.decoder(model.post_quant_conv(quantised)).float()

            # What it costs to be wrong, to look wrong and to be seen through.
            terms["absolute"], terms["squared"] = F.l1_loss(decoded, x), F.mse_loss(decoded, x)
            reconstruction = terms["absolute"] + settings.squared_weight * terms["squared"]
            if settings.perceptual_weight:
                assert perceptual is not None
                terms["perceptual"] = perceptual(x, decoded).mean()
                reconstruction = reconstruction + settings.perceptual_weight * terms["perceptual"]
            loss = reconstruction + settings.codebook_weight * terms["codebook"]
            if step >= play_from:
                discriminator.requires_grad_(False)
                with torch.autocast(device, torch.bfloat16, enabled=settings.bf16):
                    terms["adversarial"] = -discriminator(decoded).float().mean()
                last_layer = model.decoder.conv_out.weight
                terms["adaptive_weight"] = adaptive_weight(reconstruction, terms["adversarial"], last_layer)
                weight = settings.discriminator_weight * terms["adaptive_weight"]
                loss = loss + weight * terms["adversarial"]
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()

            # The discriminator's turn, on the same pictures and at the same rate.
            if step >= play_from:
                discriminator.requires_grad_(True)
                with torch.autocast(device, torch.bfloat16, enabled=settings.bf16):
                    real, generated = discriminator(x).float(), discriminator(decoded.detach()).float()
                terms["discriminator"] = hinge_loss(real, generated)
                discriminator_optimiser.param_groups[0]["lr"] = rate
                discriminator_optimiser.zero_grad(set_to_none=True)
                terms["discriminator"].backward()
                discriminator_optimiser.step()

            error = terms["squared"].detach()
            error_mean = error if step == 0 else 0.98 * error_mean + 0.02 * error
            for name, term in {"loss": loss, **terms}.items():
                total = sums.setdefault(name, torch.zeros(2, device=device))
                total += torch.stack([term.detach(), torch.ones_like(error)])

            done = step + 1
            last = done == settings.steps
            measured = last or done % measure_every == 0
            if measured or done % settings.log_every == 0:
                _check(sums, done, settings, state)
                line = {"step": done, "epoch": round(done / epoch, 3), "learning_rate": rate}
                line |= {name: (total / n).item() for name, (total, n) in sums.items()}
                line |= {"train_psnr_db": _psnr(error_mean.item())}
                if step >= quantise_from:
                    line |= _use(used, "train_")
                if measured and held_out is not None:
                    line |= measure(model, held_out, step >= quantise_from, perceptual)
                log.append(line)
                sums = {}
                with atomic_file(state / "log.jsonl") as beside:
                    beside.write_text(_lines(log))
                note = f"PSNR {line['train_psnr_db']:.2f} dB, {int((used > 0).sum())} codes in use"
            if done % settings.checkpoint_every == 0:
                _check(sums, done, settings, state)
                tensors = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "used": used}
                tensors |= {"schedule": schedule.state_dict(), "error_mean": error_mean}
                tensors |= {"sums": sums, "log": log}
                if adversarial:
                    tensors["discriminator"] = discriminator.state_dict()
                    tensors["discriminator_optimiser"] = discriminator_optimiser.state_dict()
                save_checkpoint(state, done, origin, tensors)
            shown.advance(note=note)

    model.eval().requires_grad_(False)
    with torch.no_grad():
        seen = (batches.at(settings.steps + i).to(device) for i in range(16))
        spread = torch.cat([model.encode(x).latents for x in seen]).std().item()
    model.register_to_config(scaling_factor=1.0 / spread)
    report: dict[str, Any] = {
        "steps": settings.steps,
        "latent_std": spread,
        "train_psnr_db": round(_psnr(error_mean.item()), 2),
    }
    for name in ("psnr", "ssim", "lpips_vgg", "codes_used", "perplexity"):
        if log and name in log[-1]:
            report[f"held_out_{name}"] = round(log[-1][name], 4)
    return Trained(model.cpu(), report, log)


@torch.no_grad()
def measure(
    model: VQModel, frames: np.ndarray, quantised: bool, perceptual: Perceptual | None
) -> dict[str, float]:
    """Means over frames (N, H, W, 3) uint8 and their reconstructions, and how much of the codebook these use.

    `psnr` in dB and `ssim` of uint8 frames, as in the tables; `lpips_vgg` where there is a `perceptual`;
    `codes_used` and `perplexity` where latents are `quantised`, as they are in the end.
    """
    found: dict[str, list[float]] = {"psnr": [], "ssim": [], "lpips_vgg": []}
    counts = torch.zeros(model.config.num_vq_embeddings, device=model.device)
    for first in range(0, len(frames), MEASURED_AT_ONCE):
        truth = frames[first : first + MEASURED_AT_ONCE]
        x = to_pixels(truth).to(model.device)
        latents = model.encode(x).latents
        if quantised:
            latents, _, (_, _, indices) = model.quantize(latents)
            counts += torch.bincount(indices, minlength=len(counts))
        decoded = model.decode(latents, force_not_quantize=True).sample.clamp(-1, 1)
        for a, b in zip(truth, to_frames(decoded), strict=True):
            if (a != b).any():
                found["psnr"].append(peak_signal_noise_ratio(a, b, data_range=255))
            found["ssim"].append(structural_similarity(a, b, data_range=255, channel_axis=-1, **SSIM_WINDOW))
        if perceptual is not None:
            found["lpips_vgg"] += perceptual(x, decoded).tolist()
    means = {name: float(np.mean(values)) for name, values in found.items() if values}
    return means | (_use(counts) if quantised else {})


def _use(counts: torch.Tensor, prefix: str = "") -> dict[str, float]:
    """Part of the codes that are used, and the perplexity: how many evenly used codes would say as much."""
    part = counts.double() / counts.sum()
    perplexity = torch.special.entr(part).sum().exp().item()
    return {f"{prefix}codes_used": (counts > 0).double().mean().item(), f"{prefix}perplexity": perplexity}


def _check(sums: dict[str, torch.Tensor], step: int, settings: Settings, state: Path) -> None:
    """Stop before a loss that is no number gets into a checkpoint."""
    if "loss" in sums and not math.isfinite(total := sums["loss"][0].item()):
        raise UserError(
            f"autoencoder: the loss became {total} in the steps before {step}; the newest checkpoint in {state} is "
            f"from before it. Lower autoencoder_training.learning_rate ({settings.learning_rate:g})"
        )


def _lines(log: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(line) + "\n" for line in log)


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
