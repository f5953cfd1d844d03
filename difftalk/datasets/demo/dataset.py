"""The embedded demo as a dataset: drawn speakers, filmed into the store when they are fetched."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from difftalk.datasets.clips import Clip
from difftalk.datasets.demo.render import DemoSpeaker, demo_sources, render_source
from difftalk.datasets.download import Download
from difftalk.runtime.errors import UserError
from difftalk.runtime.fingerprint import fingerprint


@dataclass(frozen=True)
class Identities:
    """Number of speakers in each split."""

    train: int
    test: int


@dataclass(frozen=True)
class Settings:
    """The config's `dataset` section with `name: demo`.

    Args:
        identities: speakers per split.
        clips_per_identity: clips per speaker; they follow one another in one source.
        clip_seconds: length of each.
        size: width and height of the pictures in pixels, even.
        seed: draws other people.
    """

    identities: Identities
    clips_per_identity: int = 2
    clip_seconds: float = 6.0
    size: int = 256
    seed: int = 1

    def clips(self) -> list[Clip]:
        clips = []
        for speaker in self._speakers():
            source = speaker.source
            length_s = source.frames_per_clip / source.fps
            for k in range(source.clips):
                start_s, end_s = k * length_s, (k + 1) * length_s
                clip_id = f"{speaker.source_id}-{k:03d}"
                uri = f"demo:{speaker.source_id}"
                clips.append(
                    Clip(clip_id, speaker.source_id, start_s, end_s, speaker.identity, speaker.split, uri=uri)
                )
        return clips

    shares_no_identity = True

    def fetch(self, source_id: str, uri: str, store: Path, download: Download) -> dict[str, Path]:
        speakers = {s.source_id: s for s in self._speakers()}
        if source_id not in speakers:
            raise UserError(
                f"dataset: the demo has no {source_id}: the plan is of another config, plan again"
            )
        source = speakers[source_id].source
        film = store / "sources" / f"{source_id}-{_content_hash(source)}.mp4"
        truth = film.with_suffix(".landmarks.npy")
        if not (film.is_file() and truth.is_file()):
            film.parent.mkdir(parents=True, exist_ok=True)
            render_source(source, film)
        return {f"{source_id}.mp4": film, f"{source_id}.landmarks.npy": truth}

    def _speakers(self) -> list[DemoSpeaker]:
        if self.identities.train < 1 or self.identities.test < 1:
            raise UserError("dataset: the demo needs at least one identity in train and one in test")
        try:
            counts = dataclasses.asdict(self.identities)
            return demo_sources(counts, self.clips_per_identity, self.clip_seconds, self.size, self.seed)
        except ValueError as e:
            raise UserError(f"dataset: {e}") from e


def _content_hash(source: object) -> str:
    """Tells films apart: what is filmed, and the code that films it."""
    described = json.dumps(dataclasses.asdict(source), sort_keys=True)  # type: ignore[call-overload]
    code = fingerprint("difftalk.datasets.demo.render")
    return hashlib.sha256(f"{described} {code}".encode()).hexdigest()[:16]
