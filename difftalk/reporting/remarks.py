"""What to know of the rows of a table, in words: there are none, nothing is compared, clips are few."""

from collections.abc import Sequence
from typing import Any

from difftalk.reporting.methods import AUDIO_SMOOTHING, CONDITIONS, compared

WANTED = {"audio_smoothing": AUDIO_SMOOTHING, "conditions": CONDITIONS}
# Of tables whose rows are no methods, or where one alone says something.
WITHOUT_ROWS = {
    "differences": "No table has two methods with a figure of the same clip: there is no difference to show.",
    "checks": "No method was scored: there is nothing to check.",
    "seeds": "No method was trained with several seeds (experiments.NAME.seeds).",
    "subgroups": "No subgroups: report.subgroups names no column of the plan with a value of a test clip.",
    "cross_driven": "No method was driven by another voice or by silence.",
}


def remarks(name: str, rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return sentences that a reader needs to understand the rows of a table; none where they speak for them.

    Args:
        name: of the table.
        rows: of the table, published ones included.
    """
    if name in WITHOUT_ROWS:
        return [] if rows else [WITHOUT_ROWS[name]]
    ours = {str(row["method"]): row for row in rows if not row.get("published")}
    there = compared(list(ours))
    said = [_compared_with_nobody(name, list(ours), there)] if len(there) < 2 else []
    clips = {method: int(row["clips"]) for method, row in ours.items()}
    if clips and max(clips.values()) < 2:
        many = "One clip was" if max(clips.values()) else "No clip was"
        said.append(f"{many} scored: a figure has no interval, and no difference is claimed.")
    else:
        said += [
            f"Of {method} {'one clip was' if number else 'no clip was'} scored: "
            + ("its figures have no interval." if number else "it has no figures.")
            for method, number in clips.items()
            if number < 2
        ]
    return said


def _compared_with_nobody(name: str, methods: list[str], there: list[str]) -> str:
    wanted = WANTED.get(name)
    if wanted is None:
        if there:
            return f"{there[0]} is the only method that was scored: it is compared with references alone."
        return "No method of this table was scored, references alone." if methods else "No method was scored."
    others = ", ".join(method for method in compared(wanted) if method not in there)
    if there:
        return f"Nothing is compared: of the methods of this table the run has {there[0]}, and not {others}."
    return f"No method of this table was scored: it compares {others}."
