"""What each instrument of `score` can tell: the truth against itself, and methods whose faults are known.

python benchmarks/instruments.py FOLDER --crops RUN/crops/test-000.tar ... [--sizes 64 128 256] [--frames 150]

The crops (256 px, or as large as the largest size) are scaled to each size and become a shard of their own.
The rows: the truth as `ground_truth` is written (crf 10, full colour); recompressed (crf 23, halved colour);
blurred (the mouth by a Gaussian of 2 % of the crop's side); delayed (the mouth 3 frames late); frozen (the
mouth of the first frame); missing (the truth without every third clip). A mouth comes from another frame by
the similarity that maps the brows, eyes and nose of one onto those of the other.

Scores are those of `difftalk score`, means and intervals those of `difftalk tables`. In the table of a size,
a figure is marked where the 95 % interval of its paired difference from the truth excludes zero.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

import difftalk
from difftalk.config.evaluation import Evaluation
from difftalk.evaluation.columns import METRICS
from difftalk.evaluation.scores import Scores, read_scores
from difftalk.media.clock import SAMPLES_PER_FRAME
from difftalk.media.encode import encode_video, write_video
from difftalk.media.points68 import MOUTH, RIGID
from difftalk.media.shards import Crop, read_crops, write_shard
from difftalk.reporting.figures import TRUTH, Figures
from difftalk.reporting.tables import heading
from difftalk.stages import score

EXPERT = Path(difftalk.__file__).parent / "assets" / "syncnet"
Frames = np.ndarray
LATE = 3  # frames


def mouth_mask(landmarks: np.ndarray, size: int) -> np.ndarray:
    """How much of each pixel is taken from elsewhere, (S, S, 1) in 0..1, soft at the edge of one mouth."""
    points = landmarks[MOUTH].astype(np.float32)
    centre = points.mean(axis=0)
    hull = cv2.convexHull(((points - centre) * 1.6 + centre).round().astype(np.int32))
    mask = np.zeros((size, size), np.float32)
    cv2.fillConvexPoly(mask, hull, 1.0)
    return cv2.GaussianBlur(mask, (0, 0), max(size / 64, 1))[..., None]


def with_mouths_of(frames: Frames, landmarks: np.ndarray, sources: Sequence[int]) -> Frames:
    """Give each frame the mouth of another one, turned and scaled as its head is."""
    made = []
    for k, other in enumerate(sources):
        turn, _ = cv2.estimateAffinePartial2D(landmarks[other][RIGID], landmarks[k][RIGID])
        size = frames.shape[2]
        moved = cv2.warpAffine(frames[other], turn, (size, size), borderMode=cv2.BORDER_REPLICATE)
        points = landmarks[other] @ turn[:, :2].T + turn[:, 2]
        # The hole must cover both mouths.
        mask = np.maximum(mouth_mask(landmarks[k], size), mouth_mask(points, size))
        made.append((mask * moved + (1 - mask) * frames[k]).round().astype(np.uint8))
    return np.stack(made)


def blurred(frames: Frames, landmarks: np.ndarray) -> Frames:
    """Blur the mouth."""
    size = frames.shape[2]
    masks = [mouth_mask(points, size) for points in landmarks]
    soft = [cv2.GaussianBlur(frame, (0, 0), 0.02 * size) for frame in frames]
    mixed = [m * s + (1 - m) * f for m, s, f in zip(masks, soft, frames, strict=True)]
    return np.stack(mixed).round().astype(np.uint8)


def delayed(frames: Frames, landmarks: np.ndarray) -> Frames:
    """Let the mouth lag behind."""
    return with_mouths_of(frames, landmarks, [max(k - LATE, 0) for k in range(len(frames))])


def frozen(frames: Frames, landmarks: np.ndarray) -> Frames:
    """Keep the first mouth."""
    return with_mouths_of(frames, landmarks, [0] * len(frames))


MADE: dict[str, Callable[[Frames, np.ndarray], Frames]] = {
    "ground_truth": lambda frames, _: frames,
    "recompressed": lambda frames, _: frames,
    "blurred": blurred,
    "delayed": delayed,
    "frozen": frozen,
    "missing": lambda frames, _: frames,
}


def scaled(crops: Sequence[Path], size: int, most: int) -> Iterator[tuple[str, dict[str, object]]]:
    """The samples of a shard with the first frames of all crops, at another size."""
    for path in crops:
        for clip in read_crops(path):
            frames = clip.frames()[:most]
            factor = size / frames.shape[2]
            if factor != 1:
                frames = np.stack([cv2.resize(f, (size, size), interpolation=cv2.INTER_AREA) for f in frames])
            landmarks = ((clip.landmarks[: len(frames)] + 0.5) * factor - 0.5).astype(np.float32)
            yield (
                clip.clip_id,
                {
                    "mp4": encode_video(frames, crf=10, preset="superfast", pix_fmt="yuv444p"),
                    "flac": clip.files["flac"],
                    "landmarks.npy": landmarks,
                    "json": clip.info | {"size": size, "frames": len(frames)},
                },
            )


def write_method(method: str, clips: Sequence[Crop], folder: Path) -> None:
    """Write the videos of one made-up method."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, clip in enumerate(clips):
        if method == "missing" and number % 3 == 0:
            continue
        landmarks = clip.landmarks.astype(np.float64)
        frames = MADE[method](clip.frames(), landmarks)
        crf, colour = (23, "yuv420p") if method == "recompressed" else (10, "yuv444p")
        audio = clip.audio[: len(frames) * SAMPLES_PER_FRAME]
        write_video(folder / f"{clip.clip_id}.mp4", frames, audio=audio, crf=crf, pix_fmt=colour)


