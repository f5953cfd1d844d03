"""Measure first stages on drawn speakers that none was trained on, at the sizes of crops that the demo has.

python benchmarks/first_stage.py embedded FOLDER --faces 96 --pictures OUT

First the truth is measured against itself. Then for each first stage and size: PSNR of the whole crop and of
the mouth's box in dB (mean of the frames), the colour error of large areas in CIE dE2000, ST-LPIPS, the part
of the codes that are used, and milliseconds of one core for a frame to be encoded and decoded. A large area
is connected, of one colour within its blur, and at least 2 % of a crop; its colour is its mean. Speakers are
as the demo draws them, and again in any colour. Each first stage's ten worst crops are written as a picture,
the truth above and the reconstruction below.
"""

import argparse
import time
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from skimage.color import deltaE_ciede2000, rgb2lab

from difftalk.datasets.demo.any_colour import in_any_colour
from difftalk.datasets.demo.faces import random_frame, random_identity
from difftalk.evaluation.st_lpips import StLpips
from difftalk.models.autoencoder import decode_latents, encode_frames, load_autoencoder
from difftalk.models.quantiser import quantise
from difftalk.pretrained.model_folder import folder_of

SEED = 424_242  # training draws with small seeds
SOURCE_SIZE = 256  # pixels a face is drawn at
BATCH = 16  # frames in one pass
SMALLEST_AREA = 0.02  # of a crop
FLAT = 10  # levels within a window of a twelfth of the crop: a flat area
WORST = 10


class Crops(NamedTuple):
    """Drawn faces.

    Args:
        frames: (N, H, H, 3) uint8 RGB.
        mouths: (N, 4) x0, y0, x1, y1 in pixels.
    """

    frames: np.ndarray
    mouths: np.ndarray


def draw(count: int, size: int, any_colour: bool) -> Crops:
    """Draw speakers, cut as loosely or tightly as any crop setting; the same at each size."""
    frames, mouths = np.empty((count, size, size, 3), np.uint8), np.empty((count, 4), int)
    for i in range(count):
        rng = np.random.default_rng((SEED, i))
        identity = random_identity(rng)
        if any_colour:
            identity = in_any_colour(identity, rng)
        image, points = random_frame(rng, SOURCE_SIZE, identity)
        low, high = points.min(0), points.max(0)
        side = round((high - low).max() * rng.uniform(1.15, 1.75))
        x0, y0 = np.rint((low + high) / 2 - side / 2 + rng.uniform(-0.06, 0.06, 2) * side).astype(int)
        wide = cv2.copyMakeBorder(image, side, side, side, side, cv2.BORDER_REPLICATE)
        part = wide[y0 + side : y0 + 2 * side, x0 + side : x0 + 2 * side]
        interpolation = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
        frames[i] = cv2.resize(part, (size, size), interpolation=interpolation)
        mouth = (points[48:68] - (x0, y0)) * size / side
        pad = size / 32
        mouths[i] = np.clip(np.r_[mouth.min(0) - pad, mouth.max(0) + pad], 0, size).round()
    return Crops(frames, mouths)


def psnr(truth: np.ndarray, frame: np.ndarray) -> float:
    error = np.square(truth.astype(float) - frame).mean()
    return float(10 * np.log10(255**2 / error)) if error else np.inf


