"""Methods: what makes the frames of a clip, from the truth and simple baselines to a trained model.

Only the methods that need torch import it; the truth and the copied reference do not.
"""

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from difftalk.config.sampling import Sampling
from difftalk.config.training import UNTRAINED_METHODS
from difftalk.media.shards import Crop, map_arrays
from difftalk.runtime.errors import UserError

if TYPE_CHECKING:
    import torch

    from difftalk.models.examples import LatentClips
    from difftalk.sampling.pipeline import DiffTalkPipeline

FrameMaker = Callable[[Crop], np.ndarray]


def frame_maker(
    method: str, *, shard_file: Path, autoencoder: Path, model: Path | None, settings: Sampling
) -> FrameMaker:
    """Return the function that makes a clip's frames, (T, H, W, 3) uint8, by a method.

    Args:
        method: one of `UNTRAINED_METHODS`, or any name together with a `model`.
        shard_file: the encoded shard that the clips are in.
        autoencoder: folder of the first stage.
        model: folder of a trained pipeline.
        settings: of the sampling.

    Raises:
        UserError: if the method needs a model and there is none.
    """
    if model is not None:
        return _generated(shard_file, autoencoder, model, settings)
    if method == "ground_truth":
        return Crop.frames
    if method == "reference_copy":
        return partial(reference_copy, settings=settings)
    if method == "reconstruction":
        return _reconstruction(shard_file, autoencoder, settings.batch_size)
    known = ", ".join(UNTRAINED_METHODS)
    raise UserError(f"sample: {method} needs a --model; without one there are {known}")


def reference_copy(crop: Crop, settings: Sampling) -> np.ndarray:
    """Repeat the reference frame of a clip over its whole length, (T, H, W, 3) uint8."""
    frames = crop.frames()
    return np.repeat(frames[[reference_frame(crop.clip_id, len(frames), settings)]], len(frames), axis=0)


def reference_frame(clip_id: str, frames: int, settings: Sampling) -> int:
    """Return the index of the reference frame: the first, or one drawn from seed and clip id."""
    return 0 if settings.reference == "first" else clip_seed(clip_id, settings.seed) % frames


def clip_seed(clip_id: str, seed: int) -> int:
    """Return a clip's own seed, so that its sample does not depend on what else is in the shard."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{clip_id}".encode()).digest()[:6])


def sample_clip(
    pipeline: "DiffTalkPipeline", clips: "LatentClips", number: int, settings: Sampling, device: str
) -> "torch.Tensor":
    """Sample the latents (T, C, h, w) of every frame of a clip, driven by its own audio.

    Args:
        pipeline: the trained model, on `device`.
        clips: encoded clips, with as many neighbouring speech windows as the model takes.
        number: index of the clip in `clips`.
        settings: of the sampling.
        device: device that the model is on.
    """
    import torch

    frames = len(clips.clips[number]["latents"])
    clip_id = clips.clip_ids[number]
    reference = reference_frame(clip_id, frames, settings)
    generator = torch.Generator().manual_seed(clip_seed(clip_id, settings.seed))
    batches = []
    for first in range(0, frames, settings.batch_size):
        chosen = range(first, min(first + settings.batch_size, frames))
        examples = clips.examples([(number, f) for f in chosen], [reference] * len(chosen)).to(device)
        inputs: dict[str, Any] = vars(examples) | {"known": examples.target}
        del inputs["target"]
        with torch.autocast(device, torch.bfloat16, enabled=settings.precision == "bf16"):
            latents = pipeline.sample(**inputs, steps=settings.steps, eta=settings.eta, generator=generator)
        batches.append(latents.float().cpu())
    return torch.cat(batches)


def _reconstruction(shard_file: Path, autoencoder: Path, batch_size: int) -> FrameMaker:
    """The first stage alone: the encoded frames decoded, the ceiling of what a model can reach."""
    import torch

    from difftalk.models.autoencoder import decode_latents, load_autoencoder
    from difftalk.runtime.device import default_device

    first_stage = load_autoencoder(autoencoder, default_device())
    encoded = map_arrays(shard_file)

    def decoded(crop: Crop) -> np.ndarray:
        latents = np.asarray(encoded[crop.clip_id]["latents"], np.float32)
        return decode_latents(first_stage, torch.from_numpy(latents), batch_size)

    return decoded


def _generated(shard_file: Path, autoencoder: Path, model: Path, settings: Sampling) -> FrameMaker:
    """A trained model, which generates the lower face of each frame."""
    from difftalk.models.autoencoder import decode_latents, load_autoencoder
    from difftalk.models.examples import LatentClips
    from difftalk.runtime.device import default_device
    from difftalk.sampling.pipeline import DiffTalkPipeline

    device = default_device()
    first_stage = load_autoencoder(autoencoder, device)
    pipeline = DiffTalkPipeline.from_pretrained(
        model, device, vqvae=None
    )  # the first stage is loaded already
    clips = LatentClips([shard_file], pipeline.conditioner.neighbours)
    number = {clip_id: i for i, clip_id in enumerate(clips.clip_ids)}

    def generated(crop: Crop) -> np.ndarray:
        latents = sample_clip(pipeline, clips, number[crop.clip_id], settings, device)
        return decode_latents(first_stage, latents, settings.batch_size)

    return generated
