"""How well a first stage reconstructs frames, and how much of its codebook it uses."""

import math

import numpy as np
import torch
from diffusers import VQModel
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from difftalk.models.autoencoder import to_frames, to_pixels
from difftalk.models.perceptual import Perceptual
from difftalk.models.quantiser import quantise

MEASURED_AT_ONCE = 8  # frames
# As in the tables; not imported from there, or an edit of the metrics would rerun the training.
SSIM_WINDOW = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}


@torch.no_grad()
def measure(
    model: VQModel, frames: np.ndarray, quantised: bool, perceptual: Perceptual | None
) -> dict[str, float]:
    """Measure reconstructions of frames (N, H, W, 3) uint8, and their use of the codebook.

    Means of `psnr` in dB and `ssim` of uint8 frames, as in the tables; `lpips_vgg` where there is a
    `perceptual`; `codes_used` and `perplexity` where latents are `quantised`, as they are in the end.
    """
    found: dict[str, list[float]] = {"psnr": [], "ssim": [], "lpips_vgg": []}
    counts = torch.zeros(model.config.num_vq_embeddings, device=model.device)
    for first in range(0, len(frames), MEASURED_AT_ONCE):
        truth = frames[first : first + MEASURED_AT_ONCE]
        x = to_pixels(truth, model.device)
        latents = model.encode(x).latents
        if quantised:
            latents, _, indices = quantise(model, latents)
            counts += torch.bincount(indices, minlength=len(counts))
        decoded = model.decode(latents, force_not_quantize=True).sample.clamp(-1, 1)
        for a, b in zip(truth, to_frames(decoded), strict=True):
            if (a != b).any():
                found["psnr"].append(peak_signal_noise_ratio(a, b, data_range=255))
            found["ssim"].append(structural_similarity(a, b, data_range=255, channel_axis=-1, **SSIM_WINDOW))
        if perceptual is not None:
            found["lpips_vgg"] += perceptual(x, decoded).tolist()
    means = {name: float(np.mean(values)) for name, values in found.items() if values}
    return means | (codebook_use(counts) if quantised else {})


def codebook_use(counts: Tensor, prefix: str = "") -> dict[str, float]:
    """Return the part of the codes that are used, and their perplexity.

    The perplexity is the number of evenly used codes of the same entropy.
    """
    part = counts.double() / counts.sum()
    perplexity = torch.special.entr(part).sum().exp().item()
    return {f"{prefix}codes_used": (counts > 0).double().mean().item(), f"{prefix}perplexity": perplexity}


def psnr_db(mean_squared_error: float) -> float:
    """Return the PSNR in dB of images in [-1, 1], whose range is 2."""
    return 10 * math.log10(4.0 / max(mean_squared_error, 1e-12))
