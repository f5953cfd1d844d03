"""Time how fast training batches come from the shards alone, and what checksums and HDTF's index take.

python benchmarks/loader.py --workers 0 1 2
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

from random_shards import write_random_shard

from difftalk.media.members import verify_shards
from difftalk.models.examples import LatentClips
from difftalk.training.data import Steps, batch_indices, load_steps

HDTF_FRAMES = 1_500_000  # 16 hours


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=60, help="batches to time")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--frames", type=int, default=6000, help="frames in the shard, 49 KB each")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        path = write_random_shard(Path(folder) / "train-000.tar", args.frames // 500, 500)
        began = time.monotonic()
        verify_shards([path])
        seconds = time.monotonic() - began
        print(
            f"checksums, once a run: {path.stat().st_size / 1e9 / seconds:.2f} GB/s, "
            f"{1e6 * seconds / args.frames:.0f} us a frame: 3 % of an epoch at "
            f"{0.03 * args.frames / seconds:.0f} frames/s"
        )
        clips = LatentClips([path], neighbours=8)
        print(f"{args.frames} frames, {path.stat().st_size / 1e6:.0f} MB, batches of {args.batch_size}")
        print("| workers | samples/s | ms / batch |")
        print("|---|---|---|")
        for workers in args.workers:
            steps = Steps(clips, args.batch_size, 1, 60, 1000)
            warm = 2 * workers + 2  # what the workers have ready when the clock starts would flatter them
            batches = load_steps(steps, 0, warm + args.steps, workers, pin=False)
            for _ in range(warm):
                next(batches)
            began = time.monotonic()
            count = sum(1 for _ in batches)
            seconds = time.monotonic() - began
            print(
                f"| {workers} | {count * args.batch_size / seconds:.0f} | {1000 * seconds / count:.1f} |",
                flush=True,
            )

    # In a process of its own, which has not asked for an order yet.
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(
            "HDTF's index, {} frames: {:.0f} MB, {:.0f} ms for a new epoch's order".format(*pool.apply(index))
        )


def index() -> tuple[int, float, float]:
    """Return frames, MB that the order of two epochs takes (the most held), and ms for one."""
    before = _resident()
    batch_indices(HDTF_FRAMES, 64, 0, 1)
    began = time.monotonic()
    batch_indices(HDTF_FRAMES, 64, HDTF_FRAMES // 64 + 1, 1)
    seconds = time.monotonic() - began
    return HDTF_FRAMES, (_resident() - before) / 1e6, 1e3 * seconds


def _resident() -> int:
    """Bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


if __name__ == "__main__":
    main()
