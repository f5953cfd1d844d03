"""Make the sync expert that the package embeds, from freshly drawn speakers.

The recorded command is in docs/embedded_weights.md and, without paths, in the config that it writes. No
speaker is one of the demo: seeds begin where the demo's can never be.
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

from difftalk.config.section import from_json
from difftalk.config.syncnet import SyncnetTraining
from difftalk.datasets.demo.crops import draw_crop
from difftalk.evaluation.sync import Sync, measure_sync
from difftalk.media.clock import MAX_SHIFT_FRAMES, SAMPLES_PER_FRAME
from difftalk.models.syncnet import SyncExpert, load_syncnet, save_syncnet
from difftalk.pretrained.model_folder import SYNC_EXPERT
from difftalk.runtime.files import atomic_folder
from difftalk.runtime.progress import progress
from difftalk.training.sync_expert import SyncClip, syncnet_config, train_syncnet


def make_clip(seed: int, seconds: float, lip_size: int) -> SyncClip:
    return SyncClip.of(*draw_crop(seed, seconds), lip_size)


def make_clips(count: int, seconds: float, lip_size: int, seed: int, workers: int) -> Iterator[SyncClip]:
    seeds = range(seed, seed + count)
    if workers <= 1:
        yield from (make_clip(s, seconds, lip_size) for s in progress(seeds, count, "draw", "speakers"))
        return
    with ProcessPoolExecutor(workers) as pool:
        found = pool.map(make_clip, seeds, [seconds] * count, [lip_size] * count, chunksize=4)
        yield from progress(found, count, "draw", "speakers")


def measure(expert: SyncExpert, speakers: int, seconds: float, seed: int) -> dict[str, Any]:
    """Measure how the expert judges speakers it has not seen, on clips of `seconds`.

    true: as drawn. moved: the same with the audio shifted by 5 to 12 frames, which should be found. still:
    the mouth of one frame over the whole clip. other: the video of the speaker with the audio of the next.
    blurred: as drawn, but as soft as a generated video.
    """
    rng = np.random.default_rng(seed)
    drawn = [
        draw_crop(s, seconds) for s in progress(range(seed, seed + speakers), speakers, "measure", "speakers")
    ]
    found: dict[str, list[Sync]] = {"true": [], "moved": [], "still": [], "other": [], "blurred": []}
    right = {"true": 0, "moved": 0, "blurred": 0}

    def judge(frames: np.ndarray, points: np.ndarray, samples: np.ndarray) -> Sync:
        video, audio = expert.video_embeddings(frames, points), expert.audio_embeddings(samples)
        verdict = measure_sync(video, audio, MAX_SHIFT_FRAMES, expert.zero_padded)
        assert verdict is not None
        return verdict

    for i, (frames, points, samples) in enumerate(drawn):
        move = int(rng.integers(5, 13))
        soft = np.stack([cv2.GaussianBlur(f, (0, 0), 1.0) for f in frames])
        still = np.repeat(frames[len(frames) // 2][None], len(frames), axis=0)
        cases = {
            "true": (frames, samples, 0),
            # Audio whose first `move` frames are cut is heard early: it leads by `move`.
            "moved": (frames[:-move], samples[move * SAMPLES_PER_FRAME :], move),
            "still": (still, samples, None),
            "other": (frames, drawn[(i + 1) % speakers].samples, None),
            "blurred": (soft, samples, 0),
        }
        for name, (video, audio, offset) in cases.items():
            verdict = judge(video, points, audio)
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
    parser.add_argument("--settings", default="{}", help="JSON of the section syncnet_training")
    parser.add_argument("--state", type=Path, help="folder for checkpoints (default: a temporary one)")
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()

    given = {**json.loads(args.settings), "steps": args.steps, "seed": args.seed}
    settings = from_json(SyncnetTraining, json.dumps(given))
    first = 1_000_000 * (args.seed + 1)
    clips = list(make_clips(args.identities, args.seconds, settings.lip_size, first, args.workers))
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
    with atomic_folder(args.out) as tmp:
        # Half precision halves the package; loading widens it again. Figures are taken from what is kept.
        save_syncnet(tmp, syncnet_config(settings, about), network, torch.float16)
        held_out = measure(load_syncnet(tmp), args.held_out, min(args.seconds, 4.0), first + 500_000)
        save_syncnet(tmp, syncnet_config(settings, {**about, "held_out": held_out}), network, torch.float16)
        size = (tmp / SYNC_EXPERT.weights_name).stat().st_size
    print(json.dumps({**about, "held_out": held_out, "bytes": size}, indent=1))


if __name__ == "__main__":
    main()
