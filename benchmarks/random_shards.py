"""Training shards of random numbers, for benchmarks that need data of any size at once."""

from pathlib import Path

import numpy as np

from difftalk.media.shards import write_shard
from difftalk.models.autoencoder import build_autoencoder


def write_random_shard(
    path: Path, clips: int, frames: int, size: int = 64, speech_features: int = 29
) -> Path:
    """Write clips of `frames` frames with latents (3, size, size), float16 as `encode` stores them."""
    rng = np.random.default_rng(0)

    def clip() -> dict[str, object]:
        latents = rng.standard_normal((frames, 3, size, size), np.float32).astype(np.float16)
        generated = np.zeros((frames, size, size), np.uint8)
        generated[:, size // 2 :, size // 4 : -size // 4] = 1
        return {
            "latents.npy": latents,
            "masked.npy": latents * (1 - generated[:, None]),
            "generated.npy": generated,
            "speech.npy": rng.standard_normal((2 * frames, speech_features), np.float32),
            "landmarks.npy": rng.random((frames, 68, 2), np.float32),
            "json": {},
        }

    write_shard(path, ((f"clip{i:05d}", clip()) for i in range(clips)))
    return path


def write_small_autoencoder(folder: Path) -> Path:
    """Write an untrained first stage, for trainings whose result nobody looks at."""
    build_autoencoder((16, 32), 1, 16).save_pretrained(folder)
    return folder
