"""Time how long each stage takes to start, in seconds and as a multiple of `import torch`.

python benchmarks/start_up.py [--checkout OTHER] [--repeats 3]

Each stage runs on inputs without clips, as the workflow runs it: one command in a process of its own, on an
empty shard; `train` takes one step of the smallest model. The least of several runs counts, and checkouts
take turns. `--checkout` adds another version of the code, whose command line has the same flags.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from random_shards import write_random_shard, write_small_autoencoder

from difftalk.datasets.clips import write_plan
from difftalk.media.shards import write_shard

ROOT = Path(__file__).resolve().parents[1]
IMPORTS = {"import torch": "import torch", "import torch, diffusers": "import torch, diffusers"}
# Keys that tell a small training from the paper's, as old and new versions have them.
TRAINING = {
    "channels": [32, 64],
    "layers": 1,
    "head_channels": 16,
    "steps": 1,
    "batch_size": 4,
    "log_every": 1,
}


def commands(inputs: Path, outputs: Path) -> dict[str, list[str]]:
    """Return the arguments of each stage; the outputs of one are inputs of the next."""
    empty, plan = str(inputs / "empty.tar"), str(inputs / "clips.parquet")
    shard = ["--plan", plan, "--shard", "train-000"]
    demo = json.dumps({"name": "demo", "identities": {"train": 1, "test": 1}})

    def out(name: str) -> str:
        return str(outputs / name)

    def rejects(stage: str) -> list[str]:
        return ["--rejects", out(f"{stage}.csv"), "--max-reject-fraction", "1"]

    sources = ["--sources", out("sources")]
    return {
        "plan": ["--dataset", demo, "--shards", '{"train": 1, "test": 1}', "--out", out("plan.parquet")],
        "fetch": [
            *shard, "--dataset", demo, "--download", "{}", "--store", out("store"), "--out", out("sources"),
            "--manifest", out("sources.csv"), *rejects("fetch"),
        ],
        "landmarks": [
            *shard, *sources, "--settings", "{}", "--out", out("landmarks.parquet"),
            "--quality", out("quality.csv"), "--scores", out("scores.parquet"),
        ],
        "gates": ["--scores", out("scores.parquet"), "--settings", "{}", *rejects("landmarks")],
        "crops": [
            *shard, *sources, "--landmarks", out("landmarks.parquet"), "--settings", '{"size": 64}',
            "--out", out("crops.tar"), *rejects("crops"),
        ],
        "speech": ["--crops", empty, "--settings", "{}", "--out", out("speech.parquet"), *rejects("speech")],
        "autoencoder": [
            "--settings", "{}", "--source", "embedded", "--state", out("state"), "--out", out("autoencoder"),
        ],
        "syncnet": [
            "--settings", "{}", "--source", "embedded", "--state", out("state"), "--out", out("syncnet"),
        ],
        "encode": [
            "--crops", empty, "--speech", out("speech.parquet"), "--autoencoder", out("autoencoder"),
            "--settings", "{}", "--out", out("encoded.tar"), *rejects("encode"),
        ],
        "train": [
            "--shards", str(inputs / "random.tar"), "--autoencoder", str(inputs / "autoencoder"),
            "--settings", json.dumps(TRAINING), "--state", out("state"), "--out", out("model"),
        ],
        "sample": [
            "--method", "difftalk", "--crops", empty, "--shard-file", empty,
            "--autoencoder", str(inputs / "autoencoder"), "--model", out("model"), "--settings", "{}",
            "--out", out("samples/difftalk/test-000"),
        ],
        "score": [
            "--method", "difftalk", "--samples", out("samples/difftalk/test-000"), "--crops", empty,
            "--syncnet", out("syncnet"), "--settings", "{}", "--out", out("metrics.parquet"),
        ],
        "tables": [
            "--metrics", out("metrics.parquet"), "--plan", plan, "--settings", "{}", "--out", out("tables"),
        ],
        "funnel": [
            "--plan", plan, "--out", out("funnel.csv"), "--by-subset", out("subsets.csv"),
            "--page", out("funnel.html"),
        ],
        "freeze": ["--plan", plan, "--out", out("frozen.csv")],
        "report": [
            "--tables", out("tables"), "--funnel", out("funnel.csv"), "--settings", "{}",
            "--out", out("report"), "--zip", out("report.zip"),
        ],
    }  # fmt: skip


def write_inputs(folder: Path) -> None:
    """Write what the first stages read.

    That is a plan and a shard without clips, a random shard, and an untrained first stage.
    """
    write_plan(folder / "clips.parquet", [], ["train-000"])
    write_shard(folder / "empty.tar", [])
    write_random_shard(folder / "random.tar", clips=1, frames=80, size=16)
    write_small_autoencoder(folder / "autoencoder")


def timed(command: list[str], checkout: Path) -> tuple[float, float]:
    """Return the wall and processor seconds of a command that runs the code of a checkout."""
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = os.times().elapsed
    done = subprocess.run(command, env=environment, cwd=checkout, capture_output=True, text=True, check=False)
    wall = os.times().elapsed - began
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--checkout", type=Path, action="append", default=[], help="another version to compare with"
    )
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()

    checkouts = [*(path.resolve() for path in args.checkout), ROOT]
    least: dict[tuple[str, int], tuple[float, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder) / "inputs"
        inputs.mkdir()
        write_inputs(inputs)
        for _ in range(args.repeats):
            for number, checkout in enumerate(checkouts):
                outputs = Path(folder) / f"outputs-{number}"
                shutil.rmtree(outputs, ignore_errors=True)
                outputs.mkdir()
                runs = {name: [sys.executable, "-c", code] for name, code in IMPORTS.items()}
                runs["--help"] = [sys.executable, "-m", "difftalk", "--help"]
                runs |= {
                    stage: [sys.executable, "-m", "difftalk", stage, *arguments]
                    for stage, arguments in commands(inputs, outputs).items()
                }
                for name, command in runs.items():
                    found = timed(command, checkout)
                    before = least.get((name, number), found)
                    least[name, number] = (min(before[0], found[0]), min(before[1], found[1]))
    print("| |", " | ".join(f"{c.name}: s | CPU s | x import torch" for c in checkouts), "|")
    print("|---|" + "---:|---:|---:|" * len(checkouts))
    for name in dict.fromkeys(name for name, _ in least):
        cells = []
        for number in range(len(checkouts)):
            (wall, cpu), (torch_wall, _) = least[name, number], least["import torch", number]
            cells.append(f"{wall:.2f} | {cpu:.2f} | {wall / torch_wall:.2f}")
        print(f"| {name} |", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
