"""What `plan` writes of a dataset: its clips and, of a folder of files, what else is in it and who speaks."""

from dataclasses import dataclass, field

from difftalk.datasets.clips import Clip

OTHERS_COLUMNS = ("name", "why")
IDENTITY_COLUMNS = ("source_id", "file", "identity", "split", "nearest", "distance", "copy_of")


@dataclass
class Survey:
    """What there is.

    Args:
        clips: of all files, each with its split.
        others: entries of a folder that are no videos, with what they are.
        identities: a row a file, of `IDENTITY_COLUMNS`.
    """

    clips: list[Clip]
    others: list[tuple[str, str]] = field(default_factory=list)
    identities: list[tuple[str, ...]] = field(default_factory=list)
