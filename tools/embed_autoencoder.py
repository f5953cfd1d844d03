"""Make the first stage that the package embeds, from thousands of freshly drawn faces.

The recorded command is in docs/embedded_weights.md. No face is a speaker of the demo: `random_identity`
draws from seeds that the demo never uses. An interrupted training resumes from the newest checkpoint in
`--state`; `--settings '{"from": "embedded"}'` goes on from the embedded one.
"""

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from diffusers import VQModel

from difftalk.config.autoencoder import AutoencoderTraining
from difftalk.config.section import from_json
from difftalk.datasets.demo.any_colour import in_any_colour
from difftalk.datasets.demo.faces import random_frame, random_identity
from difftalk.models.autoencoder import decode_latents, encode_frames
from difftalk.models.quantiser import quantise
from difftalk.pretrained.model_folder import FIRST_STAGE, folder_of
from difftalk.runtime.files import atomic_folder, write_json
from difftalk.runtime.progress import progress
from difftalk.training.first_stage import train_autoencoder
from difftalk.training.frames import Batches, mirrored

SOURCE_SIZE = 256  # pixels a face is drawn at before it is cropped, as in the demo
LARGEST = 128  # pixels of the crops that are held
SIZES = (64, 96, 128)  # pixels of the crops that are trained and measured on
# Of the batches: whole crops of 64, windows of 64 pixels of the largest crops, whole crops of 96 and of 128
# pixels; and how many frames fewer a batch of them has, which costs about as much as the others.
KINDS = ((0.65, 64, False, 1), (0.15, 64, True, 1), (0.12, 96, False, 2), (0.08, 128, False, 4))
ANY_COLOUR = 0.75  # part of the faces in clothes and before walls of any colour; others have the demo's
# Of the codebook, at last; a code that fewer than this part of the mean take is rare.
SETTLING_ROUNDS, SETTLING_FACES, RARE = 6, 2000, 0.1
HELD_OUT = 256  # faces that are measured on and not trained on


def drawn_crops(count: int, size: int, seed: int) -> np.ndarray:
    """Draw faces (count, size, size, 3) uint8, cut as loosely or tightly as any crop setting."""
    rng = np.random.default_rng(seed)
    crops = np.empty((count, size, size, 3), np.uint8)
    for i in range(count):
        identity = random_identity(rng)
        if rng.random() < ANY_COLOUR:
            identity = in_any_colour(identity, rng)
        image, points = random_frame(rng, SOURCE_SIZE, identity)
        low, high = points.min(0), points.max(0)
        side = (high - low).max() * rng.uniform(1.15, 1.75)
        centre = (low + high) / 2 + rng.uniform(-0.12, 0.12, 2) * side
        scale = size / side
        transform = np.array(
            [[scale, 0, size / 2 - centre[0] * scale], [0, scale, size / 2 - centre[1] * scale]]
        )
        # Blurred by the shrinking factor first: warpAffine has no area filter.
        blurred = cv2.GaussianBlur(image, (0, 0), max(0.5 / scale - 0.3, 1e-3)) if scale < 1 else image
        crops[i] = cv2.warpAffine(
            blurred, transform, (size, size), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
        )
    return crops


def draw_many(count: int, size: int, seed: int, workers: int) -> np.ndarray:
    chunk = 500
    counts = [min(chunk, count - i) for i in range(0, count, chunk)]
    with ProcessPoolExecutor(workers) as pool:
        seeds = range(seed, seed + len(counts))
        parts = pool.map(drawn_crops, counts, [size] * len(counts), seeds)
        return np.concatenate(list(progress(parts, len(counts), "draw", "chunks")))


def shrunk(frames: np.ndarray, size: int) -> np.ndarray:
    """Resize frames (N, H, H, 3) uint8 to `size` pixels or leave them as they are."""
    if frames.shape[1] == size:
        return frames
    return np.stack([cv2.resize(frame, (size, size), interpolation=cv2.INTER_AREA) for frame in frames])


