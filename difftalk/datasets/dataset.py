"""What `plan` and `fetch` ask of a dataset, and which class a config's `dataset` section means.

A dataset has three methods and two promises (`Dataset`), so a new one is a section of
`difftalk.config.dataset`, a module with its class, and one branch of `open_dataset`.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from difftalk.config.dataset import Demo, Hdtf, LocalSettings, Table
from difftalk.config.download import Download
from difftalk.datasets.clips import Clip


class Dataset(Protocol):
    """What the stages `plan` and `fetch` ask of a dataset."""

    @property
    def shares_no_identity(self) -> bool:
        """Whether no identity is on both sides of the split; `plan` checks it."""
        ...

    @property
    def grows(self) -> bool:
        """Whether sources may be added to its list, which then leaves others in their shards."""
        ...

    def clips(self) -> list[Clip]:
        """Return every clip, with its split and without a shard.

        Raises:
            UserError: where the settings cannot give both splits a clip.
        """
        ...

    def own_files(self, clips: Iterable[Clip]) -> dict[str, Path]:
        """Return the file of each source, by its id, that is a file of the user's own and may be edited."""
        ...

    def fetch(self, source_id: str, uri: str, store: Path, download: Download) -> dict[str, Path]:
        """Return the files of a source: `{name in the sources folder: file}`, the video first.

        The video is named `{source_id}.{suffix}`. What is downloaded or rendered is kept below `store` under
        a name that tells its content, written whole or not at all, and taken from there the next time.

        Args:
            source_id: of the clip table.
            uri: of the clip table.
            store: folder that keeps sources across runs.
            download: settings of downloads, where the dataset needs a network.

        Raises:
            ClipError: `cannot_fetch`, or a reason that says more, where the source is not available.
            UserError: where it may be available later: this ends the stage.
        """
        ...


def open_dataset(settings: Demo | LocalSettings | Hdtf | Table) -> Dataset:
    """Return the dataset that a config's `dataset` section describes."""
    # Imported only where needed: the demo loads a speech synthesiser.
    if isinstance(settings, Demo):
        from difftalk.datasets.demo.dataset import DemoDataset

        return DemoDataset(settings)
    if isinstance(settings, Hdtf):
        from difftalk.datasets.hdtf.dataset import HdtfDataset

        return HdtfDataset(settings)
    if isinstance(settings, Table):
        from difftalk.datasets.table import TableDataset

        return TableDataset(settings)
    from difftalk.datasets.local import LocalDataset

    return LocalDataset(settings)