def colour_errors(truth: np.ndarray, frame: np.ndarray) -> list[float]:
    """Return the dE2000 between the mean colours of each large area of a crop (H, H, 3) uint8."""
    kernel = np.ones((max(3, len(truth) // 12 | 1),) * 2, np.uint8)
    spread = (cv2.dilate(truth, kernel).astype(int) - cv2.erode(truth, kernel)).max(axis=2)
    count, areas = cv2.connectedComponents((spread <= FLAT).astype(np.uint8), connectivity=4)
    errors = []
    for area in range(1, count):
        inside = areas == area
        if inside.mean() >= SMALLEST_AREA:
            a, b = (rgb2lab(image[inside].mean(0) / 255) for image in (truth, frame))
            errors.append(float(deltaE_ciede2000(a, b)))
    return errors


def reconstruct(folder: Path, frames: np.ndarray) -> tuple[np.ndarray, float, float, np.ndarray]:
    """Return reconstructions, milliseconds to encode and to decode a frame, and which codes were used."""
    model = load_autoencoder(folder)
    encode_frames(model, frames[:BATCH], BATCH)
    began = time.process_time()
    latents = encode_frames(model, frames, BATCH)
    encoded = time.process_time()
    restored = decode_latents(model, latents, BATCH)
    decoded = time.process_time()
    scaled = latents / model.config.scaling_factor
    used = np.zeros(model.config.num_vq_embeddings, bool)
    used[quantise(model, scaled)[2].numpy()] = True
    return restored, 1000 * (encoded - began) / len(frames), 1000 * (decoded - encoded) / len(frames), used


def report(name: str, crops: Crops, restored: np.ndarray, perceptual: StLpips) -> np.ndarray:
    """Print a line of figures; return the PSNR of each crop."""
    pairs = list(zip(crops.frames, restored, strict=True))
    whole = np.array([psnr(a, b) for a, b in pairs])
    mouth = [
        psnr(a[y0:y1, x0:x1], b[y0:y1, x0:x1])
        for (a, b), (x0, y0, x1, y1) in zip(pairs, crops.mouths, strict=True)
    ]
    colours = np.array([error for a, b in pairs for error in colour_errors(a, b)])
    size = crops.frames.shape[1]
    distance = perceptual(crops.frames, restored, (0, 0, size, size))[0].mean()
    print(
        f"{name}: PSNR {whole.mean():.2f} dB (worst {whole.min():.2f}), mouth {np.mean(mouth):.2f} dB, "
        f"dE2000 {colours.mean():.2f} (95 % below {np.quantile(colours, 0.95):.2f}, {len(colours)} areas), "
        f"ST-LPIPS {distance:.4f}",
        flush=True,
    )
    return whole


def worst(path: Path, truth: np.ndarray, restored: np.ndarray, scores: np.ndarray) -> None:
    """Write the crops of the lowest scores, the truth above."""
    chosen = np.argsort(scores)[:WORST]
    rows = [np.concatenate(list(frames[chosen]), axis=1) for frames in (truth, restored)]
    picture = np.concatenate(rows)[:, :, ::-1]
    zoom = max(1, 128 // truth.shape[1])
    picture = cv2.resize(picture, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_NEAREST)
    cv2.imwrite(str(path), picture)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("sources", nargs="+", help="`embedded` or folders of first stages")
    parser.add_argument("--faces", type=int, default=96)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 96, 128])
    parser.add_argument("--pictures", type=Path, help="folder of the pictures of the worst")
    args = parser.parse_args()

    torch.set_num_threads(1)
    perceptual = StLpips()
    used: dict[str, np.ndarray] = {}
    for any_colour in (False, True):
        for size in args.sizes:
            crops = draw(args.faces, size, any_colour)
            kind = f"{size} px, {'any colour' if any_colour else 'as in the demo'}"
            report(f"truth, {kind}", crops, crops.frames, perceptual)
            for source in args.sources:
                restored, encoding, decoding, codes = reconstruct(
                    folder_of(source, "autoencoder"), crops.frames
                )
                scores = report(f"{source}, {kind}", crops, restored, perceptual)
                print(f"  {encoding:.1f} ms to encode and {decoding:.1f} ms to decode a frame")
                used[source] = used.get(source, np.zeros_like(codes)) | codes
                if args.pictures is not None:
                    args.pictures.mkdir(parents=True, exist_ok=True)
                    colours = "any" if any_colour else "demo"
                    picture = args.pictures / f"{Path(source).name}-{size}-{colours}.png"
                    worst(picture, crops.frames, restored, scores)
    for source, codes in used.items():
        print(f"{source}: {codes.sum()} of {len(codes)} codes used")


if __name__ == "__main__":
    main()
