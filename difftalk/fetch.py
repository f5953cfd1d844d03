"""Stage `fetch`: have the sources of a shard as files, downloaded, rendered or linked, and see that they open."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from difftalk.clips import Clip, read_plan
from difftalk.datasets import open_dataset
from difftalk.errors import ClipError
from difftalk.files import atomic_folder, inside
from difftalk.parallel import map_clips
from difftalk.rejects import Reject, check_fraction, write_rejects
from difftalk.video import probe, read_frames


@dataclass(frozen=True)
class _Job:
    dataset: dict[str, Any]
    store: Path
    clips: tuple[Clip, ...]


def run(
    *,
    plan: Path,
    shard: str,
    dataset: dict[str, Any],
    store: Path,
    out: Path,
    rejects: Path,
    max_reject_fraction: float,
    workers: int,
) -> None:
    """Fill `out` with links to the files of the shard's sources.

    What had to be made lies in `store` under a name that tells its content, so that a stage which was killed, or runs
    for another shard layout, makes nothing twice. All clips of a source that cannot be had, does not open, or
    has no picture or sound, are rejected.

    Args:
        plan: the clip table. shard: such as `train-003`. dataset: the config's `dataset` section.
        store: folder that keeps sources across runs. out: `sources/{shard}`. rejects: `rejects/fetch/{shard}.csv`.
        max_reject_fraction: fail where more than this part of the clips is lost.
        workers: processes, each with one source at a time.

    Raises:
        UserError: as `check_fraction`, and for settings that are not those of the plan.
    """
    clips = read_plan(plan, shard)
    of_source: dict[str, list[Clip]] = {}
    for clip in clips:
        of_source.setdefault(clip.source_id, []).append(clip)
    jobs = [(s, _Job(dataset, store, tuple(of))) for s, of in of_source.items()]
    lost: list[Reject] = []
    with atomic_folder(out) as beside:
        for source_id, files in map_clips(fetch_source, jobs, stage="fetch", workers=workers, unit="sources"):
            if isinstance(files, Reject):
                of = of_source[source_id]
                lost += [Reject(c.clip_id, "fetch", files.reason, files.detail) for c in of]
                continue
            for name, file in files.items():
                _link(inside(beside, name), file, store)
        check_fraction("fetch", len(clips), lost, max_reject_fraction)
    write_rejects(rejects, lost)


def fetch_source(job: _Job) -> dict[str, Path]:
    """Have one source and check it: `{name in the sources folder: file}`, the video first.

    Raises:
        ClipError: `cannot_fetch`, `cannot_decode`, `no_video` or `no_audio`.
    """
    source_id, uri = job.clips[0].source_id, job.clips[0].uri
    files = open_dataset(job.dataset).fetch(source_id, uri, job.store)
    video = next(iter(files.values()))
    info = probe(video)
    if not info.has_audio:
        # It is lost either way; but a file that is damaged too should say so, for that is what its owner must know.
        for clip in job.clips:
            for _ in read_frames(video, clip.start_s, clip.end_s):
                pass
        raise ClipError("no_audio", f"{video.name}: no audio stream")
    if all(c.frames < 1 for c in job.clips):
        raise ClipError("cannot_decode", f"{video.name}: neither pictures nor sound of any length")
    return files


def _link(at: Path, file: Path, store: Path) -> None:
    """A link that still leads into the store where both were moved together; an absolute one to anywhere else."""
    file = file.resolve()
    if file.is_relative_to(store.resolve()):
        at.symlink_to(os.path.relpath(file, at.parent.resolve()))
    else:
        at.symlink_to(file)
