"""The training of the denoiser, on one device or many: set up, resume, loop, finish."""

import copy
import json
import signal
from collections.abc import Callable, Iterable
from contextlib import ExitStack, closing, nullcontext
from datetime import timedelta
from itertools import groupby
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, broadcast_object_list
from diffusers import DDIMScheduler

from difftalk.config.training import TrainingSettings
from difftalk.models.autoencoder import load_autoencoder
from difftalk.models.denoiser import Denoiser, build_denoiser, noise_schedule
from difftalk.models.examples import LatentClips
from difftalk.runtime.device import PRECISIONS, compiles, default_device, tell
from difftalk.runtime.errors import UserError
from difftalk.runtime.owner import owned
from difftalk.runtime.progress import Progress
from difftalk.training import launcher
from difftalk.training.checkpoint import (
    keep_finished,
    latest_valid,
    load_checkpoint,
    provenance,
    restore_finished,
    save_checkpoint,
    step_of,
)
from difftalk.training.data import Steps, TrainingBatch, frames_of_batch, load_steps
from difftalk.training.journal import Journal, sample_strip
from difftalk.training.loss import counted_cells, squared_error
from difftalk.training.meters import Meters
from difftalk.training.optimiser import (
    averaged_weights,
    build_ema,
    build_optimiser,
    learning_rate,
    set_learning_rate,
)
from difftalk.training.readings import Readings
from difftalk.training.signals import deferred_signals, end_after
from difftalk.training.warm_start import start_denoiser

# May differ from the checkpoint's: these say how a training runs, and change its result by rounding at most.
MAY_CHANGE = frozenset(
    {"gradient_accumulation_steps", "channels_last", "compile"}
    | {"log_every", "checkpoint_every", "samples_every", "accept_changed_code"}
    | {"from"}  # where the model lies that it started from: what is in it counts
)
PROCESS_GROUP_TIMEOUT = timedelta(hours=1)  # one process may be writing a checkpoint while the others wait


def train_denoiser(
    clips: LatentClips,
    autoencoder: Path,
    settings: TrainingSettings,
    state: Path,
    out: Path,
    curves: Path | None = None,
    data_workers: int = 0,
) -> None:
    """Train one experiment, from the latest checkpoint in `state` on, and write it to `out`.

    Every process of a distributed training calls this; the first alone writes files and prints. Arguments,
    files and errors are those of the stage `train`.
    """
    with ExitStack() as workers:
        if not launcher.rank():  # the first of several processes, or the only one
            workers.enter_context(owned(state, f"train {out.name}"))
        _train(clips, autoencoder, settings, state, out, curves, data_workers, workers)


