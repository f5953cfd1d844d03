"""How much a mouth moves where nobody speaks, with `animate --silence audio` and `closed`.

python benchmarks/silences.py --video FACE.mp4 --audio SPEECH.wav --model results/demo/models/difftalk

Opening: distance of the inner lips over that of the outer eye corners, by dlib's landmarks of the output.
Motion: its mean absolute change from frame to frame. Both in silences, as `difftalk.animation.silence` finds
them, and elsewhere. What is printed of the source is what the landmarks say of a mouth that nobody generated.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Literal

import numpy as np

from difftalk.animation.animate import animate
from difftalk.animation.faces import find_faces
from difftalk.animation.silence import silences
from difftalk.animation.source import Source
from difftalk.config.sampling import Sampling
from difftalk.config.section import from_json
from difftalk.face.measures import mouth_opening
from difftalk.media.audio import read_audio
from difftalk.media.clock import FPS, SAMPLE_RATE
from difftalk.runtime.errors import UserError

MODES: tuple[Literal["audio", "closed"], ...] = ("audio", "closed")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("video", "audio", "model"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--settings", default="{}", help="the section `sampling` as JSON")
    args = parser.parse_args()

    samples = read_audio(args.audio)
    count = len(samples) * FPS // SAMPLE_RATE
    quiet = np.zeros(count, bool)
    for first, stop in silences(samples, count):
        quiet[first:stop] = True
    if not quiet.any() or quiet.all():
        raise UserError(f"{args.audio}: needs speech and silences")
    print("| video | opening in silence | in speech | motion in silence | in speech |\n|---|---|---|---|---|")
    own = opening(args.video)
    print(f"| source, of another sound | | {own.mean():.4f} | | {np.abs(np.diff(own)).mean():.4f} |")
    for mode in MODES:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "out.mp4"
            settings = from_json(Sampling, args.settings)
            animate(args.video, args.audio, args.model, out, settings=settings, silence=mode, crf=0)
            found = opening(out)
        moved = np.abs(np.diff(found))
        still, speaks = quiet[1:] & quiet[:-1], ~quiet[1:]
        figures = (found[quiet], found[~quiet], moved[still], moved[speaks])
        print(f"| `--silence {mode}` | " + " | ".join(f"{values.mean():.4f}" for values in figures) + " |")


def opening(video: Path) -> np.ndarray:
    """Opening of the mouth in every frame of a video, (T,)."""
    source = Source.open(video)
    return mouth_opening(find_faces(source, source.frames).points)


if __name__ == "__main__":
    main()
