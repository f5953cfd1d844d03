"""Fetch one source of a dataset, and check it and its clips."""

import os
from dataclasses import dataclass
from pathlib import Path

from difftalk.config.dataset import DatasetSettings
from difftalk.config.download import Download
from difftalk.datasets.clips import Clip
from difftalk.datasets.dataset import open_dataset
from difftalk.media.probe import probe
from difftalk.media.video import read_lazy_frames
from difftalk.runtime.checksums import checksum
from difftalk.runtime.errors import ClipError

# A source may be this much shorter than its clips say: durations are those of the video stream.
SHORTFALL_S = 0.1


@dataclass(frozen=True)
class FetchJob:
    """One source to fetch.

    Args:
        dataset: where it comes from.
        download: how to download it.
        store: folder that keeps sources across runs.
        clips: of this source, one at least.
    """

    dataset: DatasetSettings
    download: Download
    store: Path
    clips: tuple[Clip, ...]


@dataclass(frozen=True)
class FetchedSource:
    """A source that can be used.

    Args:
        files: by their names in the sources folder, the video first.
        sha256: of the video.
        lost: clips that the source does not hold, with the reason.
    """

    files: dict[str, Path]
    sha256: str
    lost: dict[str, ClipError]


def fetch_source(job: FetchJob) -> FetchedSource:
    """Fetch one source and check it, and each of its clips against it.

    Raises:
        ClipError: where no clip of it can be used: `cannot_fetch` or what says more, `changed`,
            `cannot_decode`, `no_video`, `no_audio`.
        UserError: where the site is busy, or a setting is wrong.
    """
    source_id, uri = job.clips[0].source_id, job.clips[0].uri
    files = open_dataset(job.dataset).fetch(source_id, uri, job.store, job.download)
    video = next(iter(files.values()))
    sha256 = checksum(video)
    wanted = {c.sha256 for c in job.clips} - {"", sha256}
    if wanted:
        detail = f"{video.name} has sha256 {sha256[:12]}..., the frozen plan asks for {min(wanted)[:12]}..."
        raise ClipError("changed", detail)
    info = probe(video)
    if not info.has_audio:
        # It is rejected either way; but where the file is damaged too, that is what its owner must know.
        for clip in job.clips:
            for _ in read_lazy_frames(video, clip.start_s, min(clip.end_s, info.duration_s)):
                pass
        raise ClipError("no_audio", f"{video.name}: no audio stream")
    if all(c.frames < 1 for c in job.clips):
        raise ClipError("cannot_decode", f"{video.name}: neither video nor audio of any length")
    lost = {
        c.clip_id: ClipError(
            "too_short", f"{video.name} ends at {info.duration_s:.2f} s, the clip at {c.end_s:.2f} s"
        )
        for c in job.clips
        if c.end_s > info.duration_s + SHORTFALL_S
    }
    nothing = ClipError("cannot_decode", f"{video.name}: no frame in the clip")
    lost |= {c.clip_id: nothing for c in job.clips if c.frames < 1}
    return FetchedSource(files, sha256, lost)


def link_source(link: Path, file: Path, store: Path) -> None:
    """Link to a source's file: relative into the store, so that both can be moved together, else absolute."""
    file = file.resolve()
    if file.is_relative_to(store.resolve()):
        link.symlink_to(os.path.relpath(file, link.parent.resolve()))
    else:
        link.symlink_to(file)
