"""Find content and persons that are on both sides of the split, and keep them off the training side."""

from difftalk.config.gates import OverlapSettings
from difftalk.config.numbers import Share
from difftalk.runtime.arguments import InputFile, OutputFile


def run(
    *,
    plan: InputFile,
    descriptors: list[InputFile],
    settings: OverlapSettings,
    out: OutputFile,
    rejects: list[OutputFile],
    max_reject_fraction: Share,
) -> None:
    """Write what the clips have in common, and the clips of the training side that are rejected for it.

    Args:
        plan: plan/clips.parquet.
        descriptors: descriptors/SHARD.parquet of every shard.
        settings: what becomes of them, as JSON such as `{"overlap": "report", "named_speakers": true}`.
        out: overlap.csv, to be written.
        rejects: rejects/overlap/SHARD.csv of every shard, to be written; empty with `overlap: report`.
        max_reject_fraction: fail where more than this part of the clips of a shard is rejected.

    Raises:
        UserError: as `RejectLog`.
    """
    from difftalk.datasets.clips import read_plan
    from difftalk.datasets.overlap import STAGE, find_overlap, read_contents, rejects_of, write_overlap
    from difftalk.runtime.progress import say
    from difftalk.runtime.rejects import RejectLog

    planned, contents = read_plan(plan), read_contents(descriptors)
    rows = find_overlap(planned, contents, settings)
    write_overlap(out, rows)
    found = rejects_of(rows)
    if found:
        training = sum(row.split == "train" for row in rows)
        what = f"{len(found)} of {training} training clips have content or a person of the test side"
        said = "rejected" if settings.overlap == "reject" else "reported and kept (gates.overlap)"
        say(f"overlap: {what}: {said}")
    shard_of = {clip.clip_id: clip.shard for clip in planned if clip.clip_id in contents}
    for path in rejects:
        clips = sum(shard == path.stem for shard in shard_of.values())
        with RejectLog(STAGE, path, max_reject_fraction, clips) as lost:
            if settings.overlap == "reject":
                lost.add(*(reject for reject in found if shard_of[reject.clip_id] == path.stem))
