"""Animate every video of a folder by the speech of a drawn speaker, and measure whether its mouth is in time.

python benchmarks/animate_clips.py FOLDER --model results/person/models/difftalk --out OUT

The speech is espeak-ng's, and the drawn speaker who says it is the truth: the opening of the generated
mouth (by dlib's landmarks, over the distance of the eye corners) is compared with the drawn one at shifts
of up to 15 frames. `lag` is the shift of the largest correlation, positive where the generated mouth is
late. The drawn video itself, and an expert's offset and confidence where one is given, are in the table
too: what an instrument says of the truth is what its other figures can be trusted to.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from difftalk.animation.animate import animate
from difftalk.animation.faces import CropRule, Faces, cut, find_faces
from difftalk.animation.source import Source
from difftalk.config.sampling import Sampling
from difftalk.config.section import from_json
from difftalk.datasets.demo.render import DemoSource, render_source
from difftalk.face.measures import mouth_opening
from difftalk.face.sync_gate import measure_crop
from difftalk.media.audio import read_audio
from difftalk.runtime.errors import ClipError, UserError
from difftalk.runtime.video_folder import list_videos

SHIFTS = 15
EXPERTS_CROP = CropRule(128, 0.1, aligned=False)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder for the videos")
    parser.add_argument("--syncnet", type=Path, help="folder of a sync expert")
    parser.add_argument("--settings", default='{"steps": 5}', help="the section `sampling` as JSON")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--speaker", type=int, default=4321, help="seed of the drawn speaker")
    args = parser.parse_args()

    args.out.mkdir(parents=True, exist_ok=True)
    drawn = args.out / "drawn.mp4"
    render_source(DemoSource("drawn", args.speaker, args.speaker, 1, args.seconds), drawn)
    samples = read_audio(drawn)
    _, truth = faces_and_opening(drawn)
    print("| video | frames | without face | s | lag | correlation | at 0 | expert: offset, confidence |")
    print("|---|---|---|---|---|---|---|---|")
    print(f"| the drawn speaker | {len(truth)} | | | {row(drawn, truth, samples, args.syncnet)} |")
    for name in list_videos(args.folder).videos:
        out = args.out / f"{Path(name).stem}.mp4"
        began = time.monotonic()
        try:
            report = animate(
                args.folder / name, drawn, args.model, out, settings=from_json(Sampling, args.settings)
            )
        except (ClipError, UserError) as e:
            print(f"| {Path(name).stem} | {' '.join(str(e).split())} |")
            continue
        about = f"{report.frames} | {report.without_face} | {time.monotonic() - began:.0f}"
        print(f"| {out.stem} | {about} | {row(out, truth, samples, args.syncnet)} |", flush=True)


def row(video: Path, truth: np.ndarray, samples: np.ndarray, syncnet: Path | None) -> str:
    """The measured part of a line of the table."""
    faces, found = faces_and_opening(video)
    lag, largest, at_zero = best_shift(found, truth)
    said = f"{lag:+d} | {largest:.2f} | {at_zero:.2f} | "
    if syncnet is None:
        return said
    source = Source.open(video)
    track = int(np.bincount(faces.track[faces.track >= 0]).argmax())
    numbers = np.flatnonzero(faces.track == track)
    frames = list(source.read(int(numbers[0]), int(numbers[-1]) + 1))
    placement = faces.placements(EXPERTS_CROP, source.size)[track]
    crops, landmarks, _ = cut(frames, numbers.tolist(), faces, placement, EXPERTS_CROP)
    heard = samples[640 * numbers[0] : 640 * (numbers[-1] + 1)]
    sync = measure_crop(crops, landmarks, heard, syncnet)
    return said + ("too short" if sync is None else f"{sync.offset:+d}, {sync.confidence:.2f}")


def faces_and_opening(video: Path) -> tuple[Faces, np.ndarray]:
    """Faces of a video, and the opening of the mouth in each frame, (T,); not a number without a face."""
    source = Source.open(video)
    faces = find_faces(source, source.frames)
    return faces, np.where(faces.track >= 0, mouth_opening(faces.points), np.nan)


def best_shift(found: np.ndarray, truth: np.ndarray) -> tuple[int, float, float]:
    """The shift of the largest correlation, that correlation, and the one without a shift."""
    count = min(len(found), len(truth))
    values = []
    for shift in range(-SHIFTS, SHIFTS + 1):
        a = found[max(shift, 0) : count + min(shift, 0)]
        b = truth[max(-shift, 0) : count + min(-shift, 0)]
        both = np.isfinite(a) & np.isfinite(b)
        values.append(float(np.corrcoef(a[both], b[both])[0, 1]))
    return int(np.argmax(values)) - SHIFTS, max(values), values[SHIFTS]


if __name__ == "__main__":
    main()
