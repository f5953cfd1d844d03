"""Frame interpolation on drawn speakers, whose true frames and landmarks are known.

python benchmarks/interpolation.py [--sizes 64 128 256] [--speakers 4] [--seconds 2] [--frames FOLDER]

between: every second frame is interpolated. PSNR at the mouth against the true frames, beside plain
averaging of the neighbours and a copy of the one before; correlation and amplitude (ratio of standard
deviations) of the mouth opening against the truth over time, as dlib finds
it in the frames; ms a frame on one core.
smooth: each frame is disturbed by noise of its own, in colour and place. Jitter (mean absolute second
difference in time at the mouth, less the true one), PSNR and mouth opening before and after.

Sharpness is the variance of the Laplacian at the mouth over that of the true frames.
"""

import argparse
import time
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from difftalk.datasets.demo.faces import draw_face
from difftalk.datasets.demo.identity import TRAINING_SEEDS, Identity
from difftalk.datasets.demo.render import DemoSource, head_motion, perform
from difftalk.evaluation.metrics import Box, mouth_box, psnr, region
from difftalk.evaluation.mouth import correlation, measured_opening
from difftalk.sampling.interpolation import between, sampled_frames, smooth

COLUMNS = ("size", "way", "PSNR dB", "sharpness", "jitter", "opening r", "amplitude", "ms/frame")


def draw(seed: int, seconds: float, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The frames (T, H, H, 3) uint8 of a speaker who is not of the demo, and the landmarks (T, 68, 2)."""
    source = DemoSource("speaker", TRAINING_SEEDS + seed, seed, 1, seconds, size)
    identity = Identity.draw(source.identity_seed)
    _, mouths = perform(source)
    drawn = [draw_face(identity, p, m, size) for p, m in zip(head_motion(source), mouths, strict=True)]
    return np.stack([image for image, _ in drawn]), np.stack([points for _, points in drawn])


def lower_faces(landmarks: np.ndarray, size: int) -> np.ndarray:
    """The region of each frame, (T, H, H) float32: the hull of jaw, nose tip and mouth."""
    regions = np.zeros((len(landmarks), size, size), np.float32)
    for mask, points in zip(regions, landmarks, strict=True):
        hull = cv2.convexHull(np.rint(points[[*range(2, 15), 30, *range(48, 68)]]).astype(np.int32))
        cv2.fillConvexPoly(mask, hull, 1.0)
    return regions


def disturb(frames: np.ndarray, regions: np.ndarray, seed: int) -> np.ndarray:
    """Frames with an error of each frame's own, as of frames sampled alone, inside the region.

    Smooth spots of colour (standard deviation 6 of 255), fine noise (2), and a shift (0.4 % of the width).
    """
    rng = np.random.default_rng(seed)
    size = frames.shape[1]
    made = []
    for frame, part in zip(frames, regions, strict=True):
        shift = np.array([[1, 0, 0], [0, 1, 0]], np.float32)
        shift[:, 2] = rng.normal(0, 0.004 * size, 2)
        moved = cv2.warpAffine(frame, shift, (size, size), borderMode=cv2.BORDER_REPLICATE).astype(np.float32)
        spots = cv2.resize(rng.normal(0, 6, (8, 8, 3)), (size, size), interpolation=cv2.INTER_CUBIC)
        noisy = np.clip(moved + spots + rng.normal(0, 2, frame.shape), 0, 255)
        made.append(np.rint(frame + part[..., None] * (noisy - frame)).astype(np.uint8))
    return np.stack(made)


def jitter(frames: np.ndarray, box: Box) -> float:
    """The mean absolute second difference in time inside `box`, in 1/255."""
    part = np.stack([region(frame, box) for frame in frames]).astype(np.float32)
    return float(np.abs(part[2:] - 2 * part[1:-1] + part[:-2]).mean())


def sharpness(frames: np.ndarray, box: Box) -> float:
    """The mean variance of the Laplacian inside `box`."""
    gray = [cv2.cvtColor(region(f, box), cv2.COLOR_RGB2GRAY).astype(np.float32) for f in frames]
    return float(np.mean([cv2.Laplacian(image, cv2.CV_32F).var() for image in gray]))


def mouth_psnr(truth: np.ndarray, frames: np.ndarray, box: Box, numbers: Iterable[int]) -> float:
    values = [psnr(region(truth[n], box), region(frames[n], box)) for n in numbers]
    return float(np.mean([value for value in values if value is not None]))


def averaged(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    return np.rint((before.astype(np.float32) + after) / 2).astype(np.uint8)


def copied(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    return before


def measure(seed: int, seconds: float, size: int, folder: Path | None) -> dict[str, list[float]]:
    """The numbers of a speaker, by way: those of `COLUMNS` after the way."""
    truth, landmarks = draw(seed, seconds, size)
    regions = lower_faces(landmarks, size)
    box = mouth_box(landmarks, (size, size), 0.2)
    count = len(truth)
    kept = truth[sampled_frames(count)]
    noisy = disturb(truth, regions, seed)
    ways = {
        "between": lambda: between(kept, truth, regions),
        "averaged": lambda: between(kept, truth, regions, averaged),
        "copied": lambda: between(kept, truth, regions, copied),
        "noisy": lambda: iter(noisy),
        "smooth": lambda: smooth(noisy, regions),
        "smooth of true frames": lambda: smooth(truth, regions),
    }
    expected = measured_opening(truth, landmarks)
    rows: dict[str, list[float]] = {}
    for way, make in ways.items():
        start = time.perf_counter()
        frames = np.stack(list(make()))
        took_ms = (time.perf_counter() - start) / count * 1000
        made = list(range(1, count - 1, 2 if len(rows) < 3 else 1))
        opening = measured_opening(frames, landmarks)
        rows[way] = [
            mouth_psnr(truth, frames, box, made),
            sharpness(frames[made], box) / sharpness(truth[made], box),
            jitter(frames, box) - jitter(truth, box),
            correlation(expected, opening) or 0.0,
            float(np.std(opening) / np.std(expected)),
            took_ms,
        ]
        if folder is not None:
            strip(folder / f"{size}-{seed}-{way.replace(' ', '-')}.png", frames, box, size)
    if folder is not None:
        strip(folder / f"{size}-{seed}-truth.png", truth, box, size)
    return rows


def strip(path: Path, frames: np.ndarray, box: Box, size: int) -> None:
    """Write the mouths of frames 10 to 19 side by side."""
    row = np.hstack([region(frame, box) for frame in frames[10:20]])
    large = cv2.resize(row, None, fx=256 / size, fy=256 / size, interpolation=cv2.INTER_NEAREST)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), cv2.cvtColor(large, cv2.COLOR_RGB2BGR))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[64, 128, 256], help="of the crops, in pixels"
    )
    parser.add_argument("--speakers", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each speaker")
    parser.add_argument("--frames", type=Path, help="folder for strips of mouths, as PNG")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    print(*COLUMNS, sep="\t")
    for size in args.sizes:
        speakers = [measure(seed, args.seconds, size, args.frames) for seed in range(args.speakers)]
        for way in speakers[0]:
            means = np.mean([rows[way] for rows in speakers], axis=0)
            print(size, way, *(f"{value:.2f}" for value in means), sep="\t", flush=True)


if __name__ == "__main__":
    main()
