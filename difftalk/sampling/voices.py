"""The sound that drives a clip in place of its own: another person's voice, or silence."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from difftalk.datasets.pairs import VoicePair
from difftalk.media.clock import SAMPLES_PER_FRAME
from difftalk.media.flac import decode_flac
from difftalk.media.members import list_members
from difftalk.media.shards import Crop
from difftalk.runtime.errors import ClipError, UserError
from difftalk.speech.features import Backend
from difftalk.speech.windows import STEPS_PER_FRAME

# Besides a clip's own.
VOICES = ("other", "silence")


@dataclass(frozen=True)
class Voice:
    """What drives a clip.

    Args:
        samples: `(N,)` int16, mono, 16 kHz, as long as what is sampled.
        speech: `(2 T, features)` of the same; None where no model hears it.
    """

    samples: np.ndarray
    speech: np.ndarray | None = None


class OtherVoices:
    """Voices of the clips of the test shards.

    Args:
        crops: crops/SHARD.tar of all test shards.
        shards: shards/SHARD.tar of the same, for the speech features; none where no model hears them.
    """

    def __init__(self, crops: Sequence[Path], shards: Sequence[Path] = ()) -> None:
        self._crops = {path.stem: path for path in crops}
        self._shards = {path.stem: path for path in shards}

    def of(self, pair: VoicePair) -> Voice:
        """Return the voice of the other clip of a pair.

        Raises:
            ClipError: `no_voice` where there is no other clip.
            UserError: where its shard is not among those given, or lacks it.
        """
        if not pair.driven_by:
            raise ClipError("no_voice", "no test clip of another person")
        sound = _member(self._crops, pair, "flac")
        samples = decode_flac(sound)[: pair.frames * SAMPLES_PER_FRAME]
        if not self._shards:
            return Voice(samples)
        speech = np.load(io.BytesIO(_member(self._shards, pair, "speech.npy")), allow_pickle=False)
        return Voice(samples, speech[: pair.frames * STEPS_PER_FRAME])


def silence_of(crop: Crop, backend: Backend | None = None) -> Voice:
    """Return digital silence as long as a clip.

    Its features are those of a silence that follows the clip's own speech: features of `mfcc` are
    standardised over a clip, so that nothing but silence would become noise as loud as speech.

    Args:
        crop: the clip, cut to what is sampled.
        backend: of the run's speech features; None where no model hears them.
    """
    quiet = np.zeros(len(crop.landmarks) * SAMPLES_PER_FRAME, np.int16)
    if backend is None:
        return Voice(quiet)
    steps = len(crop.landmarks) * STEPS_PER_FRAME
    return Voice(quiet, backend(np.concatenate([crop.audio, quiet]), 2 * steps)[steps:])


def _member(shards: dict[str, Path], pair: VoicePair, extension: str) -> bytes:
    """Return a file of the other clip of a pair, without reading the rest of its shard."""
    path = shards.get(pair.driven_by_shard)
    for member in list_members(path) if path is not None else ():
        if (member.clip_id, member.extension) == (pair.driven_by, extension):
            with path.open("rb") as file:  # type: ignore[union-attr]
                return member.read(path, file)  # type: ignore[arg-type]
    raise UserError(
        f"{pair.driven_by} drives {pair.clip_id}, but {path or pair.driven_by_shard} is not given or has no "
        f"{extension} of it: outputs of several runs are mixed"
    )
