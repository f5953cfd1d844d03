"""Methods: what makes the frames of clips, from the truth and simple baselines to a trained model.

Only the methods that need torch import it; the truth and the copied reference do not.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from difftalk.config.sampling import Sampling
from difftalk.config.training import UNTRAINED_METHODS
from difftalk.media.shards import Crop, map_arrays, read_crops
from difftalk.runtime.errors import ClipError, UserError
from difftalk.runtime.parallel import guarded
from difftalk.runtime.progress import Progress
from difftalk.sampling.references import TrainingReferences, reference_frame
from difftalk.sampling.unfinished import Unfinished

if TYPE_CHECKING:
    from difftalk.models.examples import LatentClips
    from difftalk.sampling.clip_sampler import ClipJob
    from difftalk.sampling.frame_sampler import FrameSampler

# A clip with its frames (T, H, W, 3) uint8, or why it has none.
Made = tuple[Crop, np.ndarray | ClipError]


def make_clips(
    method: str,
    wanted: Collection[str],
    *,
    crops: Path,
    shard_file: Path,
    autoencoder: Path,
    model: Path | None,
    settings: Sampling,
    references: Sequence[Path] = (),
    unfinished: Unfinished | None = None,
) -> Iterator[Made]:
    """Make the frames of clips by a method, and yield each clip when it is done.

    Args:
        method: one of `UNTRAINED_METHODS`, or any name together with a `model`.
        wanted: ids of the clips.
        crops: crops/SHARD.tar.
        shard_file: the same clips encoded.
        autoencoder: folder of the first stage.
        model: folder of a trained pipeline.
        settings: of the sampling.
        references: crops/SHARD.tar of the training split, for `reference: training`.
        unfinished: keeps what a model has sampled of clips that are not done.

    Raises:
        UserError: if the method needs a model and there is none.
    """
    training = None
    if settings.reference == "training" and (model is not None or method == "reference_copy"):
        training = TrainingReferences(references)
    if model is not None:
        return _generated(wanted, crops, shard_file, autoencoder, model, settings, training, unfinished)
    if method == "ground_truth":
        return _one_by_one(Crop.frames, wanted, crops)
    if method == "reference_copy":
        return _one_by_one(partial(reference_copy, settings=settings, training=training), wanted, crops)
    if method == "reconstruction":
        return _one_by_one(_reconstruction(shard_file, autoencoder, settings), wanted, crops)
    known = ", ".join(UNTRAINED_METHODS)
    raise UserError(f"sample: {method} needs a --model; without one there are {known}")


def reference_copy(crop: Crop, settings: Sampling, training: TrainingReferences | None = None) -> np.ndarray:
    """Repeat the reference frame of a clip over its whole length, (T, H, W, 3) uint8."""
    frames = crop.frames()
    if training is not None:
        return np.repeat(training.frame(crop)[None], len(frames), axis=0)
    return np.repeat(frames[[reference_frame(crop.clip_id, len(frames), settings)]], len(frames), axis=0)


def _one_by_one(make: Callable[[Crop], np.ndarray], wanted: Collection[str], crops: Path) -> Iterator[Made]:
    with Progress(len(wanted), "sample", "clips") as shown:
        for crop in read_crops(crops, wanted):
            yield crop, guarded(make, crop, crop.clip_id)
            shown.advance()


def _reconstruction(shard_file: Path, autoencoder: Path, settings: Sampling) -> Callable[[Crop], np.ndarray]:
    """The first stage alone: the encoded frames decoded, the ceiling of what a model can reach."""
    import torch

    from difftalk.models.autoencoder import decode_latents, load_autoencoder
    from difftalk.runtime.device import default_device, tell

    device = default_device()
    tell("sample", device, "float32")
    first_stage = load_autoencoder(autoencoder, device)
    encoded = map_arrays(shard_file)

    def decoded(crop: Crop) -> np.ndarray:
        latents = np.asarray(encoded[crop.clip_id]["latents"], np.float32)
        return decode_latents(first_stage, torch.from_numpy(latents), settings.batch_size)

    return decoded


def _generated(
    wanted: Collection[str],
    crops: Path,
    shard_file: Path,
    autoencoder: Path,
    model: Path,
    settings: Sampling,
    training: TrainingReferences | None,
    unfinished: Unfinished | None,
) -> Iterator[Made]:
    """A trained model, which generates the lower face of each frame."""
    from difftalk.models.autoencoder import load_autoencoder
    from difftalk.models.examples import LatentClips
    from difftalk.runtime.device import default_device
    from difftalk.sampling.clip_sampler import sample_clips
    from difftalk.sampling.frame_sampler import FrameSampler, tell_sampling
    from difftalk.sampling.pipeline import DiffTalkPipeline

    device = default_device()
    tell_sampling("sample", settings, device)
    pipeline = DiffTalkPipeline.from_pretrained(model, device, vqvae=None)
    pipeline.register_modules(vqvae=load_autoencoder(autoencoder, pipeline.device))
    sampler = FrameSampler(pipeline, settings)
    clips = LatentClips([shard_file], pipeline.conditioner.neighbours)
    begun: dict[str, Crop] = {}
    failed: list[Made] = []

    def jobs() -> Iterator["ClipJob"]:
        for crop in read_crops(crops, wanted):
            job = guarded(lambda c: _job(sampler, clips, c, settings, training), crop, crop.clip_id)
            if isinstance(job, ClipError):
                failed.append((crop, job))
                continue
            job.done += unfinished.load(job) if unfinished is not None else []
            begun[crop.clip_id] = crop
            yield job

    frames = sum(len(clips.clips[clips.clip_ids.index(clip_id)]["latents"]) for clip_id in wanted)
    with Progress(frames, "sample", "frames") as shown:
        for job in sample_clips(sampler, jobs()):
            shown.advance(job.take_news())
            if job.is_complete:
                crop = begun.pop(job.clip.clip_id)
                yield crop, guarded(lambda j: _frames(sampler, j), job, crop.clip_id)
            elif unfinished is not None:
                unfinished.keep(job)
    yield from failed


def _job(
    sampler: "FrameSampler",
    clips: "LatentClips",
    crop: Crop,
    settings: Sampling,
    training: TrainingReferences | None,
) -> "ClipJob":
    """One clip of a shard as work for the sampler."""
    from difftalk.models.autoencoder import encode_frames
    from difftalk.sampling.clip_sampler import ClipJob
    from difftalk.sampling.inputs import ShardClip, encode_masked

    masked: Any = None
    if settings.mask_line != "nose_tip":
        vqvae = sampler.pipeline.vqvae
        masked = lambda: encode_masked(vqvae, crop.frames(), crop.landmarks, settings)  # noqa: E731
    number = clips.clip_ids.index(crop.clip_id)
    clip = ShardClip(clips, number, int(crop.info["size"]), settings, masked)
    if training is None:
        reference = clip.latent(reference_frame(crop.clip_id, clip.frames, settings))
    else:
        reference = encode_frames(sampler.pipeline.vqvae, training.frame(crop)[None])[0]
    numbers: Sequence[int] = range(clip.frames)
    if settings.interpolation == "between":
        from difftalk.sampling.interpolation import sampled_frames

        numbers = sampled_frames(clip.frames)
    return ClipJob(clip, numbers, reference)


def _frames(sampler: "FrameSampler", job: "ClipJob") -> np.ndarray:
    """Decode a clip, and interpolate it where the settings say so."""
    frames = sampler.decode(job.latents())
    if sampler.settings.interpolation == "none":
        return frames
    from difftalk.sampling.inputs import ShardClip
    from difftalk.sampling.interpolation import between, smooth

    assert isinstance(job.clip, ShardClip)
    inputs = job.clip.inputs(range(job.clip.frames))
    cell = frames.shape[1] // inputs.generated.shape[-1]
    regions = inputs.generated[:, 0].float().numpy().repeat(cell, axis=1).repeat(cell, axis=2)
    if sampler.settings.interpolation == "smooth":
        return np.stack(list(smooth(frames, regions)))
    return np.stack(list(between(frames, sampler.decode(inputs.known), regions)))
