"""What a run shows, in a few sentences: who was sampled, whether the mouth follows the sound, and whose."""

from collections.abc import Iterator, Mapping
from typing import Any

from difftalk.reporting.methods import compared
from difftalk.reporting.tables import Table, cell, title

Row = Mapping[str, Any]


def summary(comparison: Table, cross_driven: Table, protocol: Mapping[str, str]) -> list[str]:
    """Return sentences for the top of the page; none where no method was scored.

    Args:
        comparison: the table of that name.
        cross_driven: likewise.
        protocol: the footer of the tables.
    """
    rows = {str(row["method"]): row for row in comparison.rows if not row.get("published")}
    there = compared(list(rows))
    if not there:
        return []
    method = "difftalk" if "difftalk" in there else there[0]
    others = {str(row.get("voice")): row for row in cross_driven.rows if row["method"] == method}
    return [
        *_who(protocol),
        *_sync(method, rows, protocol),
        *_likeness(method, rows),
        *_other_voice(method, others.get("other")),
    ]


def _who(protocol: Mapping[str, str]) -> Iterator[str]:
    if clips := protocol.get("clips"):
        pixels = f", {protocol['crop_pixels']} px" if "crop_pixels" in protocol else ""
        yield f"{clips}{pixels}."


def _sync(method: str, rows: Mapping[str, Row], protocol: Mapping[str, str]) -> Iterator[str]:
    """Whether the mouth follows the sound, against what hears nothing."""
    row = rows[method]
    if row.get("sync_confidence") is None:
        return
    name = title("sync_confidence", protocol)
    share = row.get("offset_within_1")
    within = "" if share is None else f"in sync within a frame in {share:.0%} of the clips, with "
    truth = rows.get("ground_truth", {})
    of_truth = f"the truth has {_figure('sync_confidence', truth)}" if truth.get("sync_confidence") else ""
    deaf = next((m for m in ("no_audio", "reference_copy") if rows.get(m, {}).get("sync_confidence")), None)
    of_deaf = f"{deaf}, which hears nothing, {_figure('sync_confidence', rows[deaf])}" if deaf else ""
    beside = "; ".join(filter(None, (of_truth, of_deaf)))
    found = f"{method} is {within}" if within else f"{method} has "
    yield f"{found}{name} {_figure('sync_confidence', row)}{f' ({beside})' if beside else ''}."
    if deaf is not None:
        low, high = row.get("sync_confidence_lo"), rows[deaf].get("sync_confidence_hi")
        if low is None or high is None or low <= high:
            yield f"So the run does not show that {method} follows the sound: the intervals are not apart."


def _likeness(method: str, rows: Mapping[str, Row]) -> Iterator[str]:
    """How near the mouth is to the truth, against the reference copied into every frame."""
    row, copied = rows[method], rows.get("reference_copy", {})
    ours, theirs = row.get("psnr_mouth"), copied.get("psnr_mouth")
    if ours is not None and theirs is not None:
        way = "above" if ours >= theirs else "below"
        yield (
            f"Its mouth has {_figure('psnr_mouth', row)} dB PSNR, {abs(ours - theirs):.1f} dB {way} the "
            "reference frame repeated."
        )


def _other_voice(method: str, row: Row | None) -> Iterator[str]:
    """Whom it follows when another person speaks: its mouth's opening is compared with the original's."""
    if row is None or row.get("offset_within_1") is None:
        return
    leaks = row.get("leakage")
    of_own = "" if leaks is None else f"; with what the speaker really said it correlates at {leaks:.2f}"
    yield (
        f"Driven by another person's voice, {method} is in sync with that voice in "
        f"{row['offset_within_1']:.0%} of the clips{of_own}."
    )


def _figure(column: str, row: Row) -> str:
    found = cell(column, dict(row))
    return f"{found.text} {found.interval}".strip()
