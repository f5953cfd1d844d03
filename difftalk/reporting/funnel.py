"""The funnel: planned = kept + rejected, by stage and reason."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from difftalk.datasets.clips import Clip
from difftalk.face.quality import quality_of
from difftalk.media.members import list_members
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


class Loss(NamedTuple):
    """A rejected clip, as the page lists it: where it is in which file, and why it is lost."""

    clip_id: str
    file: str
    start_s: float
    end_s: float
    stage: str
    reason: str
    detail: str


@dataclass
class Funnel:
    """Where the planned clips of a run are: those of a run that has failed may be in none of these yet.

    Args:
        hours: length of each planned clip.
        lost: the reject of each clip that was lost.
        found: how well landmarks were found, as `read_quality` returns it.
        unfinished: clips that no stage has rejected and that are not in the crops.
    """

    hours: dict[str, float]
    lost: dict[str, Reject]
    found: Found
    unfinished: set[str] = field(default_factory=set)

    def lines(self, clips: set[str]) -> list[Line]:
        """Return the rows of some planned clips: `planned` first, one per stage and reason, `kept` last."""
        at: dict[tuple[int, int], set[str]] = {}
        for clip in clips & set(self.lost):
            stage, reason = self.lost[clip].stage, self.lost[clip].reason
            at.setdefault((REJECTING_STAGES.index(stage), ORDER_OF_REASONS.index(reason)), set()).add(clip)
        waiting = clips & self.unfinished
        return [
            self._line("planned", "", clips, self.found),
            *(self._line(REJECTING_STAGES[s], ORDER_OF_REASONS[r], at[s, r], {}) for s, r in sorted(at)),
            *([self._line("unfinished", "", waiting, {})] if waiting else ()),
            self._line("kept", "", clips - set(self.lost) - waiting, self.found),
        ]

    def _line(self, stage: str, reason: str, clips: set[str], found: Found) -> Line:
        quality = quality_of(clips, found)
        rate = f"{quality.detection_rate:.5f}" if quality else ""
        nme = f"{quality.nme:.5f}" if quality and quality.nme is not None else ""
        hours = f"{sum(self.hours[clip] for clip in sorted(clips)):.6f}"
        return Line(stage, reason, len(clips), hours, rate, nme)


def build_funnel(
    planned: list[Clip],
    cropped: set[str],
    rejects: Iterable[Reject],
    found: Found,
    *,
    unfinished: bool = False,
) -> Funnel:
    """Return the funnel of a run, checked to add up.

    A clip counts at the first stage, in the order of the flow, that rejected it.

    Args:
        planned: the clip table.
        cropped: ids of the clips in the crops.
        rejects: of all stages.
        found: how well landmarks were found, as `read_quality` returns it.
        unfinished: whether the run has failed, so that clips may be in neither yet.

    Raises:
        UserError: naming the clips that are neither kept nor rejected, or both.
    """
    hours = {clip.clip_id: (clip.end_s - clip.start_s) / 3600 for clip in planned}
    lost = first_rejects(rejects)
    if unfinished:
        # What an earlier plan left behind, of a run that failed, is no clip of this one.
        lost = {clip: reject for clip, reject in lost.items() if clip in hours}
        return Funnel(hours, lost, found, set(hours) - cropped - set(lost))
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
    """Return the ids of the clips of a crops shard; nothing is decoded.

    Raises:
        UserError: if the shard is missing, no tar, ends early, or lists other files.
    """
    return {member.clip_id for member in list_members(path)}


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


def losses_of(planned: list[Clip], funnel: Funnel) -> list[Loss]:
    """Return the rejected clips, sorted by stage, reason and file."""
    lost = [
        Loss(clip.clip_id, clip.uri, clip.start_s, clip.end_s, reject.stage, reject.reason, reject.detail)
        for clip in planned
        if (reject := funnel.lost.get(clip.clip_id)) is not None
    ]
    order = REJECTING_STAGES.index, ORDER_OF_REASONS.index
    return sorted(lost, key=lambda row: (order[0](row.stage), order[1](row.reason), row.file, row.start_s))


def duration(hours: float, whole: float) -> str:
    """Return a length as text: in seconds where the whole of which it is a part is less than an hour.

    >>> duration(0.002, 0.1), duration(2.0, 3.0)
    ('7.2 s', '2.00 h')
    """
    return f"{hours * 3600:.1f} s" if whole < 1 else f"{hours:.2f} h"


def funnel_page(
    groups: dict[str, list[Line]], losses: Sequence[Loss] = (), not_videos: Sequence[tuple[str, str]] = ()
) -> str:
    """Return the page: what is left after each stage as bars, why the rest is not, and each rejected clip.

    Args:
        groups: the rows of all clips, and of each subset.
        losses: the rejected clips.
        not_videos: entries of the folder of videos that are none: name, and what it is.
    """
    shown = [
        {
            "name": name or "no subset",
            "remaining": [(stage, n, duration(h, float(lines[0].hours))) for stage, n, h in remaining(lines)],
            "rejected": [(line, duration(float(line.hours), float(lines[0].hours))) for line in lines[1:-1]],
        }
        for name, lines in groups.items()
    ]
    reasons = REASONS | {"": "the run has not come to a verdict"}
    return render("funnel.html.j2", groups=shown, reasons=reasons, losses=losses, not_videos=not_videos)
