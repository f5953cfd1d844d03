"""A table and its forms: csv, md, tex and html, each with the protocol that its figures were made by."""

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from difftalk.evaluation.columns import LEAK_CONFIDENCE, LEAKAGE, METRICS
from difftalk.reporting.remarks import remarks
from difftalk.reporting.render import escape_markdown, render
from difftalk.runtime.errors import UserError
from difftalk.runtime.files import read_csv

TITLES = {
    "audio_smoothing": "Audio smoothing",
    "conditions": "Conditions",
    "comparison": "Comparison",
    "differences": "Differences of rows",
    "checks": "Has it learnt?",
    "cross_driven": "Driven by another voice and by silence",
    "seeds": "Seeds",
    "subgroups": "Subgroups",
}
FIGURES = {**METRICS, LEAKAGE.name: LEAKAGE, LEAK_CONFIDENCE.name: LEAK_CONFIDENCE}
# Of rows alone that have them: empty ones are left out of the forms for people, as columns of figures are.
OPTIONAL = frozenset({*FIGURES, "published"})
PROTOCOL = "protocol_sha256"
SYNCNET_V2 = "syncnet_v2"
OWN_SCALE = {"sync_confidence": "confidence", "sync_distance": "distance"}
# Of the CSV: what the other forms say in bold, beside an interval, and in the footer.
MARKS = frozenset({"best", "partial", PROTOCOL})
COUNTS = frozenset({"clips", "clips_asked", "seeds"})
# Columns of words, which a name of digits does not make a column of numbers.
WORDS = frozenset(
    {"method", "against", "by", "group", "table", "rows", "metric", "values", "holds", "voice"}
    | {"published", "check", "found", "verdict"}
    | MARKS
)


class Cell(NamedTuple):
    """A cell for people.

    Args:
        text: the figure, or words.
        interval: `[lower, upper]`, and `of N` where it is of fewer clips than the others of its row.
        best: whether it is the best of its column.
    """

    text: str
    interval: str = ""
    best: bool = False

    @property
    def number(self) -> str:
        """What a sorted table compares: the text where it is a number, or nothing."""
        try:
            return repr(float(self.text))
        except ValueError:
            return ""


@dataclass
class Table:
    """One table before it takes a form.

    Args:
        name: such as `comparison`.
        columns: names of the columns of the CSV; `X_lo` and `X_hi` hold the interval of the column X, `best`
            names the columns in which the row is best, `partial` has `X=N` for those of fewer clips than were
            scored, `protocol_sha256` is that of the footer.
        rows: of cells by column; a cell is a string, a number, or None for missing, as is one that is absent.
        footer: the protocol, line by line.
    """

    name: str
    columns: Sequence[str]
    rows: list[dict[str, Any]]
    footer: dict[str, str]

    @property
    def title(self) -> str:
        """The caption."""
        return TITLES.get(self.name, self.name.replace("_", " ").capitalize())

    @property
    def remarks(self) -> list[str]:
        """What a reader must know of the rows, in sentences: that there are none, or nothing to compare."""
        return remarks(self.name, self.rows)

    @property
    def shown(self) -> list[str]:
        """The columns for people: without ends of intervals, marks, and figures that no row has."""
        hidden = {end for column in self.columns for end in _ends(column)} | MARKS
        filled = {column for row in self.rows for column, value in row.items() if value is not None}
        there = [column for column in self.columns if column not in hidden]
        return [column for column in there if column not in OPTIONAL or column in filled]

    @property
    def headings(self) -> list[str]:
        """The heads of the columns of the page, whose arrow stays on the line of the last word."""
        return [re.sub(r" (?=[↑↓→])", "\u00a0", heading(column, self.footer)) for column in self.page_columns]

    @property
    def words(self) -> frozenset[str]:
        """The columns that hold words and no numbers."""
        return WORDS

    @property
    def page_columns(self) -> list[str]:
        """The columns of the page: where a published figure is from stands below the method."""
        return [column for column in self.shown if column != "published"]

    @property
    def cells(self) -> list[list[Cell]]:
        """The rows as text for people."""
        return [[cell(column, row) for column in self.shown] for row in self.rows]

    @property
    def page_cells(self) -> list[list[Cell]]:
        """The rows as the page shows them."""
        rows = [[cell(column, row) for column in self.page_columns] for row in self.rows]
        for row, cells in zip(self.rows, rows, strict=True):
            if row.get("published"):
                cells[0] = cells[0]._replace(interval=row["published"])
        return rows


def csv_columns(columns: Sequence[str]) -> tuple[str, ...]:
    """Return the columns of the CSV: those given, the hash of the protocol, the ends of all intervals."""
    return (*columns, PROTOCOL, *(end for column in columns if column in FIGURES for end in _ends(column)))


def _ends(column: str) -> tuple[str, str]:
    return ("lo", "hi") if column == "difference" else (f"{column}_lo", f"{column}_hi")


