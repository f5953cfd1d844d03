"""Sample clips: which frames are sampled together, and which reference each of them has."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

import torch

from difftalk.sampling.frame_sampler import FrameSampler
from difftalk.sampling.inputs import FrameInputs


class Clip(Protocol):
    """A clip whose frames can be sampled in any order."""

    clip_id: str

    def inputs(self, numbers: Sequence[int]) -> FrameInputs:
        """Return the inputs of some frames."""


@dataclass
class ClipJob:
    """One clip to sample.

    Attributes:
        clip: the clip.
        numbers: its frames to sample, in order.
        reference: (C, h, w) latents of the frame that shows the identity.
        done: latents (C, h, w) of the first of `numbers`, as an earlier run left them.
    """

    clip: Clip
    numbers: Sequence[int]
    reference: torch.Tensor
    done: list[torch.Tensor] = field(default_factory=list)
    _told: int = 0

    @property
    def is_complete(self) -> bool:
        """Whether every frame is sampled."""
        return len(self.done) == len(self.numbers)

    def take_news(self) -> int:
        """Return how many frames were done since the last call."""
        news, self._told = len(self.done) - self._told, len(self.done)
        return news

    def latents(self) -> torch.Tensor:
        """Return what is sampled so far, (n, C, h, w)."""
        return torch.stack(self.done)


class ClipSampler:
    """Samples the frames of one clip in order, part by part; its memory does not grow with the clip.

    Args:
        sampler: of the model.
        clip_id: names the clip's noise.
        reference: (C, h, w) latents of the frame that shows the identity.
        previous: latents (C, h, w) of the generated frame before the next, where it goes on in the middle.
    """

    def __init__(
        self,
        sampler: FrameSampler,
        clip_id: str,
        reference: torch.Tensor,
        previous: torch.Tensor | None = None,
    ) -> None:
        self.sampler, self.clip_id, self.reference, self.previous = sampler, clip_id, reference, previous

    def sample(
        self, inputs: FrameInputs, numbers: Sequence[int], noise: Sequence[int] | None = None
    ) -> torch.Tensor:
        """Sample the next frames of the clip: latents (T, C, h, w) float32 on the CPU.

        Args:
            inputs: of the T frames.
            numbers: of them in the clip, rising, and above those of the calls before.
            noise: the frames whose noise they have; None: their own.
        """
        settings, sampled = self.sampler.settings, []
        streams = [(self.clip_id, number) for number in noise or numbers]
        if settings.progressive == "none":
            shown = self.reference.expand(len(numbers), -1, -1, -1)
            latents = self.sampler.sample(inputs, shown, streams)
            self.previous = latents[-1]
            return latents
        for place, number in enumerate(numbers):
            shown = next_reference(self.sampler, [self.reference], [self.previous], [number])
            self.previous = self.sampler.sample(inputs.take([place]), shown, [streams[place]])[0]
            sampled.append(self.previous)
        return torch.stack(sampled)


def sample_clips(sampler: FrameSampler, jobs: Iterable[ClipJob]) -> Iterator[ClipJob]:
    """Sample clips; each job is yielded whenever more of its frames are done, the last time complete.

    With one reference a clip, frames of all clips are taken in order and `batch_size` of them sampled at
    once. With the progressive reference the frames of a clip come one after the other: `batch_size` clips
    advance in lock-step, and one that ends makes room for the next.

    Args:
        sampler: of the model.
        jobs: asked for one by one.
    """
    run = _in_order if sampler.settings.progressive == "none" else _in_lock_step
    yield from run(sampler, iter(jobs))


def next_reference(
    sampler: FrameSampler,
    firsts: Sequence[torch.Tensor],
    previous: Sequence[torch.Tensor | None],
    numbers: Sequence[int],
) -> torch.Tensor:
    """Return the reference (B, C, h, w) of the next frame of B clips (Sec. 3.4 of DiffTalk).

    Args:
        sampler: of the model; `progressive`, `anchor` and `anchor_every` of its settings are read.
        firsts: (C, h, w) reference of the first frame of each.
        previous: (C, h, w) generated latents of the frame before, None before the first.
        numbers: of the frames in their clips.
    """
    settings, chosen = sampler.settings, []
    stride = 2 if settings.interpolation == "between" else 1  # between the frames that are sampled
    for first, before, number in zip(firsts, previous, numbers, strict=True):
        anchored = settings.anchor == "every" and number % settings.anchor_every < stride
        chosen.append(first if before is None or anchored else before)
    if settings.progressive == "pixels":
        generated = [i for i, latents in enumerate(chosen) if latents is not firsts[i]]
        if generated:
            seen = sampler.through_pixels(torch.stack([chosen[i] for i in generated]))
            for i, latents in zip(generated, seen, strict=True):
                chosen[i] = latents
    references = torch.stack(chosen)
    return (references + torch.stack(list(firsts))) / 2 if settings.anchor == "mean" else references


def _in_order(sampler: FrameSampler, jobs: Iterator[ClipJob]) -> Iterator[ClipJob]:
    left: list[tuple[ClipJob, int]] = []
    exhausted = False
    while not exhausted or left:
        while len(left) < sampler.settings.batch_size and not exhausted:
            job = next(jobs, None)
            exhausted = job is None
            if job is not None and job.is_complete:
                yield job
            elif job is not None:
                left += [(job, number) for number in job.numbers[len(job.done) :]]
        batch, left = left[: sampler.settings.batch_size], left[sampler.settings.batch_size :]
        if not batch:
            continue
        by_job: dict[str, tuple[ClipJob, list[int]]] = {}
        for job, number in batch:
            by_job.setdefault(job.clip.clip_id, (job, []))[1].append(number)
        latents = sampler.sample(
            FrameInputs.join([job.clip.inputs(numbers) for job, numbers in by_job.values()]),
            torch.stack([job.reference for job, _ in batch]),
            [(job.clip.clip_id, number) for job, number in batch],
        )
        sampled = iter(latents)
        for job, numbers in by_job.values():
            job.done += islice(sampled, len(numbers))
            yield job


def _in_lock_step(sampler: FrameSampler, jobs: Iterator[ClipJob]) -> Iterator[ClipJob]:
    active: list[ClipJob] = []
    while active := [*active, *islice(jobs, sampler.settings.batch_size - len(active))]:
        yield from (job for job in active if job.is_complete)  # by an earlier run
        active = [job for job in active if not job.is_complete]
        if not active:
            continue
        numbers = [job.numbers[len(job.done)] for job in active]
        references = next_reference(
            sampler,
            [job.reference for job in active],
            [job.done[-1] if job.done else None for job in active],
            numbers,
        )
        inputs = FrameInputs.join([job.clip.inputs([n]) for job, n in zip(active, numbers, strict=True)])
        frames = [(job.clip.clip_id, number) for job, number in zip(active, numbers, strict=True)]
        for job, latents in zip(active, sampler.sample(inputs, references, frames), strict=True):
            job.done.append(latents)
        yield from active
        active = [job for job in active if not job.is_complete]
