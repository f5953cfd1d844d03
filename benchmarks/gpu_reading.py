"""How torchcodec's frames differ from PyAV's, how long both take, and what reading ahead gives.

python benchmarks/gpu_reading.py VIDEO ...

Each video is read from its first frame on, for --seconds, as RGB at 25 frames/s: with PyAV; with torchcodec,
where that is installed; and with PyAV and work on each window of frames that takes as long as reading it and
leaves the CPU alone, as networks on a GPU do: in turn, and read ahead in a thread, which at best takes half
the time.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from difftalk.face.face_alignment_backend import WINDOW
from difftalk.media.clock import FPS
from difftalk.media.lazy_frame import LazyFrame
from difftalk.media.probe import probe
from difftalk.media.read_ahead import read_ahead
from difftalk.media.torchcodec_reader import Unsuited, check_installed, frame_table, read_frames
from difftalk.media.video import read_lazy_frames
from difftalk.runtime.device import default_device
from difftalk.runtime.errors import ClipError, UserError

Frames = Iterator[np.ndarray | LazyFrame]
Reader = Callable[[], Frames]


def seconds_of(read: Reader) -> float:
    start = time.perf_counter()
    for frame in read():
        frame[:, :]
    return time.perf_counter() - start


def least(readers: dict[str, Reader], repeats: int) -> dict[str, float]:
    """Return the least time of each; they take turns, so that a busy machine is unfair to none."""
    runs = [[seconds_of(read) for read in readers.values()] for _ in range(repeats)]
    return dict(zip(readers, np.min(runs, axis=0).tolist(), strict=True))


def with_work(read: Reader, seconds: float) -> Frames:
    """Yield frames, and wait after each window of them for so many seconds a frame."""
    frames = read()
    while window := [frame[:, :] for frame in islice(frames, WINDOW)]:
        time.sleep(seconds * len(window))
        yield from window


def largest_difference(one: Reader, other: Reader) -> int:
    pairs = zip(one(), other(), strict=True)
    return max(int(np.abs(a[:, :].astype(np.int16) - b[:, :]).max()) for a, b in pairs)


def reads(path: Path) -> str:
    try:
        frame_table(path)
    except Unsuited as e:
        return f"PyAV: {e}"
    return f"torchcodec, {default_device()}"


def row(path: Path, seconds: float, repeats: int, has_torchcodec: bool) -> list[str]:
    end_s = min(probe(path).duration_s, seconds)
    count = round(end_s * FPS)
    pyav: Reader = partial(read_lazy_frames, path, 0.0, end_s)
    torchcodec: Reader = partial(read_frames, path, 0.0, end_s, default_device())
    work = seconds_of(pyav) / count
    readers: dict[str, Reader] = {
        "pyav": pyav,
        "in turn": partial(with_work, pyav, work),
        "ahead": partial(with_work, lambda: read_ahead(pyav(), WINDOW), work),
    }
    if has_torchcodec:
        readers["torchcodec"] = torchcodec
    times = least(readers, repeats)
    by = [reads(path), str(largest_difference(pyav, torchcodec))] if has_torchcodec else ["PyAV", ""]
    names = ("pyav", "torchcodec", "in turn", "ahead")
    return [str(count), *by, *(f"{times[name]:.2f}" if name in times else "" for name in names)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("videos", type=Path, nargs="+")
    parser.add_argument("--seconds", type=float, default=4.0, help="read of each video at most")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each, of which the least time counts")
    args = parser.parse_args()
    has_torchcodec = True
    try:
        check_installed("the comparison")
    except UserError as e:
        has_torchcodec = False
        print(f"{e}\n")
    print("| video | frames | read by | largest difference | PyAV s | torchcodec s | in turn s | ahead s |")
    print("|---|---:|---|---:|---:|---:|---:|---:|")
    for path in args.videos:
        try:
            cells = row(path, args.seconds, args.repeats, has_torchcodec)
        except ClipError as e:
            cells = [str(e)]
        print("|", " | ".join([path.name, *cells]), "|", flush=True)


if __name__ == "__main__":
    main()
