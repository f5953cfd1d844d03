"""Count which clips were lost at which stage, and why."""

from difftalk.config.numbers import Switch
from difftalk.runtime.arguments import InputFile, OutputFile


def run(
    *,
    plan: InputFile,
    rejects: list[InputFile],
    quality: list[InputFile],
    crops: list[InputFile],
    out: OutputFile,
    by_subset: OutputFile,
    page: OutputFile,
    not_videos: InputFile | None = None,
    unfinished: Switch = 0,
) -> None:
    """Write funnel.csv: `planned` first, a row per stage and reason with clips, `kept` last.

    A clip counts at the first stage, in the order of the flow, that rejected it. Kept clips are counted where
    they are, in the crops; hours are the plan's. `planned` and `kept` also have the quality of the landmarks.

    Args:
        plan: plan/clips.parquet.
        rejects: rejects/STAGE/SHARD.csv of all stages.
        quality: landmarks/SHARD.quality.csv.
        crops: crops/SHARD.tar.
        out: funnel.csv to write.
        by_subset: CSV file to write, the same for each subset of the dataset.
        page: HTML page to write, with both and each rejected clip.
        not_videos: plan/not_videos.csv, for the page.
        unfinished: 1 for a run that has failed: `rejects` and `crops` are what is there, and clips that are
            in neither have a row `unfinished` before the last.

    Raises:
        UserError: naming the clips that are neither kept nor rejected, or both.
    """
    from difftalk.datasets.clips import read_plan
    from difftalk.datasets.survey import OTHERS_COLUMNS
    from difftalk.face.quality import read_quality
    from difftalk.reporting.funnel import (
        COLUMNS,
        build_funnel,
        clips_in,
        funnel_page,
        losses_of,
        subsets_of,
    )
    from difftalk.runtime.files import atomic_file, read_csv, write_csv
    from difftalk.runtime.rejects import read_rejects

    planned = read_plan(plan)
    cropped = {clip_id for path in crops for clip_id in clips_in(path)}
    rejected = (reject for path in rejects for reject in read_rejects(path))
    funnel = build_funnel(planned, cropped, rejected, read_quality(quality), unfinished=bool(unfinished))

    whole = funnel.lines({clip.clip_id for clip in planned})
    parts = {subset: funnel.lines(clips) for subset, clips in subsets_of(planned).items()}
    write_csv(out, COLUMNS, whole)
    write_csv(
        by_subset, ("subset", *COLUMNS), [(subset, *line) for subset in parts for line in parts[subset]]
    )
    groups = {"all": whole} | (parts if len(parts) > 1 else {})
    with atomic_file(page) as tmp:
        rows = read_csv(not_videos, OTHERS_COLUMNS) if not_videos is not None else []
        others = [(row["name"], row["why"]) for row in rows]
        tmp.write_text(funnel_page(groups, losses_of(planned, funnel), others), encoding="utf-8")
