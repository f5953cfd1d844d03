"""Train the denoiser and its conditioning on the training shards: one experiment, on one device or many, hard to lose."""

import copy
import json
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, broadcast_object_list
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.training_utils import EMAModel
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from difftalk.models.autoencoder import decode_latents, load_autoencoder
from difftalk.models.conditioning import Conditioner
from difftalk.models.denoiser import build_denoiser, noise_schedule, stack_inputs, use_one_token_shortcut
from difftalk.runtime.errors import UserError
from difftalk.runtime.files import atomic_file
from difftalk.runtime.progress import Progress, say
from difftalk.sampling.pipeline import DiffTalkPipeline
from difftalk.training.checkpoint import (
    load_checkpoint,
    keep_finished,
    provenance,
    latest_valid,
    restore_finished,
    write_errors_explained,
    save_checkpoint,
)
from difftalk.training.data import (
    LatentClips,
    Steps,
    TrainingBatch,
    frames_of_batch,
    load_steps,
    training_batch,
)

Condition = Literal["audio", "landmarks", "masked", "reference"]
Auto = Literal["auto", True, False]

# A checkpoint is continued though these differ: they say how a training runs, and change its result by rounding at most.
MAY_CHANGE = frozenset(
    {"accumulation", "channels_last", "compile", "log_every", "checkpoint_every", "samples_every"}
    | {"accept_changed_code"}
)
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # both are SLURM's ways to say that time is nearly up
STRIP_FRAMES, STRIP_STEPS = 4, 50  # of a sample strip: frames, and DDIM steps of each
LONGEST_WAIT = timedelta(hours=1)  # of one process for another, which may be writing a checkpoint


@dataclass(frozen=True)
class Settings:
    """One experiment. The defaults are the paper's where it states them, at its published sizes."""

    conditions: tuple[Condition, ...] = ("audio", "landmarks", "masked", "reference")
    smoothing: bool = True  # audio smoothing by the temporal filter
    smoothing_frames: int = 8  # neighbours it sees
    channels: tuple[int, ...] = (256, 512, 768, 1024)  # of the UNet, from the highest resolution down
    layers: int = 2  # residual blocks per resolution
    head_channels: int = 32  # per attention head
    one_token_shortcut: bool = True  # cross-attention to one token as the bias that it is
    steps: int = 100_000
    batch_size: int = 64  # frames in a step, of all processes together
    accumulation: int = 1  # parts that each process cuts its share of a batch into, to save memory
    base_learning_rate: float = 1.0e-6  # LDM's rule: times batch_size
    learning_rate: float | None = None  # in place of that rule
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
    channels_last: Auto = "auto"  # layout of the UNet's pictures; auto: on a GPU
    compile: Auto = "auto"  # torch.compile; auto: on a GPU
    log_every: int = 50  # steps
    checkpoint_every: int = 500  # steps
    samples_every: int = 5000  # steps; 0: never
    accept_changed_code: bool = False  # continue a checkpoint that other code wrote
    seed: int = 1


