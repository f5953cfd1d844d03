"""HDTF: the annotated clips, split as in the paper or by speaker, downloaded or taken from local files."""

import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path

from difftalk.config.dataset import Hdtf
from difftalk.config.download import Download
from difftalk.datasets.clips import Clip
from difftalk.datasets.disjoint_sets import DisjointSets
from difftalk.datasets.download import fetch_video
from difftalk.datasets.hdtf.annotations import TABLE, AnnotatedClip, read_table
from difftalk.datasets.split import split_identities, stable_rank
from difftalk.media.clock import FPS
from difftalk.media.probe import length_s, probe
from difftalk.runtime.errors import ClipError, UserError
from difftalk.runtime.video_folder import videos_by_stem

# The clips that DiffTalk was trained on, as its authors published them (names alone).
TRAIN_NAMES = Path(__file__).with_name("train_names.txt")
STORE = "youtube"
# Of clips that the table calls so, the stretch is in an earlier clip already.
REPEATED = ("duplicate_of", "overlaps")


class HdtfDataset:
    """The annotated clips of HDTF, as `settings` splits them."""

    grows = False

    def __init__(self, settings: Hdtf) -> None:
        self.settings = settings

    @property
    def shares_no_identity(self) -> bool:
        """Whether no identity is on both sides of the split."""
        return self.settings.split == "identity"

    def clips(self) -> list[Clip]:
        """Return the clips of the table that have an index, split as the settings say."""
        rows = [row for row in read_table(self.settings.table or TABLE) if row.index is not None]
        for row in rows:
            if not re.fullmatch(r"[A-Za-z0-9_-]{11}", row.youtube_id):
                raise UserError(f"{self.settings.table}: {row.clip_id}: {row.youtube_id!a} is no YouTube id")
        identities = speakers(rows)
        training = self._training(rows, identities)
        own = self._own_files()
        return [
            self._clip(row, identities[row.clip_id], "train" if row.clip_id in training else "test", own)
            for row in rows
        ]

    def own_files(self, clips: Iterable[Clip]) -> dict[str, Path]:
        """Return the files of the folder `files`, by the ids of their sources."""
        return self._own_files()

    def fetch(self, source_id: str, uri: str, store: Path, download: Download) -> dict[str, Path]:
        """Return the video of a source: the user's own file, or else the one that YouTube has."""
        if source_id in self.settings.skip:
            raise ClipError("cannot_fetch", "left out by dataset.skip")
        file = self._own_files().get(source_id)
        if file is None and uri.startswith("file:"):
            raise ClipError("cannot_fetch", f"{uri.removeprefix('file:')} is gone from {self.settings.files}")
        if file is None:
            file = fetch_video(source_id, store / STORE, download)
        return {f"{source_id}{file.suffix.lower()}": file.resolve()}

    def _training(self, rows: list[AnnotatedClip], identities: dict[str, str]) -> set[str]:
        """Return the names of the training clips."""
        if self.settings.split == "paper":
            return set(TRAIN_NAMES.read_text(encoding="utf-8").split())
        if self.settings.split == "random":
            videos = {row.youtube_id for row in rows}
            drawn = set(
                sorted(videos, key=lambda v: stable_rank(f"{self.settings.seed}:{v}"))[
                    : self.settings.train_videos
                ]
            )
            return {row.clip_id for row in rows if row.youtube_id in drawn}
        split = split_identities(list(identities.values()), self.settings.test_fraction, self.settings.seed)
        return {clip_id for clip_id, identity in identities.items() if split[identity] == "train"}

    def _own_files(self) -> dict[str, Path]:
        """Return the files of the folder `files` by their names without suffix."""
        if self.settings.files is None:
            return {}
        folder = Path(self.settings.files)
        if not folder.is_dir():
            raise UserError(f"config: dataset.files: no folder {folder}")
        return videos_by_stem(folder)

    def _clip(self, row: AnnotatedClip, identity: str, split: str, own: dict[str, Path]) -> Clip:
        assert row.start_s is not None and row.end_s is not None
        longest_s = float(row.seconds) if self.settings.max_frames is None else self.settings.max_frames / FPS
        seconds = min(float(row.seconds), longest_s)
        verdict, _, other = row.verdict.partition(":")
        clip = Clip(
            clip_id=row.clip_id,
            source_id=row.youtube_id,
            start_s=float(row.start_s),
            end_s=row.start_s + seconds,
            identity=identity,
            split=split,
            uri=f"youtube:{row.youtube_id}",
            box=_box(row),
            box_height=row.height,
            crop_ratio=row.crop_ratio,
            subset=row.subset,
            left_out=f"duplicate: shows a stretch that is in {other} too" if verdict in REPEATED else "",
        )
        file = own.get(row.clip_id)
        if file is None:
            return clip
        there_s = length_s(file)
        return dataclasses.replace(
            clip,
            source_id=row.clip_id,
            start_s=0.0,
            end_s=min(seconds, there_s) if there_s else 0.0,
            uri=f"file:{file.name}",
            box=None if _is_square(file) else clip.box,
        )


def speakers(rows: Iterable[AnnotatedClip]) -> dict[str, str]:
    """Return `{clip_id: identity}`: clips that share a speaker or a video have one, the first of its names.

    RD tells no speakers: there, each video is one.
    """
    names = {row.clip_id: (row.speaker or f"{row.subset}_{row.name}", f"id {row.youtube_id}") for row in rows}
    # Names of videos never come first.
    every = sorted({name for pair in names.values() for name in pair}, key=lambda n: (n.startswith("id "), n))
    groups = DisjointSets(every)
    for speaker, video in names.values():
        groups.join(speaker, video)
    return {clip_id: groups.of(speaker) for clip_id, (speaker, _) in names.items()}


def _box(row: AnnotatedClip) -> tuple[float, ...] | None:
    """Return the annotated box as corners; None where there is none, or its height is doubtful."""
    if row.x is None or row.y is None or row.w is None or row.h is None or row.verdict == "box_exceeds_frame":
        return None
    return float(row.x), float(row.y), float(row.x + row.w), float(row.y + row.h)


def _is_square(file: Path) -> bool:
    """Whether a clip's file is square, hence cropped already."""
    try:
        info = probe(file)
    except ClipError:
        return False
    return info.width == info.height
