"""Why a clip is not in the data: one row per lost clip and stage, from a fixed list of reasons."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

from difftalk.runtime.errors import ClipError, UserError
from difftalk.runtime.files import parse_csv, write_csv

R = TypeVar("R")

COLUMNS = ("clip_id", "stage", "reason", "detail")

# The stages that reject clips, in the order of the flow.
REJECTING_STAGES = ("fetch", "landmarks", "crops", "speech", "encode")

REASONS = {
    "duplicate": "another clip or file has the same content",
    "cannot_fetch": "the source cannot be obtained",
    "removed": "the site says that the video was removed",
    "private": "the site shows the video to some users only",
    "geo_blocked": "the site does not show the video in this country",
    "age_restricted": "the site asks for the viewer's age",
    "changed": "the source is not the file that the frozen plan was made with",
    "cannot_decode": "the file is damaged or of an unknown format",
    "no_video": "the file has no video stream",
    "no_audio": "the file has no audio stream",
    "silent": "the audio is silent",
    "too_short": "the clip or its source is shorter than requested",
    "no_face": "a face was found in too few frames",
    "small_face": "the face is smaller than requested",
    "unstable_face": "the face track jumps",
    "out_of_frame": "the face crop or the mouth lies too far outside the frame",
    "length_mismatch": "audio and video differ in length",
    "scene_cut": "the scene changes within the clip",
    "several_faces": "other faces of comparable size are in the frame",
    "frozen": "the video freezes",
    "turned_head": "the head is turned too far",
    "blurred": "the face is not sharp enough",
    "occluded": "something hides the mouth",
    "out_of_sync": "lips and audio are not in sync",
    "failed": "an unexpected error; the log has the traceback",
}


@dataclass(frozen=True)
class Reject:
    """One clip lost at one stage."""

    clip_id: str
    stage: str
    reason: str
    detail: str = ""

    def __post_init__(self) -> None:
        if self.reason not in REASONS:
            raise ValueError(
                f"unknown reject reason {self.reason!r}: add it to difftalk.runtime.rejects.REASONS"
            )

    @classmethod
    def of(cls, clip_id: str, stage: str, error: ClipError) -> "Reject":
        """Return the reject that an error of one clip becomes."""
        # A file name may hold bytes that are no UTF-8, which a CSV file cannot.
        detail = error.detail.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        return cls(clip_id, stage, error.reason, " ".join(detail.split()))


class RejectLog:
    """Collects the rejects of one shard at one stage, and fails the stage where they are too many.

    A context manager. Where the block ends well, the rejects are in `path`. Where it fails, for too many of
    them or for any other exception, they are in `{shard}.failed.csv` next to `path`, since Snakemake deletes
    the declared outputs of a failed job. Open it inside `atomic_file(out)`, so that the output is absent
    where the stage fails.

    Args:
        stage: name of the stage.
        path: `rejects/{stage}/{shard}.csv`.
        max_fraction: largest tolerated part of the clips, 0..1.
        clips: number of clips that the stage was given.

    Raises:
        UserError: on leaving the block, where too many clips were rejected: that is no clip's fault. It names
            the file.
    """

    def __init__(self, stage: str, path: Path, max_fraction: float, clips: int) -> None:
        self.stage, self.path, self.max_fraction, self.clips = stage, path, max_fraction, clips
        self.failed_path = path.with_name(f"{path.stem}.failed{path.suffix}")
        self.rejects: list[Reject] = []

    def add(self, *rejects: Reject) -> None:
        """Note clips that the stage rejects."""
        self.rejects += rejects

    def kept(self, results: Iterable[tuple[str, R | Reject]]) -> Iterator[tuple[str, R]]:
        """Yield the `(clip_id, result)` that are not rejects, and keep the rejects.

        It fails as the block does, after the last result: a writer that consumes the iterator then finishes
            no file.
        """
        for clip_id, result in results:
            if isinstance(result, Reject):
                self.add(result)
            else:
                yield clip_id, result
        self._check_fraction()

    def __enter__(self) -> Self:
        self.failed_path.unlink(missing_ok=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._check_fraction()
            write_rejects(self.path, self.rejects)
        elif self.rejects:
            write_rejects(self.failed_path, self.rejects, recorded=False)

    def _check_fraction(self) -> None:
        rejected = len(self.rejects)
        if not self.clips or rejected / self.clips <= self.max_fraction:
            return
        write_rejects(self.failed_path, self.rejects, recorded=False)
        ((commonest, _),) = Counter(r.reason for r in self.rejects).most_common(1)
        example = next(r for r in self.rejects if r.reason == commonest)
        raise UserError(
            f"{self.stage}: {rejected} of {self.clips} clips rejected, more than "
            f"max_reject_fraction={self.max_fraction:g}; most often {commonest} "
            f"({example.clip_id}: {example.detail}); all of them: {self.failed_path}"
        )


def write_rejects(path: str | Path, rejects: Iterable[Reject], *, recorded: bool = True) -> None:
    """Write the rejects of one shard at one stage, sorted by clip; none gives the header alone.

    With `recorded`, their checksum is kept (`difftalk.runtime.files.atomic_file`).
    """
    rows = ((r.clip_id, r.stage, r.reason, r.detail) for r in sorted(rejects, key=lambda r: r.clip_id))
    write_csv(path, COLUMNS, rows, recorded=recorded)


def read_rejects(path: str | Path) -> list[Reject]:
    """Read what `write_rejects` wrote.

    Raises:
        UserError: if the file cannot be read or has other columns.
    """
    return parse_csv(path, COLUMNS, lambda row: Reject(**row))