def _train(
    clips: LatentClips,
    autoencoder: Path,
    settings: TrainingSettings,
    state: Path,
    out: Path,
    curves: Path | None,
    data_workers: int,
    workers: ExitStack,
) -> None:
    """Do what `train_denoiser` says; however it ends, `workers` are ended after it."""
    # Set up: processes and device, as the launcher started them.
    on_gpu = default_device() == "cuda"
    accelerator = _accelerator(settings, on_gpu)
    device, ranks, is_main = accelerator.device, accelerator.num_processes, accelerator.is_main_process
    compiled, said_of_it = compiles(settings.compile, device, "training.compile")
    if is_main:
        of_all = (f"{ranks} processes",) if ranks > 1 else ()
        tell(f"train {out.name}", device, PRECISIONS[settings.precision], said_of_it, *of_all)

    # Nothing to do where the training was finished, and whoever asked for it did not notice.
    base = None if settings.base is None else Path(settings.base)
    run_provenance = provenance(settings, clips.extract(), __name__, base)
    restored = broadcast_object_list([is_main and restore_finished(state, out, run_provenance, MAY_CHANGE)])
    if restored[0]:
        return

    # The finished model has the first stage in it: one that does not load is told before the training.
    if is_main:
        _check_first_stage(autoencoder, clips)

    # Batches from the step reached on. Their workers are forked while there are no networks: of what the
    # optimiser changes, they would keep the old, which at the paper's size on a CPU is 4.2 GB.
    latest: Path | None = broadcast_object_list([latest_valid(state) if is_main else None])[0]
    start = 0 if latest is None else step_of(latest)
    scheduler = noise_schedule(settings.prediction_type)
    steps = Steps(
        clips, settings.batch_size, settings.seed, settings.reference_distance,
        scheduler.config.num_train_timesteps, settings.noise_power, accelerator.process_index, ranks,
    )  # fmt: skip
    batches = workers.enter_context(
        closing(load_steps(steps, start, settings.steps, data_workers, pin=on_gpu))
    )

    # Networks, optimiser and moving average. The same seed gives the same initial weights and, below, the
    # same batches, noise and timesteps.
    torch.manual_seed(settings.seed)
    model = build_denoiser(settings, clips)
    if base is not None:
        start_denoiser(model, settings, base, autoencoder, verbose=is_main)
    channels_last = on_gpu if settings.channels_last == "auto" else settings.channels_last
    model.unet.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    model.to(device)
    optimiser, ema = build_optimiser(model, settings), build_ema(model, settings)

    # Resume where a killed run stopped, if it was of the same settings, data and code.
    log, meters_state = [], {}
    if latest is not None:
        checkpoint = load_checkpoint(latest, run_provenance, _may_change(settings), verbose=is_main)
        log, meters_state = checkpoint["log"], checkpoint["meters"]
        if start > settings.steps:
            raise UserError(
                f"train: {latest} is beyond training.steps {settings.steps}; delete {state} to start afresh"
            )
        model.load_state_dict(checkpoint["model"])
        # A copy, as the optimiser keeps the tensors, and would keep the mapped file long after it is deleted.
        optimiser.load_state_dict(copy.deepcopy(checkpoint["optimiser"]))
        ema.load_state_dict(checkpoint["ema"])
        ema.to(device)
        del checkpoint

    # From here on `model` holds the weights, and `forward` runs it: on all processes, compiled.
    forward = distributed = accelerator.prepare(model)
    if compiled:
        # `auto` falls back to uncompiled code where the compiler fails.
        torch._dynamo.config.suppress_errors = settings.compile == "auto"
        forward = torch.compile(distributed)

    # What people follow the training by.
    journal = Journal(state / "log.jsonl", curves, log) if is_main else None
    progress = Progress(settings.steps - start, f"train {out.name}", "steps") if is_main else None
    meters, readings, note = Meters(**meters_state), Readings(), ""

    def account(read: Iterable[tuple[int, list[float]]], meters: Meters) -> bool:
        """Count the steps that were read, and return whether a process was asked to stop in one of them."""
        stopping = False
        for step, (loss, asked, norm) in read:
            meters.add(loss, norm)
            if not np.isfinite([loss, norm]).all():
                raise UserError(_diverged(step, loss, norm, clips, settings, latest, state))
            stopping = stopping or asked > 0
        return stopping

    with deferred_signals() as stop:
        for step in range(start, settings.steps):
            with meters.data_wait():
                batch = next(batches).to(device)

            # One step of the optimiser, on the gradient of the mean over the whole batch.
            loss = _accumulate_gradients(accelerator, distributed, forward, scheduler, batch, settings)
            norm = accelerator.clip_grad_norm_(model.parameters(), settings.gradient_clip)
            set_learning_rate(optimiser, learning_rate(step, settings))
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            ema.step(model.parameters())

            # All processes learn the same loss, and whether one of them was asked to stop. On a GPU that is
            # read when the next step is launched; before anything is written, at once.
            asked = torch.full((), float(stop.signal > 0), device=device)
            shared = accelerator.reduce(torch.stack([loss / ranks, asked]), "sum")
            readings.put(step, torch.cat([shared, norm.reshape(1)]))
            done, ends = step + 1, step + 1 == settings.steps
            logs = ends or done % settings.log_every == 0
            saves = ends or done % settings.checkpoint_every == 0
            # In the same step on all processes: each stops where it reads that one was asked to.
            stopping = account(readings.take(everything=logs or saves or not on_gpu), meters)
            if stopping:
                account(readings.take(everything=True), meters)
            note = f"loss {meters.losses[-1]:.4f}" if meters.losses else note

            # Log, checkpoint, sample strip. Nothing below changes the weights.
            if logs:
                if journal is not None:
                    journal.write(meters.line(done, learning_rate(step, settings), settings.batch_size))
                meters = Meters()
            if is_main and (saves or stopping):
                tensors = {"model": model.state_dict(), "ema": ema.state_dict()}
                tensors |= {"optimiser": optimiser.state_dict(), "log": log, "meters": meters.state()}
                latest = save_checkpoint(state, done, run_provenance, tensors)
            if stopping:
                _stop(accelerator, stop.signal or signal.SIGTERM, done, latest, out)
            if journal is not None and journal.wants_strip(done, settings.samples_every):
                with averaged_weights(model, ema), accelerator.autocast():
                    strip = sample_strip(model, clips, autoencoder, settings, device)
                journal.show(strip, done)
            if progress is not None:
                progress.advance(note=note)

    # Finish: what is kept is the moving average, of every network that was trained.
    if progress is not None and journal is not None:
        progress.close()
        journal.close()
        ema.copy_to(model.parameters())
        _save_pipeline(model, scheduler, clips, autoencoder, settings, run_provenance, log, out)
        keep_finished(state, out, run_provenance)
    accelerator.wait_for_everyone()
    accelerator.end_training()


def _check_first_stage(autoencoder: Path, clips: LatentClips) -> None:
    """Check that the first stage loads, and has latents of as many channels as the shards."""
    channels = load_autoencoder(autoencoder).config.latent_channels
    if channels != clips.latent_shape[0]:
        raise UserError(
            f"train: the latents of the shards have {clips.latent_shape[0]} channels, those of {autoencoder} "
            f"{channels}: the shards were encoded by another first stage"
        )


