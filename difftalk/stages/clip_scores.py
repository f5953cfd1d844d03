"""Write what was measured of every planned clip, kept or not, as a table and a page."""

from difftalk.config.gates import GatesSettings
from difftalk.runtime.arguments import InputFile, OutputFile


def run(
    *,
    plan: InputFile,
    scores: list[InputFile],
    rejects: list[InputFile],
    settings: GatesSettings,
    out: OutputFile,
    page: OutputFile,
    sync: list[InputFile],
    overlap: InputFile | None = None,
) -> None:
    """Write clip_scores.parquet, one row a planned clip, and a page with histograms and thumbnails.

    What was not measured is null: nothing is known of a clip that could not be fetched or decoded.

    Args:
        plan: plan/clips.parquet.
        scores: landmarks/SHARD.scores.parquet of every shard.
        rejects: rejects/STAGE/SHARD.csv of every stage and shard.
        settings: the gates of the sections `landmarks` and `gates` of the configuration.
        out: clip_scores.parquet, to be written.
        page: clip_scores.html, to be written.
        sync: sync/SHARD.csv of every shard; none where there is no sync expert.
        overlap: overlap.csv, where the dataset is one that is downloaded.

    Raises:
        UserError: if a file cannot be read.
    """
    from difftalk.datasets.clips import read_plan
    from difftalk.datasets.overlap import read_overlap
    from difftalk.face.clip_scores import read_scores
    from difftalk.face.sync_table import read_sync
    from difftalk.reporting import clip_scores
    from difftalk.runtime.files import atomic_file
    from difftalk.runtime.rejects import read_rejects

    measured = {of_clip.clip_id: of_clip for path in scores for of_clip in read_scores(path)}
    thumbnails = {clip_id: s.thumbnail for clip_id, s in measured.items() if s.thumbnail is not None}
    rejected = [reject for path in rejects for reject in read_rejects(path)]
    shared = read_overlap(overlap) if overlap is not None else {}
    rows = clip_scores.score_rows(read_plan(plan), measured, read_sync(sync), rejected, settings, shared)
    clip_scores.write_table(out, rows)
    with atomic_file(page) as tmp:
        tmp.write_text(clip_scores.page(rows, thumbnails, settings), encoding="utf-8")