def run(
    *,
    shards: list[Path],
    autoencoder: Path,
    settings: Settings,
    state: Path,
    out: Path,
    curves: Path | None = None,
    data_workers: int = 0,
) -> None:
    """Train one experiment and write it to the folder `out` as a pipeline, with `log.jsonl` and `training.json`.

    Every process of a distributed training calls this; the first alone writes and speaks.

    Args:
        shards: training shards (`shards/{shard}.tar`).
        autoencoder: folder of the first stage, which becomes part of the pipeline; it is run for sample strips alone.
        state: folder of checkpoints and `log.jsonl` while the training is under way.
        curves: folder for TensorBoard.
        data_workers: processes that prepare batches ahead; 0: none.

    Raises:
        UserError: if the batch cannot be shared out evenly, the checkpoint is of another training, there is no room to
            write, or the loss is not a number.
        SystemExit: with status 128 + the signal's number after SIGTERM or SIGUSR1, when the step under way is saved.
    """
    # Processes and device, as the launcher has set them up.
    on_gpu = torch.cuda.is_available()
    waits, buckets = (
        InitProcessGroupKwargs(timeout=LONGEST_WAIT),
        DistributedDataParallelKwargs(gradient_as_bucket_view=True),
    )
    accelerator = Accelerator(
        mixed_precision=settings.precision, cpu=not on_gpu, kwargs_handlers=[waits, buckets]
    )
    device, ranks, is_main = accelerator.device, accelerator.num_processes, accelerator.is_main_process
    if on_gpu:
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
    if settings.batch_size % (ranks * settings.accumulation):
        raise UserError(
            f"train: training.batch_size {settings.batch_size} is the frames of a step, of all processes together: it "
            f"has to be a multiple of {ranks} processes x training.accumulation {settings.accumulation}"
        )

    # Nothing to do, if it was done and whoever asked for it did not notice.
    clips = LatentClips(shards, _neighbours(settings) if "audio" in settings.conditions else 1)
    origin = provenance(settings, clips.extract(), __name__)
    found = broadcast_object_list([is_main and restore_finished(state, out, origin, MAY_CHANGE)])
    if found[0]:
        return

    # The same seed gives the same first weights and, below, the same batches, noise and timesteps.
    torch.manual_seed(settings.seed)
    unet, conditioner = build_models(settings, clips)
    channels_last = on_gpu if settings.channels_last == "auto" else settings.channels_last
    unet.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    model = Denoiser(unet, conditioner, settings.conditions).to(device)
    scheduler = noise_schedule(settings.prediction)
    groups = [
        {"params": list(unet.parameters()), "of_peak": 1.0},
        {"params": list(conditioner.parameters()), "of_peak": settings.conditioner_rate},
    ]
    optimiser = torch.optim.AdamW(groups, weight_decay=settings.weight_decay, fused=True)
    ema = EMAModel(
        model.parameters(), decay=settings.ema_decay, use_ema_warmup=True, power=0.75, foreach=True
    )

    # Continue where a killed run stopped, if it was of the same settings, data and code.
    start, log, losses, norms = 0, [], [], []
    found = broadcast_object_list([latest_valid(state) if is_main else None])
    saved: Path | None = found[0]
    if saved is not None:
        checkpoint = load_checkpoint(saved, origin, _may_change(settings), verbose=is_main)
        start, log = checkpoint["step"], checkpoint["log"]
        losses, norms = checkpoint["losses"], checkpoint["norms"]
        if start > settings.steps:
            raise UserError(
                f"train: {saved} is beyond training.steps {settings.steps}; delete {state} to start afresh"
            )
        model.load_state_dict(checkpoint["model"])
        # A copy, or else the optimiser would hold on to the file when it is long superseded.
        optimiser.load_state_dict(copy.deepcopy(checkpoint["optimiser"]))
        ema.load_state_dict(checkpoint["ema"])
        ema.to(device)
        del checkpoint

    # From here on `model` holds the weights, and `forward` is how to run it: on all processes, compiled.
    forward = distributed = accelerator.prepare(model)
    if on_gpu if settings.compile == "auto" else settings.compile:
        # Without a compiler on the machine, auto is as fast as can be without.
        torch._dynamo.config.suppress_errors = settings.compile == "auto"
        forward = torch.compile(distributed)

    schedule_steps = scheduler.config.num_train_timesteps
    steps = Steps(
        clips, settings.batch_size, settings.seed, settings.reference_distance, schedule_steps,
        settings.noise_power, accelerator.process_index, ranks,
    )  # fmt: skip
    batches = load_steps(steps, start, settings.steps, data_workers, pin=on_gpu)
    journal = Journal(state / "log.jsonl", curves, log) if is_main else None
    shown = Progress(settings.steps - start, f"train {out.name}", "steps") if is_main else None
    timed, since, waited = 0, time.monotonic(), 0.0

    with closing(batches), signals_noted() as asked:
        for step in range(start, settings.steps):
            before = time.monotonic()
            batch = next(batches).to(device)
            waited += time.monotonic() - before

            # The gradient of the mean over the whole batch, whatever the number of processes and parts: each adds its
            # sum over that mean's denominator, and what they have is averaged over the processes.
            cells = accelerator.reduce(counted_cells(batch, settings), "sum").clamp(min=1)
            loss = torch.zeros((), device=device)
            for number, part in enumerate(batch.split(settings.accumulation), start=1):
                is_last = number == settings.accumulation
                with nullcontext() if is_last else accelerator.no_sync(distributed):
                    part_loss = squared_error(forward, scheduler, part, settings) / (cells / ranks)
                    accelerator.backward(part_loss)
                loss += part_loss.detach()
            norm = accelerator.clip_grad_norm_(model.parameters(), settings.gradient_clip)
            for group in optimiser.param_groups:
                group["lr"] = group["of_peak"] * learning_rate(step, settings)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            ema.step(model.parameters())

            # All processes see the same loss, and know whether one of them was asked to stop.
            told = torch.stack([loss / ranks, torch.tensor(float(asked.signal > 0), device=device)])
            loss_now, stopping = accelerator.reduce(told, "sum").tolist()
            norm_now = float(norm)
            if not np.isfinite([loss_now, norm_now]).all():
                raise UserError(_not_a_number(step, loss_now, norm_now, clips, settings, saved, state))

            timed, done = timed + 1, step + 1
            losses.append(loss_now)
            norms.append(norm_now)
            if done % settings.log_every == 0 or done == settings.steps:
                seconds = time.monotonic() - since
                line = {
                    "step": done,
                    "loss": sum(losses) / len(losses),
                    "gradient_norm": sum(norms) / len(norms),
                    "learning_rate": learning_rate(step, settings),
                    "images_per_s": timed * settings.batch_size / seconds,
                    "data_wait": waited / seconds,
                }
                log.append(line)
                if journal is not None:
                    journal.write(line)
                losses, norms, timed, since, waited = [], [], 0, time.monotonic(), 0.0

            if is_main and (done % settings.checkpoint_every == 0 or done == settings.steps or stopping):
                tensors = {"model": model.state_dict(), "ema": ema.state_dict()}
                tensors |= {"optimiser": optimiser.state_dict()}
                tensors |= {"log": log, "losses": losses, "norms": norms}
                saved = save_checkpoint(state, done, origin, tensors)
            if stopping:
                accelerator.wait_for_everyone()
                accelerator.end_training()
                if is_main:
                    size = (state / f"step-{done:08d}.pt").stat().st_size / 1e9
                    name = signal.Signals(asked.signal or signal.SIGTERM).name
                    say(
                        f"train {out.name}: {name}: saved step {done} ({size:.2f} GB); the same command continues"
                    )
                raise SystemExit(128 + (asked.signal or signal.SIGTERM))

            if journal is not None and settings.samples_every and done % settings.samples_every == 0:
                with averaged(model, ema), accelerator.autocast():
                    strip = sample_strip(model, clips, autoencoder, settings, device)
                journal.show(strip, done)
            if shown is not None:
                shown.advance(note=f"loss {loss_now:.4f}")

    # What is kept is the average, of every net that was trained.
    if is_main:
        assert shown is not None and journal is not None
        shown.close()
        journal.close()
        ema.copy_to(model.parameters())
        unet.to(memory_format=torch.contiguous_format)
        facts: dict[str, Any] = {
            # results/{run}/models/{experiment}
            "run": out.absolute().parts[-3],
            "settings": asdict(settings),
            "clips": len(clips.clip_ids),
            "frames": len(clips),
            "shards": sorted(path.stem for path in shards),
            "shards_sha256": json.loads(origin)["data"],
            "parameters": {
                n: sum(p.numel() for p in m.parameters())
                for n, m in (("unet", unet), ("conditioner", conditioner))
            },
            "torch": torch.__version__.split("+")[0],
        }
        pipeline = DiffTalkPipeline(unet, conditioner, scheduler, settings.conditions)
        with write_errors_explained(out, f"the checkpoints in {state} are intact"):
            pipeline.save(out, autoencoder=autoencoder, facts=facts, log=log)
        keep_finished(state, out, origin)
    accelerator.wait_for_everyone()
    accelerator.end_training()


