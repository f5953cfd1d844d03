"""Measure the videos of one method against the true crops of a shard."""

from typing import Any

from difftalk.config.evaluation import Evaluation
from difftalk.runtime.arguments import CacheFolder, InputFile, InputFolder, OutputFile


def run(
    *,
    method: str,
    samples: InputFolder,
    crops: InputFile,
    syncnet: InputFolder,
    settings: Evaluation,
    out: OutputFile,
    shard_file: InputFile | None = None,
    only: InputFile | None = None,
    cache: CacheFolder | None = None,
) -> None:
    """Write the metrics of one method on one shard, a row per frame and a row per clip.

    The videos may come from anywhere. A clip that is missing, damaged or fails keeps its row, without figures
    and with a `problem`. `ground_truth` gets no image metrics, as these compare with it.

    Args:
        method: the row's name in the tables.
        samples: folder of `{clip_id}.mp4` (or .mov .avi .mkv .webm).
        crops: crops/SHARD.tar, the true clips.
        syncnet: folder of the sync expert.
        settings: the config's section `evaluation`.
        out: the parquet file to write.
        shard_file: shards/SHARD.tar, where only its clips count; `speech` or `encode` may have rejected some.
        only: plan/evaluated.csv: the clips that are evaluated, and how much of each; without, all and whole.
        cache: folder in which what was measured is kept, for a killed command and for further columns.

    Raises:
        UserError: if `samples` is no folder, or holds videos but none under the name of a clip; where every
            clip failed with an unexpected error.
    """
    from difftalk.datasets.chosen import read_chosen
    from difftalk.evaluation.samples import check_folder
    from difftalk.evaluation.scorer import Scorer, crop_size
    from difftalk.evaluation.scores import write_scores
    from difftalk.media.members import list_members
    from difftalk.media.shards import map_arrays, read_crops
    from difftalk.runtime.errors import ClipError, UserError
    from difftalk.runtime.parallel import guarded
    from difftalk.runtime.progress import progress
    from difftalk.runtime.sample_folder import find_video, read_problems, read_rates

    encoded = None if shard_file is None else set(map_arrays(shard_file))
    limits = None if only is None else read_chosen(only)
    if limits is not None:
        encoded = limits.keys() & ({m.clip_id for m in list_members(crops)} if encoded is None else encoded)
    clips = list(read_crops(crops, encoded, limits))
    check_folder(samples, [clip.clip_id for clip in clips])
    rates, problems = read_rates(samples), read_problems(samples)
    scorer = Scorer.load(syncnet, settings, cache)
    rows: list[dict[str, Any]] = []
    failed = 0
    for clip in progress(clips, len(clips), "score", "clips"):
        found = guarded(lambda c: scorer.score(method, c, find_video(samples, c.clip_id)), clip, clip.clip_id)
        if isinstance(found, ClipError):
            found = [scorer.problem(method, clip, found)]
            failed += 1
        found[-1]["method_fps"] = rates.get(clip.clip_id)
        if clip.clip_id in problems:
            found[-1]["problem"] = problems[clip.clip_id]
        rows += found
    if clips and failed == len(clips):
        raise UserError(f"score: none of {failed} clips could be scored; the first: {rows[0]['problem']}")
    sizes = sorted({size for clip in clips if (size := crop_size(clip)) is not None})
    write_scores(out, method, rows, {**scorer.protocol(), "crop_pixels": ", ".join(map(str, sizes))})
