"""What the denoiser is given: examples, gathered from the frames of training shards."""

import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch

from difftalk.media.members import list_members, verify_shards
from difftalk.media.shards import map_arrays
from difftalk.models.conditioning import LANDMARKS_SEEN, SPEECH_WINDOW
from difftalk.runtime.errors import UserError
from difftalk.speech.windows import neighbour_windows

# Of each clip of a shard.
ARRAYS = ("latents", "masked", "speech", "landmarks", "generated")


@dataclass
class Examples:
    """What the denoiser is given of B frames; latents of about unit variance.

    Numbers are in the precision of the shard (float16 or float32) until `to`, which makes them float32.

    Attributes:
        target: (B, C, h, w) latents of the frames.
        masked: (B, C, h, w) latents of the frames with the mouth masked.
        reference: (B, C, h, w) latents of another frame of each clip.
        speech: (B, neighbours, 16, features).
        landmarks: (B, 39, 2) in [0, 1] of the crop.
        generated: inpainting mask, (B, 1, h, w) bool, True where the latent cell is generated.
    """

    target: torch.Tensor
    masked: torch.Tensor
    reference: torch.Tensor
    speech: torch.Tensor
    landmarks: torch.Tensor
    generated: torch.Tensor

    def to(self, device: torch.device | str) -> "Examples":
        """Copy to `device`, as float32."""
        moved = {k: v.to(device, non_blocking=True) for k, v in vars(self).items()}
        return Examples(**{k: v.float() if v.is_floating_point() else v for k, v in moved.items()})

    def pin_memory(self) -> "Examples":
        """Copy to page-locked memory, from which a GPU copies while it computes."""
        return Examples(**{k: v.pin_memory() for k, v in vars(self).items()})


class LatentClips:
    """All frames of some training shards, memory-mapped, so that their size does not matter.

    Args:
        shards: paths of `shards/{shard}.tar`.
        neighbours: frames of speech per example: 8 with audio smoothing, 1 without.
        check: read all of them first, once per process, and compare them with their checksums.

    Raises:
        UserError: if a shard is missing, damaged or none for training, or there is no clip.
    """

    def __init__(self, shards: Iterable[Path], neighbours: int, *, check: bool = True) -> None:
        self.shards = list(shards)
        if check:
            verify_shards(self.shards)
        clips: dict[str, dict[str, np.ndarray]] = {}
        for path in self.shards:
            for clip_id, arrays in map_arrays(path, check=False).items():
                if lacking := [name for name in ARRAYS if name not in arrays]:
                    raise UserError(
                        f"{path} is no shard of `difftalk encode`: {clip_id} has no {lacking[0]}.npy"
                    )
                clips[clip_id] = arrays
        if not clips:
            raise UserError("train: the shards hold no clip; the funnel says why they were rejected")
        self.clip_ids = sorted(clips)
        self.clips = [clips[c] for c in self.clip_ids]
        self.neighbours = neighbours
        self._ends = list(accumulate(len(c["latents"]) for c in self.clips))

    def __reduce__(self) -> tuple[Any, tuple[list[Path], int]]:
        """Pickle to the paths alone: a worker process maps the shards itself."""
        return partial(type(self), check=False), (self.shards, self.neighbours)

    def __len__(self) -> int:
        """Return the frames in all clips."""
        return self._ends[-1]

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of a latent."""
        return self.clips[0]["latents"].shape[1:]

    def crop_facts(self) -> dict[str, Any]:
        """Return how the crops were cut, as far as the first shard says it: `crop_mode` and `crop_margin`."""
        with self.shards[0].open("rb") as file:
            about = next((m for m in list_members(self.shards[0]) if m.extension == "json"), None)
            info = json.loads(about.read(self.shards[0], file)) if about is not None else {}
        names = {"crop_mode": "crop", "crop_margin": "margin"}
        return {fact: info[name] for fact, name in names.items() if name in info}

    @property
    def speech_features(self) -> int:
        """Numbers per speech step: 29 for DeepSpeech."""
        return int(self.clips[0]["speech"].shape[1])

    def extract(self) -> Iterator[np.ndarray]:
        """Yield enough of every clip to tell data sets apart: name, first and last frame."""
        for clip_id, arrays in zip(self.clip_ids, self.clips, strict=True):
            yield np.frombuffer(clip_id.encode(), np.uint8)
            yield np.array(arrays["latents"].shape)
            for name in ARRAYS:
                yield arrays[name][[0, -1]]

    def locate(self, index: int) -> tuple[int, int]:
        """Return clip number and frame of the `index`-th frame."""
        clip = bisect_right(self._ends, index)
        return clip, index - (self._ends[clip - 1] if clip else 0)

    def examples(self, frames: list[tuple[int, int]], references: list[int]) -> Examples:
        """Gather `(clip, frame)` pairs, each with a frame of the same clip as its reference."""

        def gather(name: str, of: Iterable[tuple[int, int]]) -> torch.Tensor:
            return torch.from_numpy(np.stack([self.clips[c][name][f] for c, f in of]))

        def speech_around(clip: int, frame: int) -> np.ndarray:
            return neighbour_windows(
                self.clips[clip]["speech"], np.array([frame]), self.neighbours, SPEECH_WINDOW
            )[0]

        return Examples(
            target=gather("latents", frames),
            masked=gather("masked", frames),
            reference=gather("latents", [(c, r) for (c, _), r in zip(frames, references, strict=True)]),
            speech=torch.from_numpy(np.stack([speech_around(c, f) for c, f in frames])),
            landmarks=gather("landmarks", frames)[:, LANDMARKS_SEEN, :],
            generated=gather("generated", frames).bool().unsqueeze(1),
        )
