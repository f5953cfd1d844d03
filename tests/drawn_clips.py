"""Small real clips for the tests: drawn speakers, filmed and cropped, in the pipeline's own files."""

from functools import cache
from pathlib import Path

from embed_syncnet import Filmed, film

from difftalk.media.encode import encode_video, write_video
from difftalk.media.flac import encode_flac
from difftalk.media.shards import write_shard


@cache
def speaker(seed: int, seconds: float = 2.4) -> Filmed:
    """Frames (T, 64, 64, 3), landmarks (T, 68, 2) and samples of somebody who speaks."""
    return film(seed, seconds)


def write_crops(path: Path, clips: dict[str, Filmed], split: str = "test") -> Path:
    """A crops shard of these clips."""
    samples = []
    for clip_id, (frames, landmarks, sound) in clips.items():
        info = {
            "clip_id": clip_id, "source_id": clip_id, "identity": f"of-{clip_id}", "split": split,
            "frames": len(frames), "fps": 25, "size": frames.shape[1], "box": [0, 0, 64, 64],
        }  # fmt: skip
        files = {"mp4": encode_video(frames, crf=0, pix_fmt="yuv444p"), "flac": encode_flac(sound)}
        samples.append((clip_id, {**files, "landmarks.npy": landmarks, "json": info}))
    write_shard(path, samples)
    return path


def write_sample(path: Path, frames, sound=None) -> Path:
    write_video(path, frames, audio=sound, crf=4)
    return path
