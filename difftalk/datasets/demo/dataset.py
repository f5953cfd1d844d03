"""The embedded demo: speakers drawn procedurally, rendered into the store when they are fetched."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from difftalk.config.dataset import Demo
from difftalk.config.download import Download
from difftalk.datasets.clips import Clip
from difftalk.datasets.demo.render import DemoSpeaker, demo_sources, render_source
from difftalk.runtime.checksums import is_whole
from difftalk.runtime.errors import UserError
from difftalk.runtime.fingerprint import fingerprint


class DemoDataset:
    """The speakers that `settings` asks for. No identity is in both splits."""

    shares_no_identity = True
    grows = False

    def __init__(self, settings: Demo) -> None:
        self.settings = settings

    def clips(self) -> list[Clip]:
        """Return the clips of all speakers: each source cut into clips of equal length."""
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

    def own_files(self, clips: Iterable[Clip]) -> dict[str, Path]:
        """Return none: all sources are rendered."""
        return {}

    def fetch(self, source_id: str, uri: str, store: Path, download: Download) -> dict[str, Path]:
        """Return a speaker's video and its true landmarks, rendered unless `store` holds them whole."""
        speakers = {s.source_id: s for s in self._speakers()}
        if source_id not in speakers:
            raise UserError(
                f"dataset: the demo has no {source_id}: the plan is of another config, plan again"
            )
        source = speakers[source_id].source
        video = store / "sources" / f"{source_id}-{_content_hash(source)}.mp4"
        truth = video.with_suffix(".landmarks.npy")
        if not (is_whole(video) and is_whole(truth)):
            video.parent.mkdir(parents=True, exist_ok=True)
            render_source(source, video)
        return {f"{source_id}.mp4": video, f"{source_id}.landmarks.npy": truth}

    def _speakers(self) -> list[DemoSpeaker]:
        about = self.settings
        try:
            return demo_sources(
                about.identities.as_dict(),
                about.clips_per_identity,
                about.clip_seconds,
                about.size,
                about.seed,
            )
        except ValueError as e:
            raise UserError(f"dataset: {e}") from e


def _content_hash(source: object) -> str:
    """Return what tells rendered videos apart: what is rendered, and the code that renders it."""
    described = json.dumps(dataclasses.asdict(source), sort_keys=True)  # type: ignore[call-overload]
    code = fingerprint("difftalk.datasets.demo.render")
    return hashlib.sha256(f"{described} {code}".encode()).hexdigest()[:16]
