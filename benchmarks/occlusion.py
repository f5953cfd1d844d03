"""How far something before the mouth lowers its score with `dlib`.

python benchmarks/occlusion.py VIDEO ...

Of each video some seconds are followed as they are, with a dark ellipse before the mouth (a microphone),
and with a patch of the colour of the nose (a hand). One line a video: the clip's mouth score in each case.
"""

import argparse
import itertools
from pathlib import Path

import cv2
import numpy as np

from difftalk.face.dlib_backend import follow
from difftalk.face.measures import MOUTH_PERCENTILE
from difftalk.face.tracks import Face
from difftalk.media.clock import FPS
from difftalk.media.points68 import MOUTH
from difftalk.media.video import read_frames

WAYS = ("free", "microphone", "hand")


def hide(frame: np.ndarray, face: Face, way: str) -> np.ndarray:
    """Return a frame with something drawn before the mouth of a face."""
    drawn, width = frame.copy(), face.box[2] - face.box[0]
    x, y = (int(v) for v in face.points[MOUTH].mean(axis=0))
    if way == "microphone":
        size, angle, colour = (0.16, 0.2), 0, [25, 25, 28]
    else:
        size, angle = (0.35, 0.15), 20
        nose = [int(v) for v in face.points[30]]
        colour = [int(v) for v in frame[nose[1], nose[0]]]
    axes = [int(part * width) for part in size]
    cv2.ellipse(drawn, (x, y), axes, angle, 0, 360, colour, -1)
    return drawn


def score(frames: list[np.ndarray]) -> float:
    found = [f.mouth_score for f in follow(frames, 5, 48) if f is not None and f.mouth_score is not None]
    return float(np.percentile(found, MOUTH_PERCENTILE)) if found else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("videos", type=Path, nargs="+")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each video, from its first second on")
    args = parser.parse_args()
    print("video", *WAYS, sep="\t")
    for path in args.videos:
        frames = list(itertools.islice(read_frames(path, 1.0), round(args.seconds * FPS)))
        faces = list(follow(frames, 5, 48))
        scores = [score(frames)]
        for way in WAYS[1:]:
            pairs = zip(frames, faces, strict=True)
            scores.append(score([frame if face is None else hide(frame, face, way) for frame, face in pairs]))
        print(path.name, *(f"{value:.2f}" for value in scores), sep="\t", flush=True)


if __name__ == "__main__":
    main()
