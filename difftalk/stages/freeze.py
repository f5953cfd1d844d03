"""Write the clips that a run kept, with the checksums of their files, as a plan for later runs.

Links die. With `frozen_plan: FILE` a run plans the same clips again, and says which of them are missing or
come from another file; so a table measured on them stays a table of the same clips.
"""

from difftalk.runtime.arguments import InputFile, OutputFile


def run(*, plan: InputFile, manifests: list[InputFile], rejects: list[InputFile], out: OutputFile) -> None:
    """Write the clips that no stage rejected, as CSV.

    Args:
        plan: the clip table, plan/clips.parquet.
        manifests: sources/SHARD.csv of every shard, with the checksums of the sources.
        rejects: rejects/STAGE/SHARD.csv of every stage and shard.
        out: the CSV file to write, frozen_plan.csv.
    """
    from difftalk.datasets.clips import read_plan
    from difftalk.datasets.frozen import read_checksums, write_frozen
    from difftalk.runtime.rejects import read_rejects

    rejected = {reject.clip_id for path in rejects for reject in read_rejects(path)}
    kept = [clip for clip in read_plan(plan) if clip.clip_id not in rejected]
    write_frozen(out, kept, read_checksums(manifests))
