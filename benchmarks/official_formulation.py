"""Our sampler against the inference of the released code: same weights, noise and frames, in one run.

python benchmarks/official_formulation.py --frames 40 --channels 32 64 96 --rounds 3

The released inference takes batches of 20 frames in order: it encodes a frame, the masked frame and the
reference, runs 200 DDIM steps in float32 with attention to the one context token, and decodes. Ours makes the
same latents with one reference encoded once, the attention as the bias that it is, and the projections of the
context computed once a pass. Weights are random: what is compared is time, and that the latents are equal.
Then come ways that are not the same, but are meant to be used in its place. On a GPU where there is one.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from difftalk.config.sampling import Sampling
from difftalk.config.section import from_dict
from difftalk.models.autoencoder import build_autoencoder, decode_latents, encode_frames
from difftalk.models.conditioning import LANDMARKS_SEEN, Conditioner
from difftalk.models.denoiser import build_unet, noise_schedule, use_one_token_shortcut
from difftalk.models.masks import NOSE_BASE, mask_image, released_mask
from difftalk.runtime.device import default_device
from difftalk.sampling.frame_sampler import FrameSampler
from difftalk.sampling.inputs import encode_inputs
from difftalk.sampling.noise import FrameNoise
from difftalk.sampling.pipeline import DiffTalkPipeline

BATCH = 20
RELEASED_WAY = "released inference"
RELEASED = {"mask": "released", "mask_line": "nose_base", "keep_known": False}


class Clip:
    """Frames, landmarks and speech of a made-up clip.

    Args:
        frames: how many.
        size: of the crop, pixels.
    """

    def __init__(self, frames: int, size: int) -> None:
        rng = np.random.default_rng(0)
        self.frames = rng.integers(0, 256, (frames, size, size, 3), dtype=np.uint8)
        angles = np.linspace(0, np.pi, 17)
        points = np.zeros((frames, 68, 2)) + rng.uniform(0.25, 0.45, (frames, 68, 2))
        points[:, :17] = np.stack([0.5 - 0.35 * np.cos(angles), 0.45 + 0.4 * np.sin(angles)], axis=1)
        points[:, 27:36] = [0.5, 0.55]
        self.landmarks = (points * size).astype(np.float32)
        self.speech = rng.normal(size=(frames, 8, 16, 29)).astype(np.float32)
        self.streams = [("clip", number) for number in range(frames)]


@torch.no_grad()
def official(pipeline: DiffTalkPipeline, clip: Clip, steps: int, device: str) -> torch.Tensor:
    """What the released inference does, from pixels to pixels; returns latents (T, C, h, w)."""
    assert pipeline.vqvae is not None
    use_one_token_shortcut(pipeline.unet, False)
    size = clip.frames.shape[1]
    alphas = pipeline.scheduler.alphas_cumprod.to(device)
    times = np.arange(0, 1000, 1000 // steps) + 1
    before = torch.cat([alphas[:1], alphas[times[:-1]]])
    made = []
    for first in range(0, len(clip.frames), BATCH):
        part = slice(first, first + BATCH)
        frames, landmarks = clip.frames[part], clip.landmarks[part]
        z = encode_frames(pipeline.vqvae, frames, BATCH).to(device)
        masked = encode_frames(pipeline.vqvae, mask_image(frames, landmarks, NOSE_BASE), BATCH).to(device)
        reference = encode_frames(pipeline.vqvae, clip.frames[[0] * len(frames)], BATCH).to(device)
        keep = ~torch.from_numpy(released_mask(landmarks, size, z.shape[-1])).unsqueeze(1).to(device)
        seen = torch.from_numpy(landmarks[:, LANDMARKS_SEEN] / size).to(device)
        context = pipeline.conditioner(torch.from_numpy(clip.speech[part]).to(device), seen)
        noise = FrameNoise(3, clip.streams[part], z.shape[1:], device).draw
        x = noise()
        for t, previous in zip(times[::-1], before.flip(0), strict=True):
            alpha = alphas[t]
            x = torch.where(keep, alpha.sqrt() * z + (1 - alpha).sqrt() * noise(), x)
            when = torch.full((len(x),), int(t), device=device)
            e = pipeline.unet(torch.cat([x, masked, reference], dim=1), when, context).sample
            z_0 = (x - (1 - alpha).sqrt() * e) / alpha.sqrt()
            x = previous.sqrt() * z_0 + (1 - previous).sqrt() * e
        decode_latents(pipeline.vqvae, x.cpu(), BATCH)
        made.append(x.cpu())
    use_one_token_shortcut(pipeline.unet)
    return torch.cat(made)


def ours(sampler: FrameSampler, clip: Clip) -> torch.Tensor:
    """Sample the clip by the product's own sampler, from pixels to pixels; returns latents (T, C, h, w)."""
    vqvae = sampler.pipeline.vqvae
    inputs = encode_inputs(vqvae, clip.frames, clip.landmarks, clip.speech, sampler.settings)
    reference = encode_frames(vqvae, clip.frames[:1]).expand(len(clip.frames), -1, -1, -1)
    latents = sampler.sample(inputs, reference, clip.streams)
    sampler.decode(latents)
    return latents


