"""Look at one file of a folder: its length, whether `fetch` will reject it, its content, where it is cut."""

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from difftalk.datasets import fingerprints
from difftalk.media.clock import FPS
from difftalk.media.probe import length_s, probe
from difftalk.media.video import LazyFrame, read_lazy_frames
from difftalk.runtime.errors import ClipError

# Below this level the sound of a file counts as none for the draw of the split, as for `speech.silence_db`.
SILENCE_DB = -50.0

logger = logging.getLogger(__name__)


class CutMonitor(Protocol):
    """What watches the frames of a video for cuts, such as `difftalk.face.scenes.CutFinder`."""

    def through(self, frames: Iterable[LazyFrame]) -> Iterator[LazyFrame]:
        """Yield the frames unchanged, and look at each."""
        ...

    def cuts(self) -> list[int]:
        """Return the numbers of the frames with which a new scene begins; no frame may follow."""
        ...


@dataclass(frozen=True)
class LookJob:
    """A file to look at.

    Args:
        path: the file.
        faces: whether to describe its face.
        compare: whether to compute what tells copies of it.
        monitor: makes what finds its cuts, which takes a decode of the whole file; None leaves them.
    """

    path: Path
    faces: bool = False
    compare: bool = False
    monitor: Callable[[], CutMonitor] | None = None


@dataclass(frozen=True)
class Look:
    """What a file is.

    Args:
        length_s: seconds of whole 25 fps frames; 0 for a file that cannot be read.
        unusable: the reason for which `fetch` will reject it, with a detail; empty for others.
        silent: whether nothing is to be heard at its start.
        hashes: of a frame a second of its start, `(N, 64)` bool.
        sound: fingerprint of the sound of its start, `(T, 16)` bool.
        face: descriptor of its speaker, `(128,)`; None where no face was found, or none was looked for.
        cuts: the frames, at 25 a second, with which a new scene begins.
    """

    length_s: float
    unusable: str = ""
    silent: bool = False
    hashes: np.ndarray | None = None
    sound: np.ndarray | None = None
    face: np.ndarray | None = None
    cuts: tuple[int, ...] = ()


def look_at(job: LookJob) -> Look:
    """Return what a file is. A file that cannot be read is one that is unusable, never an error."""
    try:
        has_audio = probe(job.path).has_audio
        length = length_s(job.path)
    except ClipError as e:
        return Look(0.0, f"{e.reason}: {e.detail}")
    if not has_audio:
        return Look(length, f"no_audio: {job.path.name}: no audio stream")
    if round(length * FPS) < 1:
        return Look(0.0, f"cannot_decode: {job.path.name}: neither video nor audio of any length")
    cuts: tuple[int, ...] = ()
    frames: list[np.ndarray] = []
    sound: np.ndarray | None = None
    try:
        if job.monitor is not None:
            frames, cuts = _scan(job.path, length, job.monitor())
        elif job.faces or job.compare:
            frames = fingerprints.read_looks(job.path, length)
        if job.faces or job.compare:
            sound = fingerprints.read_sound(job.path, length)
    except ClipError as e:
        # Damage somewhere: which clips it costs, the stages say.
        logger.debug("%s: looked at up to its damage (%s)", job.path, e)
    return Look(
        length,
        silent=sound is not None and _level_db(sound) < SILENCE_DB,
        hashes=np.array([fingerprints.frame_hash(f) for f in frames]) if job.compare and frames else None,
        sound=fingerprints.sound_bits(sound) if job.compare and sound is not None else None,
        face=fingerprints.describe_face(frames) if job.faces and frames else None,
        cuts=cuts,
    )


def _scan(path: Path, length: float, monitor: CutMonitor) -> tuple[list[np.ndarray], tuple[int, ...]]:
    """Return a frame a second of the start of a video, and its cuts; both up to where it is damaged."""
    wanted = {round(t * FPS) for t in fingerprints.look_times(length)}
    frames = []
    try:
        for k, frame in enumerate(monitor.through(read_lazy_frames(path, 0.0, length))):
            if k in wanted:
                frames.append(frame[:, :])
    except ClipError as e:
        logger.debug("%s: scanned for cuts up to its damage (%s)", path, e)
    return frames, tuple(monitor.cuts())


def _level_db(samples: np.ndarray) -> float:
    mean = float(np.mean(np.square(samples.astype(np.float64)))) if len(samples) else 0.0
    return 10 * float(np.log10(max(mean, 1e-9) / 32768.0**2))
