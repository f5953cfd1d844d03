"""A clip of a method beside the truth: the same frames of both, decoded when they are asked for."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from difftalk.config.evaluation import Evaluation
from difftalk.evaluation.metrics import Box, mouth_box
from difftalk.evaluation.samples import read_sample
from difftalk.media.clock import FPS, SAMPLES_PER_FRAME
from difftalk.media.shards import Crop


@dataclass
class Pair:
    """A clip of a method beside the true one.

    Args:
        clip: the true clip.
        path: the method's video of it.
        settings: the evaluation protocol.
        own_audio: whether the audio is that of the method's file, and not of the true clip.
        driving: (N,) int16, 16 kHz, the sound that drives the clip in place of its own; None: its own does.

    Raises:
        ClipError: by each property, where the video or the clip cannot be read, or one is too short.
    """

    clip: Crop
    path: Path
    settings: Evaluation
    own_audio: bool = False
    driving: np.ndarray | None = None

    @property
    def count(self) -> int:
        """How many frames both have."""
        return len(self.frames)

    @cached_property
    def frames(self) -> np.ndarray:
        """`(T, S, S, 3)` uint8 RGB, the method's."""
        return self._decoded[1]

    @cached_property
    def truth(self) -> np.ndarray:
        """`(T, S, S, 3)` uint8 RGB, the true ones."""
        return self._decoded[0]

    @property
    def landmarks(self) -> np.ndarray:
        """`(T, 68, 2)` of the true clip in pixels of the crop."""
        return self.clip.landmarks[: self.count]

    @cached_property
    def audio(self) -> np.ndarray:
        """`(N,)` int16, 16 kHz: of the true clip, of the method's file, or what drives it."""
        if self.driving is not None:
            return self.driving[: self.count * SAMPLES_PER_FRAME]
        if self.own_audio:
            from difftalk.media.audio import read_audio

            return read_audio(self.path, 0.0, self.count / FPS)
        return self.clip.audio[: self.count * SAMPLES_PER_FRAME]

    @property
    def size(self) -> int:
        """Side of the crop in pixels."""
        return int(self.truth.shape[2])

    @property
    def box(self) -> Box:
        """The mouth's region, the same in all frames."""
        height, width = self.truth.shape[1:3]
        return mouth_box(self.landmarks, (width, height), self.settings.mouth_margin)

    @cached_property
    def whole_truth(self) -> np.ndarray:
        """`(T', S, S, 3)` uint8 RGB, all of the true frames."""
        return self.clip.frames()

    @cached_property
    def _decoded(self) -> tuple[np.ndarray, np.ndarray]:
        truth = self.whole_truth
        frames = read_sample(self.path, truth, self.settings.max_missing_frames)
        count = min(len(truth), len(frames), len(self.clip.landmarks))
        return truth[:count], frames[:count]
