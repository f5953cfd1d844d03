"""Look at one file of a folder: its length, whether `fetch` will reject it, its content, where it is cut."""

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from difftalk.config.speech import Speech
from difftalk.datasets import fingerprints
from difftalk.media.audio import level_db
from difftalk.media.clock import FPS
from difftalk.media.lazy_frame import LazyFrame
from difftalk.media.probe import length_s, probe
from difftalk.media.video import read_lazy_frames
from difftalk.runtime.errors import ClipError

# Below this level the audio of a file counts as none for the draw of the split.
SILENCE_DB: float = Speech.model_fields["silence_db"].default

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
class FeaturesJob:
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
class FileFeatures:
    """What a file is.

    Args:
        length_s: seconds of whole 25 fps frames; 0 for a file that cannot be read.
        unusable: the reason for which `fetch` will reject it, with a detail; empty for others.
        silent: whether nothing is to be heard at its start.
        hashes: of a frame a second of its start, as it is and mirrored, `(N, 2, 64)` bool; None where nothing
            is compared.
        audio: fingerprint of the audio of its start, `(T,)` uint32; None where nothing is compared.
        face: descriptor of its speaker, `(128,)`; None where no face was found, or none was looked for.
        cuts: the frames, at 25 a second, with which a new scene begins.
        lost_s: seconds after that length that are not read, since the stream's clock is set back there.
    """

    length_s: float
    unusable: str = ""
    silent: bool = False
    hashes: np.ndarray | None = None
    audio: np.ndarray | None = None
    face: np.ndarray | None = None
    cuts: tuple[int, ...] = ()
    lost_s: float = 0.0


def file_features(job: FeaturesJob) -> FileFeatures:
    """Return what a file is. A file that cannot be read is one that is unusable, never an error."""
    try:
        info = probe(job.path)
        length = length_s(job.path)
    except ClipError as e:
        return FileFeatures(0.0, f"{e.reason}: {e.detail}")
    if not info.has_audio:
        return FileFeatures(length, f"no_audio: {job.path.name}: no audio stream")
    if round(length * FPS) < 1:
        return FileFeatures(0.0, f"cannot_decode: {job.path.name}: neither video nor audio of any length")
    cuts: tuple[int, ...] = ()
    looks = _Looks(job, length)
    audio: np.ndarray | None = None
    try:
        if job.monitor is not None:
            cuts = _scan(job.path, length, job.monitor(), looks)
        elif job.faces or job.compare:
            looks.look_at_start()
        if job.faces or job.compare:
            audio = fingerprints.read_audio_start(job.path, length)
    except ClipError as e:
        # Damage somewhere: which clips it costs, the stages say.
        logger.debug("%s: looked at up to its damage (%s)", job.path, e)
    return FileFeatures(
        length,
        silent=audio is not None and level_db(audio) < SILENCE_DB,
        hashes=np.array(looks.hashes) if looks.hashes else None,
        audio=fingerprints.audio_fingerprint(audio) if job.compare and audio is not None else None,
        face=fingerprints.describe_face(looks.faces) if looks.faces else None,
        cuts=cuts,
        lost_s=info.lost_s,
    )


class _Looks:
    """The frames of a file that are looked at, a second apart: their hashes, and some for the face."""

    def __init__(self, job: FeaturesJob, length: float) -> None:
        self._job = job
        self._times = fingerprints.look_times(length)
        self._step = max(len(self._times) // fingerprints.FACES, 1)
        self.hashes: list[np.ndarray] = []
        self.faces: list[np.ndarray] = []

    def look_at_start(self) -> None:
        times = self._times
        for n, frame in enumerate(read_lazy_frames(self._job.path, times[0], times[0] + len(times), fps=1.0)):
            self.look(n, frame)

    def look(self, n: int, frame: LazyFrame) -> None:
        """Look at the n-th of these frames."""
        if self._job.compare:
            size = fingerprints.HASHED_PX
            self.hashes.append(fingerprints.frame_hash(frame.scaled(size, size)))
        for_face = n < len(self._times) and n % self._step == 0 and len(self.faces) < fingerprints.FACES
        if self._job.faces and for_face:
            self.faces.append(frame[:, :])


def _scan(path: Path, length: float, monitor: CutMonitor, looks: _Looks) -> tuple[int, ...]:
    """Look at a frame a second, and return the cuts of a video; both up to where it is damaged."""
    times = fingerprints.look_times(length, fingerprints.AUDIO_S)
    wanted = {round(t * FPS): n for n, t in enumerate(times)}
    try:
        for k, frame in enumerate(monitor.through(read_lazy_frames(path, 0.0, length))):
            if k in wanted:
                looks.look(wanted[k], frame)
    except ClipError as e:
        logger.debug("%s: scanned for cuts up to its damage (%s)", path, e)
    return tuple(monitor.cuts())
