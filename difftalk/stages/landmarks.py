"""Find the face and its 68 points in every frame of a shard."""

from pathlib import Path

from difftalk.config.landmarks import LandmarksSettings

STAGE = "landmarks"


def run(
    *,
    plan: Path,
    shard: str,
    sources: Path,
    settings: LandmarksSettings,
    out: Path,
    quality: Path,
    rejects: Path,
    max_reject_fraction: float,
    workers: int = 1,
) -> None:
    """Write the landmarks of a shard, and how many frames of each clip have a face.

    The landmark table has the clips that are kept: clip_id, frame (25 per second, from the start of the
    clip), box, points (x y interleaved, smoothed), score; only frames with a face. The quality table has
    every clip that could be decoded: clip_id, frames, detected, nme (empty without ground truth); of a clip
    without a face, the frames until that was clear.

    Args:
        plan: plan/clips.parquet.
        shard: name of the shard, such as train-003.
        sources: sources/SHARD.
        settings: the section `landmarks` of the configuration and the gates on frames.
        out: landmarks/SHARD.parquet, to be written.
        quality: landmarks/SHARD.quality.csv, to be written.
        rejects: rejects/landmarks/SHARD.csv, to be written.
        max_reject_fraction: fail where more than this part of the clips is rejected.
        workers: processes, each with one clip at a time; `face_alignment` uses two at most on a GPU.

    Raises:
        UserError: as `RejectLog`, and where the weights of the backend are missing.
    """
    from difftalk.datasets.clips import clips_with_sources
    from difftalk.face.follow import TrackJob, processes, track_clip
    from difftalk.face.quality import write_quality
    from difftalk.face.table import landmark_writer
    from difftalk.runtime.files import atomic_file
    from difftalk.runtime.parallel import map_clips
    from difftalk.runtime.rejects import Reject, RejectLog

    workers = processes(settings, workers)
    pairs = clips_with_sources(plan, shard, sources)
    jobs = [(clip.clip_id, TrackJob(clip, source, settings)) for clip, source in pairs]
    lengths = [clip.frames for clip, _ in pairs]
    clips = map_clips(track_clip, jobs, stage=STAGE, workers=workers, lengths=lengths)
    found: list[tuple[str, int, int, float | None]] = []
    with (
        atomic_file(out) as tmp,
        RejectLog(STAGE, rejects, max_reject_fraction, len(jobs)) as lost,
        landmark_writer(tmp) as write,
    ):
        for clip_id, tracked in lost.kept(clips):
            found.append((clip_id, tracked.inspected, len(tracked.track.frames), tracked.nme))
            if tracked.reject is not None:
                lost.add(Reject.of(clip_id, STAGE, tracked.reject))
            else:
                write(clip_id, tracked.track)
    write_quality(quality, found)
