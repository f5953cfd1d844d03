"""The first stage: a frozen VQ autoencoder (diffusers' `VQModel`), from pixels to latents.

As in LDM, `encode` gives the latents *before* quantisation and `decode` quantises them (Rombach et al. 2022,
"VQ-reg"). The encoder is deterministic, so latents may be computed once and stored.
"""

from functools import partial
from math import gcd
from pathlib import Path

import numpy as np
import torch
from diffusers import VQModel
from torch.utils.checkpoint import checkpoint

from difftalk.models.quantiser import quantise
from difftalk.pretrained.model_folder import FIRST_STAGE
from difftalk.runtime.errors import UserError, is_machine_fault

# The largest array inside a network in one pass. A pass needs some five of them: 64 frames of 256 px in one
# would take 11 GB in the paper's first stage, and 46 GB at 512 px.
LARGEST_ARRAY_BYTES = 512 << 20


def build_autoencoder(
    channels: tuple[int, ...], layers: int, codes: int, latent_channels: int = 3
) -> VQModel:
    """Build a `VQModel` with untrained weights.

    `build_autoencoder((128, 256, 512), 2, 8192)` is LDM's vq-f4, 55,322,782 parameters. For 512 px
    `build_autoencoder((128, 256, 256, 512), 2, 8192)` has the channels of LDM's vq-f8 and gives the latents
    of 64 x 64 x 3 that DiffTalk needs. LDM's own vq-f8 has 16,384 codes of 4 numbers and does not fit: this
    one has to be trained.

    Args:
        channels: of each resolution; one downsampling by 2 fewer than these.
        layers: residual blocks per resolution.
        codes: size of the codebook.
        latent_channels: of the latents and codes.
    """
    return VQModel(
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        block_out_channels=channels,
        layers_per_block=layers,
        latent_channels=latent_channels,
        num_vq_embeddings=codes,
        norm_num_groups=gcd(32, channels[0] // 4, *channels),
        scaling_factor=1.0,
    )


def load_autoencoder(folder: Path, device: str | torch.device = "cpu") -> VQModel:
    """Load the first stage of a folder in diffusers' format, frozen, in evaluation mode.

    Weights stored in half precision are widened to float32, which is exact.

    Raises:
        UserError: if the folder does not hold a `config.json` and safetensors weights that fit each other, or
            they are not what was written.
    """
    FIRST_STAGE.check(folder)
    model: VQModel
    try:
        # With `low_cpu_mem_usage`, weights that are missing or of other shapes are an error of another kind.
        model, report = VQModel.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    except Exception as e:
        if is_machine_fault(e):
            raise
        raise UserError(
            f"{folder}: the first stage cannot be loaded: {' '.join(str(e).split())[:200]}"
        ) from None
    if lacking := report["missing_keys"]:
        raise UserError(f"{folder}: the first stage cannot be loaded: no weights {lacking[0]}")
    return model.float().to(device).eval().requires_grad_(False)


def checkpoint_activations(model: VQModel) -> None:
    """Let the backward pass compute the activations of each block anew, so that they need no memory."""
    for part in (model.encoder, model.decoder):
        part.gradient_checkpointing = True
        part._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)


def downsampling(model: VQModel) -> int:
    """Return the pixels per latent cell and axis: 4 for the paper's first stage at 256 px."""
    return int(2 ** (len(model.config.block_out_channels) - 1))


def frames_at_once(model: VQModel, size: int, wanted: int) -> int:
    """Return how many of `wanted` frames of `size` pixels go through a first stage in one pass."""
    first, second = model.config.block_out_channels[:2]
    # The decoder's last block widens what the one before it made, of as many channels, to the full size.
    of_frame = 4 * max(first, second) * size * size
    return max(1, min(wanted, LARGEST_ARRAY_BYTES // of_frame))


def to_pixels(frames: np.ndarray, device: str | torch.device = "cpu") -> torch.Tensor:
    """Convert (N, H, W, 3) uint8 frames to (N, 3, H, W) float32 in [-1, 1], on the device that they go to."""
    moved = torch.from_numpy(np.ascontiguousarray(frames)).to(device)
    return moved.permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def to_frames(pixels: torch.Tensor) -> np.ndarray:
    """Convert (N, 3, H, W) in [-1, 1], clamped, to (N, H, W, 3) uint8."""
    scaled = pixels.float().clamp(-1, 1).add(1.0).mul(127.5).round()
    return scaled.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


@torch.no_grad()
def encode_frames(
    model: VQModel, frames: np.ndarray, batch_size: int = 64, *, fill: bool = False
) -> torch.Tensor:
    """Encode (N, H, W, 3) uint8 frames to latents (N, C, H/f, W/f) float32 on the CPU.

    They are the encoder's output before quantisation times the model's `scaling_factor`, of about unit
    variance.

    Args:
        model: the first stage.
        frames: of one size.
        batch_size: frames in one pass, or fewer (`frames_at_once`).
        fill: fill up the last pass with copies, so that rounding does not depend on N.
    """
    scale, parts = model.config.scaling_factor, []
    batch_size = frames_at_once(model, frames.shape[1], batch_size)
    for first in range(0, len(frames), batch_size):
        pixels = to_pixels(frames[first : first + batch_size], model.device)
        filled = _filled(pixels, batch_size if fill else 0).to(model.dtype)
        latents = model.encode(filled).latents
        parts.append(latents[: len(pixels)].float().cpu() * scale)
    return torch.cat(parts)


@torch.no_grad()
def decode_latents(
    model: VQModel, latents: torch.Tensor, batch_size: int = 64, *, fill: bool = False
) -> np.ndarray:
    """Decode latents (N, C, h, w), quantised on the way, to (N, H, W, 3) uint8 frames.

    Args:
        model: the first stage.
        latents: on any device.
        batch_size: latents in one pass, or fewer (`frames_at_once`).
        fill: fill up the last pass with copies, so that rounding does not depend on N.
    """
    scale, parts = model.config.scaling_factor, []
    batch_size = frames_at_once(model, latents.shape[-1] * downsampling(model), batch_size)
    for z in latents.float().split(batch_size):
        filled = _filled(z, batch_size if fill else 0).to(model.device)
        codes, _, _ = quantise(model, filled / scale)
        pixels = model.decode(codes.to(model.dtype), force_not_quantize=True).sample
        parts.append(to_frames(pixels[: len(z)]))
    return np.concatenate(parts)


def _filled(batch: torch.Tensor, size: int) -> torch.Tensor:
    """Return a batch with copies of its last member up to `size`."""
    lacking = max(size - len(batch), 0)
    return torch.cat([batch, batch[-1:].expand(lacking, *batch.shape[1:])]) if lacking else batch
