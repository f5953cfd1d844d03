"""Encode one clip for training: latents, masked latents and the inpainting mask."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from difftalk.config.encode import Encode
from difftalk.media.shards import Crop
from difftalk.models.autoencoder import encode_frames
from difftalk.models.masks import generated_mask, mask_image
from difftalk.runtime.errors import ClipError, UserError
from difftalk.speech.windows import STEPS_PER_FRAME

if TYPE_CHECKING:
    from diffusers import VQModel


@dataclass(frozen=True)
class PreparedClip:
    """What the first stage encodes of a clip, and the rest of its sample.

    Args:
        frames: (T, H, W, 3) uint8.
        masked: (T, H, W, 3) uint8, with the mouth masked.
        rest: the other files of the sample, `{extension: content}`.
    """

    frames: np.ndarray
    masked: np.ndarray
    rest: dict[str, Any]


def prepare_clip(crop: Crop, speech: np.ndarray, factor: int) -> PreparedClip:
    """Decode and mask a clip: all that no network is needed for.

    Args:
        crop: of the clip.
        speech: `(S, D)` features.
        factor: pixels per latent cell and axis.

    Raises:
        ClipError: `cannot_decode` where the frames of the crop do not decode, or not all.
        UserError: where the size of the crop is no multiple of the first stage's factor, or the speech is of
            another crop.
    """
    frames = crop.frames()
    if len(frames) != len(crop.landmarks):
        detail = f"{len(frames)} frames of the crop decode, {len(crop.landmarks)} were written"
        raise ClipError("cannot_decode", detail)
    if len(speech) != STEPS_PER_FRAME * len(frames):
        raise UserError(
            f"{crop.clip_id}: {len(speech)} steps of speech, {len(frames)} frames of the crop: outputs of "
            "several runs are mixed; delete the speech table, and snakemake writes it again"
        )
    size = frames.shape[1]
    if size % factor:
        raise UserError(f"crops.size {size} is no multiple of {factor}, the first stage's factor")
    rest = {
        "generated.npy": generated_mask(crop.landmarks, size, size // factor).astype(np.uint8),
        "speech.npy": speech,
        "landmarks.npy": (crop.landmarks / size).astype(np.float32),
        "json": crop.info,
    }
    return PreparedClip(frames, mask_image(frames, crop.landmarks), rest)


def encode_clip(model: "VQModel", clip: PreparedClip, settings: Encode) -> dict[str, Any]:
    """Return the files of one clip of a training shard: `{extension: content}`.

    `latents.npy`, `masked.npy`: (T, C, h, w) latents of the frames and of the masked frames; `generated.npy`:
    (T, h, w) uint8, 1 where the latent cell is generated; `speech.npy`: (S, D) float32; `landmarks.npy`: (T,
    68, 2) float32 in [0, 1] of the crop; `json`: that of the crop.

    Args:
        model: the first stage, frozen.
        clip: decoded and masked.
        settings: dtype of the latents and frames encoded at once.
    """

    def latents(pixels: np.ndarray) -> np.ndarray:
        return encode_frames(model, pixels, settings.batch_size).numpy().astype(settings.dtype)

    return {"latents.npy": latents(clip.frames), "masked.npy": latents(clip.masked), **clip.rest}
