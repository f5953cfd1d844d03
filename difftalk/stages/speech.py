"""Stage `speech`: what is said, as feature vectors, exactly two per video frame."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from difftalk.media.shards import read_crops
from difftalk.runtime.errors import ClipError
from difftalk.runtime.files import atomic_file
from difftalk.runtime.parallel import map_clips
from difftalk.runtime.rejects import Reject, check_fraction, write_rejects
from difftalk.speech.table import SCHEMA
from difftalk.speech.windows import STEPS_PER_FRAME

# A backend: the sound of a whole clip, `(N,)` int16 mono 16 kHz, and a number of steps to `(steps, D)` float32.
Backend = Callable[[np.ndarray, int], np.ndarray]


@dataclass(frozen=True)
class Settings:
    """The config's `speech` section.

    Args:
        backend: `mfcc`, 13 cepstra with their first and second differences (39 numbers); `deepspeech`, the logits
            of DeepSpeech 0.1.0 (29 numbers), as in the paper.
        silence_db: a clip whose sound is below this level, in dB of a full-scale square wave, is rejected.
    """

    backend: Literal["mfcc", "deepspeech"] = "mfcc"
    silence_db: float = -50.0


@dataclass(frozen=True)
class _Job:
    sound: np.ndarray
    frames: int
    settings: Settings
    backend: Backend


def run(*, crops: Path, settings: Settings, out: Path, rejects: Path, max_reject_fraction: float) -> None:
    """Write the speech features of a shard: clip_id, step, features (list of float32), 50 steps a second.

    One clip after another in this process: `mfcc` takes less time than other processes would to start, and
    `deepspeech` uses the threads, or the GPU, by itself.

    Args:
        crops: `crops/{shard}.tar`, whose sound is in time with its pictures.
        out: `speech/{shard}.parquet`. rejects: `rejects/speech/{shard}.csv`.
        max_reject_fraction: fail where more than this part of the clips is lost.

    Raises:
        UserError: as `check_fraction`, and where the backend's weights are missing.
    """
    backend = load_backend(settings.backend)
    jobs = [
        (crop.clip_id, _Job(crop.audio, len(crop.landmarks), settings, backend)) for crop in read_crops(crops)
    ]
    lost: list[Reject] = []
    with atomic_file(out) as beside, pq.ParquetWriter(beside, SCHEMA) as writer:
        for clip_id, features in map_clips(clip_features, jobs, stage="speech", workers=1):
            if isinstance(features, Reject):
                lost.append(features)
                continue
            columns = {
                "clip_id": [clip_id] * len(features),
                "step": np.arange(len(features), dtype=np.int32),
                "features": list(features),
            }
            writer.write_table(pa.table(columns, schema=SCHEMA))
        check_fraction("speech", len(jobs), lost, max_reject_fraction)
    write_rejects(rejects, lost)


def load_backend(name: str) -> Backend:
    """The backend of a name; torch is imported for those that have a network only."""
    if name == "mfcc":
        from difftalk.speech.mfcc import mfcc_features

        return mfcc_features
    from difftalk.speech.deepspeech import load_deepspeech

    return load_deepspeech()


def clip_features(job: _Job) -> np.ndarray:
    """The features of one clip: `(2 * frames, D)` float32.

    Raises:
        ClipError: `silent`.
    """
    level = level_db(job.sound)
    if level < job.settings.silence_db:
        raise ClipError("silent", f"level {level:.0f} dB, below silence_db={job.settings.silence_db:g}")
    return job.backend(job.sound, STEPS_PER_FRAME * job.frames)


def level_db(sound: np.ndarray) -> float:
    """Root mean square of int16 sound in dB below full scale; -120 for digital silence."""
    rms = np.sqrt(np.mean((sound / 32768.0) ** 2)) if len(sound) else 0.0
    return float(20 * np.log10(max(rms, 1e-6)))
