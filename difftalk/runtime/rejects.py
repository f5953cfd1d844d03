"""Why a clip is not in the data: one row per lost clip and stage, from a fixed list of reasons."""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from difftalk.runtime.errors import ClipError, UserError
from difftalk.runtime.files import atomic_file

COLUMNS = ("clip_id", "stage", "reason", "detail")

# The stages that reject clips, in the order of the flow.
REJECTING_STAGES = ("fetch", "landmarks", "crops", "speech", "encode")

REASONS = {
    "duplicate": "the dataset has the same stretch in another clip",
    "cannot_fetch": "the source could not be had",
    "removed": "the site says that the video is gone",
    "private": "the site shows the video to some people only",
    "geo_blocked": "the site does not show the video in this country",
    "age_restricted": "the site wants to know the viewer's age",
    "changed": "the source is not the file that the frozen plan was made with",
    "cannot_decode": "the file is damaged or of an unknown kind",
    "no_video": "the file has no video stream",
    "no_audio": "the file has no audio stream",
    "silent": "the sound is silence",
    "too_short": "the clip or its source is shorter than was asked for",
    "no_face": "a face was found in too few frames",
    "small_face": "the face is smaller than the run asks for",
    "unstable_face": "the face track jumps",
    "out_of_frame": "the face crop leaves the frame too far",
    "length_mismatch": "sound and picture differ in length",
    "scene_cut": "the scene changes within the clip",
    "several_faces": "other faces as large are in the picture",
    "frozen": "the picture stands still",
    "out_of_sync": "the mouth does not say what is heard",
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
        return cls(clip_id, stage, error.reason, " ".join(error.detail.split()))


def write_rejects(path: str | Path, rejects: Iterable[Reject]) -> None:
    """Write the rejects of one shard at one stage, sorted by clip; a file with its header alone means none."""
    with atomic_file(path) as beside, beside.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(COLUMNS)
        for r in sorted(rejects, key=lambda r: r.clip_id):
            writer.writerow([r.clip_id, r.stage, r.reason, r.detail])


def read_rejects(path: str | Path) -> list[Reject]:
    with Path(path).open(newline="", encoding="utf-8") as source:
        return [Reject(**row) for row in csv.DictReader(source)]


def check_fraction(stage: str, asked: int, rejects: list[Reject], max_fraction: float) -> None:
    """Fail the stage where it lost more than `max_fraction` of the `asked` clips: that is no clip's fault.

    Raises:
        UserError: naming the stage, the figures and the commonest reason.
    """
    if asked and len(rejects) / asked > max_fraction:
        reasons = [r.reason for r in rejects]
        commonest = max(set(reasons), key=reasons.count)
        example = next(r for r in rejects if r.reason == commonest)
        raise UserError(
            f"{stage}: {len(rejects)} of {asked} clips rejected, more than max_reject_fraction={max_fraction:g}; "
            f"most often {commonest} ({example.clip_id}: {example.detail})"
        )
