"""Clips driven by another sound than their own."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from difftalk.config.sampling import Sampling
from difftalk.config.speech import Speech
from difftalk.datasets.pairs import VoicePair
from difftalk.media.shards import Crop, map_arrays, read_crops
from difftalk.runtime.parallel import guarded
from difftalk.sampling.made import Made
from difftalk.sampling.references import TrainingReferences
from difftalk.sampling.unfinished import Unfinished
from difftalk.sampling.voices import OtherVoices, silence_of

if TYPE_CHECKING:
    from difftalk.sampling.frame_sampler import FrameSampler


class Driver:
    """One method on the clips of a shard, driven by other sounds.

    Args:
        crops: crops/SHARD.tar.
        sources: shards/SHARD.tar, the folder of the first stage, and that of the model; the last two are None
            of the truth itself.
        pairs: whose voice drives which clip.
        limits: how many frames at the beginning of clips are evaluated; no entry: all.
        settings: of the sampling.
    """

    def __init__(
        self,
        crops: Path,
        sources: tuple[Path, Path | None, Path | None],
        pairs: Mapping[str, VoicePair],
        limits: Mapping[str, int],
        settings: Sampling,
    ) -> None:
        self._crops, self._pairs, self._limits, self._settings = crops, pairs, limits, settings
        self._shard, self._autoencoder, self._model = sources

    def wanted(self, voice: str) -> set[str]:
        """Return the clips that a voice, `other` or `silence`, drives."""
        clips = self._pairs.keys() & map_arrays(self._shard).keys()
        return {c for c in clips if voice == "silence" or self._pairs[c].driven_by}

    def limits(self, voice: str) -> dict[str, int | None]:
        """Return how many frames of each clip a voice drives; None: all."""
        if voice == "silence":
            return {clip_id: self._limits.get(clip_id) for clip_id in self._pairs}
        return {clip_id: pair.frames for clip_id, pair in self._pairs.items()}

    def made(
        self,
        voice: str,
        clips: Collection[str],
        voice_crops: Sequence[Path],
        voice_shards: Sequence[Path],
        speech: Speech,
        references: Sequence[Path],
        unfinished: Unfinished,
    ) -> Iterator[Made]:
        """Yield clips with their frames, and the sound that drives them as their audio.

        Args:
            voice: `other` or `silence`.
            clips: ids of those that are made.
            voice_crops: crops/SHARD.tar of all test shards.
            voice_shards: shards/SHARD.tar of the same.
            speech: backend of the speech features.
            references: crops/SHARD.tar of the training split, for `reference: training`.
            unfinished: keeps what is sampled of clips that are not done.
        """
        if not clips:
            return
        limits = self.limits(voice)
        heard = self._model is not None
        voices = OtherVoices(voice_crops, voice_shards if heard else ())
        backend = None
        if heard and voice == "silence":
            from difftalk.speech.features import load_backend

            backend = load_backend(speech.backend)

        if voice == "other":
            driving = {clip_id: voices.of(self._pairs[clip_id]) for clip_id in clips}
        else:
            mine = read_crops(self._crops, clips, limits)
            driving = {crop.clip_id: silence_of(crop.without_video(), backend) for crop in mine}
        driven = (
            crop.driven_by(driving[crop.clip_id].samples) for crop in read_crops(self._crops, clips, limits)
        )
        if not heard:
            for crop in driven:
                yield crop, guarded(Crop.frames, crop, crop.clip_id)
            return
        from difftalk.sampling.generate import Generator

        training = TrainingReferences(references) if self._settings.reference == "training" else None
        features = {clip_id: np.asarray(found.speech) for clip_id, found in driving.items()}
        generator = Generator(self._sampler, self._shard, training, limits, features)
        yield from generator.generate(clips, driven, f"cross_drive {voice}", unfinished)

    @cached_property
    def _sampler(self) -> "FrameSampler":
        from difftalk.sampling.generate import load_sampler

        assert self._autoencoder is not None and self._model is not None
        return load_sampler("cross_drive", self._autoencoder, self._model, self._settings)