@dataclass(frozen=True)
class Sizes:
    """Of the networks and the clip."""

    frames: int = 40
    size: int = 64  # of the crop, pixels
    channels: tuple[int, ...] = (32, 64, 96)  # of the UNet
    layers: int = 1
    head_channels: int = 16
    first_stage: tuple[int, ...] = (32, 64, 96)
    codes: int = 2048

    def pipeline(self, device: str) -> DiffTalkPipeline:
        """An untrained model."""
        torch.manual_seed(0)
        latent = self.size // 2 ** (len(self.first_stage) - 1)
        made = DiffTalkPipeline(
            build_unet(self.channels, self.layers, self.head_channels, 128, 2, latent),
            Conditioner(),
            noise_schedule("epsilon"),
            vqvae=build_autoencoder(self.first_stage, self.layers, self.codes),
        )
        for part in (made.unet, made.conditioner, made.vqvae):
            part.eval().requires_grad_(False)
        return made.to(device)


def compare(
    sizes: Sizes, steps: int, named: Mapping[str, Mapping[str, Any]], rounds: int, device: str
) -> list[dict[str, Any]]:
    """Time the released inference and ours, with each of the settings `named`, in turn.

    Returns:
        For each way: `way`, `ms` a frame (the least), `times` as fast (the median of the rounds), and
        `apart`, the largest difference from the released latents in parts of their spread.
    """
    clip = Clip(sizes.frames, sizes.size)
    released = sizes.pipeline(device)
    ways: dict[str, Callable[[], torch.Tensor]] = {
        RELEASED_WAY: lambda: official(released, clip, steps, device)
    }
    for name, values in named.items():
        settings = from_dict(Sampling, {"seed": 3, **values}, "benchmark")
        ways[name] = partial(ours, FrameSampler(sizes.pipeline(device), settings), clip)

    times: dict[str, list[float]] = {name: [] for name in ways}
    found: dict[str, torch.Tensor] = {}
    for name, way in ways.items():
        if device == "cuda":
            found[name] = way()  # what is compiled or chosen at the first call is no part of the time
    for _ in range(rounds):
        for name, way in ways.items():
            began = time.monotonic()
            found[name] = way()
            times[name].append(time.monotonic() - began)
    expected = found[RELEASED_WAY]
    return [
        {
            "way": name,
            "ms": 1000 * min(taken) / sizes.frames,
            "times": statistics.median(a / b for a, b in zip(times[RELEASED_WAY], taken, strict=True)),
            "apart": float((found[name] - expected).abs().max() / expected.std()),
        }
        for name, taken in times.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    usual = Sizes()
    parser.add_argument("--frames", type=int, default=usual.frames)
    parser.add_argument("--size", type=int, default=usual.size, help="of the crop, pixels")
    parser.add_argument("--channels", type=int, nargs="+", default=usual.channels, help="of the UNet")
    parser.add_argument("--layers", type=int, default=usual.layers)
    parser.add_argument("--steps", type=int, default=200, help="of the released inference")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()

    device = default_device()
    sizes = Sizes(args.frames, args.size, tuple(args.channels), args.layers)
    named = {
        "ours, the same latents": {**RELEASED, "steps": args.steps},
        "ours, bf16": {**RELEASED, "steps": args.steps, "precision": "bf16"},
        "ours, 20 of DPM-Solver++": {"sampler": "dpm++", "steps": 20},
        "ours, 5 DDIM steps": {"steps": 5},
    }
    rows = compare(sizes, args.steps, named, args.rounds, device)
    print(f"{device}, {args.frames} frames of {args.size} px, channels {args.channels}, {args.steps} steps")
    print("| way | ms / frame | times as fast | largest difference, parts of the spread |\n|---|---|---|---|")
    for row in rows:
        same = f"{row['apart']:.1e}" if "same" in row["way"] or "bf16" in row["way"] else ""
        print(f"| {row['way']} | {row['ms']:.1f} | {row['times']:.2f} | {same} |")


if __name__ == "__main__":
    main()
