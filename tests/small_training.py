"""A training of seconds on a small made-up shard, for the tests of training."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from drawn_clips import write_crops
from safetensors.torch import load_file

from difftalk.config.encode import Encode
from difftalk.config.sampling import Sampling
from difftalk.config.section import from_dict
from difftalk.config.training import TrainingSettings
from difftalk.media.shards import write_shard
from difftalk.models.autoencoder import build_autoencoder
from difftalk.models.examples import LatentClips
from difftalk.sampling.clip_sampler import ClipJob, sample_clips
from difftalk.sampling.frame_sampler import FrameSampler
from difftalk.sampling.inputs import ShardClip
from difftalk.sampling.pipeline import DiffTalkPipeline
from difftalk.speech.mfcc import mfcc_features
from difftalk.speech.table import speech_writer
from difftalk.stages import encode
from difftalk.stages.train import run

TINY: dict[str, Any] = {
    "channels": [16, 32],
    "layers": 1,
    "head_channels": 16,
    "steps": 8,
    "batch_size": 4,
    "learning_rate": 1.0e-3,
    "ema_decay": 0.5,
    "checkpoint_every": 2,
    "log_every": 2,
}


def write_made(folder: Path) -> Path:
    """A shard of two clips of 70 noisy frames of one scene, and an untrained first stage."""
    rng = np.random.default_rng(0)
    scene = rng.normal(size=(3, 8, 8))

    def clip() -> dict[str, object]:
        latents = (scene + 0.1 * rng.normal(size=(70, 3, 8, 8))).astype(np.float16)
        generated = np.zeros((70, 8, 8), np.uint8)
        generated[:, 4:, 2:6] = 1
        return {
            "latents.npy": latents,
            "masked.npy": latents * (1 - generated[:, None]),
            "generated.npy": generated,
            "speech.npy": rng.normal(size=(140, 26)).astype(np.float32),
            "landmarks.npy": rng.random((70, 68, 2)).astype(np.float32),
            "json": {},
        }

    write_shard(folder / "train-000.tar", [("a", clip()), ("b", clip())])
    build_autoencoder((16, 32), 1, 16).save_pretrained(folder / "autoencoder")
    return folder


def train(
    made: Path,
    name: str,
    curves: Path | None = None,
    data_workers: int = 0,
    processes: int = 1,
    **changes: object,
) -> Path:
    """Train in this process, with `changes` to `TINY`; return the folder of the model."""
    run(
        shards=[made / "train-000.tar"],
        autoencoder=made / "autoencoder",
        settings=from_dict(TrainingSettings, TINY | changes, "test"),
        state=made / f"state-{name}",
        out=made / name,
        curves=curves,
        data_workers=data_workers,
        processes=processes,
    )
    return made / name


def difftalk_train(made: Path, name: str, processes: int, **changes: object) -> list[str]:
    """The command line of a training with `changes` to `TINY`; its log is `{name}.log`."""
    return [
        *(sys.executable, "-m", "difftalk", "train", "--shards", str(made / "train-000.tar")),
        *("--autoencoder", str(made / "autoencoder"), "--settings", json.dumps(TINY | changes)),
        *(
            "--state",
            str(made / f"state-{name}"),
            "--out",
            str(made / name),
            "--log",
            str(made / f"{name}.log"),
        ),
        *("--processes", str(processes), "--data-workers", "1"),
    ]


def train_on_drawn(
    folder: Path, drawn: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]], split: str
) -> None:
    """Write crops of drawn clips, encode them, and train `model` on them for a moment."""
    write_crops(folder / "crops.tar", drawn, split=split)
    with speech_writer(folder / "speech.parquet") as write:
        for clip_id, (frames, _, audio) in drawn.items():
            write(clip_id, mfcc_features(audio, 2 * len(frames)))
    torch.manual_seed(0)
    build_autoencoder((8, 16, 16), 1, 64).save_pretrained(folder / "autoencoder")
    encode.run(
        crops=folder / "crops.tar",
        speech=folder / "speech.parquet",
        autoencoder=folder / "autoencoder",
        settings=Encode(),
        out=folder / "train-000.tar",
        rejects=folder / "rejects.csv",
        max_reject_fraction=0.0,
    )
    train(folder, "model", steps=2, reference_distance=20)


def weights(model: Path) -> dict[str, torch.Tensor]:
    """Read the weights of a model's folder, by network and name."""
    found: dict[str, torch.Tensor] = {}
    for file in sorted(model.glob("*/*.safetensors")):
        found |= {f"{file.parent.name}.{k}": v for k, v in load_file(file).items()}
    assert found, f"{model} holds no weights"
    return found


def sample_shard(model: Path, shard: Path, settings: Sampling, size: int = 64) -> dict[str, torch.Tensor]:
    """Sample every clip of an encoded shard: latents (T, C, h, w) by clip, the first frame as reference."""
    pipeline = DiffTalkPipeline.from_pretrained(model)
    clips = LatentClips([shard], pipeline.conditioner.neighbours)
    found = [ShardClip(clips, number, size, settings) for number in range(len(clips.clip_ids))]
    jobs = [ClipJob(clip, range(clip.frames), clip.latent(0)) for clip in found]
    done = [job for job in sample_clips(FrameSampler(pipeline, settings), jobs) if job.is_complete]
    return {job.clip.clip_id: job.latents() for job in done}
