"""Make the first stage that the package embeds, from thousands of freshly drawn faces.

The recorded command is in docs/embedded_weights.md. No face is a speaker of the demo: `random_frame` draws
from seeds that the demo never uses.
"""

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch

from difftalk.config.autoencoder import AutoencoderTraining
from difftalk.config.section import from_json
from difftalk.datasets.demo.faces import random_frame
from difftalk.models.autoencoder import decode_latents, encode_frames
from difftalk.pretrained.model_folder import FIRST_STAGE
from difftalk.runtime.files import atomic_folder, write_json
from difftalk.runtime.progress import progress
from difftalk.training.first_stage import train_autoencoder
from difftalk.training.frames import Batches

SOURCE_SIZE = 192  # pixels a face is drawn at before it is cropped
HELD_OUT = 512  # faces that are measured on and not trained on


def drawn_crops(count: int, size: int, seed: int) -> np.ndarray:
    """Draw faces (count, size, size, 3) uint8, cut as loosely or tightly as any crop setting."""
    rng = np.random.default_rng(seed)
    crops = np.empty((count, size, size, 3), np.uint8)
    for i in range(count):
        image, points = random_frame(rng, SOURCE_SIZE)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the first stage")
    parser.add_argument("--faces", type=int, default=20000)
    parser.add_argument("--size", type=int, default=64, help="pixels of a crop")
    parser.add_argument("--settings", default="{}", help="JSON of the section autoencoder_training")
    parser.add_argument("--state", type=Path, required=True, help="folder for checkpoints")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()

    settings = from_json(AutoencoderTraining, args.settings)
    frames = draw_many(args.faces + HELD_OUT, args.size, 1000 * settings.seed, args.workers)
    train, held_out = frames[:-HELD_OUT], frames[-HELD_OUT:]
    trained = train_autoencoder(Batches(train, settings.batch_size, settings.seed), settings, args.state)
    model, report = trained.model, trained.report
    report["settings"] = settings.as_dict()
    report["faces"] = args.faces
    with atomic_folder(args.out) as tmp:
        # Half precision halves the package; loading widens it again. Figures are taken from what is kept.
        model.half().save_pretrained(tmp, safe_serialization=True)
        model.float()
        restored = decode_latents(model, encode_frames(model, held_out))
        error = np.square(restored.astype(float) - held_out).mean(axis=(1, 2, 3))
        report["held_out_psnr_db"] = round(float((10 * np.log10(255**2 / error)).mean()), 2)
        report["parameters"] = sum(p.numel() for p in model.parameters())
        report["bytes"] = (tmp / FIRST_STAGE.weights_name).stat().st_size
        report["torch"] = torch.__version__.split("+")[0]
        write_json(tmp / "training.json", report)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
