"""Which frame shows a clip's identity."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from difftalk.config.sampling import Sampling
from difftalk.media.members import Member, list_members
from difftalk.media.shards import Crop
from difftalk.runtime.errors import ClipError, UserError
from difftalk.sampling.noise import stream_seed


def reference_frame(clip_id: str, frames: int, settings: Sampling) -> int:
    """Return the index of the reference frame in its clip: the first, or one drawn from seed and clip id."""
    return stream_seed(settings.seed, clip_id) % frames if settings.reference == "random" else 0


class TrainingReferences:
    """The reference of a test clip from the training clips: of the same source, or else of its speaker.

    Args:
        shards: crops/SHARD.tar of the training split.

    Raises:
        UserError: if a shard cannot be read.
    """

    def __init__(self, shards: Sequence[Path]) -> None:
        if not shards:
            raise UserError("sample: reference: training needs --references, the crops of the training split")
        self._found: dict[tuple[str, str], tuple[str, Path]] = {}
        for shard in shards:
            with shard.open("rb") as file:
                for member in list_members(shard):
                    if member.extension == "json":
                        self._note(member, shard, json.loads(member.read(shard, file)))

    def frame(self, crop: Crop) -> np.ndarray:
        """Return the first frame, (size, size, 3) uint8, of the first training clip of who is in `crop`.

        Raises:
            ClipError: `no_reference` where every training clip of the speaker was rejected.
        """
        for kind in ("source_id", "identity"):
            if (found := self._found.get((kind, crop.info[kind]))) is not None:
                return _crop(*found).frames()[0]
        raise ClipError("no_reference", f"no training clip of {crop.info['identity']} was kept")

    def _note(self, member: Member, shard: Path, info: dict[str, str]) -> None:
        for kind in ("source_id", "identity"):
            key = (kind, info[kind])
            if key not in self._found or member.clip_id < self._found[key][0]:
                self._found[key] = (member.clip_id, shard)


def _crop(clip_id: str, shard: Path) -> Crop:
    with shard.open("rb") as file:
        files = {m.extension: m.read(shard, file) for m in list_members(shard) if m.clip_id == clip_id}
    return Crop(clip_id, files)