def _accelerator(settings: TrainingSettings, on_gpu: bool) -> Accelerator:
    """Join the other processes, if there are any, and choose device and precision."""
    waits = InitProcessGroupKwargs(timeout=PROCESS_GROUP_TIMEOUT)
    # Compiled, the backward pass is cut into a graph a bucket: at the paper size some 85 of the usual 25 MB.
    bucket_mb = 250 if on_gpu else 25
    buckets = DistributedDataParallelKwargs(gradient_as_bucket_view=True, bucket_cap_mb=bucket_mb)
    accelerator = Accelerator(
        mixed_precision=settings.precision, cpu=not on_gpu, kwargs_handlers=[waits, buckets]
    )
    if on_gpu:
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
    ranks, parts = accelerator.num_processes, settings.gradient_accumulation_steps
    if settings.batch_size % (ranks * parts):
        raise UserError(
            f"train: training.batch_size {settings.batch_size} is the frames of a step, of all processes "
            f"together: it has to be a multiple of {ranks} processes x "
            f"training.gradient_accumulation_steps {parts}"
        )
    return accelerator


def _accumulate_gradients(
    accelerator: Accelerator,
    distributed: torch.nn.Module,
    forward: Callable[..., torch.Tensor],
    scheduler: DDIMScheduler,
    batch: TrainingBatch,
    settings: TrainingSettings,
) -> torch.Tensor:
    """Compute the gradient of the mean loss over the batch of all processes, part by part.

    It depends on the number of processes and parts by rounding only. Each process divides its sum of squared
    errors by that mean's denominator, and the gradients of all are averaged.

    Returns:
        This process's share of the loss, a scalar: the mean of them over the processes is the loss.
    """
    ranks, parts = accelerator.num_processes, settings.gradient_accumulation_steps
    cells = accelerator.reduce(counted_cells(batch, settings), "sum").clamp(min=1)
    loss = torch.zeros((), device=accelerator.device)
    for number, part in enumerate(batch.split(parts), start=1):
        with nullcontext() if number == parts else accelerator.no_sync(distributed):
            part_loss = squared_error(forward, scheduler, part, settings) / (cells / ranks)
            accelerator.backward(part_loss)
        loss += part_loss.detach()
    return loss


def _stop(accelerator: Accelerator, number: int, step: int, saved: Path | None, out: Path) -> NoReturn:
    """End all processes together after a signal; the first has written the checkpoint `saved`."""
    accelerator.wait_for_everyone()
    accelerator.end_training()
    end_after(number, f"train {out.name}", step, saved if accelerator.is_main_process else None)


def _save_pipeline(
    model: Denoiser,
    scheduler: DDIMScheduler,
    clips: LatentClips,
    autoencoder: Path,
    settings: TrainingSettings,
    run_provenance: str,
    log: list[dict[str, Any]],
    out: Path,
) -> None:
    """Write the trained model to the folder `out`, with the facts of its training."""
    from difftalk.sampling.pipeline import DiffTalkPipeline

    model.unet.to(memory_format=torch.contiguous_format)
    networks = {"unet": model.unet, "conditioner": model.conditioner}
    made_from = json.loads(run_provenance)
    facts: dict[str, Any] = {
        # results/{run}/models/{experiment}
        "run": out.absolute().parts[-3],
        "settings": settings.as_dict(),
        "clips": len(clips.clip_ids),
        "frames": len(clips),
        "shards": sorted(path.stem for path in clips.shards),
        **clips.crop_facts(),
        "shards_sha256": made_from["data"],
        "parameters": {n: sum(p.numel() for p in net.parameters()) for n, net in networks.items()},
        "torch": torch.__version__.split("+")[0],
        **({"from_sha256": made_from["base"]} if "base" in made_from else {}),
    }
    pipeline = DiffTalkPipeline(
        model.unet, model.conditioner, scheduler, settings.conditions, known_region=settings.known_region
    )
    pipeline.save(out, autoencoder=autoencoder, facts=facts, log=log)


def _may_change(settings: TrainingSettings) -> set[str]:
    """Return the keys that may differ from the checkpoint's."""
    # A constant learning rate does not depend on the length of the run.
    longer = {"steps"} if settings.final_lr_fraction == 1.0 else set()
    return {*MAY_CHANGE, *longer} | ({"code"} if settings.accept_changed_code else set())


def _diverged(
    step: int,
    loss: float,
    norm: float,
    clips: LatentClips,
    settings: TrainingSettings,
    latest: Path | None,
    state: Path,
) -> str:
    """Say which frames gave a loss or gradient that is not finite, and which checkpoint is good."""
    frames = sorted(frames_of_batch(clips, settings.batch_size, step, settings.seed))
    batch = "; ".join(
        f"{clips.clip_ids[clip]} {', '.join(str(frame) for _, frame in of_clip)}"
        for clip, of_clip in groupby(frames, key=lambda pair: pair[0])
    )
    what = f"loss became {loss}" if not np.isfinite(loss) else f"norm of the gradient became {norm}"
    return (
        f"train: the {what} at step {step}, on these clips and frames: {batch}. The last good checkpoint is "
        f"{latest or f'none: {state} is empty'}. Look for bad data there, lower training.learning_rate "
        "or use training.precision: no"
    )
