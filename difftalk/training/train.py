"""Train the denoiser and its conditioning on the training shards: one experiment, resumed where it was killed."""

import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.training_utils import EMAModel
from torch import nn

from difftalk.errors import UserError
from difftalk.models.conditioning import Conditioner
from difftalk.models.denoiser import build_denoiser, noise_schedule, stack_inputs
from difftalk.models.pipeline import DiffTalkPipeline
from difftalk.progress import Progress
from difftalk.training.checkpoints import load_newest, made_of, save_checkpoint
from difftalk.training.data import Examples, LatentClips, training_batch

Condition = Literal["audio", "landmarks", "masked", "reference"]


@dataclass(frozen=True)
class Settings:
    """One experiment. The defaults are the paper's where it states them, at its published sizes."""

    conditions: tuple[Condition, ...] = ("audio", "landmarks", "masked", "reference")
    smoothing: bool = True  # audio smoothing by the temporal filter
    smoothing_frames: int = 8  # neighbours it sees
    channels: tuple[int, ...] = (256, 512, 768, 1024)  # of the UNet, from the highest resolution down
    layers: int = 2  # residual blocks per resolution
    head_channels: int = 32  # per attention head
    steps: int = 100_000
    batch_size: int = 64
    learning_rate: float = 6.4e-5  # LDM's rule: 1e-6 x batch size
    conditioner_rate: float = 1.0  # learning rate of the condition encoders, as a multiple
    warmup_steps: int = 0
    final_rate: float = 1.0  # the rate falls linearly to this fraction over the run; 1 keeps it constant
    weight_decay: float = 0.01
    gradient_clip: float = 0.1  # norm
    ema_decay: float = 0.9999  # of every trained weight
    prediction: Literal["epsilon", "v_prediction"] = "epsilon"
    loss_region: Literal["all", "generated"] = "all"  # latent cells that count
    noise_power: float = 1.0  # > 1 draws more of the high noise levels, where the mouth's shape is decided
    reference_distance: int = 60  # frames between a frame and its reference, at least
    precision: Literal["no", "bf16"] = "no"
    log_every: int = 50  # steps
    checkpoint_every: int = 500  # steps
    seed: int = 1


def run(*, shards: list[Path], autoencoder: Path, settings: Settings, state: Path, out: Path) -> None:
    """Train one experiment and write it to the folder `out` as a pipeline, with `log.jsonl` and `training.json`.

    Args:
        shards: training shards (`shards/{shard}.tar`); the first stage is never run.
        autoencoder: folder of the first stage, which becomes part of the pipeline.
        state: folder of checkpoints while the training is under way.
    """
    accelerator = Accelerator(mixed_precision=settings.precision)
    neighbours = settings.smoothing_frames if settings.smoothing else 1
    clips = LatentClips(shards, neighbours if "audio" in settings.conditions else 1)

    # The same seed gives the same first weights and, below, the same batches, noise and timesteps.
    torch.manual_seed(settings.seed)
    unet, conditioner = build_models(settings, clips)
    scheduler = noise_schedule(settings.prediction)
    trained = nn.ModuleDict({"unet": unet, "conditioner": conditioner})
    groups = [
        {"params": list(unet.parameters()), "lr": settings.learning_rate},
        {"params": list(conditioner.parameters()), "lr": settings.learning_rate * settings.conditioner_rate},
    ]
    optimiser = torch.optim.AdamW(groups, weight_decay=settings.weight_decay)
    rate = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, settings))
    trained, optimiser = accelerator.prepare(trained, optimiser)
    ema = EMAModel(
        trained.parameters(), decay=settings.ema_decay, use_ema_warmup=True, power=0.75, foreach=True
    )

    # Continue where a killed run stopped, if it was of the same settings on the same data.
    start, origin = 0, made_of(settings, clips.extract(), __name__)
    log: list[dict[str, Any]] = []
    losses: list[float] = []
    if (checkpoint := load_newest(state, origin)) is not None:
        start = checkpoint["step"]
        accelerator.unwrap_model(trained).load_state_dict(checkpoint["models"])
        optimiser.load_state_dict(checkpoint["optimiser"])
        rate.load_state_dict(checkpoint["rate"])
        ema.load_state_dict(checkpoint["ema"])
        ema.to(accelerator.device)
        log, losses = checkpoint["log"], checkpoint["losses"]

    timed, since, waited = 0, time.monotonic(), 0.0
    with Progress(settings.steps - start, f"train {out.name}", "steps") as shown:
        for step in range(start, settings.steps):
            before = time.monotonic()
            distance = settings.reference_distance
            batch = training_batch(clips, settings.batch_size, step, settings.seed, distance).to(
                accelerator.device
            )
            waited += time.monotonic() - before

            with accelerator.autocast():
                loss = denoising_loss(trained, scheduler, batch, settings, step)
            if not torch.isfinite(loss):
                raise UserError(
                    f"train: the loss became {loss.item()} at step {step}; the newest checkpoint in {state} is from "
                    "before it. Lower training.learning_rate or use training.precision: no"
                )
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(trained.parameters(), settings.gradient_clip)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            rate.step()
            ema.step(trained.parameters())

            losses.append(loss.item())
            timed, done = timed + 1, step + 1
            if done % settings.log_every == 0 or done == settings.steps:
                seconds = time.monotonic() - since
                log.append(
                    {
                        "step": done,
                        "loss": sum(losses) / len(losses),
                        "learning_rate": rate.get_last_lr()[0],
                        "images_per_s": timed * settings.batch_size / seconds,
                        "data_wait": waited / seconds,
                    }
                )
                losses, timed, since, waited = [], 0, time.monotonic(), 0.0
            if done % settings.checkpoint_every == 0 or done == settings.steps:
                tensors = {"models": accelerator.unwrap_model(trained).state_dict(), "ema": ema.state_dict()}
                tensors |= {"optimiser": optimiser.state_dict(), "rate": rate.state_dict()}
                tensors |= {"log": log, "losses": losses}
                save_checkpoint(state, done, origin, tensors)
            shown.advance(note=f"loss {losses[-1]:.4f}" if losses else "")

    # What is kept is the average, of every net that was trained.
    ema.copy_to(trained.parameters())
    facts: dict[str, Any] = {
        "settings": asdict(settings),
        "clips": len(clips.clip_ids),
        "frames": len(clips),
        "parameters": {
            n: sum(p.numel() for p in m.parameters())
            for n, m in (("unet", unet), ("conditioner", conditioner))
        },
        "torch": torch.__version__.split("+")[0],
    }
    pipeline = DiffTalkPipeline(unet, conditioner, scheduler, settings.conditions)
    pipeline.save(out, autoencoder=autoencoder, facts=facts, log=log)
    shutil.rmtree(state, ignore_errors=True)


