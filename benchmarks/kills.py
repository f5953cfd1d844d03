"""Kill a training at random moments: does every resume end with the same weights?

python benchmarks/kills.py --kills 20
python benchmarks/kills.py --kills 10 --processes 2 --data-workers 1

Each attempt is killed at a random moment, one in four while it starts and the others while it trains, and
resumed by the same command. A training that finishes is compared with the uninterrupted one and begun again,
until there were as many kills.
"""

import argparse
import json
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from random_shards import write_random_shard, write_small_autoencoder
from safetensors.torch import load_file

SETTINGS = {
    "channels": [32, 64],
    "layers": 1,
    "head_channels": 16,
    "batch_size": 4,
    "loss_region": "generated",
    "ema_decay": 0.9,
    "checkpoint_every": 5,
    "log_every": 3,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--data-workers", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rng = random.Random(args.seed)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_random_shard(folder / "train-000.tar", clips=3, frames=100, size=16)
        write_small_autoencoder(folder / "autoencoder")

        def command(out: str) -> list[str]:
            return [
                *(sys.executable, "-m", "difftalk", "train", "--shards", str(folder / "train-000.tar")),
                *("--autoencoder", str(folder / "autoencoder")),
                *("--settings", json.dumps(SETTINGS | {"steps": args.steps})),
                *("--state", str(folder / f"state-{out}"), "--out", str(folder / out)),
                *("--processes", str(args.processes), "--data-workers", str(args.data_workers)),
            ]

        began = time.monotonic()
        with subprocess.Popen(command("whole"), stderr=subprocess.DEVNULL) as whole:
            started = until_it_trains(whole, folder / "state-whole")
            assert whole.wait() == 0
        start_s, loop_s = started - began, time.monotonic() - started
        print(f"uninterrupted: {start_s:.1f} s to start, {loop_s:.1f} s for {args.steps} steps", flush=True)

        kills = finished = status = 0
        while kills < args.kills or status != 0:
            number = rng.choice((signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1))
            in_loop = rng.random() < 0.75
            wait_s = rng.random() * (loop_s if in_loop else start_s) if kills < args.kills else 3600
            with subprocess.Popen(command("killed"), stderr=subprocess.PIPE, text=True) as job:
                if in_loop:
                    until_it_trains(job, folder / "state-killed")
                try:
                    said = job.communicate(timeout=wait_s)[1]
                except subprocess.TimeoutExpired:
                    job.send_signal(number)
                    said = job.communicate()[1]
                    kills += 1
            status = job.returncode
            newest = max((p.stem for p in (folder / "state-killed").glob("step-*.pt")), default="nothing")
            if status == 0:
                finished += 1
                assert same(folder / "whole", folder / "killed"), "the weights differ"
                print(f"finished: weights equal bit for bit ({finished})", flush=True)
                shutil.rmtree(folder / "killed")
                shutil.rmtree(folder / "state-killed")
            else:
                expected = {128 + number, -number}
                assert status in expected, f"status {status}, not {expected}: {said}"
                saved = re.search(r"saved step \d+", said)
                where = "the steps" if in_loop else "the start"
                print(
                    f"{kills:3d} {number.name} {wait_s:.1f} s into {where}, status {status}, "
                    f"{saved[0] if saved else 'not asked to save'}, newest checkpoint {newest}",
                    flush=True,
                )
        print(
            f"{kills} kills, {finished} trainings finished, every one with the weights of the uninterrupted"
        )


def until_it_trains(job: subprocess.Popen, state: Path) -> float:
    """Wait until the loop begins (it rewrites its log then) or the job ends."""
    log = state / "log.jsonl"
    before = log.stat().st_mtime_ns if log.exists() else None
    while job.poll() is None and (not log.exists() or log.stat().st_mtime_ns == before):
        time.sleep(0.01)
    return time.monotonic()


def same(first: Path, second: Path) -> bool:
    """Return whether weights are equal bit for bit, and logs of the same steps and losses."""
    for file in first.glob("*/*.safetensors"):
        ours, theirs = load_file(file), load_file(second / file.relative_to(first))
        if ours.keys() != theirs.keys() or not all(torch.equal(ours[k], theirs[k]) for k in ours):
            return False
    logs = [
        [(e["step"], e["loss"]) for e in map(json.loads, (m / "log.jsonl").read_text().splitlines())]
        for m in (first, second)
    ]
    return logs[0] == logs[1]


if __name__ == "__main__":
    main()
