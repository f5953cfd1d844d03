"""Download, render or link the sources of a shard, and check them."""

from dataclasses import replace

from difftalk.config.dataset import DatasetSettings
from difftalk.config.download import Download
from difftalk.config.numbers import Share, Workers
from difftalk.runtime.arguments import InputFile, KeptFolder, OutputFile, OutputFolder

STAGE = "fetch"


def run(
    *,
    plan: InputFile,
    shard: str,
    dataset: DatasetSettings,
    download: Download,
    store: KeptFolder,
    out: OutputFolder,
    manifest: OutputFile,
    rejects: OutputFile,
    max_reject_fraction: Share,
    workers: Workers = 1,
) -> None:
    """Fill a folder with links to the files of the shard's sources.

    What had to be downloaded or rendered is kept in the store, so that neither a rerun nor another shard
    layout downloads it twice. All clips of a source that cannot be obtained, does not open, or has no video
    or audio, are rejected; so are clips that end after their source.

    Args:
        plan: plan/clips.parquet.
        shard: name of the shard, such as train-003.
        dataset: the section `dataset` of the configuration.
        download: the section `download` of the configuration.
        store: folder that keeps sources across runs.
        out: sources/SHARD, to be written.
        manifest: sources/SHARD.csv, to be written: source_id, file, bytes, sha256.
        rejects: rejects/fetch/SHARD.csv, to be written.
        max_reject_fraction: fail where more than this part of the clips is rejected.
        workers: processes, each with one source at a time.

    Raises:
        UserError: as `RejectLog`, for settings that are not those of the plan, and where a site is busy.
    """
    from difftalk.datasets.clips import Clip, read_plan, write_usable
    from difftalk.datasets.fetch import FetchJob, fetch_source, link_source
    from difftalk.datasets.frozen import write_manifest
    from difftalk.runtime.checksums import write_sums
    from difftalk.runtime.files import atomic_folder, inside
    from difftalk.runtime.parallel import map_clips
    from difftalk.runtime.rejects import Reject, RejectLog

    clips = read_plan(plan, shard)
    of_source: dict[str, list[Clip]] = {}
    for clip in clips:
        if not clip.left_out:
            of_source.setdefault(clip.source_id, []).append(clip)
    jobs = [(s, FetchJob(dataset, download, store, tuple(of))) for s, of in of_source.items()]
    fetched: dict[str, tuple[str, int, str]] = {}
    with atomic_folder(out) as tmp, RejectLog(STAGE, rejects, max_reject_fraction, len(clips)) as lost:
        lost.add(*(Reject(c.clip_id, STAGE, *c.left_out.split(": ", 1)) for c in clips if c.left_out))
        for source_id, found in map_clips(fetch_source, jobs, stage=STAGE, workers=workers, unit="sources"):
            if isinstance(found, Reject):
                lost.add(*(replace(found, clip_id=clip.clip_id) for clip in of_source[source_id]))
                continue
            lost.add(*(Reject.of(clip_id, STAGE, error) for clip_id, error in found.lost.items()))
            for name, file in found.files.items():
                link_source(inside(tmp, name), file, store)
            video = next(iter(found.files.values()))
            fetched[source_id] = video.name, video.stat().st_size, found.sha256
        rejected = {reject.clip_id for reject in lost.rejects}
        write_usable(tmp, [clip.clip_id for clip in clips if clip.clip_id not in rejected])
        write_sums(tmp, {name: sha256 for name, _, sha256 in fetched.values()})
    write_manifest(manifest, fetched)
