"""Whole frames of the sources of clips, and where the crops lie in them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from difftalk.config.crops import CropsSettings
from difftalk.datasets.clips import Clip, clips_with_sources
from difftalk.face.geometry import Placement, place
from difftalk.face.table import read_landmarks
from difftalk.face.tracks import fill_gaps
from difftalk.media.clock import FPS
from difftalk.media.probe import probe
from difftalk.media.video import read_frames
from difftalk.runtime.errors import ClipError


@dataclass(frozen=True)
class FullFrames:
    """The whole frames of one clip.

    Args:
        clip: of the plan.
        source: its file.
        points: landmarks `(T, 68, 2)` of its frames, pixels of the source.
        placement: of the crops.
        size: (width, height) of the source, pixels.
    """

    clip: Clip
    source: Path
    points: np.ndarray
    placement: Placement
    size: tuple[int, int]

    def frames(self) -> Iterator[np.ndarray]:
        """Yield the frames, (H, W, 3) uint8 RGB at 25 fps, as many as the crop has."""
        end_s = self.clip.start_s + len(self.points) / FPS
        return read_frames(self.source, self.clip.start_s, end_s)


class Sources:
    """The sources of a shard, as the stage `crops` read them.

    Args:
        plan: plan/clips.parquet.
        shard: its name.
        sources: sources/SHARD.
        landmarks: landmarks/SHARD.parquet.
        settings: by which the crops were cut.

    Raises:
        UserError: if one of them cannot be read.
    """

    def __init__(
        self, plan: Path, shard: str, sources: Path, landmarks: Path, settings: CropsSettings
    ) -> None:
        self._files = {clip.clip_id: (clip, file) for clip, file in clips_with_sources(plan, shard, sources)}
        self._found, self._settings = read_landmarks(landmarks), settings

    def of(self, clip_id: str, count: int) -> FullFrames:
        """Return the whole frames of a clip of which the crop has `count`.

        Raises:
            ClipError: if the clip has no source or no landmarks any more.
        """
        if clip_id not in self._files or clip_id not in self._found:
            raise ClipError("cannot_fetch", f"no source or no landmarks of {clip_id}")
        clip, source = self._files[clip_id]
        frames, points = self._found[clip_id]
        info = probe(source)
        # Of all frames, as when it was cropped: of fewer the square would be another one.
        every = fill_gaps(frames, points, max(int(frames[-1]) + 1, clip.frames))
        placement = place(every, clip, info, self._settings)
        return FullFrames(clip, source, every[:count], placement, (info.width, info.height))
