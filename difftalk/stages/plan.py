"""Stage `plan`: which clips there are, who is on which side of the split, and which shard does what."""

import dataclasses
from collections import defaultdict
from pathlib import Path
from typing import Any

from difftalk.datasets import open_dataset, stable_rank
from difftalk.datasets.clips import Clip, write_plan
from difftalk.datasets.frozen import read_frozen
from difftalk.runtime.errors import UserError

SPLITS = ("train", "test")


def run(*, dataset: dict[str, Any], shards: dict[str, int], out: Path, frozen: Path | None = None) -> None:
    """Write the clip table.

    Args:
        dataset: the config's `dataset` section.
        shards: number of shards per split, such as `{"train": 56, "test": 8}`.
        out: `plan/clips.parquet`.
        frozen: the clips that an earlier run kept, as `difftalk freeze` wrote them: these and no others, from files
            with the same checksums.

    Raises:
        UserError: for settings that give no plan.
    """
    described = open_dataset(dataset)
    clips = described.clips() if frozen is None else read_frozen(frozen)
    if described.shares_no_identity:
        refuse_shared_identities(clips)
    write_plan(out, assign_shards(clips, shards))


def assign_shards(clips: list[Clip], shards: dict[str, int]) -> list[Clip]:
    """Give every clip its shard, `{split}-{number:03d}`; sorted by shard and clip.

    Within a split, sources are ranked by the sha256 of their id and dealt round like cards, so that shards differ
    by one source at most, and none is empty where there are as many sources as shards. The clips of a source
    share a shard: it is opened by one job. Where a split cuts through a source, each side has it.

    Raises:
        UserError: for a split without clips or shards.
    """
    if set(shards) != set(SPLITS) or any(
        isinstance(n, bool) or not isinstance(n, int) for n in shards.values()
    ):
        raise UserError(f"shards: give a whole number for each of {', '.join(SPLITS)}, not {shards}")
    shard_of: dict[tuple[str, str], str] = {}
    for split in SPLITS:
        sources = sorted({c.source_id for c in clips if c.split == split}, key=stable_rank)
        if not sources:
            raise UserError(f"dataset: no clip in the {split} split")
        if shards[split] < 1:
            raise UserError(f"shards: {split} must be at least 1, it is {shards[split]}")
        for k, source_id in enumerate(sources):
            shard_of[split, source_id] = f"{split}-{k % shards[split]:03d}"
    placed = [dataclasses.replace(c, shard=shard_of[c.split, c.source_id]) for c in clips]
    return sorted(placed, key=lambda c: (c.shard, c.clip_id))


def refuse_shared_identities(clips: list[Clip]) -> None:
    """See that nobody, and no source, is on both sides of the split.

    Raises:
        UserError: naming some who are.
    """
    sides: dict[str, set[str]] = defaultdict(set)
    for clip in clips:
        sides[f"identity {clip.identity}"].add(clip.split)
        sides[f"source {clip.source_id}"].add(clip.split)
    if torn := sorted(name for name, splits in sides.items() if len(splits) > 1):
        raise UserError(f"dataset: on both sides of the split: {', '.join(torn[:5])}")
