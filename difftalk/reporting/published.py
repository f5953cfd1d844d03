"""Published figures that may stand below those of a run: published.csv, each value as its source gives it."""

import csv
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from difftalk.runtime.errors import UserError
from difftalk.runtime.suggest import did_you_mean

FILE = Path(__file__).with_name("published.csv")
DIFFTALK = "DiffTalk CVPR23"
# Columns of the file that have the meaning of one of ours. `lmd` has none: its unit differs between papers.
MEASURED = {
    "fid": "fid", "fvd": "fvd", "csim": "csim", "lse_c": "sync_confidence", "lse_d": "sync_distance",
    "psnr": "psnr", "ssim": "ssim", "lpips": "lpips",
}  # fmt: skip
LSE = {"sync_confidence": "LSE-C", "sync_distance": "LSE-D"}
MARK = "published, other protocol"
NOTE = (
    "rows so marked have another protocol and other clips, so that they are never averaged, compared or "
    "set in bold; the numbers of DiffTalk's Table 2 (conditions) are not to be had"
)


@cache
def read_published() -> tuple[dict[str, str], ...]:
    """Return the rows of the file: source, table, protocol, method, figures, other, status."""
    with FILE.open(newline="", encoding="utf-8") as source:
        return tuple(csv.DictReader(source))


def check_sources(sources: Sequence[str]) -> None:
    """Check that each name is that of a source.

    Raises:
        UserError: naming the first that is none, and the nearest that is.
    """
    known = dict.fromkeys(row["source"] for row in read_published())
    for name in sources:
        if name not in known:
            raise UserError(f"config: report.published: no source {name!r}; {did_you_mean(name, known)}")


def published_rows(table: str, sources: Sequence[str], *, lse: bool = True) -> list[dict[str, Any]]:
    """Return the rows of some sources that belong below a table of the run.

    DiffTalk's Table 1 belongs below `audio_smoothing`, all else below `comparison`. Figures are text.

    Args:
        table: name of the table of the run.
        sources: in the order wanted.
        lse: whether the run's sync expert is SyncNet v2, so that confidences and distances are of one scale;
            otherwise they stand among the words, not in the columns of another expert.

    Raises:
        UserError: if there is no such source.
    """
    check_sources(sources)
    return [
        _row(row, lse)
        for source in sources
        for row in read_published()
        if row["source"] == source and _place(row) == table
    ]


def _place(row: dict[str, str]) -> str:
    is_table_1 = row["source"] == DIFFTALK and row["table"].split()[0] == "1"
    return "audio_smoothing" if is_table_1 else "comparison"


def _row(row: dict[str, str], lse: bool) -> dict[str, Any]:
    """A row of a table of ours; the cells that it lacks are empty."""
    table = f", Table {row['table']}" if row["table"] else ""
    others = [f"LMD {row['lmd']}, unit not given"] if row["lmd"] else []
    figures = {ours: row[theirs] for theirs, ours in MEASURED.items() if row[theirs]}
    if not lse:
        others += [f"{name} {figures.pop(c)}" for c, name in LSE.items() if c in figures]
    key, _, value = row["other"].partition("=")
    if key == "offset":  # of one clip, so that it has a mean without its sign
        figures["sync_offset"] = value.lstrip("-")
    others += [row["other"]] if row["other"] else []
    others += ["second-hand"] if row["status"] != "paper" else []
    said = "; ".join([f"{row['source']}{table}, {row['protocol']}", *others])
    return {"method": f"{row['method']} (published)", "published": f"{MARK}: {said}", **figures}