class Denoiser(nn.Module):
    """All that is trained, as one module: the encoders of the context, and the UNet that predicts noise or velocity."""

    def __init__(
        self, unet: UNet2DConditionModel, conditioner: Conditioner, conditions: tuple[str, ...]
    ) -> None:
        super().__init__()
        self.unet, self.conditioner, self.conditions = unet, conditioner, conditions

    def forward(
        self,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        masked: torch.Tensor,
        reference: torch.Tensor,
        speech: torch.Tensor,
        landmarks: torch.Tensor,
    ) -> torch.Tensor:
        """The prediction, of the shape of `noisy` (B, C, h, w); the rest as `difftalk.training.data.Examples` has it."""
        context = self.conditioner(speech, landmarks)
        inputs = stack_inputs(noisy, masked, reference, self.conditions)
        return self.unet(inputs, timesteps, context).sample


def build_models(settings: Settings, clips: LatentClips) -> tuple[UNet2DConditionModel, Conditioner]:
    """The two nets that are trained, sized for the experiment's conditions and for the clips' features."""
    uses = set(settings.conditions)
    try:
        conditioner = Conditioner(
            "audio" in uses, "landmarks" in uses, clips.speech_features, _neighbours(settings)
        )
    except ValueError as e:
        raise UserError(f"train: conditions {list(settings.conditions)}: {e}") from None
    spatial = ("masked" in uses) + ("reference" in uses)
    size = clips.latent_shape[1]
    unet = build_denoiser(
        settings.channels, settings.layers, settings.head_channels, conditioner.width, spatial, size
    )
    use_one_token_shortcut(unet, settings.one_token_shortcut)
    return unet, conditioner


