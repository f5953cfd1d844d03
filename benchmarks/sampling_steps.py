"""How many DDIM steps a model of a run needs: it is sampled and scored with several numbers of steps.

python benchmarks/sampling_steps.py results/demo_full --steps 2 5 10 20
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

from difftalk.config.evaluation import Evaluation
from difftalk.config.sampling import Sampling
from difftalk.evaluation.scores import read_scores
from difftalk.stages import sample, score

COLUMNS = ("psnr_mouth", "ssim_mouth", "sync_confidence", "mouth_corr")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--method", default="difftalk")
    parser.add_argument("--shard", default="test-000")
    parser.add_argument("--steps", type=int, nargs="+", default=[2, 5, 10, 20])
    args = parser.parse_args()

    crops = args.run / "crops" / f"{args.shard}.tar"
    print("| DDIM steps | s / frame |", " | ".join(COLUMNS), "|")
    print("|---|---|" + "---|" * len(COLUMNS))
    for steps in args.steps:
        with tempfile.TemporaryDirectory() as folder:
            samples, metrics = Path(folder) / "samples", Path(folder) / "metrics.parquet"
            started = time.monotonic()
            sample.run(
                method=args.method,
                crops=crops,
                shard_file=args.run / "shards" / f"{args.shard}.tar",
                autoencoder=args.run / "models" / "autoencoder",
                settings=Sampling(steps=steps),
                model=args.run / "models" / args.method,
                out=samples,
            )
            seconds = time.monotonic() - started
            score.run(
                method=args.method,
                samples=samples,
                crops=crops,
                syncnet=args.run / "models" / "syncnet",
                settings=Evaluation(),
                out=metrics,
            )
            rows = list(read_scores([metrics]).clips[args.method].values())
        frames = sum(row["frames"] for row in rows)
        means = {c: sum(row[c] for row in rows) / len(rows) for c in COLUMNS}
        figures = " | ".join(f"{means[c]:.3f}" for c in COLUMNS)
        print(f"| {steps} | {seconds / frames:.4f} | {figures} |", flush=True)
    print(json.dumps({"clips": len(rows), "frames": frames}))


if __name__ == "__main__":
    main()
