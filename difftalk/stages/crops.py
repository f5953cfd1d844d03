"""Cut the square face crops of a shard, with their audio."""

from collections.abc import Iterator
from typing import Any

from difftalk.config.crops import CropsSettings
from difftalk.config.numbers import Share, Workers
from difftalk.runtime.arguments import CacheFolder, InputFile, InputFolder, OutputFile
from difftalk.runtime.errors import UserError

STAGE = "crops"


def run(
    *,
    plan: InputFile,
    shard: str,
    sources: InputFolder,
    landmarks: InputFile,
    settings: CropsSettings,
    out: OutputFile,
    rejects: OutputFile,
    max_reject_fraction: Share,
    rejected: InputFile | None = None,
    workers: Workers = 1,
    syncnet: InputFolder | None = None,
    sync: OutputFile | None = None,
    cache: CacheFolder | None = None,
) -> None:
    """Write the crops of the clips that have landmarks, as a WebDataset shard.

    Each clip has `mp4` (H.264 4:4:4, 25 fps), `flac` (16 kHz mono, as long as the video), `landmarks.npy`
    ((T, 68, 2) float32, pixels of the crop, every frame) and `json`.

    Args:
        plan: plan/clips.parquet.
        shard: name of the shard, such as train-003.
        sources: sources/SHARD.
        landmarks: landmarks/SHARD.parquet.
        settings: the section `crops` of the configuration and the gates on audio.
        out: crops/SHARD.tar, to be written.
        rejects: rejects/crops/SHARD.csv, to be written.
        max_reject_fraction: fail where more than this part of the clips is rejected.
        rejected: rejects/landmarks/SHARD.csv: clips that did not pass the gates and are left out.
        workers: processes, each with one clip at a time.
        syncnet: folder of the sync expert; needed where `gates.sync` is on.
        sync: sync/SHARD.csv, to be written: what the gate `gates.sync` has measured.
        cache: folder that keeps the crops of clips, for other runs.

    Raises:
        UserError: as `RejectLog`; if there is a sync gate and no expert.
    """
    from difftalk.datasets.clips import clips_with_sources
    from difftalk.face.crops import CropJob, crop_clip
    from difftalk.face.early_crops import EarlyShard
    from difftalk.face.kept_crops import entries_of, pack, unpack
    from difftalk.face.sync_table import write_sync
    from difftalk.face.table import read_landmarks
    from difftalk.media.shards import write_shard
    from difftalk.runtime.cache import Cache, Keeping, map_kept
    from difftalk.runtime.device import default_device, tell
    from difftalk.runtime.rejects import Reject, RejectLog, read_rejects

    if settings.gates.sync is not None and syncnet is None:
        raise UserError("crops: gates.sync needs the folder of a sync expert: --syncnet")
    if settings.gates.sync is not None:  # once, and not in each of the processes that measure
        tell(STAGE, default_device(), "float32 in the sync gate")
    found = read_landmarks(landmarks)
    for reject in read_rejects(rejected) if rejected is not None else ():
        found.pop(reject.clip_id, None)
    pairs = [(clip, file) for clip, file in clips_with_sources(plan, shard, sources) if clip.clip_id in found]
    jobs = {c.clip_id: CropJob(c, file, *found[c.clip_id], settings, syncnet) for c, file in pairs}
    early = EarlyShard(landmarks, {} if settings.gates.sync else jobs)
    keeping = Keeping(Cache(cache, STAGE), crop_clip, pack)
    entries = dict(zip(jobs, entries_of(keeping.cache, list(jobs.values()), sources), strict=True))
    late = [(clip_id, job) for clip_id, job in jobs.items() if clip_id not in early.clip_ids]
    lengths = [job.clip.frames for _, job in late]
    measured: list[tuple[str, int, float]] = []
    with RejectLog(STAGE, rejects, max_reject_fraction, len(jobs)) as lost:

        def files() -> Iterator[tuple[str, dict[str, Any]]]:
            of_late = [entries[clip_id] for clip_id, _ in late]
            clips = map_kept(keeping, unpack, late, of_late, lengths=lengths, stage=STAGE, workers=workers)
            for clip_id, cropped in lost.kept(early.merged(jobs, clips)):
                if clip_id in early.clip_ids and entries[clip_id] is not None:
                    keeping.cache.write(entries[clip_id], pack(cropped))
                if (judged := cropped.sync) is not None:
                    measured.append((clip_id, judged.offset, judged.confidence))
                if cropped.reject is not None:
                    lost.add(Reject.of(clip_id, STAGE, cropped.reject))
                else:
                    yield clip_id, cropped.files

        write_shard(out, files())
    if sync is not None:
        write_sync(sync, measured)
    early.delete()
