"""Where clips come from. A dataset says what its clips are, and fetches their sources.

Two functions and a promise are all that `plan` and `fetch` ask of one, so a new dataset is a module with a `Settings`
dataclass that has them, and two lines in `_settings_of`.
"""

import hashlib
from pathlib import Path
from typing import Any, Protocol

from difftalk.config.settings import from_dict
from difftalk.datasets.clips import Clip
from difftalk.datasets.download import Download
from difftalk.runtime.errors import UserError

NAMES = ("demo", "local", "hdtf")


class Dataset(Protocol):
    """What the settings of a dataset can do."""

    @property
    def shares_no_identity(self) -> bool:
        """Whether no identity is on both sides of the split: `plan` holds the dataset to it."""
        ...

    def clips(self) -> list[Clip]:
        """Every clip, with its split and without a shard.

        Raises:
            UserError: where the settings cannot give both splits a clip.
        """
        ...

    def fetch(self, source_id: str, uri: str, store: Path, download: Download) -> dict[str, Path]:
        """Have the files of a source: `{name in the sources folder: file}`, the video as `{source_id}.{suffix}` first.

        What is downloaded or made is kept below `store` under a name that tells its content, written whole or
        not at all, and taken from there the next time.

        Args:
            download: how to go about it where there is a network between.

        Raises:
            ClipError: `cannot_fetch`, or a reason that says more, where the source is not to be had.
            UserError: where it may be had later: this ends the stage.
        """
        ...


def open_dataset(description: dict[str, Any]) -> Dataset:
    """The dataset of a config's `dataset` section: `name` says which, the other keys are its settings.

    Raises:
        UserError: for an unknown name or key.
    """
    values = dict(description)
    name = values.pop("name", None)
    if name not in NAMES:
        raise UserError(f"dataset: name {name!r} is not one of {', '.join(NAMES)}")
    dataset: Dataset = from_dict(_settings_of(name), values, f"dataset {name}")
    return dataset


def _settings_of(name: str) -> type:
    # Imported only where asked for: the demo brings a speech synthesiser.
    if name == "demo":
        from difftalk.datasets.demo.dataset import Settings as Demo

        return Demo
    if name == "hdtf":
        from difftalk.datasets.hdtf.dataset import Settings as Hdtf

        return Hdtf
    from difftalk.datasets.local import Settings as Local

    return Local


def stable_rank(text: str) -> str:
    """A sort key that shuffles the same way on every machine, whatever else is in the list."""
    return hashlib.sha256(text.encode()).hexdigest()


def split_identities(identities: list[str], test_fraction: float, seed: int) -> dict[str, str]:
    """`{identity: split}` with about `test_fraction` of the identities, and at least one, on the test side.

    Raises:
        UserError: with fewer than two identities, or a fraction that is not between 0 and 1.
    """
    if not 0 < test_fraction < 1:
        raise UserError(f"dataset: test_fraction must lie between 0 and 1, it is {test_fraction:g}")
    ranked = sorted(set(identities), key=lambda i: stable_rank(f"{seed}:{i}"))
    if len(ranked) < 2:
        raise UserError(
            f"dataset: {len(ranked)} source(s) cannot be split into train and test, which share no speaker: "
            "add at least one more video"
        )
    tests = min(max(round(len(ranked) * test_fraction), 1), len(ranked) - 1)
    return {identity: "test" if k < tests else "train" for k, identity in enumerate(ranked)}
