"""Make the sync expert that the package embeds, from freshly drawn speakers.

The recorded command is in docs/embedded_weights.md and, without paths, in the config that it writes. No
speaker of
it is one of the demo: seeds begin where the demo's can never be.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from difftalk.config.settings import from_json
from difftalk.datasets.demo.faces import TRAINING_SEEDS
from difftalk.datasets.demo.render import DemoSource, render_source
from difftalk.evaluation.sync import Sync, measure_sync
from difftalk.media.audio import read_audio
from difftalk.media.video import read_frames
from difftalk.models.syncnet import WEIGHTS_NAME, SyncExpert, load_syncnet, save_syncnet
from difftalk.runtime.files import atomic_folder
from difftalk.runtime.progress import progress
from difftalk.stages.syncnet import Clip, Settings, config_of, train_syncnet

SOURCE_SIZE = 160  # pixels of a film; its face crop is shrunk to CROP_SIZE
CROP_SIZE = 64
MAX_SHIFT = 15  # frames, when measuring
Filmed = tuple[np.ndarray, np.ndarray, np.ndarray]  # frames (T, S, S, 3), landmarks (T, 68, 2), samples int16


def film(seed: int, seconds: float) -> Filmed:
    """A drawn speaker as the pipeline would see one: filmed to H.264 and AAC, read back, cut to a face crop.

    The crop is cut as tightly or loosely as any crop setting would; landmarks are the true ones.
    """
    source = DemoSource("speaker", TRAINING_SEEDS + seed, seed, 1, seconds, SOURCE_SIZE)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speaker.mp4"
        render_source(source, path)
        points = np.load(path.with_suffix(".landmarks.npy"))
        samples = read_audio(path, 0.0, seconds)
        pictures = np.stack(list(read_frames(path)))
    rng = np.random.default_rng((seed, 5))
    middle = np.median(points, axis=0)
    low, high = middle.min(axis=0), middle.max(axis=0)
    side = round((high - low).max() * rng.uniform(1.15, 1.75))
    x0, y0 = np.rint((low + high) / 2 - side / 2 + rng.uniform(-0.06, 0.06, 2) * side).astype(int)
    edge = side  # what the crop shows beyond the film repeats the film's border
    frames = np.empty((len(pictures), CROP_SIZE, CROP_SIZE, 3), np.uint8)
    for i, picture in enumerate(pictures):
        wide = cv2.copyMakeBorder(picture, edge, edge, edge, edge, cv2.BORDER_REPLICATE)
        part = wide[y0 + edge : y0 + edge + side, x0 + edge : x0 + edge + side]
        shrink = side > CROP_SIZE
        how = cv2.INTER_AREA if shrink else cv2.INTER_LINEAR
        frames[i] = cv2.resize(part, (CROP_SIZE, CROP_SIZE), interpolation=how)
    scale = CROP_SIZE / side
    return frames, ((points - (x0, y0) + 0.5) * scale - 0.5).astype(np.float32), samples


def film_clip(seed: int, seconds: float, lip_size: int) -> Clip:
    return Clip.of(*film(seed, seconds), lip_size)


def film_many(count: int, seconds: float, lip_size: int, seed: int, workers: int) -> Iterator[Clip]:
    seeds = range(seed, seed + count)
    if workers <= 1:
        yield from (film_clip(s, seconds, lip_size) for s in progress(seeds, count, "film", "speakers"))
        return
    with ProcessPoolExecutor(workers) as pool:
        found = pool.map(film_clip, seeds, [seconds] * count, [lip_size] * count, chunksize=4)
        yield from progress(found, count, "film", "speakers")


def measure(expert: SyncExpert, speakers: int, seconds: float, seed: int) -> dict[str, Any]:
    """How the expert judges speakers it has not met, on clips of `seconds`.

    true: as filmed. moved: the same with the sound moved by 5 to 12 frames, which should be found. still: the
    mouth of one frame over the whole clip. other: the picture of the speaker with the sound of the next.
    blurred: as filmed, but as soft as a generated picture.
    """
    rng = np.random.default_rng(seed)
    filmed = [
        film(s, seconds) for s in progress(range(seed, seed + speakers), speakers, "measure", "speakers")
    ]
    found: dict[str, list[Sync]] = {"true": [], "moved": [], "still": [], "other": [], "blurred": []}
    right = {"true": 0, "moved": 0, "blurred": 0}

    def judge(frames: np.ndarray, points: np.ndarray, samples: np.ndarray) -> Sync:
        video, audio = expert.video_embeddings(frames, points), expert.audio_embeddings(samples)
        verdict = measure_sync(video, audio, MAX_SHIFT, expert.zero_padded)
        assert verdict is not None
        return verdict

    for i, (frames, points, samples) in enumerate(filmed):
        move = int(rng.integers(5, 13))
        soft = np.stack([cv2.GaussianBlur(f, (0, 0), 1.0) for f in frames])
        still = np.repeat(frames[len(frames) // 2][None], len(frames), axis=0)
        cases = {
            "true": (frames, samples, 0),
            # Sound that begins `move` frames late in its file is heard early: it leads by `move`.
            "moved": (frames[:-move], samples[move * 640 :], move),
            "still": (still, samples, None),
            "other": (frames, filmed[(i + 1) % len(filmed)][2], None),
            "blurred": (soft, samples, 0),
        }
        for name, (shown, heard, offset) in cases.items():
            verdict = judge(shown, points, heard)
            found[name].append(verdict)
            if offset is not None:
                right[name] += abs(verdict.offset - offset) <= 1
    figures: dict[str, Any] = {"speakers": speakers, "seconds": seconds}
    for name, verdicts in found.items():
        confidence = [v.confidence for v in verdicts]
        figures[name] = {
            "confidence": round(float(np.mean(confidence)), 3),
            "confidence_5_95": [round(float(np.percentile(confidence, q)), 3) for q in (5, 95)],
            "distance": round(float(np.mean([v.distance for v in verdicts])), 3),
        }
        if name in right:
            figures[name]["offset_within_1"] = round(right[name] / speakers, 4)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the expert")
    parser.add_argument("--identities", type=int, default=400, help="speakers to train on")
    parser.add_argument("--held-out", type=int, default=40, help="speakers to measure on")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of what each of them says")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--settings", default="{}", help="JSON of difftalk.stages.syncnet.Settings")
    parser.add_argument("--state", type=Path, help="folder for checkpoints (default: a temporary one)")
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()

    given = {**json.loads(args.settings), "steps": args.steps, "seed": args.seed}
    settings = from_json(Settings, json.dumps(given))
    first = 1_000_000 * (args.seed + 1)
    clips = list(film_many(args.identities, args.seconds, settings.lip_size, first, args.workers))
    with tempfile.TemporaryDirectory() as temporary:
        network, report = train_syncnet(clips, settings, args.state or Path(temporary))
    command = (
        f"python tools/embed_syncnet.py --out DIR --identities {args.identities} "
        f"--held-out {args.held_out} --seconds {args.seconds:g} --steps {args.steps} --seed {args.seed} "
        f"--settings '{args.settings}'"
    )
    about = {
        **report,
        "source": "speakers drawn for it",
        "command": command,
        "torch": torch.__version__.split("+")[0],
    }
    with atomic_folder(args.out) as beside:
        # Half precision halves the package; loading widens it again. Figures are taken from what is kept.
        save_syncnet(beside, config_of(settings, about), network, torch.float16)
        held_out = measure(load_syncnet(beside), args.held_out, min(args.seconds, 4.0), first + 500_000)
        save_syncnet(beside, config_of(settings, {**about, "held_out": held_out}), network, torch.float16)
        size = (beside / WEIGHTS_NAME).stat().st_size
    print(json.dumps({**about, "held_out": held_out, "bytes": size}, indent=1))


if __name__ == "__main__":
    main()
