"""Where the clips of a run went: planned = kept + rejected, by stage and reason."""

import csv
import html
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from difftalk.datasets.clips import read_plan
from difftalk.runtime.errors import UserError
from difftalk.runtime.files import atomic_file
from difftalk.runtime.rejects import REASONS, Reject, read_rejects

COLUMNS = ("stage", "reason", "clips", "hours", "detection_rate", "nme")
STAGES = ("fetch", "landmarks", "crops", "speech", "encode")  # as clips flow; later ones lose no data


@dataclass
class Quality:
    """How well the landmarks of some clips were found: faces over frames, and the mean error over them.

    detection_rate: 0..1. nme: mean distance to the truth over the outer eye distance, None without truth.
    """

    detection_rate: float
    nme: float | None


def run(
    *,
    plan: Path,
    rejects: list[Path],
    quality: list[Path],
    crops: list[Path],
    out: Path,
    by_subset: Path,
    page: Path,
) -> None:
    """Write funnel.csv: `planned` first, a row per stage and reason with clips, `kept` last.

    A clip counts at the first stage, in the order of the flow, that rejected it. Kept clips are counted where
    they are, in the crops; hours are those of the plan. `planned` and `kept` also say how well landmarks were
    found.

    Args:
        by_subset: the same for each subset of the dataset. page: both as a page to look at.

    Raises:
        UserError: naming the clips that are neither kept nor rejected, or both.
    """
    planned = read_plan(plan)
    hours = {clip.clip_id: (clip.end_s - clip.start_s) / 3600 for clip in planned}
    subsets: dict[str, set[str]] = {}
    for clip in planned:
        subsets.setdefault(clip.subset, set()).add(clip.clip_id)
    lost = first_rejects([r for path in rejects for r in read_rejects(path)])
    cropped = {clip_id for path in crops for clip_id in clips_in(path)}
    check(set(hours), cropped, lost)
    found = read_quality(quality)

    whole = _lines(set(hours), lost, hours, found)
    parts = {subset: _lines(subsets[subset], lost, hours, found) for subset in sorted(subsets)}
    _write_csv(out, COLUMNS, whole)
    _write_csv(by_subset, ("subset", *COLUMNS), [(s, *line) for s in parts for line in parts[s]])
    groups = {"all": whole} | (parts if len(parts) > 1 else {})
    with atomic_file(page) as beside:
        beside.write_text(_page(groups), encoding="utf-8")


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


Line = tuple[str, str, int, str, str, str]


def _lines(
    clips: set[str],
    lost: dict[str, Reject],
    hours: dict[str, float],
    found: dict[str, tuple[int, int, float | None]],
) -> list[Line]:
    """The rows of some of the planned clips."""
    at: dict[tuple[int, int], set[str]] = {}
    for clip in clips & set(lost):
        stage, reason = lost[clip].stage, lost[clip].reason
        at.setdefault((STAGES.index(stage), list(REASONS).index(reason)), set()).add(clip)
    return [
        _line("planned", "", clips, hours, found),
        *(_line(STAGES[s], list(REASONS)[r], at[s, r], hours, {}) for s, r in sorted(at)),
        _line("kept", "", clips - set(lost), hours, found),
    ]


def _line(
    stage: str,
    reason: str,
    clips: set[str],
    hours: dict[str, float],
    found: dict[str, tuple[int, int, float | None]],
) -> Line:
    quality = quality_of(clips, found)
    rate = f"{quality.detection_rate:.5f}" if quality else ""
    nme = f"{quality.nme:.5f}" if quality and quality.nme is not None else ""
    return stage, reason, len(clips), f"{sum(hours[c] for c in sorted(clips)):.6f}", rate, nme


def _write_csv(path: Path, header: tuple[str, ...], lines: Sequence[tuple[object, ...]]) -> None:
    with atomic_file(path) as beside, beside.open("w", newline="", encoding="utf-8") as target:
        writer = csv.writer(target, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(lines)


def remaining(lines: list[Line]) -> list[tuple[str, int, float]]:
    """What is left after each stage, `planned` first: (stage, clips, hours)."""
    clips, hours = lines[0][2], float(lines[0][3])
    left = [("planned", clips, hours)]
    for stage in STAGES:
        gone = [line for line in lines[1:-1] if line[0] == stage]
        clips -= sum(line[2] for line in gone)
        hours -= sum(float(line[3]) for line in gone)
        left.append((f"after {stage}", clips, max(hours, 0.0)))
    return left


def _page(groups: dict[str, list[Line]]) -> str:
    """The page: what is left after each stage as bars, and why the rest is not, for all clips and each subset."""
    parts = []
    for name, lines in groups.items():
        planned = max(lines[0][2], 1)
        bars = "".join(
            f'<tr><td>{stage}</td><td class="n">{clips}</td><td class="n">{hours:.2f}</td>'
            f'<td class="bar"><div style="width:{100 * clips / planned:.1f}%"></div></td></tr>'
            for stage, clips, hours in remaining(lines)
        )
        why = "".join(
            f'<tr><td>{stage}</td><td>{reason}</td><td class="n">{clips}</td><td class="n">{float(hours):.2f}</td>'
            f"<td>{html.escape(REASONS[reason])}</td></tr>"
            for stage, reason, clips, hours, _, _ in lines[1:-1]
        )
        lost = (
            "<table><thead><tr><th>stage<th>reason<th>clips<th>hours<th>which means</tr></thead>"
            f"<tbody>{why}</tbody></table>"
        )
        parts.append(
            f"<h2>{html.escape(name or 'no subset')}</h2><table><thead><tr><th><th>clips<th>hours<th></tr></thead>"
            f"<tbody>{bars}</tbody></table>{lost if why else ''}"
        )
    return f'<!doctype html><meta charset="utf-8"><title>Funnel</title><style>{CSS}</style>{"".join(parts)}\n'


CSS = """
body { font: 15px/1.4 system-ui, sans-serif; margin: 2em auto; max-width: 60em; color: #222; }
table { border-collapse: collapse; margin: 0 0 1.5em; width: 100%; }
th, td { text-align: left; padding: .2em .8em .2em 0; border-bottom: 1px solid #ddd; }
.n { text-align: right; font-variant-numeric: tabular-nums; }
.bar { width: 55%; } .bar div { background: #4a7ab5; height: 1em; }
"""
