"""How far the thresholds of the gates on pictures are from what they let pass and from what they must not.

python benchmarks/gates.py VIDEO ...

Live: every video as it is. Cuts: the first second of each before the second one of each other. Stops: each video halted
for 2 s after 0.8 s, and encoded by x264 as badly as --crf says.
"""

import argparse
import itertools
import tempfile
from pathlib import Path

import cv2
import numpy as np

from difftalk.config.gates import PictureGates
from difftalk.face.gates import SceneMonitor
from difftalk.media.encode import write_video
from difftalk.media.video import read_frames
from difftalk.runtime.errors import ClipError

RATIOS = (2.0, 3.0, 4.5, 6.0, 9.0, 12.0, 16.0)
SIZE = (480, 360)
BEFORE, STOPPED = 20, 50


def cuts(frames: list[np.ndarray], ratio: float) -> list[int]:
    watch = Watch(PictureGates(scene_cut_ratio=ratio))
    list(watch.through(frames))
    return watch.cuts()


def standstill_s(frames: list[np.ndarray]) -> float:
    watch = Watch(PictureGates())
    list(watch.through(frames))
    return watch.standstill()[1] / 25


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("videos", type=Path, nargs="+")
    parser.add_argument("--crf", type=int, nargs="+", default=[18, 28, 34, 38])
    parser.add_argument("--seconds", type=float, default=20.0, help="read of each video at most")
    args = parser.parse_args()

    clips: dict[str, list[np.ndarray]] = {}
    for path in args.videos:
        frames: list[np.ndarray] = []
        try:
            for frame in itertools.islice(read_frames(path), round(args.seconds * 25)):
                frames.append(cv2.resize(frame, SIZE, interpolation=cv2.INTER_AREA))
        except ClipError as e:
            print(f"{path.name}: {e}")
        if len(frames) >= 2 * 25:
            clips[path.name] = frames

    print("| video | longest standstill s | cuts at ratio", " | ".join(f"{r:g}" for r in RATIOS), "|")
    print("|---|---|" + "---|" * len(RATIOS))
    for name, frames in clips.items():
        counts = " | ".join(str(len(cuts(frames, r))) for r in RATIOS)
        print(f"| {name} | {standstill_s(frames):.2f} | {counts} |", flush=True)

    pairs = [(a[:25], b[25:50]) for a, b in itertools.permutations(clips.values(), 2)]
    found = {r: sum(cuts(a + b, r) == [25] for a, b in pairs) for r in RATIOS}
    print(f"cuts found, of {len(pairs)}:", ", ".join(f"{n} at ratio {r:g}" for r, n in found.items()))

    stops = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stop.mp4"
        for crf, (name, frames) in itertools.product(args.crf, clips.items()):
            stop = frames[:BEFORE] + [frames[BEFORE]] * STOPPED + frames[BEFORE : BEFORE + 25]
            write_video(path, stop, crf=crf)
            stops.append((standstill_s(list(read_frames(path))), crf, name))
    shortest = min(stops)
    print(
        f"stops of {STOPPED / 25:g} s are measured as {shortest[0]:.2f} s ({shortest[2]}, crf {shortest[1]}) and more"
    )


if __name__ == "__main__":
    main()
