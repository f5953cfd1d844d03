"""Small real clips for the tests: drawn speakers, cropped, in the pipeline's own files."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

import numpy as np

from difftalk.datasets.demo.crops import DrawnCrop, draw_crop
from difftalk.media.clock import FPS
from difftalk.media.encode import encode_video, write_video
from difftalk.media.flac import encode_flac
from difftalk.media.shards import write_shard


@cache
def speaker(seed: int, seconds: float = 2.4) -> DrawnCrop:
    """Return frames (T, 64, 64, 3), landmarks (T, 68, 2) and samples of a speaker."""
    return draw_crop(seed, seconds)


def write_crops(
    path: Path,
    clips: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]],
    split: str = "test",
    identities: Mapping[str, str] = MappingProxyType({}),
) -> Path:
    """Write a crops shard of these clips, each of a speaker of its own unless `identities` says otherwise."""
    samples = []
    for clip_id, (frames, landmarks, audio) in clips.items():
        info = {
            "clip_id": clip_id, "source_id": clip_id, "split": split,
            "identity": identities.get(clip_id, f"of-{clip_id}"),
            "frames": len(frames), "fps": FPS, "size": frames.shape[1], "box": [0, 0, 64, 64],
        }  # fmt: skip
        files = {"mp4": encode_video(frames, crf=0, pix_fmt="yuv444p"), "flac": encode_flac(audio)}
        samples.append((clip_id, {**files, "landmarks.npy": landmarks, "json": info}))
    write_shard(path, samples)
    return path


def write_sample(path: Path, frames: np.ndarray, audio: np.ndarray | None = None) -> Path:
    """Write the video of a sample."""
    write_video(path, frames, audio=audio, crf=4)
    return path
