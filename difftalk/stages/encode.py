"""Stage `encode`: crops and speech to training shards that need nothing else, the first stage run once for all."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from difftalk.media.shards import read_crops, write_shard
from difftalk.models.autoencoder import downsampling, encode_frames, load_autoencoder
from difftalk.models.masks import generated_mask, mask_image
from difftalk.runtime.errors import UserError
from difftalk.runtime.progress import Progress
from difftalk.runtime.rejects import Reject, check_fraction, write_rejects
from difftalk.speech.table import read_speech

STAGE = "encode"


@dataclass(frozen=True)
class Settings:
    """How latents are kept."""

    dtype: Literal["float16", "float32"] = "float16"
    batch_size: int = 64  # frames


def run(
    *,
    crops: Path,
    speech: Path,
    autoencoder: Path,
    settings: Settings,
    out: Path,
    rejects: Path,
    max_reject_fraction: float,
) -> None:
    """Write `out`, one sample per clip that has both a crop and speech features.

    `latents.npy`, `masked.npy`: (T, C, h, w) latents of the frames and of the mouth-masked frames;
    `generated.npy`: (T, h, w) uint8, 1 where the face is to be generated; `speech.npy`: (S, features) float32;
    `landmarks.npy`: (T, 68, 2) float32 in [0, 1] of the crop; `json`: the crop's facts.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_autoencoder(autoencoder, device)
    features = read_speech(speech)
    lost: list[Reject] = []
    asked = 0

    def samples() -> Iterator[tuple[str, dict[str, Any]]]:
        nonlocal asked
        with Progress(len(features), STAGE, "clips") as shown:
            for crop in read_crops(crops):
                if crop.clip_id not in features:  # `speech` rejected it and says why
                    continue
                asked += 1
                frames = crop.frames()
                if len(frames) != len(crop.landmarks):
                    detail = f"{len(frames)} frames of the crop decode, {len(crop.landmarks)} were written"
                    lost.append(Reject(crop.clip_id, STAGE, "cannot_decode", detail))
                    continue
                size = frames.shape[1]
                if size % downsampling(model):
                    raise UserError(
                        f"crops.size {size} is no multiple of {downsampling(model)}, the first stage's factor"
                    )
                masked = mask_image(frames, crop.landmarks)
                generated = generated_mask(crop.landmarks, size, size // downsampling(model))
                yield (
                    crop.clip_id,
                    {
                        "latents.npy": encode_frames(model, frames, settings.batch_size)
                        .numpy()
                        .astype(settings.dtype),
                        "masked.npy": encode_frames(model, masked, settings.batch_size)
                        .numpy()
                        .astype(settings.dtype),
                        "generated.npy": generated.astype(np.uint8),
                        "speech.npy": features[crop.clip_id],
                        "landmarks.npy": (crop.landmarks / size).astype(np.float32),
                        "json": crop.info,
                    },
                )
                shown.advance()

    write_shard(out, samples())
    write_rejects(rejects, lost)
    check_fraction(STAGE, asked, lost, max_reject_fraction)
