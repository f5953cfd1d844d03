"""Decide which clips there are, the split of each, and the shard that works on it.

No network is used, and no video is opened beyond probing local files.
"""

from pathlib import Path

from difftalk.config.dataset import DatasetSettings, Shards


def run(*, dataset: DatasetSettings, shards: Shards, out: Path, frozen: Path | None = None) -> None:
    """Write the clip table.

    Args:
        dataset: the config's section `dataset`, as JSON.
        shards: number of shards of each split, as JSON such as `{"train": 56, "test": 8}`.
        out: the clip table to write, plan/clips.parquet.
        frozen: a file of `difftalk freeze`: its clips alone are planned, from files with the same checksums.

    Raises:
        UserError: for settings that give no plan.
    """
    from difftalk.datasets.clips import write_plan
    from difftalk.datasets.dataset import open_dataset
    from difftalk.datasets.frozen import read_frozen
    from difftalk.datasets.split import assign_shards, refuse_shared_identities

    opened = open_dataset(dataset)
    clips = opened.clips() if frozen is None else read_frozen(frozen)
    if opened.shares_no_identity:
        refuse_shared_identities(clips)
    write_plan(out, assign_shards(clips, shards))
