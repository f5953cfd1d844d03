"""How a model of a run is sampled best: each way of sampling is timed and scored on the test clips.

python benchmarks/sampling_steps.py results/demo --ways '{"steps": 5}' '{"steps": 5, "progressive": "latent"}'

A way is the section `sampling` as JSON. Without any, three samplers are compared with numbers of steps from 5
to 200. Each score is the mean over clips, with its 95 % interval (1.96 standard errors). Jitter is the mean
absolute second difference in time at the mouth, over that of the true frames; drift is that of
`difftalk.evaluation.drift`, as Lab units and as a factor of sharpness a second.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from difftalk.config.evaluation import Evaluation
from difftalk.config.sampling import Sampling
from difftalk.config.section import from_dict
from difftalk.evaluation.drift import drift
from difftalk.evaluation.scores import read_scores
from difftalk.media.shards import Crop, read_crops
from difftalk.media.video import read_video
from difftalk.models.masks import generated_mask
from difftalk.stages import sample, score

COLUMNS = ("psnr_mouth", "sync_confidence", "sync_offset", "mouth_corr")
STEPS = {"ddim": (5, 10, 20, 50, 200), "dpm++": (5, 10, 20), "unipc": (5, 10, 20)}
WAYS = tuple({"sampler": name, "steps": n} for name, numbers in STEPS.items() for n in numbers)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--method", default="difftalk")
    parser.add_argument("--model", type=Path, help="folder of the model; by default that of the method")
    parser.add_argument("--shard", default="test-000")
    parser.add_argument("--ways", nargs="+", type=json.loads, default=WAYS, metavar="JSON")
    parser.add_argument("--plot", type=Path, help="picture to draw: quality against time")
    args = parser.parse_args()

    names = ("ms / frame", "CPU ms / frame", *COLUMNS, "jitter", "drift, Lab/s", "drift, sharpness/s")
    print("| sampling |", " | ".join(names), "|")
    print("|---|" + "---|" * len(names))
    crops = args.run / "crops" / f"{args.shard}.tar"
    drawn: list[tuple[str, float, list[list[float]]]] = []
    for way in args.ways:
        with tempfile.TemporaryDirectory() as folder:
            samples, metrics = Path(folder) / "samples", Path(folder) / "metrics.parquet"
            started, begun = time.monotonic(), time.process_time()
            sample.run(
                method=args.method,
                crops=crops,
                shard_file=args.run / "shards" / f"{args.shard}.tar",
                autoencoder=args.run / "models" / "autoencoder",
                settings=from_dict(Sampling, way, "--ways"),
                model=args.model or args.run / "models" / args.method,
                out=samples,
            )
            seconds, busy = time.monotonic() - started, time.process_time() - begun
            score.run(
                method=args.method,
                samples=samples,
                crops=crops,
                syncnet=args.run / "models" / "syncnet",
                settings=Evaluation(),
                out=metrics,
            )
            rows = list(read_scores([metrics]).clips[args.method].values())
            moving = [measure(crop, samples / f"{crop.clip_id}.mp4") for crop in read_crops(crops)]
        frames = sum(row["frames"] for row in rows)
        figures = [[row[column] for row in rows] for column in COLUMNS]
        figures += [list(values) for values in zip(*moving, strict=True)]
        words = " ".join(f"{key} {value}" for key, value in way.items())
        said = " | ".join(interval(values) for values in figures)
        times = f"{1000 * seconds / frames:.1f} | {1000 * busy / frames:.1f}"
        print(f"| {words} | {times} | {said} |", flush=True)
        others = [f"{key} {value}" for key, value in way.items() if key not in ("sampler", "steps")]
        drawn.append((", ".join([str(way.get("sampler", "ddim")), *others]), 1000 * busy / frames, figures))
    if args.plot is not None:
        plot(drawn, args.plot)
    print(json.dumps({"clips": len(rows), "frames": frames}))


def measure(crop: Crop, sample_file: Path) -> tuple[float, float, float]:
    """Jitter over the truth's, and drift of colour and of sharpness, of one clip."""
    truth, made = crop.frames(), read_video(sample_file)
    regions = generated_mask(crop.landmarks, truth.shape[1], truth.shape[1])
    shakes = [np.abs(np.diff(f.astype(float), n=2, axis=0))[regions[1:-1]].mean() for f in (made, truth)]
    found = drift(truth, made, regions)
    return shakes[0] / shakes[1], found.colour_per_s, found.sharpness_per_s


def plot(drawn: list[tuple[str, float, list[list[float]]]], out: Path) -> None:
    """Draw three of the scores against CPU time a frame, a line for each sampler."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    shown = {
        "psnr_mouth": "PSNR of the mouth, dB",
        "sync_confidence": "sync confidence",
        "mouth_corr": "mouth corr.",
    }
    figure, axes = plt.subplots(1, len(shown), figsize=(11, 3.2), layout="constrained")
    for axis, (column, label) in zip(axes, shown.items(), strict=True):
        place = COLUMNS.index(column)
        for sampler in dict.fromkeys(name for name, _, _ in drawn):
            points = sorted((ms, figures[place]) for name, ms, figures in drawn if name == sampler)
            means = [np.mean(values) for _, values in points]
            halves = [1.96 * np.std(values, ddof=1) / len(values) ** 0.5 for _, values in points]
            axis.errorbar([ms for ms, _ in points], means, halves, label=sampler, marker="o", capsize=2)
        axis.set(xscale="log", xlabel="CPU ms a frame", title=label)
        axis.xaxis.set_minor_formatter("")
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper")
    figure.savefig(out, dpi=110)


def interval(values: list[float]) -> str:
    """The mean, and half of the 95 % interval of it."""
    return f"{np.mean(values):.3f} ± {1.96 * np.std(values, ddof=1) / len(values) ** 0.5:.3f}"


if __name__ == "__main__":
    main()
