"""Stage `speech`: what is said, as feature vectors, exactly two per video frame."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from python_speech_features import mfcc

from difftalk.audio import read_audio
from difftalk.clips import Clip, clips_with_sources
from difftalk.errors import ClipError
from difftalk.files import atomic_file
from difftalk.parallel import map_clips
from difftalk.rejects import Reject, check_fraction, write_rejects
from difftalk.video import SOUND_RATE

STEP_SAMPLES = SOUND_RATE // 50
# Of the MFCC below it: 25 ms windows every 10 ms.
MFCC_WINDOW, MFCC_STEP = 400, 160
SCHEMA = pa.schema([("clip_id", pa.string()), ("step", pa.int32()), ("features", pa.list_(pa.float32()))])


@dataclass(frozen=True)
class Settings:
    """The config's `speech` section.

    Args:
        backend: `mfcc`, 13 cepstra with their first and second differences (39 numbers).
        silence_db: a clip whose sound is below this level, in dB of a full-scale square wave, is rejected.
    """

    backend: Literal["mfcc"] = "mfcc"
    silence_db: float = -50.0


@dataclass(frozen=True)
class _Job:
    clip: Clip
    source: Path
    settings: Settings


def run(
    *,
    plan: Path,
    shard: str,
    sources: Path,
    settings: Settings,
    out: Path,
    rejects: Path,
    max_reject_fraction: float,
    workers: int,
) -> None:
    """Write the speech features of a shard: clip_id, step, features (list of float32), 50 steps a second.

    Args:
        plan: the clip table. shard: such as `train-003`. sources: `sources/{shard}`.
        out: `speech/{shard}.parquet`. rejects: `rejects/speech/{shard}.csv`.
        max_reject_fraction: fail where more than this part of the clips is lost.
        workers: processes, each with one clip at a time.

    Raises:
        UserError: as `check_fraction`.
    """
    pairs = clips_with_sources(plan, shard, sources)
    jobs = [(clip.clip_id, _Job(clip, source, settings)) for clip, source in pairs]
    lost: list[Reject] = []
    with atomic_file(out) as beside, pq.ParquetWriter(beside, SCHEMA) as writer:
        for clip_id, features in map_clips(clip_features, jobs, stage="speech", workers=workers):
            if isinstance(features, Reject):
                lost.append(features)
                continue
            columns = {
                "clip_id": [clip_id] * len(features),
                "step": np.arange(len(features), dtype=np.int32),
                "features": list(features),
            }
            writer.write_table(pa.table(columns, schema=SCHEMA))
        check_fraction("speech", len(pairs), lost, max_reject_fraction)
    write_rejects(rejects, lost)


def read_speech(path: str | Path) -> dict[str, np.ndarray]:
    """`{clip_id: (S, D) float32}` of a shard's speech table."""
    table = pq.read_table(path)
    found: dict[str, np.ndarray] = {}
    if table.num_rows == 0:
        return found
    names = np.asarray(table["clip_id"].to_pylist())
    features = table["features"].combine_chunks()
    values = np.asarray(features.flatten()).reshape(table.num_rows, -1)
    starts = np.flatnonzero(np.r_[True, names[1:] != names[:-1]])
    for start, end in zip(starts, np.r_[starts[1:], len(names)], strict=True):
        found[str(names[start])] = values[start:end]
    return found


def clip_features(job: _Job) -> np.ndarray:
    """The features of one clip: `(2 * frames, D)` float32.

    Raises:
        ClipError: `silent`, `no_audio`, `cannot_decode`.
    """
    sound = read_audio(job.source, job.clip.start_s, job.clip.end_s)
    level = level_db(sound)
    if level < job.settings.silence_db:
        raise ClipError("silent", f"level {level:.0f} dB, below silence_db={job.settings.silence_db:g}")
    return BACKENDS[job.settings.backend](sound, 2 * job.clip.frames)


def level_db(sound: np.ndarray) -> float:
    """Root mean square of int16 sound in dB below full scale; -120 for digital silence."""
    rms = np.sqrt(np.mean((sound / 32768.0) ** 2)) if len(sound) else 0.0
    return float(20 * np.log10(max(rms, 1e-6)))


def mfcc_features(sound: np.ndarray, steps: int) -> np.ndarray:
    """13 MFCC with first and second differences, `(steps, 39)` float32, each coefficient standardised.

    Step s is the 25 ms window centred on (s + 0.5) / 50 s, so that the two steps of frame i lie 10 ms either side of
    the middle of its 40 ms. Differences are regressions over +-2 rows of the 10 ms grid. Standardised over the clip
    (mean 0, deviation 1), which takes out voice level and channel and needs no statistics of a data set.

    Args:
        sound: `(N,)` int16 mono 16 kHz; cut, or continued with silence, to `steps` * 320 samples.
    """
    wanted = steps * STEP_SAMPLES
    x = np.pad(sound[:wanted].astype(np.float64), (0, max(wanted - len(sound), 0)))
    # One unit of dither: the logarithm of digital silence would be an outlier that drowns the speech.
    x += np.random.default_rng(0).standard_normal(len(x))
    # Row 2s of the 10 ms grid shall be centred on (s + 0.5) * 320 samples.
    lead = (MFCC_WINDOW - STEP_SAMPLES) // 2
    rows = mfcc(np.pad(x, (lead, lead + MFCC_STEP)), SOUND_RATE)
    first = _differences(rows)
    features = np.concatenate([rows, first, _differences(first)], axis=1)[: 2 * steps : 2]
    deviation = np.maximum(features.std(axis=0), 1e-3)
    return ((features - features.mean(axis=0)) / deviation).astype(np.float32)


def _differences(rows: np.ndarray) -> np.ndarray:
    """Slope of each column over five rows: sum n (x[t+n] - x[t-n]) / (2 sum n^2), n = 1, 2."""
    padded = np.pad(rows, ((2, 2), (0, 0)), mode="edge")
    return (padded[3:-1] - padded[1:-3] + 2 * (padded[4:] - padded[:-4])) / 10


BACKENDS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {"mfcc": mfcc_features}