def counted_cells(batch: TrainingBatch, settings: Settings) -> torch.Tensor:
    """How many numbers of the prediction the loss looks at, a scalar."""
    if settings.loss_region == "generated":
        return batch.examples.generated.sum() * batch.noise.shape[1]
    return torch.tensor(batch.noise.numel(), device=batch.noise.device)


def squared_error(
    model: nn.Module, scheduler: DDIMScheduler, batch: TrainingBatch, settings: Settings
) -> torch.Tensor:
    """Squared error of the predicted noise (or velocity), summed over the cells that count; a scalar.

    Args:
        model: a `Denoiser`, or what runs one.
    """
    examples = batch.examples
    noisy = scheduler.add_noise(examples.target, batch.noise, batch.timesteps)
    predicted = model(
        noisy, batch.timesteps, examples.masked, examples.reference, examples.speech, examples.landmarks
    )
    is_noise = settings.prediction == "epsilon"
    wanted = (
        batch.noise if is_noise else scheduler.get_velocity(examples.target, batch.noise, batch.timesteps)
    )
    error = (predicted.float() - wanted).square()
    return (error * examples.generated).sum() if settings.loss_region == "generated" else error.sum()


def learning_rate(step: int, settings: Settings) -> float:
    """Of the UNet at a step: LDM's rule or the number in its place, warmed up, then constant or falling linearly."""
    peak = settings.learning_rate
    if peak is None:
        peak = settings.base_learning_rate * settings.batch_size
    warm = min(1.0, (step + 1) / settings.warmup_steps) if settings.warmup_steps else 1.0
    return peak * warm * (1 + (settings.final_rate - 1) * min(1.0, step / settings.steps))


@dataclass
class Asked:
    """The signal that asked for the end, or 0."""

    signal: int = 0


@contextmanager
def signals_noted() -> Iterator[Asked]:
    """Inside, SIGTERM and SIGUSR1 end nothing: they are noted, for the loop to end when it can."""
    asked = Asked()

    def note(number: int, frame: object) -> None:
        asked.signal = number

    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass
