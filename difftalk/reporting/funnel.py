"""The funnel: planned = kept + rejected, by stage and reason."""

import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from difftalk.datasets.clips import Clip
from difftalk.face.quality import quality_of
from difftalk.reporting.render import render
from difftalk.runtime.errors import UserError
from difftalk.runtime.rejects import REASONS, REJECTING_STAGES, Reject

COLUMNS = ("stage", "reason", "clips", "hours", "detection_rate", "nme")
ORDER_OF_REASONS = tuple(REASONS)

Found = dict[str, tuple[int, int, float | None]]  # what `read_quality` returns


class Line(NamedTuple):
    """One row of funnel.csv; figures of the landmarks are empty where they are not known."""

    stage: str
    reason: str
    clips: int
    hours: str
    detection_rate: str
    nme: str


@dataclass
class Funnel:
    """Where the planned clips of a run are.

    Args:
        hours: length of each planned clip.
        lost: the reject of each clip that was lost.
        found: how well landmarks were found, as `read_quality` returns it.
    """

    hours: dict[str, float]
    lost: dict[str, Reject]
    found: Found

    def lines(self, clips: set[str]) -> list[Line]:
        """Return the rows of some planned clips: `planned` first, one per stage and reason, `kept` last."""
        at: dict[tuple[int, int], set[str]] = {}
        for clip in clips & set(self.lost):
            stage, reason = self.lost[clip].stage, self.lost[clip].reason
            at.setdefault((REJECTING_STAGES.index(stage), ORDER_OF_REASONS.index(reason)), set()).add(clip)
        return [
            self._line("planned", "", clips, self.found),
            *(self._line(REJECTING_STAGES[s], ORDER_OF_REASONS[r], at[s, r], {}) for s, r in sorted(at)),
            self._line("kept", "", clips - set(self.lost), self.found),
        ]

    def _line(self, stage: str, reason: str, clips: set[str], found: Found) -> Line:
        quality = quality_of(clips, found)
        rate = f"{quality.detection_rate:.5f}" if quality else ""
        nme = f"{quality.nme:.5f}" if quality and quality.nme is not None else ""
        hours = f"{sum(self.hours[clip] for clip in sorted(clips)):.6f}"
        return Line(stage, reason, len(clips), hours, rate, nme)


def build_funnel(planned: list[Clip], cropped: set[str], rejects: Iterable[Reject], found: Found) -> Funnel:
    """Return the funnel of a run, checked to add up.

    A clip counts at the first stage, in the order of the flow, that rejected it.

    Args:
        planned: the clip table.
        cropped: ids of the clips in the crops.
        rejects: of all stages.
        found: how well landmarks were found, as `read_quality` returns it.

    Raises:
        UserError: naming the clips that are neither kept nor rejected, or both.
    """
    hours = {clip.clip_id: (clip.end_s - clip.start_s) / 3600 for clip in planned}
    lost = first_rejects(rejects)
    check(set(hours), cropped, lost)
    return Funnel(hours, lost, found)


def subsets_of(planned: list[Clip]) -> dict[str, set[str]]:
    """Return the ids of the clips of each subset of the dataset, sorted by subset."""
    subsets: dict[str, set[str]] = {}
    for clip in planned:
        subsets.setdefault(clip.subset, set()).add(clip.clip_id)
    return dict(sorted(subsets.items()))


def first_rejects(rejects: Iterable[Reject]) -> dict[str, Reject]:
    """Return the reject of each clip at the first stage of the flow that has one.

    Rejects of other stages than `REJECTING_STAGES` are left out.
    """
    counted = [r for r in rejects if r.stage in REJECTING_STAGES]
    first: dict[str, Reject] = {}
    for reject in sorted(counted, key=lambda r: REJECTING_STAGES.index(r.stage)):
        first.setdefault(reject.clip_id, reject)
    return first


def check(planned: set[str], cropped: set[str], lost: dict[str, Reject]) -> None:
    """Check that every planned clip is in the crops or rejected, and none rejected before them is in them.

    Raises:
        UserError: naming the clips that disagree.
    """
    crops = REJECTING_STAGES.index("crops")
    early = {clip for clip, r in lost.items() if REJECTING_STAGES.index(r.stage) <= crops}
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
    """Return the ids of the clips of a crops shard; nothing is decoded."""
    with tarfile.open(path, "r:") as tar:
        return {name.split(".", 1)[0] for name in tar.getnames()}


def remaining(lines: list[Line]) -> list[tuple[str, int, float]]:
    """Return what is left after each stage, `planned` first: (stage, clips, hours)."""
    clips, hours = lines[0].clips, float(lines[0].hours)
    left = [("planned", clips, hours)]
    for stage in REJECTING_STAGES:
        gone = [line for line in lines[1:-1] if line.stage == stage]
        clips -= sum(line.clips for line in gone)
        hours -= sum(float(line.hours) for line in gone)
        left.append((f"after {stage}", clips, max(hours, 0.0)))
    return left


def funnel_page(groups: dict[str, list[Line]]) -> str:
    """Return the page: what is left after each stage as bars, and why the rest is not.

    Args:
        groups: the rows of all clips, and of each subset.
    """
    shown = [
        {"name": name or "no subset", "remaining": remaining(lines), "rejected": lines[1:-1]}
        for name, lines in groups.items()
    ]
    return render("funnel.html.j2", groups=shown, reasons=REASONS)