def build_models(settings: Settings, clips: LatentClips) -> tuple[UNet2DConditionModel, Conditioner]:
    """The two nets that are trained, sized for the experiment's conditions and for the clips' features."""
    uses = set(settings.conditions)
    neighbours = settings.smoothing_frames if settings.smoothing else 1
    try:
        conditioner = Conditioner("audio" in uses, "landmarks" in uses, clips.speech_features, neighbours)
    except ValueError as e:
        raise UserError(f"train: conditions {list(settings.conditions)}: {e}") from None
    spatial = ("masked" in uses) + ("reference" in uses)
    size = clips.latent_shape[1]
    unet = build_denoiser(
        settings.channels, settings.layers, settings.head_channels, conditioner.width, spatial, size
    )
    return unet, conditioner


def denoising_loss(
    models: nn.ModuleDict, scheduler: DDIMScheduler, batch: Examples, settings: Settings, step: int
) -> torch.Tensor:
    """Mean squared error of the predicted noise (or velocity) of one batch; a scalar.

    Noise and timesteps are a function of seed and step, so a resumed run draws the same.
    """
    device = batch.target.device
    generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
    noise = torch.randn(batch.target.shape, generator=generator).to(device)
    steps = scheduler.config.num_train_timesteps
    drawn = torch.rand(len(noise), generator=generator) ** (1 / settings.noise_power)
    timesteps = (drawn * steps).long().clamp(max=steps - 1).to(device)

    noisy = scheduler.add_noise(batch.target, noise, timesteps)
    context = models["conditioner"](batch.speech, batch.landmarks)
    inputs = stack_inputs(noisy, batch.masked, batch.reference, settings.conditions)
    predicted = models["unet"](inputs, timesteps, context).sample

    is_noise = settings.prediction == "epsilon"
    wanted = noise if is_noise else scheduler.get_velocity(batch.target, noise, timesteps)
    error = (predicted.float() - wanted).square()
    if settings.loss_region == "generated":
        counted = batch.generated.expand_as(error)
        return (error * counted).sum() / counted.sum().clamp(min=1)
    return error.mean()


def _rate(step: int, settings: Settings) -> float:
    """Learning rate as a fraction of its peak."""
    warm = min(1.0, (step + 1) / settings.warmup_steps) if settings.warmup_steps else 1.0
    return warm * (1 + (settings.final_rate - 1) * min(1.0, step / settings.steps))