def is_lse(protocol: Mapping[str, str]) -> bool:
    """Return whether confidences and distances are SyncNet v2's, which the field calls LSE-C and LSE-D."""
    return protocol.get("sync", SYNCNET_V2).startswith(SYNCNET_V2)


def title(column: str, protocol: Mapping[str, str]) -> str:
    """Return what a column is called; those of a sync expert of another scale are not called LSE."""
    if column in OWN_SCALE and not is_lse(protocol):
        return OWN_SCALE[column]
    return FIGURES[column].title if column in FIGURES else column.replace("_", " ")


def heading(column: str, protocol: Mapping[str, str]) -> str:
    """Return the head of a column: its title, with an arrow towards better values."""
    known = FIGURES.get(column)
    arrow = known.heading.removeprefix(known.title) if known else ""
    return title(column, protocol) + arrow


def figure_text(metric: str, value: float) -> str:
    """Return a figure with the digits of its metric.

    >>> figure_text("psnr", 31.25), figure_text("share", 0.5)
    ('31.25', '0.500')
    """
    text = f"{value:.{FIGURES[metric].digits if metric in FIGURES else 3}f}"
    return text.lstrip("-") if float(text) == 0 else text


def cell(column: str, row: dict[str, Any]) -> Cell:
    """Return a cell for people: figures with the digits of their metric, nothing for a missing one."""
    value = row.get(column)
    if value is None:
        return Cell("")
    if isinstance(value, str) or column in COUNTS:
        return Cell(str(value))
    metric = column if column in FIGURES else row.get("metric", "")
    ends = [row.get(end) for end in _ends(column)]
    interval = ", ".join(figure_text(metric, end) for end in ends if end is not None)
    best = column in (row.get("best") or "").split(";")
    fewer = dict(part.split("=") for part in (row.get("partial") or "").split(";") if part)
    of = f"of {fewer[column]}" if column in fewer else ""
    return Cell(figure_text(metric, value), f"[{interval}] {of}".strip() if interval else of, best)


def to_csv(table: Table) -> str:
    """Return the CSV form: figures with six significant digits, missing ones as empty cells."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(table.columns)
    for row in table.rows:
        protocol = None if row.get("published") else table.footer.get(PROTOCOL)
        values = (row.get(column, protocol if column == PROTOCOL else None) for column in table.columns)
        writer.writerow([f"{v:.6g}" if isinstance(v, float) else v for v in values])
    return out.getvalue()


def to_md(table: Table) -> str:
    """Return the Markdown form: remarks, the rows if there are any, and the protocol as a list."""
    heads = (escape_markdown(heading(column, table.footer)) for column in table.shown)
    lines = [f"{escape_markdown(remark)}\n" for remark in table.remarks]
    if table.rows:
        lines += [
            f"| {' | '.join(heads)} |",
            "|---" * len(table.shown) + "|",
            *(f"| {' | '.join(map(md_cell, row))} |" for row in table.cells),
            "",
        ]
    lines += (f"- {escape_markdown(key)}: {escape_markdown(value)}" for key, value in table.footer.items())
    return "\n".join(lines) + "\n"


def md_cell(cell: Cell) -> str:
    """Return a cell in Markdown: the best in bold, the interval behind the figure."""
    text = escape_markdown(cell.text)
    return f"{f'**{text}**' if cell.best else text} {cell.interval}".rstrip()


def to_tex(table: Table) -> str:
    """Return a booktabs tabular if there are rows, with remarks and the protocol as comments."""
    lines = [f"% {' '.join(remark.split())}" for remark in table.remarks]
    if table.rows:
        lines += [
            rf"\begin{{tabular}}{{l{'r' * (len(table.shown) - 1)}}}",
            r"\toprule",
            " & ".join(_escape_tex(heading(column, table.footer)) for column in table.shown) + r" \\",
            r"\midrule",
            *(" & ".join(map(_tex_cell, row)) + r" \\" for row in table.cells),
            r"\bottomrule",
            r"\end{tabular}",
        ]
    lines += (f"% {key}: {' '.join(value.split())}" for key, value in table.footer.items())
    return "\n".join(lines) + "\n"


def _tex_cell(cell: Cell) -> str:
    text = _escape_tex(cell.text)
    text = rf"\textbf{{{text}}}" if cell.best else text
    return rf"{text}\,{{\scriptsize{cell.interval}}}" if cell.interval else text


def to_html(table: Table) -> str:
    """Return a `<table>` with its remarks and its protocol, as a fragment of a page."""
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
    found = read_csv(path)
    if found and not {"method", "rows"} & found[0].keys():
        raise UserError(f"{path} is no table of `difftalk tables`: it has neither a column method nor rows")
    # Published figures keep the digits that they were given with.
    rows = [
        {
            key: (value or None) if key in WORDS or row.get("published") else _number(value)
            for key, value in row.items()
        }
        for row in found
    ]
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
        ("±", r"$\pm$"),
        ("<", "$<$"),
        (">", "$>$"),
        ("|", r"$|$"),
        ("^", r"\^{}"),
        ("~", r"\~{}"),
    ):
        text = text.replace(sign, command)
    return text