def scores_of(folder: Path, crops: Path, expert: Path, methods: Sequence[str]) -> Scores:
    """Write and score methods on a shard."""
    clips = list(read_crops(crops))
    metrics = []
    for method in methods:
        write_method(method, clips, folder / "samples" / method)
        out = folder / "metrics" / f"{method}.parquet"
        score.run(
            method=method,
            samples=folder / "samples" / method,
            crops=crops,
            syncnet=expert,
            settings=Evaluation(),
            out=out,
            cache=folder / "cache",
        )
        metrics.append(out)
    return read_scores(metrics)


def cell(figures: Figures, method: str, column: str) -> str:
    """A mean, bold where it parts from the truth's beyond what clips vary by."""
    if column not in figures.means.get(method, {}):
        return ""
    text = f"{figures.means[method][column]:.{METRICS[column].digits}f}"
    found = None if method == TRUTH else figures.difference(method, TRUTH, column)
    apart = found and found.interval and not found.interval[0] <= 0 <= found.interval[1]
    return f"**{text}**" if apart else text


def table(scores: Scores) -> str:
    """The methods as columns, the instruments as rows: there are more of these."""
    figures = Figures(scores)
    methods = [method for method in MADE if method in scores.clips]
    shown = [c for c in METRICS if any(c in figures.means.get(m, {}) for m in methods)]
    clips = [f"{figures.scored[method]} of {len(figures.clips)}" for method in methods]
    lines = [
        ["column", *(method.replace("_", " ") for method in methods)],
        ["---"] * (len(methods) + 1),
        ["clips", *clips],
        *([heading(c, scores.protocol), *(cell(figures, m, c) for m in methods)] for c in shown),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Print a table per size."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, help="for shards, videos and scores")
    parser.add_argument("--crops", type=Path, nargs="+", required=True, help="crops/SHARD.tar of a run")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256], help="pixels")
    parser.add_argument("--frames", type=int, default=150, help="of each clip, at most")
    parser.add_argument("--syncnet", type=Path, default=EXPERT, help="folder of the sync expert")
    parser.add_argument("--methods", nargs="+", choices=list(MADE), default=list(MADE), metavar="NAME")
    args = parser.parse_args()
    for size in args.sizes:
        folder = args.folder / str(size)
        folder.mkdir(parents=True, exist_ok=True)
        crops = folder / "test-000.tar"
        write_shard(crops, scaled(args.crops, size, args.frames))
        print(f"\n{size} px\n\n{table(scores_of(folder, crops, args.syncnet, args.methods))}", flush=True)


if __name__ == "__main__":
    main()
