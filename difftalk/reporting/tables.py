"""A table and its forms: csv, md, tex and html, each with the protocol that its figures were made by."""

import csv
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from difftalk.reporting.render import escape_markdown, render
from difftalk.runtime.errors import UserError
from difftalk.runtime.files import read_csv

TITLES = {
    "audio_smoothing": "Audio smoothing",
    "conditions": "Conditions",
    "comparison": "Comparison",
    "seeds": "Seeds",
    "subgroups": "Subgroups",
}
HEADINGS = {
    "psnr": "PSNR ↑",
    "ssim": "SSIM ↑",
    "lpips": "LPIPS ↓",
    "psnr_mouth": "PSNR mouth ↑",
    "ssim_mouth": "SSIM mouth ↑",
    "lpips_mouth": "LPIPS mouth ↓",
    "sync_offset": "offset → 0",
    "sync_confidence": "confidence ↑",
    "sync_distance": "distance ↓",
    "mouth_corr": "mouth corr. ↑",
}
DIGITS = {
    "psnr": 2, "ssim": 4, "lpips": 4, "psnr_mouth": 2, "ssim_mouth": 4, "lpips_mouth": 4,
    "sync_offset": 1, "sync_confidence": 3, "sync_distance": 3, "mouth_corr": 3,
}  # fmt: skip


@dataclass
class Table:
    """One table before it takes a form.

    Args:
        name: such as `comparison`.
        columns: names of the columns.
        rows: of cells by column; a cell is a string, a number, or None for missing.
        footer: the protocol, line by line.
    """

    name: str
    columns: Sequence[str]
    rows: list[dict[str, Any]]
    footer: dict[str, str]

    @property
    def title(self) -> str:
        """The caption."""
        return TITLES.get(self.name, self.name)

    @property
    def headings(self) -> list[str]:
        """The heads of the columns for people, plain words for those that have no other."""
        return [HEADINGS.get(column, column.replace("_", " ")) for column in self.columns]

    @property
    def cells(self) -> list[list[str]]:
        """The rows as text for people."""
        return [[cell(column, row) for column in self.columns] for row in self.rows]


def cell(column: str, row: dict[str, Any]) -> str:
    """Return a cell as text: figures with the digits of their metric, nothing for a missing one."""
    value = row[column]
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.{DIGITS.get(column, DIGITS.get(row.get('metric', ''), 3))}f}"
    return str(value)


def to_csv(table: Table) -> str:
    """Return the CSV form: figures with six significant digits, missing ones as empty cells."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(table.columns)
    for row in table.rows:
        values = (row[column] for column in table.columns)
        writer.writerow([f"{v:.6g}" if isinstance(v, float) else v for v in values])
    return out.getvalue()


def to_md(table: Table) -> str:
    """Return the Markdown form, with the protocol as a list below."""
    heads = (HEADINGS.get(column, column) for column in table.columns)
    rows = ((escape_markdown(text) for text in row) for row in table.cells)
    lines = [
        f"| {' | '.join(heads)} |",
        "|---" * len(table.columns) + "|",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
        *(f"- {escape_markdown(key)}: {escape_markdown(value)}" for key, value in table.footer.items()),
    ]
    return "\n".join(lines) + "\n"


def to_tex(table: Table) -> str:
    """Return a booktabs tabular, with the protocol as comments below."""
    lines = [
        rf"\begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}",
        r"\toprule",
        " & ".join(_escape_tex(HEADINGS.get(column, column)) for column in table.columns) + r" \\",
        r"\midrule",
        *(" & ".join(map(_escape_tex, row)) + r" \\" for row in table.cells),
        r"\bottomrule",
        r"\end{tabular}",
        *(f"% {key}: {' '.join(value.split())}" for key, value in table.footer.items()),
    ]
    return "\n".join(lines) + "\n"


def to_html(table: Table) -> str:
    """Return a `<table>` and its protocol, as a fragment of a page."""
    return render("table.html.j2", table=table)


WRITERS: dict[str, Callable[[Table], str]] = {"csv": to_csv, "md": to_md, "tex": to_tex, "html": to_html}


def read_table(path: Path, protocol: dict[str, str]) -> Table:
    """Read a table back from its CSV: figures as numbers, empty cells as None.

    Args:
        path: `{name}.csv`.
        protocol: its footer.

    Raises:
        UserError: if it is missing, not what was written, or no table.
    """
    rows = [{key: _number(value) for key, value in row.items()} for row in read_csv(path)]
    if rows and not {"method", "rows"} & rows[0].keys():
        raise UserError(f"{path} is no table of `difftalk tables`: it has neither a column method nor rows")
    return Table(path.stem, tuple(rows[0]) if rows else (), rows, protocol)


def _number(text: str) -> str | int | float | None:
    if not text:
        return None
    try:
        return int(text) if text.lstrip("-").isdigit() else float(text)
    except ValueError:
        return text


def _escape_tex(text: str) -> str:
    text = text.replace("\\", r"\textbackslash ")
    text = re.sub(r"([&%$#_{}])", r"\\\1", text)
    for sign, command in (
        ("↑", r"$\uparrow$"),
        ("↓", r"$\downarrow$"),
        ("→", r"$\rightarrow$"),
        (">", "$>$"),
    ):
        text = text.replace(sign, command)
    return text
