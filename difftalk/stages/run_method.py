"""Take the videos of a method from elsewhere, or run its command for each clip of a shard."""

from difftalk.config.methods import MethodSettings
from difftalk.runtime.arguments import InputFile, InputFolder, KeptFolder, OutputFolder


def run(
    *,
    method: str,
    entry: MethodSettings,
    crops: InputFile,
    shard_file: InputFile,
    out: OutputFolder,
    only: InputFile | None = None,
    plan: InputFile | None = None,
    sources: InputFolder | None = None,
    landmarks: InputFile | None = None,
    state: KeptFolder | None = None,
) -> None:
    """Write the video of each clip of the encoded shard into the folder `out`, and `differences.csv`.

    Each clip has a row in it: how its video differs from what was asked for, what was done, or why it has
    none. A clip on which the method fails ends nothing.

    Args:
        method: its name, the row's in the tables.
        entry: its entry in the section `methods` of the configuration, and how the clips were made.
        crops: crops/SHARD.tar, the true clips.
        shard_file: shards/SHARD.tar, whose clips are asked for.
        out: folder for the videos.
        only: plan/evaluated.csv: the clips that are evaluated, and how much of each; without, all and whole.
        plan: plan/clips.parquet, where whole frames of the sources are read.
        sources: sources/SHARD, for the same.
        landmarks: landmarks/SHARD.parquet, for the same.
        state: folder for finished clips until all are done; a killed command goes on from there.

    Raises:
        UserError: if the command cannot be started, or the method needs whole frames and lacks what they are
            read from.
    """
    from difftalk.datasets.chosen import read_chosen
    from difftalk.media.shards import map_arrays, read_crops
    from difftalk.runtime.errors import ClipError, UserError
    from difftalk.runtime.files import atomic_folder
    from difftalk.runtime.parallel import guarded
    from difftalk.runtime.progress import progress, say
    from difftalk.sampling.full_frames import Sources
    from difftalk.sampling.given_method import GivenMethod, provenance
    from difftalk.sampling.method_videos import write_differences

    shard = crops.stem
    whole = None
    if entry.needs_sources:
        if plan is None or sources is None or landmarks is None or entry.crops is None:
            raise UserError(
                "run_method: whole frames need --plan, --sources, --landmarks and the key crops of --entry"
            )
        whole = Sources(plan, shard, sources, landmarks, entry.crops)
    wanted = sorted(map_arrays(shard_file))
    limits = None if only is None else read_chosen(only)
    if limits is not None:
        wanted = [clip_id for clip_id in wanted if clip_id in limits]
    with atomic_folder(out) as tmp:
        made_from = provenance(
            method, entry, [crops, shard_file, *([only] if only is not None else [])], __name__
        )
        given = GivenMethod(method, entry, shard, whole, state or tmp / "state", made_from)
        done = given.finished(wanted)
        if done:
            say(f"run_method: {len(done)} of {len(wanted)} clips are there from before")
        left = [clip_id for clip_id in wanted if clip_id not in done]
        rows = [given.row(clip_id) for clip_id in done]
        for crop in progress(read_crops(crops, left, limits), len(left), f"run_method {method}", "clips"):
            row = guarded(given.take, crop, crop.clip_id)
            row = given.failed(crop, row) if isinstance(row, ClipError) else row
            if row.problem:
                say(f"run_method: {crop.clip_id} has no video of {method}: {row.problem}")
            rows.append(row)
        if rows and all(row.problem for row in rows):
            say(f"run_method: {method} has no video of any of the {len(rows)} clips of {shard}")
        given.move(tmp)
        write_differences(tmp, rows)
        if state is None:
            given.remove()
    if state is not None:  # not before the output is in its place
        given.remove()
