"""Section `dataset`: what the clips are. Each kind of dataset has its own keys and defaults."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from difftalk.config.section import List, Section


class Identities(Section):
    """Speakers of the demo in each split."""

    train: int = Field(ge=1, description="Speakers to train on.")
    test: int = Field(ge=1, description="Speakers to sample and score, none of them seen in training.")


class Demo(Section):
    """Speakers drawn procedurally, who speak with espeak-ng."""

    name: Literal["demo"] = "demo"
    identities: Identities = Field(
        default=Identities(train=24, test=6), description="Number of speakers in each split."
    )
    clips_per_identity: int = Field(
        2, ge=1, description="Clips of each speaker, one after the other in one source."
    )
    clip_seconds: float = Field(6.0, gt=0, description="Length of a clip.")
    size: int = Field(256, ge=128, description="Width and height of the drawn video, pixels.")
    seed: int = Field(1, description="Seed of speakers and sentences.")


class Local(Section):
    """Video files of a folder."""

    name: Literal["local"] = "local"
    clip_seconds: float | None = Field(
        None,
        gt=0,
        description="Longer videos are cut into clips of this length; null keeps each video whole.",
    )
    test_fraction: float = Field(
        0.25,
        gt=0,
        lt=1,
        description="Part of the videos, or of each video's time, that is kept for sampling and scoring.",
    )
    seed: int = Field(1, description="Seed of the split by identity.")
    clip_at_cuts: bool = Field(
        True,
        description="Videos are cut where the scene changes, so that a cut costs no clip; `plan` then "
        "decodes them once. What lies between two cuts within 2 s is rejected.",
    )
    split: Literal["identity", "time"] = Field(
        "identity",
        description="`identity`: no speaker on both sides. `time`: of every video the first part trains, and "
        "its end, `test_fraction` of its length, is the test (AD-NeRF's protocol): for videos of one person. "
        "Copies are then rejected unless `near_duplicates` is `ignore`.",
    )
    same_person_distance: float | None = Field(
        0.6,
        gt=0,
        description="Files whose faces are less than this apart (dlib's descriptor) are one speaker's, on "
        "one side of the split. Null takes each file for another speaker, unless a sub-folder or "
        "`speakers.csv` says who it is.",
    )
    near_duplicates: Literal["together", "reject", "ignore"] = Field(
        "together",
        description="Files with the same frames and audio, re-encoded or rescaled: kept on one side of the "
        "split, rejected but for the first (`duplicate`), or not looked for. The same bytes are always "
        "rejected.",
    )


class Hdtf(Section):
    """HDTF: downloaded, or the user's own copies."""

    name: Literal["hdtf"] = "hdtf"
    split: Literal["paper", "random", "identity"] = Field(
        "paper",
        description="`paper`: the 98 published names train, the rest test; clips of one video, and of one "
        "speaker, are on both sides. `random`: the clips of `train_videos` videos train. "
        "`identity`: no speaker and no video on both sides.",
    )
    train_videos: int = Field(100, ge=1, description="Of `split: random`: videos to train on.")
    test_fraction: float = Field(
        0.2, gt=0, lt=1, description="Of `split: identity`: part of the speakers that is kept for testing."
    )
    seed: int = Field(1, description="Seed of the splits `random` and `identity`.")
    max_frames: int | None = Field(
        1500,
        ge=1,
        description="Frames (25 fps) taken of a clip at most, from its start; null takes it whole.",
    )
    table: str | None = Field(
        None, description="A table of clips in the columns of the package's clips.csv, instead of it."
    )
    files: str | None = Field(
        None,
        description="A folder with videos that are used instead of downloads, named by YouTube id (the "
        "whole video) or by clip, such as RD_Radio11_001.mp4 (the clip, cut and perhaps "
        "cropped).",
    )
    skip: List[str] = Field((), description="YouTube ids of videos that are not requested.")


