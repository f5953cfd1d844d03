"""Time training steps at the paper's size, on a GPU or else the CPU, and their peak memory.

python benchmarks/full_size_step.py --batch-size 1

It is the training itself (`difftalk train`) on a shard of random latents of 3 x 64 x 64. On a GPU, use
a larger --batch-size.
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from random_shards import write_random_shard, write_small_autoencoder

from difftalk.config.training import TrainingSettings
from difftalk.stages import train
from difftalk.training import loop


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--precision", choices=["no", "bf16"], default="bf16")
    args = parser.parse_args()

    settings = TrainingSettings(
        steps=args.steps, batch_size=args.batch_size, precision=args.precision, log_every=1
    )
    save = loop.save_checkpoint

    def save_and_tell(state: Path, step: int, provenance: str, tensors: dict[str, Any]) -> Path:
        steps_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        began = time.monotonic()
        path = save(state, step, provenance, tensors)
        seconds = time.monotonic() - began
        print(f"peak memory of the process: {steps_gb:.1f} GB")
        if torch.cuda.is_available():
            print(f"peak memory of the GPU: {torch.cuda.max_memory_allocated() / 1e9:.1f} GB")
        print(f"checkpoint: {path.stat().st_size / 1e9:.2f} GB in {seconds:.0f} s")
        return path

    loop.save_checkpoint = save_and_tell
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_random_shard(folder / "train-000.tar", clips=1, frames=130)
        write_small_autoencoder(folder / "autoencoder")
        train.run(
            shards=[folder / "train-000.tar"],
            autoencoder=folder / "autoencoder",
            settings=settings,
            state=folder / "state",
            out=folder / "model",
        )
        facts = json.loads((folder / "model" / "training.json").read_text())
        log = [json.loads(line) for line in (folder / "model" / "log.jsonl").read_text().splitlines()]
    where = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"CPU, {torch.get_num_threads()} threads"
    )
    print(
        f"{facts['parameters']['unet']:,} parameters of the UNet, {args.precision}, "
        f"batch of {args.batch_size}, {where}"
    )
    for line in log:
        print(f"step {line['step']}: {args.batch_size / line['images_per_s']:.1f} s, loss {line['loss']:.4f}")


if __name__ == "__main__":
    main()
