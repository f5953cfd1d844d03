"""Methods: what makes the frames of clips, from the truth and simple baselines to a trained model.

Only the methods that need torch import it; the truth and the copied reference do not.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from difftalk.config.sampling import Sampling
from difftalk.config.training import UNTRAINED_METHODS
from difftalk.media.shards import Crop, map_arrays, read_crops
from difftalk.runtime.errors import UserError
from difftalk.runtime.parallel import guarded
from difftalk.runtime.progress import Progress
from difftalk.sampling.made import Made
from difftalk.sampling.references import TrainingReferences, reference_frame
from difftalk.sampling.unfinished import Unfinished


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
    limits: Mapping[str, int | None] | None = None,
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
        unfinished: keeps what a model has sampled of clips that are not done, and what those took that are.
        limits: how many frames at the beginning of clips are made; None, or no entry: all.

    Raises:
        UserError: if the method needs a model and there is none.
    """
    clips = read_crops(crops, wanted, limits)
    training = None
    if settings.reference == "training" and (model is not None or method == "reference_copy"):
        training = TrainingReferences(references)
    if model is not None:
        return _generated(
            wanted, clips, (shard_file, autoencoder, model), settings, training, unfinished, limits
        )
    count = len(wanted)
    if method in ("ground_truth", "recompressed"):
        return _one_by_one(Crop.frames, clips, count)
    if method == "reference_copy":
        return _one_by_one(partial(reference_copy, settings=settings, training=training), clips, count)
    if method == "reconstruction":
        return _one_by_one(_reconstruction(shard_file, autoencoder, settings), clips, count)
    known = ", ".join(UNTRAINED_METHODS)
    raise UserError(f"sample: {method} needs a --model; without one there are {known}")


def reference_copy(crop: Crop, settings: Sampling, training: TrainingReferences | None = None) -> np.ndarray:
    """Repeat the reference frame of a clip over its whole length, (T, H, W, 3) uint8."""
    frames = crop.frames()
    if training is not None:
        return np.repeat(training.frame(crop)[None], len(frames), axis=0)
    return np.repeat(frames[[reference_frame(crop.clip_id, len(frames), settings)]], len(frames), axis=0)


def _one_by_one(make: Callable[[Crop], np.ndarray], clips: Iterable[Crop], count: int) -> Iterator[Made]:
    with Progress(count, "sample", "clips") as shown:
        for crop in clips:
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
        latents = np.asarray(encoded[crop.clip_id]["latents"][: crop.limit], np.float32)
        return decode_latents(first_stage, torch.from_numpy(latents), settings.batch_size)

    return decoded


def _generated(
    wanted: Collection[str],
    clips: Iterable[Crop],
    sources: tuple[Path, Path, Path],
    settings: Sampling,
    training: TrainingReferences | None,
    unfinished: Unfinished | None,
    limits: Mapping[str, int | None] | None,
) -> Iterator[Made]:
    """A trained model, of the shard, first stage and folder `sources`: it generates the lower face."""
    from difftalk.sampling.generate import Generator, load_sampler

    shard_file, autoencoder, model = sources
    sampler = load_sampler("sample", autoencoder, model, settings)
    generator = Generator(sampler, shard_file, training, limits or {})
    yield from generator.generate(wanted, clips, "sample", unfinished)