class Journal:
    """What people follow a training by: a JSON line per log step, and TensorBoard with the same and sample strips.

    Attributes:
        path: `log.jsonl`, each line on disk as soon as it is there.
        curves: folder of TensorBoard; None: none.
        log: the lines of the steps so far. What a killed run wrote beyond them is taken back: it comes again.
    """

    path: Path
    curves: Path | None
    log: list[dict[str, Any]]
    board: SummaryWriter | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        with write_errors_explained(self.path, "nothing is lost"), atomic_file(self.path) as beside:
            beside.write_text("".join(json.dumps(line) + "\n" for line in self.log))
        if self.curves is not None:
            if not self.log:
                shutil.rmtree(self.curves, ignore_errors=True)
            last = self.log[-1]["step"] if self.log else 0
            self.board = SummaryWriter(self.curves, purge_step=last + 1)

    def write(self, line: dict[str, Any]) -> None:
        with write_errors_explained(self.path, "the newest checkpoint is intact"):
            with self.path.open("a") as lines:
                lines.write(json.dumps(line) + "\n")
            if self.board is not None:
                for name, value in line.items():
                    if name != "step":
                        self.board.add_scalar(f"train/{name}", value, line["step"])
                self.board.flush()

    def show(self, strip: np.ndarray, step: int) -> None:
        """`strip`: (H, W, 3) uint8."""
        if self.board is not None:
            with write_errors_explained(self.path.parent, "the newest checkpoint is intact"):
                self.board.add_image(
                    "target | masked | reference | generated", strip, step, dataformats="HWC"
                )
                self.board.flush()

    def close(self) -> None:
        if self.board is not None:
            self.board.close()


@contextmanager
def averaged(model: nn.Module, ema: EMAModel) -> Iterator[None]:
    """Inside, the model has the averaged weights."""
    ema.store(model.parameters())
    ema.copy_to(model.parameters())
    try:
        yield
    finally:
        ema.restore(model.parameters())


@torch.no_grad()
def sample_strip(
    model: Denoiser, clips: LatentClips, autoencoder: Path, settings: Settings, device: torch.device
) -> np.ndarray:
    """Target | masked | reference | generated of a few training frames, always the same ones: one picture (H, W, 3) uint8.

    The only place of the training that runs the first stage, which is loaded for it and let go again.
    """
    distance = settings.reference_distance
    examples = training_batch(clips, STRIP_FRAMES, 0, settings.seed + 1, distance).to(device)
    scheduler = noise_schedule(settings.prediction)
    pipeline = DiffTalkPipeline(model.unet, model.conditioner, scheduler, settings.conditions)
    inputs: dict[str, Any] = {k: v for k, v in vars(examples).items() if k != "target"}
    generated = pipeline.sample(
        known=examples.target,
        **inputs,
        steps=STRIP_STEPS,
        eta=0.0,
        generator=torch.Generator().manual_seed(settings.seed),
    )
    first_stage = load_autoencoder(autoencoder, device)
    shown = (examples.target, examples.masked, examples.reference, generated)
    columns = [np.concatenate(list(decode_latents(first_stage, latents))) for latents in shown]
    return np.concatenate(columns, axis=1)


def _neighbours(settings: Settings) -> int:
    return settings.smoothing_frames if settings.smoothing else 1


def _may_change(settings: Settings) -> set[str]:
    """What may differ from the checkpoint's. A constant rate does not depend on the length of the run."""
    longer = {"steps"} if settings.final_rate == 1.0 else set()
    return {*MAY_CHANGE, *longer} | ({"code"} if settings.accept_changed_code else set())


def _not_a_number(
    step: int,
    loss: float,
    norm: float,
    clips: LatentClips,
    settings: Settings,
    saved: Path | None,
    state: Path,
) -> str:
    """For a person who wants to look at the data, and to go on."""
    frames = sorted(frames_of_batch(clips, settings.batch_size, step, settings.seed))
    batch = "; ".join(
        f"{clips.clip_ids[clip]} {', '.join(str(frame) for _, frame in of_clip)}"
        for clip, of_clip in groupby(frames, key=lambda pair: pair[0])
    )
    what = f"loss became {loss}" if not np.isfinite(loss) else f"norm of the gradient became {norm}"
    return (
        f"train: the {what} at step {step}, on these clips and frames: {batch}. The last good checkpoint is "
        f"{saved or f'none: {state} is empty'}. Look for bad data there, lower training.learning_rate or use "
        "training.precision: no"
    )
