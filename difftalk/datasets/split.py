"""Draw the two splits, and assign sources to shards: the same way on every machine.

A list that is fixed, as HDTF's, is ranked and dealt, evenly to one. In a list that grows, as a folder of
videos, each name has its place by its own hash, within bounds on how uneven that may be: one more video
leaves nearly all others on their side and in their shard, and so what was made of them.
"""

import hashlib
import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from operator import attrgetter

from difftalk.config.dataset import Shards
from difftalk.datasets.clips import Clip, in_shard
from difftalk.runtime.errors import UserError

# Part of `test_fraction` by which the test side may be larger or smaller, so that groups need not change
# sides whenever the list grows. Of 40 videos, one more then moves a tenth of a group in the mean, not half.
SIDES_MAY_DIFFER = 0.25
# What a shard may have over the mean number of sources: more is more stable, and less even.
SHARDS_MAY_DIFFER = 0.25


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
    _refuse_one(len(ranked))
    tests = min(max(round(len(ranked) * test_fraction), 1), len(ranked) - 1)
    return {identity: "test" if k < tests else "train" for k, identity in enumerate(ranked)}


def split_groups(sizes: Mapping[str, int], test_fraction: float, seed: int) -> dict[str, str]:
    """Return `{group: split}` with about `test_fraction` of all members, and at least one group, in `test`.

    A group is on the side that its own hash says, as long as `test` has `test_fraction` of the members, give
    or take a quarter of it. So one more group or member seldom moves another group.

    Args:
        sizes: number of members of each group.
        test_fraction: 0..1, both excluded.
        seed: changes which groups those are.

    Raises:
        UserError: with fewer than two groups.
    """
    _refuse_one(len(sizes))
    drawn = {group: _drawn(f"{seed}:{group}") for group in sizes}
    total = sum(sizes.values())
    wanted = total * test_fraction
    most = min(max(wanted * (1 + SIDES_MAY_DIFFER), 1), total - 1)
    tests: set[str] = set()
    members = 0
    for group in sorted(sizes, key=drawn.__getitem__):
        is_wanted = drawn[group] < test_fraction or members < wanted * (1 - SIDES_MAY_DIFFER)
        if is_wanted and members + sizes[group] <= most:
            tests.add(group)
            members += sizes[group]
    tests = tests or {min(sorted(sizes, key=drawn.__getitem__), key=lambda g: sizes[g])}
    return {group: "test" if group in tests else "train" for group in sizes}


def _refuse_one(found: int) -> None:
    if found < 2:
        raise UserError(
            f"dataset: {found} source(s) cannot be split into train and test, which share no speaker: add at "
            "least one more video"
        )


def _drawn(text: str) -> float:
    """Return a number of 0..1 that is drawn the same way on every machine, in the order of `stable_rank`."""
    return int(stable_rank(text)[:13], 16) / 16**13


def refuse_shared_identities(clips: Sequence[Clip]) -> None:
    """Check that no identity, and no source, is on both sides of the split.

    Raises:
        UserError: naming some that are.
    """
    shared = set()
    for kind, name_of in (("identity", attrgetter("identity")), ("source", attrgetter("source_id"))):
        side: dict[str, str] = {}
        for clip in clips:
            if side.setdefault(name_of(clip), clip.split) != clip.split:
                shared.add(f"{kind} {name_of(clip)}")
    if shared:
        raise UserError(f"dataset: on both sides of the split: {', '.join(sorted(shared)[:5])}")


def assign_shards(clips: Sequence[Clip], shards: Shards, *, grows: bool = False) -> list[Clip]:
    """Return the clips with their shard, as `Shards.names` has it, sorted by shard and clip.

    None is empty where a split has as many sources as shards. The clips of a source share a shard: it is
    opened by one job. Where a split cuts through a source, each side has it.

    Args:
        clips: with their split.
        shards: how many there are of each split.
        grows: whether sources may be added later: `placed` and not `dealt`.

    Raises:
        UserError: for a split without clips.
    """
    assign = placed if grows else dealt
    shard_of: dict[tuple[str, str], str] = {}
    for split, count in (("train", shards.train), ("test", shards.test)):
        sources = {c.source_id for c in clips if c.split == split}
        if not sources:
            raise UserError(f"dataset: no clip in the {split} split")
        names = shards.names(split)
        for source_id, number in assign(sources, count).items():
            shard_of[split, source_id] = names[number]
    # Sorted by both, without a key of two parts for each clip.
    ranked = sorted(clips, key=attrgetter("clip_id"))
    ranked.sort(key=lambda c: shard_of[c.split, c.source_id])
    return [in_shard(clip, shard_of[clip.split, clip.source_id]) for clip in ranked]


def dealt(sources: Collection[str], count: int) -> dict[str, int]:
    """Return the shard of each source: ranked by the hash of their ids and dealt round like cards.

    Shards differ by one source at most. One more source moves about half of the others.
    """
    return {source_id: k % count for k, source_id in enumerate(sorted(sources, key=stable_rank))}


def placed(sources: Collection[str], count: int) -> dict[str, int]:
    """Return the shard of each source: that of the hash of its id, as long as there is room in it.

    No shard has more than 1.25 times the mean, rounded up; one without any takes a source from another. One
    more source moves none of the others, or few. (Consistent hashing with bounded loads, over a fixed number
    of shards: with another number every shard is another one anyway.)
    """
    room = math.ceil((1 + SHARDS_MAY_DIFFER) * len(sources) / count)
    load = [0] * count
    shard_of: dict[str, int] = {}
    for source_id in sorted(sources, key=stable_rank):
        tries = (int(stable_rank(f"{k}:{source_id}"), 16) % count for k in itertools.count())
        number = next(number for number in tries if load[number] < room)
        shard_of[source_id] = number
        load[number] += 1
    for number in range(count if len(sources) >= count else 0):
        if load[number] == 0:
            shared = (source_id for source_id, of in shard_of.items() if load[of] > 1)
            taken = min(shared, key=lambda source_id, k=number: stable_rank(f"{k}:{source_id}"))  # type: ignore[misc]
            load[shard_of[taken]] -= 1
            shard_of[taken] = number
            load[number] = 1
    return shard_of
