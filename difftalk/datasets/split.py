"""Deal identities to the two splits, and sources to shards: the same way on every machine."""

import dataclasses
import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence

from difftalk.config.dataset import Shards
from difftalk.datasets.clips import Clip
from difftalk.runtime.errors import UserError


def stable_rank(text: str) -> str:
    """Return a sort key that shuffles the same way on every machine, whatever else is in the list."""
    return hashlib.sha256(text.encode()).hexdigest()


def split_identities(identities: Sequence[str], test_fraction: float, seed: int) -> dict[str, str]:
    """Return `{identity: split}` with about `test_fraction` of the identities, and at least one, in `test`.

    Args:
        identities: names, which may repeat.
        test_fraction: 0..1, both excluded.
        seed: changes which identities those are.

    Raises:
        UserError: with fewer than two identities.
    """
    ranked = sorted(set(identities), key=lambda i: stable_rank(f"{seed}:{i}"))
    if len(ranked) < 2:
        raise UserError(
            f"dataset: {len(ranked)} source(s) cannot be split into train and test, which share no speaker: "
            "add at least one more video"
        )
    tests = min(max(round(len(ranked) * test_fraction), 1), len(ranked) - 1)
    return {identity: "test" if k < tests else "train" for k, identity in enumerate(ranked)}


def split_groups(sizes: Mapping[str, int], test_fraction: float, seed: int) -> dict[str, str]:
    """Return `{group: split}` with `test_fraction` of all members, or less, and one group in `test`.

    Groups of one member are split as `split_identities` does.

    Args:
        sizes: number of members of each group, two groups at least.
        test_fraction: 0..1, both excluded.
        seed: changes which groups those are.
    """
    ranked = sorted(sizes, key=lambda g: stable_rank(f"{seed}:{g}"))
    total = sum(sizes.values())
    room = min(max(round(total * test_fraction), 1), total - 1)
    tests: set[str] = set()
    for group in ranked:
        if sizes[group] <= room:
            tests.add(group)
            room -= sizes[group]
    tests = tests or {min(ranked, key=lambda g: sizes[g])}
    return {group: "test" if group in tests else "train" for group in sizes}


def refuse_shared_identities(clips: Sequence[Clip]) -> None:
    """Check that no identity, and no source, is on both sides of the split.

    Raises:
        UserError: naming some that are.
    """
    splits: dict[str, set[str]] = defaultdict(set)
    for clip in clips:
        splits[f"identity {clip.identity}"].add(clip.split)
        splits[f"source {clip.source_id}"].add(clip.split)
    if shared := sorted(name for name, found in splits.items() if len(found) > 1):
        raise UserError(f"dataset: on both sides of the split: {', '.join(shared[:5])}")


def assign_shards(clips: Sequence[Clip], shards: Shards) -> list[Clip]:
    """Return the clips with their shard, `{split}-{number:03d}`, sorted by shard and clip.

    Within a split, sources are ranked by the sha256 of their id and dealt round like cards, so that shards
    differ by one source at most, and none is empty where there are as many sources as shards. The clips of a
    source share a shard: it is opened by one job. Where a split cuts through a source, each side has it.

    Raises:
        UserError: for a split without clips.
    """
    shard_of: dict[tuple[str, str], str] = {}
    for split, count in (("train", shards.train), ("test", shards.test)):
        sources = sorted({c.source_id for c in clips if c.split == split}, key=stable_rank)
        if not sources:
            raise UserError(f"dataset: no clip in the {split} split")
        for k, source_id in enumerate(sources):
            shard_of[split, source_id] = f"{split}-{k % count:03d}"
    placed = [dataclasses.replace(c, shard=shard_of[c.split, c.source_id]) for c in clips]
    return sorted(placed, key=lambda c: (c.shard, c.clip_id))
