"""Choose the voice that drives each test clip besides its own."""

from difftalk.runtime.arguments import InputFile, OutputFile


def run(*, plan: InputFile, shards: list[InputFile], out: OutputFile, only: InputFile | None = None) -> None:
    """Write the pairs of test clips: a clip, and the clip of another person whose voice drives it.

    Args:
        plan: plan/clips.parquet.
        shards: shards/SHARD.tar of the test split.
        out: cross_driven/pairs.csv, to be written.
        only: plan/evaluated.csv: the clips that are evaluated, and how much of each; without, all and whole.
    """
    from difftalk.datasets.chosen import read_chosen
    from difftalk.datasets.clips import read_plan
    from difftalk.datasets.pairs import Speaking, voice_pairs, write_pairs
    from difftalk.media.shards import map_arrays
    from difftalk.runtime.progress import say

    identities = {clip.clip_id: clip.identity for clip in read_plan(plan)}
    limits = read_chosen(only) if only is not None else {}
    clips = [
        Speaking(
            clip_id, identities[clip_id], shard.stem, len(arrays["latents"][: (limits or {}).get(clip_id)])
        )
        for shard in shards
        for clip_id, arrays in map_arrays(shard, check=False).items()
        if only is None or clip_id in limits
    ]
    pairs = voice_pairs(clips)
    alone = [pair.clip_id for pair in pairs if not pair.driven_by]
    if alone:
        say(f"pairs: {len(alone)} of {len(pairs)} clips have no other person whose voice could drive them")
    write_pairs(out, pairs)
