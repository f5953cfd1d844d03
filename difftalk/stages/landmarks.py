"""Find the face and its 68 points in every frame of a shard, and measure each clip."""

from collections.abc import Iterator
from typing import Any

from difftalk.config.crops import CropsSettings
from difftalk.config.gates import GatesSettings
from difftalk.config.landmarks import LandmarksSettings
from difftalk.config.numbers import Workers
from difftalk.runtime.arguments import CacheFolder, InputFile, InputFolder, OutputFile

STAGE = "landmarks"


def run(
    *,
    plan: InputFile,
    shard: str,
    sources: InputFolder,
    settings: LandmarksSettings,
    out: OutputFile,
    quality: OutputFile,
    scores: OutputFile,
    crops: CropsSettings | None = None,
    gates: GatesSettings | None = None,
    cache: CacheFolder | None = None,
    workers: Workers = 1,
) -> None:
    """Write the landmarks and the scores of a shard; `difftalk gates` decides which clips are used.

    The landmark table has every clip with a face: clip_id, frame (25 per second, from the start of the
    clip), box, points (x y interleaved, smoothed), score; only frames with a face. The quality table has
    every clip that could be decoded: clip_id, frames, detected, nme (empty without ground truth); of a clip
    without a face in its first 4 s, the frames until then. The scores have every clip; of one that could not
    be decoded, the reason.

    Args:
        plan: plan/clips.parquet.
        shard: name of the shard, such as train-003.
        sources: sources/SHARD.
        settings: backend and detection interval of the section `landmarks` of the configuration.
        out: landmarks/SHARD.parquet, to be written.
        quality: landmarks/SHARD.quality.csv, to be written.
        scores: landmarks/SHARD.scores.parquet, to be written.
        crops: settings of the stage `crops`: with `gates`, clips are cropped at once where their frames can
            be kept, and `crops` takes that over from landmarks/SHARD.crops.tar. It changes no result.
        gates: settings of the stage `gates`: clips that they reject are not cropped.
        cache: folder that keeps the results of clips, for other runs; such a clip is not cropped at once.
        workers: processes, each with one clip at a time; fewer where a GPU has no memory for so many.

    Raises:
        UserError: where the weights of the backend are missing.
    """
    from difftalk.runtime.parallel import share

    shared = "difftalk.face.shared" if settings.backend == "dlib" else None
    # What is in the cache needs no detector.
    if shared is not None and not (cache is not None and (cache / STAGE).is_dir()):
        share(shared, workers)
    from difftalk.datasets.clips import clips_with_sources
    from difftalk.face.clip_scores import ClipScores, write_scores
    from difftalk.face.early_crops import EarlyCrops, code_of_package, write_early
    from difftalk.face.follow import TrackJob, processes, track_clip
    from difftalk.face.kept_tracks import entries_of, pack, unpack
    from difftalk.face.quality import write_quality
    from difftalk.face.table import landmark_writer
    from difftalk.runtime.cache import Cache, Keeping, map_kept
    from difftalk.runtime.rejects import Reject

    workers = processes(settings, workers)
    pairs = clips_with_sources(plan, shard, sources)
    early = None
    if crops is not None and gates is not None and settings.backend == "dlib":
        early = EarlyCrops(crops, gates, code_of_package())
    jobs = [(clip.clip_id, TrackJob(clip, source, settings, early)) for clip, source in pairs]
    keeping = Keeping(Cache(cache, STAGE), track_clip, pack)
    entries = entries_of(keeping.cache, [job for _, job in jobs], sources)
    lengths = [clip.frames for clip, _ in pairs]
    found: list[tuple[str, int, int, float | None]] = []
    measured: list[ClipScores] = []
    with landmark_writer(out) as write:

        def cropped() -> Iterator[tuple[str, dict[str, Any]]]:
            clips = map_kept(
                keeping, unpack, jobs, entries, lengths=lengths, stage=STAGE, workers=workers, shared=shared
            )
            for clip_id, tracked in clips:
                if isinstance(tracked, Reject):
                    measured.append(ClipScores(clip_id, tracked.reason, tracked.detail))
                    continue
                count = len(tracked.track.frames)
                found.append((clip_id, tracked.scores.inspected_frames, count, tracked.nme))
                measured.append(tracked.scores)
                if count:
                    write(clip_id, tracked.track)
                if tracked.crop is not None:
                    yield clip_id, tracked.crop

        write_early(out, cropped())
    write_scores(scores, measured)
    write_quality(quality, found)
