"""Batches of training examples: batch k, noise included, is a function of seed and k alone.

So the position to resume from is the number of the step, and it takes no state to show every frame once an
epoch. Each process of a training takes its slice of the same batch, whichever worker prepares it.
"""

import signal
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from difftalk.models.examples import Examples, LatentClips
from difftalk.training.signals import STOP_SIGNALS


def batch_indices(length: int, batch_size: int, step: int, seed: int) -> np.ndarray:
    """Return the frames of batch `step`, as numbers below `length`.

    Each epoch is a new permutation of all frames, cut into batches without a remainder. An epoch ends inside
    a batch where the sizes do not divide; the next one fills it up. So every frame is seen exactly once an
    epoch, and the position to resume from is the step number.
    """
    first = step * batch_size
    picked = np.empty(batch_size, np.int64)
    for epoch in range(first // length, (first + batch_size - 1) // length + 1):
        order = _epoch_order(length, epoch, seed)
        a, b = max(first, epoch * length), min(first + batch_size, (epoch + 1) * length)
        picked[a - first : b - first] = order[a - epoch * length : b - epoch * length]
    return picked


@lru_cache(maxsize=2)
def _epoch_order(length: int, epoch: int, seed: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(length)


def draw_reference(rng: np.random.Generator, frame: int, frames: int, distance: int) -> int:
    """Draw a frame at least `distance` away from `frame`; in too short a clip, the farthest end."""
    before, after = max(0, frame - distance + 1), max(0, frames - frame - distance)
    if before + after == 0:
        return 0 if frame >= frames - 1 - frame else frames - 1
    pick = int(rng.integers(before + after))
    return pick if pick < before else frame + distance + pick - before


def frames_of_batch(clips: LatentClips, batch_size: int, step: int, seed: int) -> list[tuple[int, int]]:
    """Return clip number and frame of each example of batch `step`."""
    return [clips.locate(int(i)) for i in batch_indices(len(clips), batch_size, step, seed)]


def training_batch(
    clips: LatentClips,
    batch_size: int,
    step: int,
    seed: int,
    reference_distance: int,
    part: slice = slice(None),
) -> Examples:
    """Gather batch `step`, or a part of it; its references are drawn again each time."""
    frames = frames_of_batch(clips, batch_size, step, seed)
    rng = np.random.default_rng((seed, step, 1))
    references = [
        draw_reference(rng, f, len(clips.clips[c]["latents"]), reference_distance) for c, f in frames
    ]
    return clips.examples(frames[part], references[part])


@dataclass
class TrainingBatch:
    """One process's part of a step.

    Attributes:
        examples: B examples.
        noise: (B, C, h, w) of unit variance.
        timesteps: (B,) int64 in 0..schedule_steps - 1.
    """

    examples: Examples
    noise: torch.Tensor
    timesteps: torch.Tensor

    def to(self, device: torch.device | str) -> "TrainingBatch":
        """Copy to `device`."""
        noise, timesteps = (x.to(device, non_blocking=True) for x in (self.noise, self.timesteps))
        return TrainingBatch(self.examples.to(device), noise, timesteps)

    def pin_memory(self) -> "TrainingBatch":
        """Copy to page-locked memory; the loader calls this."""
        return TrainingBatch(self.examples.pin_memory(), self.noise.pin_memory(), self.timesteps.pin_memory())

    def split(self, parts: int) -> Iterator["TrainingBatch"]:
        """Yield equal parts, in order."""
        size = len(self.noise) // parts
        for first in range(0, len(self.noise), size):
            part = slice(first, first + size)
            examples = Examples(**{k: v[part] for k, v in vars(self.examples).items()})
            yield TrainingBatch(examples, self.noise[part], self.timesteps[part])


@dataclass(frozen=True)
class Steps(Dataset[TrainingBatch]):
    """Batches by number: `steps[k]` is the part of process `rank` of `ranks` in step k.

    Attributes:
        batch_size: frames in a step, of all ranks together; a multiple of `ranks`.
        schedule_steps: noise levels.
        noise_power: > 1 draws more of the high noise levels.
    """

    clips: LatentClips
    batch_size: int
    seed: int
    reference_distance: int
    schedule_steps: int
    noise_power: float = 1.0
    rank: int = 0
    ranks: int = 1

    def __getitem__(self, step: int) -> TrainingBatch:
        size = self.batch_size // self.ranks
        part = slice(self.rank * size, (self.rank + 1) * size)
        examples = training_batch(self.clips, self.batch_size, step, self.seed, self.reference_distance, part)
        # For the whole batch, then cut: the same noise meets the same frame however many processes there are.
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        noise = torch.randn((self.batch_size, *self.clips.latent_shape), generator=generator)
        drawn = torch.rand(self.batch_size, generator=generator) ** (1 / self.noise_power)
        timesteps = (drawn * self.schedule_steps).long().clamp(max=self.schedule_steps - 1)
        return TrainingBatch(examples, noise[part], timesteps[part])


def load_steps(
    steps: Steps, first: int, end: int, workers: int, *, pin: bool
) -> Generator[TrainingBatch, None, None]:
    """Return `steps[first]` to `steps[end - 1]` in order, prepared ahead by worker processes.

    The processes are forked in this call. Whoever stops before the end closes the generator: that ends them.

    Args:
        steps: what to do in each step.
        first: step to begin with.
        end: step before which to stop.
        workers: processes; 0 prepares each batch here, when it is asked for.
        pin: load into page-locked memory, from which a GPU copies while it computes.
    """
    if workers == 0:
        return _prepared_here(steps, range(first, end))
    loader = DataLoader(
        steps,
        batch_size=None,
        sampler=range(first, end),
        num_workers=workers,
        pin_memory=pin,
        worker_init_fn=_ignore_signals,
    )
    prepared = _prepared_ahead(loader)
    next(prepared)  # up to where the processes are there
    return prepared  # type: ignore[return-value]


def _prepared_here(steps: Steps, numbers: range) -> Generator[TrainingBatch, None, None]:
    yield from (steps[step] for step in numbers)


def _prepared_ahead(loader: DataLoader[TrainingBatch]) -> Generator[TrainingBatch | None, None, None]:
    """Start the processes, yield None, and then the batches."""
    batches = iter(loader)
    try:
        yield None
        yield from batches
    except (ConnectionError, EOFError):
        time.sleep(1)  # a worker was killed: the loader's handler of SIGCHLD raises what says so
        raise
    finally:
        # Now, and not when Python exits: it would send them a signal that they ignore, and wait for ever.
        del batches


def _ignore_signals(worker: int) -> None:
    """Ignore what SLURM and terminals send to every process: the parent decides when its workers end."""
    for number in (*STOP_SIGNALS, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
