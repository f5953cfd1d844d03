"""Stage `fetch`: have the sources of a shard as files, downloaded, rendered or linked, and see that they open."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from difftalk.config.settings import from_dict
from difftalk.datasets import open_dataset
from difftalk.datasets.clips import Clip, read_plan, write_usable
from difftalk.datasets.download import Download
from difftalk.datasets.frozen import write_manifest
from difftalk.media.probe import probe
from difftalk.media.video import read_lazy_frames
from difftalk.runtime.errors import ClipError
from difftalk.runtime.files import atomic_folder, checksum, inside
from difftalk.runtime.parallel import map_clips
from difftalk.runtime.rejects import Reject, check_fraction, write_rejects

STAGE = "fetch"
# A source may be this much shorter than its clips say: durations are those of pictures.
SHORTFALL_S = 0.1


@dataclass(frozen=True)
class _Job:
    dataset: dict[str, Any]
    download: Download
    store: Path
    clips: tuple[Clip, ...]


@dataclass(frozen=True)
class Fetched:
    """A source that is there: its files by their names in the sources folder, the video first, and the clips of it
    that are not."""

    files: dict[str, Path]
    sha256: str
    lost: tuple[Reject, ...]


def run(
    *,
    plan: Path,
    shard: str,
    dataset: dict[str, Any],
    download: dict[str, Any],
    store: Path,
    out: Path,
    manifest: Path,
    rejects: Path,
    max_reject_fraction: float,
    workers: int,
) -> None:
    """Fill `out` with links to the files of the shard's sources.

    What had to be downloaded or made lies in `store`, so that a stage which was killed, or runs for another shard
    layout, gets nothing twice. All clips of a source that cannot be had, does not open, or has no picture or sound, are
    rejected; so are clips that go on where their source has ended.

    Args:
        plan: the clip table. shard: such as `train-003`. dataset: the config's `dataset` section.
        download: the config's `download` section.
        store: folder that keeps sources across runs. out: `sources/{shard}`.
        manifest: `sources/{shard}.csv`: source_id, file, bytes, sha256.
        rejects: `rejects/fetch/{shard}.csv`.
        max_reject_fraction: fail where more than this part of the clips is lost.
        workers: processes, each with one source at a time.

    Raises:
        UserError: as `check_fraction`, for settings that are not those of the plan, and where a site was busy.
    """
    clips = read_plan(plan, shard)
    lost = [Reject(c.clip_id, STAGE, *c.left_out.split(": ", 1)) for c in clips if c.left_out]
    of_source: dict[str, list[Clip]] = {}
    for clip in clips:
        if not clip.left_out:
            of_source.setdefault(clip.source_id, []).append(clip)
    how = from_dict(Download, download, "config: download")
    jobs = [(s, _Job(dataset, how, store, tuple(of))) for s, of in of_source.items()]
    there: dict[str, tuple[str, int, str]] = {}
    with atomic_folder(out) as beside:
        for source_id, found in map_clips(fetch_source, jobs, stage=STAGE, workers=workers, unit="sources"):
            if isinstance(found, Reject):
                of = of_source[source_id]
                lost += [Reject(c.clip_id, STAGE, found.reason, found.detail) for c in of]
                continue
            lost += found.lost
            for name, file in found.files.items():
                _link(inside(beside, name), file, store)
            video = next(iter(found.files.values()))
            there[source_id] = video.name, video.stat().st_size, found.sha256
        check_fraction(STAGE, len(clips), lost, max_reject_fraction)
        write_usable(beside, list({clip.clip_id for clip in clips} - {reject.clip_id for reject in lost}))
    write_manifest(manifest, there)
    write_rejects(rejects, lost)


def fetch_source(job: _Job) -> Fetched:
    """Have one source and check it, and each of its clips against it.

    Raises:
        ClipError: where no clip of it can be used: `cannot_fetch` and its kin, `changed`, `cannot_decode`, `no_video`,
            `no_audio`.
    """
    source_id, uri = job.clips[0].source_id, job.clips[0].uri
    files = open_dataset(job.dataset).fetch(source_id, uri, job.store, job.download)
    video = next(iter(files.values()))
    found = checksum(video)
    wanted = {c.sha256 for c in job.clips} - {"", found}
    if wanted:
        detail = f"{video.name} has sha256 {found[:12]}..., the frozen plan asks for {min(wanted)[:12]}..."
        raise ClipError("changed", detail)
    info = probe(video)
    if not info.has_audio:
        # It is lost either way; but a file that is damaged too should say so, for that is what its owner must know.
        for clip in job.clips:
            for _ in read_lazy_frames(video, clip.start_s, min(clip.end_s, info.duration_s)):
                pass
        raise ClipError("no_audio", f"{video.name}: no audio stream")
    if all(c.frames < 1 for c in job.clips):
        raise ClipError("cannot_decode", f"{video.name}: neither pictures nor sound of any length")
    short = [c for c in job.clips if c.end_s > info.duration_s + SHORTFALL_S]
    detail = f"{video.name} ends at {info.duration_s:.2f} s, the clip at {{:.2f}} s"
    lost = (Reject(c.clip_id, STAGE, "too_short", detail.format(c.end_s)) for c in short)
    return Fetched(files, found, tuple(lost))


def _link(at: Path, file: Path, store: Path) -> None:
    """A link that still leads into the store where both were moved together; an absolute one to anywhere else."""
    file = file.resolve()
    if file.is_relative_to(store.resolve()):
        at.symlink_to(os.path.relpath(file, at.parent.resolve()))
    else:
        at.symlink_to(file)
