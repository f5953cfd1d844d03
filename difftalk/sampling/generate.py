"""Generate the lower face of the clips of a shard by a trained model."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from difftalk.config.sampling import Sampling
from difftalk.media.shards import Crop
from difftalk.models.autoencoder import encode_frames, load_autoencoder
from difftalk.models.examples import LatentClips
from difftalk.runtime.device import default_device
from difftalk.runtime.errors import ClipError
from difftalk.runtime.parallel import guarded
from difftalk.runtime.progress import Progress, say
from difftalk.sampling.clip_sampler import ClipJob, sample_clips
from difftalk.sampling.frame_sampler import FrameSampler, tell_sampling
from difftalk.sampling.inputs import ShardClip, encode_masked
from difftalk.sampling.interpolation import between, sampled_frames, smooth
from difftalk.sampling.made import Made
from difftalk.sampling.pipeline import DiffTalkPipeline
from difftalk.sampling.references import TrainingReferences, reference_frame
from difftalk.sampling.timing import Took, duration
from difftalk.sampling.unfinished import Unfinished


def load_sampler(stage: str, autoencoder: Path, model: Path, settings: Sampling) -> FrameSampler:
    """Load a model with its first stage, and say on which device and how it samples."""
    device = default_device()
    tell_sampling(stage, settings, device)
    pipeline = DiffTalkPipeline.from_pretrained(model, device, vqvae=None)
    pipeline.register_modules(vqvae=load_autoencoder(autoencoder, pipeline.device))
    return FrameSampler(pipeline, settings)


class Generator:
    """A model on the clips of a shard.

    Args:
        sampler: of the model.
        shard_file: shards/SHARD.tar.
        training: the references, where they come from the training split.
        limits: how many frames at the beginning of clips are made; None, or no entry: all.
        speech: of each clip, (2 T, features) of the sound that drives it in place of its own.
    """

    def __init__(
        self,
        sampler: FrameSampler,
        shard_file: Path,
        training: TrainingReferences | None,
        limits: Mapping[str, int | None],
        speech: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        self._sampler, self._training, self._limits = sampler, training, limits
        self._clips = LatentClips([shard_file], sampler.pipeline.conditioner.neighbours)
        self._speech = speech or {}

    def generate(
        self, wanted: Collection[str], crops: Iterable[Crop], stage: str, unfinished: Unfinished | None = None
    ) -> Iterator[Made]:
        """Yield each clip when it is done; those that fail come last.

        Args:
            wanted: ids of the clips.
            crops: these clips.
            stage: for what is said of progress.
            unfinished: keeps what is sampled of clips that are not done, and what those took that are.
        """
        sampler = self._sampler
        begun: dict[str, Crop] = {}
        failed: list[Made] = []

        def jobs() -> Iterator[ClipJob]:
            for crop in crops:
                job = guarded(self._job, crop, crop.clip_id)
                if isinstance(job, ClipError):
                    failed.append((crop, job))
                    continue
                job.done += unfinished.load(job) if unfinished is not None else []
                begun[crop.clip_id] = crop
                yield job

        frames = sum(len(self._numbers(self._count(clip_id))) for clip_id in wanted)
        told = False
        with Progress(frames, stage, "frames") as shown:
            for job in sample_clips(sampler, jobs()):
                shown.advance(job.take_news())
                if not told and sampler.sampled:
                    told = True
                    rate = sampler.sampled / max(sampler.seconds, 1e-9)
                    steps = sampler.settings.steps
                    say(
                        f"{stage}: {frames:,} frames x {steps} steps; at {rate:.1f} frames/s: "
                        f"{duration((frames - shown.done) / rate)} left"
                    )
                if job.is_complete:
                    crop = begun.pop(job.clip.clip_id)
                    made = guarded(self._frames, job, crop.clip_id)
                    if unfinished is not None and not isinstance(made, ClipError) and sampler.sampled:
                        took = len(job.numbers) * sampler.seconds / sampler.sampled
                        unfinished.keep_time(crop.clip_id, Took(took, len(made), sampler.settings.steps))
                    yield crop, made
                elif unfinished is not None:
                    unfinished.keep(job)
        yield from failed

    def _arrays(self, clip_id: str) -> dict[str, np.ndarray]:
        return self._clips.clips[self._clips.clip_ids.index(clip_id)]

    def _count(self, clip_id: str) -> int:
        return len(self._arrays(clip_id)["latents"][: self._limits.get(clip_id)])

    def _numbers(self, count: int) -> Sequence[int]:
        """The frames of a clip that are sampled."""
        return sampled_frames(count) if self._sampler.settings.interpolation == "between" else range(count)

    def _job(self, crop: Crop) -> ClipJob:
        """One clip as work for the sampler."""
        settings, vqvae = self._sampler.settings, self._sampler.pipeline.vqvae
        masked: Any = None
        if settings.mask_line != "nose_tip":
            masked = lambda: encode_masked(vqvae, crop.frames(), crop.landmarks, settings)  # noqa: E731
        clip = ShardClip(
            self._clips,
            self._clips.clip_ids.index(crop.clip_id),
            int(crop.info["size"]),
            settings,
            masked,
            frames=self._count(crop.clip_id),
            speech=self._speech.get(crop.clip_id),
        )
        if self._training is None:
            reference = clip.latent(reference_frame(crop.clip_id, clip.frames, settings))
        else:
            reference = encode_frames(vqvae, self._training.frame(crop)[None])[0]
        return ClipJob(clip, self._numbers(clip.frames), reference)

    def _frames(self, job: ClipJob) -> np.ndarray:
        """Decode a clip, and interpolate it where the settings say so."""
        sampler = self._sampler
        frames = sampler.decode(job.latents())
        if sampler.settings.interpolation == "none":
            return frames
        assert isinstance(job.clip, ShardClip)
        inputs = job.clip.inputs(range(job.clip.frames))
        cell = frames.shape[1] // inputs.generated.shape[-1]
        regions = inputs.generated[:, 0].float().numpy().repeat(cell, axis=1).repeat(cell, axis=2)
        if sampler.settings.interpolation == "smooth":
            return np.stack(list(smooth(frames, regions)))
        return np.stack(list(between(frames, sampler.decode(inputs.known), regions)))
