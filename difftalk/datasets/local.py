"""Your own videos: every video file of one folder, each taken to be one speaker."""

import math
from pathlib import Path

from difftalk.config.dataset import LocalSettings
from difftalk.config.download import Download
from difftalk.datasets.clips import Clip
from difftalk.datasets.ids import safe_ids
from difftalk.datasets.split import split_identities
from difftalk.media.probe import SUFFIXES, length_s
from difftalk.runtime.errors import ClipError, UserError

# The rest of a source after whole clips is a clip of its own if it is at least this long.
MIN_REST_S = 2.0


class LocalDataset:
    """The video files of a folder. No identity is in both splits."""

    shares_no_identity = True

    def __init__(self, settings: LocalSettings) -> None:
        self.settings = settings

    def clips(self) -> list[Clip]:
        """Return the clips of all videos in the folder: one each, or pieces of `clip_seconds`."""
        files = _video_files(Path(self.settings.videos))
        clip_seconds = self.settings.clip_seconds
        if clip_seconds is not None and clip_seconds < MIN_REST_S:
            raise UserError(f"dataset: clip_seconds must be at least {MIN_REST_S:g}, it is {clip_seconds:g}")
        ids = safe_ids([f.name for f in files])
        splits = split_identities(list(ids.values()), self.settings.test_fraction, self.settings.seed)
        clips = []
        for file in files:
            source_id = ids[file.name]
            for k, (start_s, end_s) in enumerate(cut(length_s(file), clip_seconds)):
                clip_id = f"{source_id}-{k:03d}"
                split = splits[source_id]
                clips.append(Clip(clip_id, source_id, start_s, end_s, source_id, split, uri=file.name))
        return clips

    def fetch(self, source_id: str, uri: str, store: Path, download: Download) -> dict[str, Path]:
        """Return the video of a source where it lies: nothing is copied to `store`."""
        file = Path(self.settings.videos) / uri
        if not file.is_file():
            raise ClipError("cannot_fetch", f"{file} is gone since the plan was made")
        return {f"{source_id}{file.suffix.lower()}": file.resolve()}


def cut(length_s: float, clip_seconds: float | None) -> list[tuple[float, float]]:
    """Return (start, end) of the clips of a source, in seconds; a rest shorter than 2 s is left out.

    >>> cut(25.0, 10.0)
    [(0.0, 10.0), (10.0, 20.0), (20.0, 25.0)]
    >>> cut(21.0, 10.0)
    [(0.0, 10.0), (10.0, 20.0)]
    """
    if clip_seconds is None or length_s <= clip_seconds:
        return [(0.0, length_s)]
    whole = math.floor(length_s / clip_seconds + 1e-9)
    clips = [(k * clip_seconds, (k + 1) * clip_seconds) for k in range(whole)]
    if length_s - whole * clip_seconds >= MIN_REST_S:
        clips.append((whole * clip_seconds, length_s))
    return clips


def _video_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UserError(f"dataset: the folder of videos, {folder}, does not exist")
    files = [f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES and not f.name.startswith(".")]
    files = sorted(f for f in files if f.is_file())
    if not files:
        raise UserError(f"dataset: no video file in {folder} (known: {' '.join(sorted(SUFFIXES))})")
    return files