class MixedBatches(Batches):
    """Batches of several sizes (`KINDS`) out of the largest crops; a function of seed and step each.

    `frames` are (N, LARGEST, LARGEST, 3) uint8, and `batch_size` counts frames of 64 px.
    """

    def at(self, step: int) -> torch.Tensor:
        """Draw a batch (B, 3, H, W) in [-1, 1] of one kind, each frame mirrored with probability one half."""
        rng = np.random.default_rng((self.seed, step))
        _, size, is_window, fewer = KINDS[rng.choice(len(KINDS), p=[part for part, *_ in KINDS])]
        chosen = self.frames[rng.integers(len(self.frames), size=max(1, self.batch_size // fewer))]
        if is_window:
            y, x = rng.integers(LARGEST - size + 1, size=2)
            chosen = chosen[:, y : y + size, x : x + size]
        else:
            chosen = shrunk(chosen, size)
        return mirrored(chosen, rng)


@torch.no_grad()
def settle_codes(model: VQModel, frames: np.ndarray) -> None:
    """Move each code to the mean of the latents that take it, and codes that hardly any takes elsewhere.

    These go to latents drawn with a probability that rises with their squared distance from their code, as
    in k-means++.

    Args:
        model: trained.
        frames: (N, H, H, 3) uint8, of the training.
    """
    scale = model.config.scaling_factor
    latents = encode_frames(model, frames, 16) / scale
    cells = latents.permute(0, 2, 3, 1).flatten(0, 2)
    codes = model.quantize.embedding.weight
    generator = torch.Generator().manual_seed(0)
    for _ in range(SETTLING_ROUNDS):
        nearest, _, numbers = quantise(model, latents)
        counts = torch.bincount(numbers, minlength=len(codes)).float()
        sums = torch.zeros_like(codes).index_add_(0, numbers, cells)
        rare = counts < RARE * counts.mean()
        codes[~rare] = sums[~rare] / counts[~rare, None]
        distances = (nearest - latents).square().sum(1).flatten()
        if rare.any():
            codes[rare] = cells[torch.multinomial(distances, int(rare.sum()), generator=generator)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the first stage")
    parser.add_argument("--faces", type=int, default=14000)
    parser.add_argument("--settings", default="{}", help="JSON of the section autoencoder_training")
    parser.add_argument("--state", type=Path, required=True, help="folder for checkpoints")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()

    settings = from_json(AutoencoderTraining, args.settings)
    frames = draw_many(args.faces + HELD_OUT, LARGEST, 1000 * settings.seed, args.workers)
    train, held_out = frames[:-HELD_OUT], frames[-HELD_OUT:]
    batches = MixedBatches(train, settings.batch_size, settings.seed)
    base = None if settings.base is None else folder_of(settings.base, "autoencoder")
    trained = train_autoencoder(batches, settings, args.state, held_out=shrunk(held_out[:64], 64), base=base)
    model = trained.model
    settle_codes(model, shrunk(train[:SETTLING_FACES], SIZES[0]))
    report: dict[str, Any] = trained.report | {"settings": settings.as_dict(), "faces": args.faces}
    with atomic_folder(args.out) as tmp:
        # Half precision halves the package; loading widens it again. Figures are taken from what is kept.
        model.half().save_pretrained(tmp, safe_serialization=True)
        model.float()
        for size in SIZES:
            truth = shrunk(held_out, size)
            restored = decode_latents(model, encode_frames(model, truth))
            error = np.square(restored.astype(float) - truth).mean(axis=(1, 2, 3))
            report[f"held_out_psnr_db_{size}"] = round(float((10 * np.log10(255**2 / error)).mean()), 2)
        report["parameters"] = sum(p.numel() for p in model.parameters())
        report["bytes"] = (tmp / FIRST_STAGE.weights_name).stat().st_size
        report["torch"] = torch.__version__.split("+")[0]
        write_json(tmp / "training.json", report)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
