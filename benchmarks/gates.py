"""How far the thresholds of the gates on frames are from what they accept and from what they must reject.

python benchmarks/gates.py VIDEO ...

Live: every video as it is. Cuts: the first second of each followed by the second one of each other. Freezes:
each video frozen for 2 s after 0.8 s, and encoded by x264 at each --crf.
"""

import argparse
import itertools
import tempfile
from pathlib import Path

import cv2
import numpy as np

from difftalk.face.clip_scores import cuts_of
from difftalk.face.scenes import SceneMonitor
from difftalk.media.clock import FPS
from difftalk.media.encode import write_video
from difftalk.media.video import read_frames
from difftalk.runtime.errors import ClipError

RATIOS = (2.0, 3.0, 4.5, 6.0, 9.0, 12.0, 16.0)
SIZE = (480, 360)
BEFORE, FROZEN = 20, 2 * FPS  # frames


def cuts(frames: list[np.ndarray], ratio: float) -> list[int]:
    monitor = SceneMonitor()
    list(monitor.through(frames))
    return cuts_of(monitor.changes(), ratio)


def longest_freeze_s(frames: list[np.ndarray]) -> float:
    monitor = SceneMonitor()
    list(monitor.through(frames))
    return monitor.longest_freeze()[1] / FPS


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
            for frame in itertools.islice(read_frames(path), round(args.seconds * FPS)):
                frames.append(cv2.resize(frame, SIZE, interpolation=cv2.INTER_AREA))
        except ClipError as e:
            print(f"{path.name}: {e}")
        if len(frames) >= 2 * FPS:
            clips[path.name] = frames

    print("| video | longest freeze s | cuts at ratio", " | ".join(f"{r:g}" for r in RATIOS), "|")
    print("|---|---|" + "---|" * len(RATIOS))
    for name, frames in clips.items():
        counts = " | ".join(str(len(cuts(frames, r))) for r in RATIOS)
        print(f"| {name} | {longest_freeze_s(frames):.2f} | {counts} |", flush=True)

    pairs = [(a[:FPS], b[FPS : 2 * FPS]) for a, b in itertools.permutations(clips.values(), 2)]
    found = {r: sum(cuts(a + b, r) == [FPS] for a, b in pairs) for r in RATIOS}
    print(f"cuts found, of {len(pairs)}:", ", ".join(f"{n} at ratio {r:g}" for r, n in found.items()))

    freezes = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "freeze.mp4"
        for crf, (name, frames) in itertools.product(args.crf, clips.items()):
            freeze = frames[:BEFORE] + [frames[BEFORE]] * FROZEN + frames[BEFORE : BEFORE + FPS]
            write_video(path, freeze, crf=crf)
            freezes.append((longest_freeze_s(list(read_frames(path))), crf, name))
    shortest = min(freezes)
    print(
        f"freezes of {FROZEN / FPS:g} s are measured as {shortest[0]:.2f} s "
        f"({shortest[2]}, crf {shortest[1]}) and more"
    )


if __name__ == "__main__":
    main()
