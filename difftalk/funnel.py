"""Where the clips of a run went: planned = kept + rejected, by stage and reason."""

import csv
import tarfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from difftalk.errors import UserError
from difftalk.files import atomic_file
from difftalk.rejects import REASONS, Reject, read_rejects

COLUMNS = ("stage", "reason", "clips", "hours", "detection_rate", "nme")
STAGES = ("fetch", "landmarks", "crops", "speech", "encode")  # as clips flow; later ones lose no data


@dataclass
class Quality:
    """How well the landmarks of some clips were found: faces over frames, and the mean error over them.

    detection_rate: 0..1. nme: mean distance to the truth over the outer eye distance, None without truth.
    """

    detection_rate: float
    nme: float | None


def run(*, plan: Path, rejects: list[Path], quality: list[Path], crops: list[Path], out: Path) -> None:
    """Write funnel.csv: `planned` first, a row per stage and reason with clips, `kept` last.

    A clip counts at the first stage, in the order of the flow, that rejected it. Kept clips are counted where
    they are, in the crops; hours are those of the plan. `planned` and `kept` also say how well landmarks were
    found.

    Raises:
        UserError: naming the clips that are neither kept nor rejected, or both.
    """
    columns = pq.read_table(plan, columns=["clip_id", "start_s", "end_s"]).to_pylist()
    hours = {row["clip_id"]: (row["end_s"] - row["start_s"]) / 3600 for row in columns}
    lost = first_rejects([r for path in rejects for r in read_rejects(path)])
    cropped = {clip for path in crops for clip in clips_in(path)}
    check(set(hours), cropped, lost)
    kept = cropped - set(lost)
    found = read_quality(quality)

    counts = Counter((STAGES.index(r.stage), list(REASONS).index(r.reason)) for r in lost.values())
    lines: list[tuple[object, ...]] = [_line("planned", "", set(hours), hours, found)]
    for stage, reason in sorted(counts):
        names = STAGES[stage], list(REASONS)[reason]
        clips = {c for c, r in lost.items() if (r.stage, r.reason) == names}
        lines.append(_line(*names, clips, hours, {}))
    lines.append(_line("kept", "", kept, hours, found))
    with atomic_file(out) as beside, beside.open("w", newline="", encoding="utf-8") as target:
        writer = csv.writer(target, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(lines)


def first_rejects(rejects: list[Reject]) -> dict[str, Reject]:
    """The reject of each clip at the first stage of the flow that has one; stages after the data are left
    out."""
    first: dict[str, Reject] = {}
    for reject in sorted((r for r in rejects if r.stage in STAGES), key=lambda r: STAGES.index(r.stage)):
        first.setdefault(reject.clip_id, reject)
    return first


def check(planned: set[str], cropped: set[str], lost: dict[str, Reject]) -> None:
    """Every planned clip is in the crops or rejected, and none in the crops was rejected before them.

    Raises:
        UserError: naming the clips that disagree.
    """
    early = {c for c, r in lost.items() if STAGES.index(r.stage) <= STAGES.index("crops")}
    for clips, what in (
        (planned - cropped - early, "neither in the crops nor rejected"),
        (cropped & early, "in the crops and rejected before them"),
        ((cropped | set(lost)) - planned, "not planned"),
    ):
        if clips:
            some = ", ".join(sorted(clips)[:5]) + (", ..." if len(clips) > 5 else "")
            raise UserError(
                f"funnel: {len(clips)} clips are {what}: {some}; outputs of several runs are mixed"
            )


def clips_in(path: Path) -> set[str]:
    """Names of the clips of a crops shard; nothing is decoded."""
    with tarfile.open(path, "r:") as tar:
        return {name.split(".", 1)[0] for name in tar.getnames()}


def read_quality(paths: list[Path]) -> dict[str, tuple[int, int, float | None]]:
    """frames, frames with a face, and normalised mean error (None without truth) of each clip."""
    found = {}
    for path in paths:
        with path.open(newline="", encoding="utf-8") as source:
            for row in csv.DictReader(source):
                nme = float(row["nme"]) if row["nme"] else None
                found[row["clip_id"]] = int(row["frames"]), int(row["detected"]), nme
    return found


def quality_of(clips: set[str], found: dict[str, tuple[int, int, float | None]]) -> Quality | None:
    """Over all frames of `clips`; None where nothing is known."""
    known = [found[c] for c in clips if c in found]
    frames = sum(f for f, _, _ in known)
    if not frames:
        return None
    errors = [(nme, detected) for _, detected, nme in known if nme is not None and detected]
    weight = sum(d for _, d in errors)
    return Quality(
        sum(d for _, d, _ in known) / frames, sum(n * d for n, d in errors) / weight if weight else None
    )


def _line(
    stage: str,
    reason: str,
    clips: set[str],
    hours: dict[str, float],
    found: dict[str, tuple[int, int, float | None]],
) -> tuple[object, ...]:
    quality = quality_of(clips, found)
    rate = f"{quality.detection_rate:.5f}" if quality else ""
    nme = f"{quality.nme:.5f}" if quality and quality.nme is not None else ""
    return stage, reason, len(clips), f"{sum(hours[c] for c in sorted(clips)):.6f}", rate, nme
