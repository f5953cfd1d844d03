"""What can be told of a clip that another sound drives: sync with it, and what is left of the original.

There are no true frames of it. Leakage is how much of the original sound's mouth is still there: masks,
landmarks and references show a method a little of it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from difftalk.config.evaluation import Evaluation
from difftalk.evaluation.figures import mean
from difftalk.evaluation.identity import id_distance
from difftalk.evaluation.instruments import Instrument, of_landmarks
from difftalk.evaluation.measures import in_sync
from difftalk.evaluation.mouth import correlation, opening
from difftalk.evaluation.pair import Pair
from difftalk.evaluation.scorer import Scorer, measure
from difftalk.evaluation.scores import TRUTH
from difftalk.media.clock import SAMPLES_PER_FRAME
from difftalk.media.shards import Crop
from difftalk.models.syncnet import SyncExpert, load_syncnet
from difftalk.runtime.cache import Arrays
from difftalk.runtime.checksums import digest_of_model
from difftalk.runtime.device import require_cuda
from difftalk.runtime.errors import ClipError

INSTRUMENTS = ("identity", "true_identity", "points", "true_points")
PROTOCOL = {
    "voices": "own: the clip's; other: that of another person's clip, by a fixed permutation, both cut to "
    "the shorter; silence: digital silence, for the features after the clip's own speech. ground_truth "
    "shows its own frames",
    "leakage": "other: correlation of the mouth's opening with that of the true clip; silence: its "
    "deviation over the true clip's; by one predictor",
}
# A mouth of which the truth itself hardly moves tells nothing: in distances of the outer eye corners.
STILL = 1e-3


def leakage_of_voice(opening: np.ndarray, true_opening: np.ndarray) -> float | None:
    """Return how much the mouth still follows the original sound, driven by another voice.

    It is Pearson's correlation of the measured opening with that of the true clip: 1 is a mouth that has not
    heard the other voice at all, about 0 one that follows nothing but it.

    Args:
        opening: (T,) of the method's frames.
        true_opening: (T,) of the true frames, by the same predictor.
    """
    return correlation(opening, true_opening)


def leakage_in_silence(opening: np.ndarray, true_opening: np.ndarray) -> float | None:
    """Return how much the mouth moves in silence: the deviation of its opening over the truth's own.

    0 is a mouth at rest; 1 moves as much as when it spoke.

    Args:
        opening: (T,) of the method's frames.
        true_opening: (T,) of the true frames, by the same predictor.
    """
    own = float(np.std(true_opening)) if len(true_opening) else 0.0
    return float(np.std(opening)) / own if own > STILL else None


@dataclass
class CrossScorer:
    """What scores clips that another sound drives.

    Args:
        settings: the evaluation protocol.
        instruments: in the order in which they measure.
        cache: folder in which measurements are kept, that of `score`; None keeps nothing.
    """

    settings: Evaluation
    instruments: list[Instrument]
    cache: Path | None = None

    @classmethod
    def load(cls, syncnet: Path, settings: Evaluation, cache: Path | None = None) -> "CrossScorer":
        """Load the sync expert of the folder `syncnet`.

        Raises:
            UserError: if the settings ask for a GPU and there is none, or the expert cannot be loaded.
        """
        if settings.device == "cuda":
            require_cuda("cross_score: evaluation.device is cuda", "set evaluation.device: cpu")
        # As `score` shows them to it, or else its figures beside those of the own voice were of another kind.
        expert = load_syncnet(syncnet, settings.device, jpeg=settings.sync_frames == "jpeg")
        depends_on = {
            "expert": digest_of_model(syncnet),
            "max_shift": settings.max_shift,
            "frames": settings.sync_frames,
        }
        found = [i for i in of_landmarks(settings) if i.name in INSTRUMENTS]
        sync = Instrument("cross_sync", __name__, _sync_with_both(expert, settings), {}, depends_on)
        return cls(settings, [*found, sync], cache)

    def score(
        self, method: str, voice: str, clip: Crop, frames: int, path: Path | None, driving: np.ndarray
    ) -> dict[str, Any]:
        """Return the row of a clip.

        Args:
            method: its name. `ground_truth` shows its own mouth: its leakage is 1.
            voice: `other` or `silence`, with which there is no sync.
            clip: the true clip, as far as it is evaluated.
            frames: of it that are driven.
            path: the method's video; None where it has none.
            driving: (N,) int16, 16 kHz, the sound that drives it.
        """
        if path is None:
            return Scorer.problem(method, clip, ClipError("cannot_fetch", "no video of this clip"))
        driven = Crop(clip.clip_id, clip.files, frames)
        pair = Pair(driven, path, self.settings, driving=driving)
        whole = Pair(clip, path, self.settings)
        # The truth's own frames are measured as such, and not again behind a codec.
        skipped = {"points"} if method == TRUTH else set()
        instruments = [i for i in self.instruments if i.name not in skipped]
        try:
            found = measure(instruments, f"{method}@{voice}", pair, self.cache, whole)
        except ClipError as e:
            return Scorer.problem(method, clip, e)
        count = pair.count
        true = opening(found["true_points"]["points"][:count], clip.landmarks[:count])
        mouth = true if method == TRUTH else opening(found["points"]["points"], clip.landmarks[:count])
        leak = leakage_of_voice if voice == "other" else leakage_in_silence
        row = {"clip_id": clip.clip_id, "method": method, "frames": count, "problem": None}
        row |= {"leakage": leak(mouth, true), "mouth_open": float(mouth.mean())}
        reference = found["true_identity"]["descriptors"][0]
        row["id_distance"] = id_distance(reference, found["identity"]["descriptors"])
        sync = {name: mean(value) for name, value in found["cross_sync"].items()}
        row["leak_confidence"] = sync.pop("leak_confidence")
        return row | (sync if voice == "other" else {})


def _sync_with_both(expert: SyncExpert, settings: Evaluation) -> Callable[[Pair], Arrays]:
    """Measure sync with the driving sound, and how confident the expert is of the original one."""

    def found(pair: Pair) -> Arrays:
        video = expert.video_embeddings(pair.frames, pair.landmarks)
        original = pair.clip.audio[: pair.count * SAMPLES_PER_FRAME]
        leak = in_sync(expert, video, original, settings, "leak")["leak_confidence"]
        return in_sync(expert, video, pair.audio, settings) | {"leak_confidence": leak}

    return found
