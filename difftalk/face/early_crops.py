"""Crops that are cut while the face is followed, from frames that are decoded for that.

The square of a clip is known when its last frame has been seen. Until then the surroundings of the face are
kept in memory, as they were decoded. Where they hold the square, the clip is cropped at once and the stage
`crops` takes the crop over: it is the one that it would have cut, byte for byte. Where they do not, since the
clip is long or the head moves far, it decodes the source again.
"""

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import difftalk
from difftalk.config.crops import CropsSettings
from difftalk.config.gates import GatesSettings
from difftalk.datasets.clips import Clip
from difftalk.face.clip_scores import ClipScores
from difftalk.face.crops import CropJob, CroppedClip, crop_clip
from difftalk.face.gates import verdict
from difftalk.face.geometry import Placement
from difftalk.face.tracks import Face, Track
from difftalk.media.lazy_frame import LazyFrame
from difftalk.media.shards import read_shard, write_shard
from difftalk.runtime.checksums import record_of
from difftalk.runtime.errors import ClipError, UserError
from difftalk.runtime.fingerprint import fingerprint_files
from difftalk.runtime.rejects import Reject

# Memory for the frames of one clip: ten seconds of a face that is 450 pixels wide.
MAX_BYTES = 600_000_000
# What is kept around the box of a face: left, above, right and below, parts of its width. The crop is 1.8
# times as wide as the box; the rest is for a head that moves.
AROUND = (1.1, 1.0, 1.1, 0.85)
# File of a crop's sample that says what it was cut from.
KEY = "key.json"


@dataclass(frozen=True)
class EarlyCrops:
    """What shall be cropped early: the clips that pass the gates.

    Args:
        settings: of the stage `crops`.
        gates: of the stage `gates`.
        code: hash of the code that crops.
    """

    settings: CropsSettings
    gates: GatesSettings
    code: str


class NotKept(Exception):
    """The frames of a clip, or parts of them, were not kept."""


class KeptFrames:
    """Keeps the surroundings of the face in each frame of a clip, on the frames' way to the tracker."""

    def __init__(self) -> None:
        self._frames: list[LazyFrame] = []
        self._current: LazyFrame | None = None
        self._box: np.ndarray | None = None
        self._bytes = 0
        self._complete = True

    def through(self, frames: Iterable[LazyFrame]) -> Iterator[LazyFrame]:
        """Yield the frames unchanged."""
        for frame in frames:
            self._current = frame
            yield frame

    def look(self, face: Face | None) -> None:
        """Keep what is around the face of the current frame; where it has none, around the latest."""
        if not self._complete or self._current is None:
            return
        self._box = face.box if face is not None else self._box
        kept: LazyFrame | None = self._current
        if self._box is not None:
            x0, y0, x1, y1 = self._box
            left, above, right, below = (part * (x1 - x0) for part in AROUND)
            kept = self._current.kept(x0 - left, y0 - above, x1 + right, y1 + below)
        self._bytes += kept.nbytes if kept is not None else 0
        if kept is None or self._bytes > MAX_BYTES:
            self._frames, self._complete = [], False
        else:
            self._frames.append(kept)

    def frames(self, placement: Placement) -> list[LazyFrame]:
        """Return what was kept, where it holds the crops.

        Raises:
            NotKept: where it does not.
        """
        if not self._complete or placement.maps is not None:
            raise NotKept
        x0, y0, x1, y1 = placement.box
        for frame in self._frames:
            height, width = frame.shape[:2]
            right, bottom = min(x1 + x1 % 2, width // 2 * 2), min(y1 + y1 % 2, height // 2 * 2)
            if not frame.holds(max(x0 - x0 % 2, 0), max(y0 - y0 % 2, 0), right, bottom):
                raise NotKept
        return self._frames


def crop_early(
    clip: Clip, source: Path, track: Track, scores: ClipScores, kept: KeptFrames, wanted: EarlyCrops
) -> dict[str, Any] | None:
    """Return the files of a clip's crop, and its key; None where it is to be cut later, or rejected."""
    if len(track.frames) == 0 or verdict(scores, wanted.gates) is not None:
        return None
    job = CropJob(clip, source, track.frames, track.points, wanted.settings, None)
    try:
        files = crop_clip(job, kept.frames).files
    except (ClipError, NotKept):  # the stage `crops` says what there is to say
        return None
    return {**files, KEY: {"key": key_of(job, wanted.code)}}


def key_of(job: CropJob, code: str) -> str:
    """Return a hash of all that a crop depends on, `code` being that of the code."""
    stat = job.source.stat()
    source = [str(job.source.resolve()), stat.st_size, stat.st_mtime_ns]
    facts = [code, job.settings.as_dict(), repr(job.clip), source]
    whole = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for array in (job.frames, job.points):
        whole.update(np.ascontiguousarray(array).tobytes())
    return whole.hexdigest()


def code_of_package() -> str:
    """Return a hash of this package's code."""
    return fingerprint_files(*sorted(Path(difftalk.__file__).parent.rglob("*.py")))


def early_file(landmarks: Path) -> Path:
    """Return the file of the early crops, next to the landmark table of their shard."""
    return landmarks.with_suffix(".crops.tar")


def write_early(landmarks: Path, crops: Iterable[tuple[str, dict[str, Any]]]) -> None:
    """Write the crops `(clip_id, files)` of a shard that were cut early; no file where there are none."""
    remaining = iter(crops)
    _remove(early_file(landmarks))
    if (first := next(remaining, None)) is not None:
        write_shard(early_file(landmarks), itertools.chain([first], remaining))


def _remove(path: Path) -> None:
    for file in (path, record_of(path)):
        file.unlink(missing_ok=True)


class EarlyShard:
    """The clips of a shard that were cropped early, as the stage `crops` would crop them.

    Args:
        landmarks: the landmark table of the shard.
        jobs: `{clip_id: job}` of the clips to crop.
    """

    def __init__(self, landmarks: Path, jobs: Mapping[str, CropJob]) -> None:
        self._path = early_file(landmarks)
        self.clip_ids: set[str] = set()
        if not self._path.is_file():
            return
        code = code_of_package()
        with suppress(UserError, KeyError):  # damaged or foreign: all clips are cut again
            self.clip_ids = {
                clip_id
                for clip_id, files in self._read()
                if clip_id in jobs and files[KEY]["key"] == key_of(jobs[clip_id], code)
            }

    def merged(
        self, order: Iterable[str], cropped: Iterator[tuple[str, CroppedClip | Reject]]
    ) -> Iterator[tuple[str, CroppedClip | Reject]]:
        """Yield all clips in the given order: those cropped early, and between them those `cropped` now."""
        early = ((clip_id, files) for clip_id, files in self._read() if clip_id in self.clip_ids)
        for clip_id in order:
            if clip_id not in self.clip_ids:
                yield next(cropped)
                continue
            found, files = next(early)
            assert found == clip_id, "both shards have the order of the plan"
            del files[KEY]
            yield clip_id, CroppedClip(files)
        # `cropped` ends its progress bar.
        yield from cropped

    def delete(self) -> None:
        """Remove the file: its clips are in the shard of crops."""
        _remove(self._path)

    def _read(self) -> Iterator[tuple[str, dict[str, Any]]]:
        if self._path.is_file():
            yield from read_shard(self._path)
