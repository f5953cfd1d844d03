"""Choose the test clips that are evaluated."""

from difftalk.config.evaluation import EvaluatedClips
from difftalk.runtime.arguments import InputFile, OutputFile


def run(*, plan: InputFile, shards: list[InputFile], settings: EvaluatedClips, out: OutputFile) -> None:
    """Write the list of the clips that every method is sampled and scored on, in the order of the choice.

    Args:
        plan: plan/clips.parquet.
        shards: shards/SHARD.tar of the test split, whose clips there are to choose from.
        settings: the key `clips` of the section `evaluation`.
        out: plan/evaluated.csv, to be written.

    Raises:
        UserError: if no clip is as long as is asked for.
    """
    from difftalk.datasets.chosen import Candidate, choose, write_chosen
    from difftalk.datasets.clips import read_plan
    from difftalk.media.shards import map_arrays
    from difftalk.runtime.errors import UserError
    from difftalk.runtime.progress import say

    sources = {clip.clip_id: clip.source_id for clip in read_plan(plan)}
    candidates = [
        Candidate(clip_id, sources[clip_id], shard.stem, len(arrays["latents"]))
        for shard in shards
        for clip_id, arrays in map_arrays(shard, check=False).items()
    ]
    chosen = choose(candidates, settings)
    if candidates and not chosen:
        longest = max(clip.frames for clip in candidates)
        raise UserError(
            f"evaluated: none of {len(candidates)} test clips is {settings.seconds:g} s long, the longest "
            f"has {longest} frames: set evaluation.clips.seconds to less"
        )
    if settings.count is not None and len(chosen) < settings.count:
        say(f"evaluated: {len(chosen)} clips in place of {settings.count}: no more sources have one as long")
    write_chosen(out, chosen)