class Table(Section):
    """The clips of a table, CSV or Parquet."""

    name: Literal["table"] = "table"
    table: str = Field(
        description="The table of clips, CSV or Parquet, in the columns of docs/datasets.md; "
        "`difftalk dataset` writes it from what datasets publish."
    )
    root: str | None = Field(
        None, description="Folder below which the table's paths are; null: the folder of the table."
    )
    absolute_paths: bool = Field(False, description="Whether the table's paths may be absolute.")
    test_fraction: float = Field(
        0.2,
        gt=0,
        lt=1,
        description="Part of the speakers that is kept for testing, of those without a split in the table.",
    )
    seed: int = Field(1, description="Seed of the split of rows that have none.")
    shared_identities: bool = Field(
        False, description="Accept a table whose split has a speaker or a source on both sides."
    )
    max_frames: int | None = Field(
        None,
        ge=1,
        description="Frames (25 fps) taken of a clip at most, from its start; null takes it whole.",
    )
    files: str | None = Field(
        None,
        description="A folder with videos that are used instead of downloads, named by source_id: for "
        "YouTube, the id.",
    )
    skip: List[str] = Field((), description="source_ids that are not requested.")


class LocalSettings(Local):
    """What the stages `plan` and `fetch` read of a local dataset."""

    videos: str = Field(description="Folder of the video files; a sub-folder with videos is a speaker.")


KINDS: dict[str, type[Section]] = {"demo": Demo, "local": Local, "hdtf": Hdtf, "table": Table}


def _own_keys(value: Any) -> Any:
    """Drop keys of other kinds of dataset.

    The default configuration describes the demo, and overlays add to it.
    """
    if not isinstance(value, dict):
        return value
    kind = KINDS.get(value.get("name", "demo"))
    if kind is None:
        return value
    foreign = {key for other in KINDS.values() for key in other.model_fields} - kind.model_fields.keys()
    return {"name": "demo"} | {key: v for key, v in value.items() if key not in foreign}


# The section of the configuration, and what `difftalk plan --dataset` and `fetch --dataset` read.
Dataset = Annotated[Demo | Local | Hdtf | Table, Field(discriminator="name"), BeforeValidator(_own_keys)]
DatasetSettings = Annotated[Demo | LocalSettings | Hdtf | Table, Field(discriminator="name")]


class Shards(Section):
    """Section `shards`: a shard is one job of each stage."""

    train: int = Field(2, ge=1, le=100_000, description="Shards of the training split.")
    test: int = Field(1, ge=1, le=100_000, description="Shards of the test split.")

    def names(self, *splits: str) -> list[str]:
        """Return the names of the shards of some splits, or of both, such as `train-003`.

        Those of a split have as many digits as the last one needs, three at least: sorted, they are in order.
        """
        chosen = {split: getattr(self, split) for split in splits or ("train", "test")}
        return [
            f"{split}-{number:0{_digits(count)}d}"
            for split, count in chosen.items()
            for number in range(count)
        ]

    def pattern(self) -> str:
        r"""Return a regular expression of the names of all shards.

        One that lists thousands of names would be compiled for every file of every rule.

        >>> print(Shards(train=1234, test=20).pattern())
        train-(?:0\d\d\d|1[0-1]\d\d|12[0-2]\d|123[0-3])|test-(?:0[0-1]\d)
        """
        return "|".join(f"{split}-(?:{_below(getattr(self, split))})" for split in ("train", "test"))


def _digits(count: int) -> int:
    """Digits of the numbers of some shards."""
    return max(3, len(str(count - 1)))


def _below(count: int) -> str:
    """A regular expression of the numbers of some shards: those that first differ from `count` in a digit."""
    width = _digits(count)
    if count == 10**width:
        return r"\d" * width
    limit = f"{count:0{width}d}"
    return "|".join(
        limit[:at] + ("0" if digit == "1" else f"[0-{int(digit) - 1}]") + r"\d" * (width - at - 1)
        for at, digit in enumerate(limit)
        if digit != "0"
    )
