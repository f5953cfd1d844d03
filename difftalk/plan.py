"""Stage `plan`: which clips there are, who is on which side of the split, and which shard does what."""

import dataclasses
from collections import defaultdict
from pathlib import Path
from typing import Any

from difftalk.clips import Clip, write_plan
from difftalk.datasets import open_dataset, stable_rank
from difftalk.errors import UserError

SPLITS = ("train", "test")


def run(*, dataset: dict[str, Any], shards: dict[str, int], out: Path) -> None:
    """Write the clip table.

    Args:
        dataset: the config's `dataset` section.
        shards: number of shards per split, such as `{"train": 56, "test": 8}`.
        out: `plan/clips.parquet`.

    Raises:
        UserError: for settings that give no plan.
    """
    clips = assign_shards(open_dataset(dataset).clips(), shards)
    write_plan(out, clips)


def assign_shards(clips: list[Clip], shards: dict[str, int]) -> list[Clip]:
    """Give every clip its shard, `{split}-{number:03d}`; sorted by shard and clip.

    Within a split, sources are ranked by the sha256 of their id and dealt round like cards, so that shards differ
    by one source at most, and none is empty where there are as many sources as shards. The clips of a source
    share a shard: it is opened by one job.

    Raises:
        UserError: for a split without clips or shards; ValueError for an identity on both sides.
    """
    if set(shards) != set(SPLITS) or any(
        isinstance(n, bool) or not isinstance(n, int) for n in shards.values()
    ):
        raise UserError(f"shards: give a whole number for each of {', '.join(SPLITS)}, not {shards}")
    sides: dict[str, set[str]] = defaultdict(set)
    for clip in clips:
        sides[clip.identity].add(clip.split)
    if torn := sorted(i for i, splits in sides.items() if len(splits) > 1):
        raise ValueError(f"identities in both splits: {torn[:5]}")
    of_source: dict[str, str] = {}
    for split in SPLITS:
        sources = sorted({c.source_id for c in clips if c.split == split}, key=stable_rank)
        if not sources:
            raise UserError(f"dataset: no clip in the {split} split")
        if shards[split] < 1:
            raise UserError(f"shards: {split} must be at least 1, it is {shards[split]}")
        for k, source_id in enumerate(sources):
            of_source[source_id] = f"{split}-{k % shards[split]:03d}"
    placed = [dataclasses.replace(c, shard=of_source[c.source_id]) for c in clips]
    return sorted(placed, key=lambda c: (c.shard, c.clip_id))
