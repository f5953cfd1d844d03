"""The tables: clip scores averaged to one row per method, written as csv, md, tex and html."""

import csv
import hashlib
import html
import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from difftalk.runtime.errors import UserError
from difftalk.runtime.files import atomic_folder

METRICS = (
    "psnr",
    "ssim",
    "lpips",
    "psnr_mouth",
    "ssim_mouth",
    "lpips_mouth",
    "sync_offset",
    "sync_confidence",
    "sync_distance",
    "mouth_corr",
)
COLUMNS = ("method", "clips", "clips_asked", *METRICS)

# Rows in the order of the paper's tables; `comparison` takes every method beside the ablations.
AUDIO_SMOOTHING = ("ground_truth", "no_smoothing", "difftalk")
CONDITIONS = ("a", "al", "alr", "am", "difftalk")
COMPARISON = ("ground_truth", "reconstruction", "reference_copy", "difftalk", "no_audio")

SEED = re.compile(r"(.+)-seed(\d+)")

# What a reader expects to hold: the first is larger than the second in this metric.
ORDERS = (
    ("ground_truth", "difftalk", "sync_confidence"),
    ("difftalk", "no_audio", "sync_confidence"),
    ("difftalk", "no_audio", "mouth_corr"),
    ("difftalk", "reference_copy", "psnr_mouth"),
)
SEED_METRICS = ("psnr_mouth", "ssim_mouth", "sync_confidence", "sync_distance", "mouth_corr")
SEED_COLUMNS = ("rows", "metric", "seeds", "values", "mean", "spread", "holds")

TITLES = {
    "audio_smoothing": "Audio smoothing",
    "conditions": "Conditions",
    "comparison": "Comparison",
    "seeds": "Seeds",
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


@dataclass(frozen=True)
class Settings:
    """What the tables say about themselves beside the figures."""

    run: str = ""
    notes: dict[str, Any] = field(
        default_factory=dict
    )  # further lines of the footer, such as seeds of sampling


@dataclass
class Table:
    """One table before it takes a form: rows of cells, a cell being a string, a number, or None for
    missing."""

    name: str
    columns: Sequence[str]
    rows: list[dict[str, Any]]
    footer: dict[str, str]


@dataclass
class Scores:
    """All scores of a run: of each method, clip by clip; and the protocol they share."""

    clips: dict[str, dict[str, dict[str, Any]]]  # method -> clip_id -> clip row
    protocol: dict[str, str]

    @property
    def asked(self) -> list[str]:
        """Every clip that any method was asked for."""
        return sorted({clip for of_method in self.clips.values() for clip in of_method})


def run(*, metrics: list[Path], plan: Path, settings: Settings, out: Path) -> None:
    """Write `{table}.csv`, `.md`, `.tex`, `.html` and `protocol.json` to the folder `out`.

    Means are over frames within a clip (done by `score`), then over clips. Every method is asked for the same
    clips: those that any method was; one without a score lowers `clips`, never `clips_asked`.

    Raises:
        UserError: if the metrics were made by different protocols.
    """
    scores = read_scores(metrics)
    footer = footer_of(scores, plan, settings)
    main = [m for m in scores.clips if not SEED.fullmatch(m)]
    ablations = {*AUDIO_SMOOTHING, *CONDITIONS} - set(COMPARISON)
    others = sorted(set(main) - set(COMPARISON) - ablations)
    tables = [
        method_table("audio_smoothing", AUDIO_SMOOTHING, scores, footer),
        method_table("conditions", CONDITIONS, scores, footer),
        method_table("comparison", [*COMPARISON, *others], scores, footer),
        seeds_table(scores, footer),
    ]
    with atomic_folder(out) as beside:
        for table in tables:
            for suffix, write in WRITERS.items():
                (beside / f"{table.name}.{suffix}").write_text(write(table), encoding="utf-8", newline="\n")
        text = json.dumps(footer, indent=1, sort_keys=True, ensure_ascii=False)
        (beside / "protocol.json").write_text(text + "\n", encoding="utf-8")


def read_scores(paths: Sequence[Path]) -> Scores:
    """The clip rows of all metrics files.

    Raises:
        UserError: naming the first point in which two files' protocols differ.
    """
    clips: dict[str, dict[str, dict[str, Any]]] = {}
    protocol: dict[str, str] | None = None
    for path in sorted(paths):
        table = pq.read_table(path)
        found = json.loads((table.schema.metadata or {})[b"protocol"])
        protocol = protocol or found
        protocol["crop_pixels"] = protocol.get("crop_pixels") or found.get("crop_pixels", "")
        # An empty shard has no crops to be of a size, and versions are told, not compared.
        for key in sorted((protocol.keys() | found.keys()) - {"versions"}):
            if key == "crop_pixels" and not (protocol.get(key) and found.get(key)):
                continue
            if protocol.get(key) != found.get(key):
                raise UserError(
                    f"{path}: scored by another protocol than {min(paths)}: {key} is "
                    f"{found.get(key)!r}, not {protocol.get(key)!r}; score all methods anew (snakemake -R score)"
                )
        for row in table.to_pylist():
            if row["frame"] is None:
                clips.setdefault(row["method"], {})[row["clip_id"]] = row
    return Scores(clips, protocol or {})


def footer_of(scores: Scores, plan: Path, settings: Settings) -> dict[str, str]:
    """The protocol of the run, line by line."""
    planned = pq.read_table(plan, columns=["clip_id", "split", "identity"]).to_pylist()
    test = [row for row in planned if row["split"] == "test"]
    asked = scores.asked
    listed = hashlib.sha256("".join(f"{clip}\n" for clip in asked).encode()).hexdigest()
    identities = {row["identity"] for row in test if row["clip_id"] in set(asked)}
    footer = {
        "clips": f"{len(asked)} of {len(test)} planned test clips, {len(identities)} identities",
        "clip_list_sha256": listed,
        **scores.protocol,
    }
    if settings.run:
        footer = {"run": settings.run, **footer}
    seeds = {m: found[2] for m in sorted(scores.clips) if (found := SEED.fullmatch(m))}
    if seeds:
        footer["seeds"] = ", ".join(f"{method}: {seed}" for method, seed in seeds.items())
    return footer | {str(k): v if isinstance(v, str) else json.dumps(v) for k, v in settings.notes.items()}


def method_row(method: str, scores: Scores) -> dict[str, Any]:
    """The means of one method over its scored clips."""
    scored = [row for row in scores.clips[method].values() if row["problem"] is None]
    row: dict[str, Any] = {"method": method, "clips": len(scored), "clips_asked": len(scores.asked)}
    return row | {name: _mean([clip[name] for clip in scored]) for name in METRICS}


def method_table(name: str, methods: Sequence[str], scores: Scores, footer: dict[str, str]) -> Table:
    """A row for each of `methods` that the run has, in that order."""
    return Table(name, COLUMNS, [method_row(m, scores) for m in methods if m in scores.clips], footer)


def seeds_table(scores: Scores, footer: dict[str, str]) -> Table:
    """What changes with the seed alone, and whether the order of the rows is larger than that.

    One row per trained method with several seeds and metric: the value of each seed, their mean and their
    spread (largest minus smallest). Then a row per expected order: the difference of the means, the larger of
    the two spreads, and `yes` where the difference is larger. Empty where no method has several seeds.
    """
    values: dict[tuple[str, str], list[float | None]] = {}
    seeds: dict[str, list[int]] = {}
    for method in sorted(scores.clips, key=_seed_order):
        found = SEED.fullmatch(method)
        base, seed = (found[1], int(found[2])) if found else (method, 1)
        seeds.setdefault(base, []).append(seed)
        row = method_row(method, scores)
        for metric in METRICS:
            values.setdefault((base, metric), []).append(row[metric])

    rows: list[dict[str, Any]] = []
    several = [m for m in seeds if len(seeds[m]) > 1]
    for method in several:
        for metric in SEED_METRICS:
            known = [v for v in values[method, metric] if v is not None]
            if known:
                rows.append(
                    _seed_row(method, metric, len(seeds[method]), known, _mean(known), _spread(known), None)
                )
    for larger, smaller, metric in ORDERS:
        pair = [[v for v in values.get((m, metric), []) if v is not None] for m in (larger, smaller)]
        if not all(pair) or not {larger, smaller} & set(several):
            continue
        difference = (_mean(pair[0]) or 0.0) - (_mean(pair[1]) or 0.0)
        spread = max(_spread(pair[0]), _spread(pair[1]))
        count = max(len(pair[0]), len(pair[1]))
        holds = "yes" if difference > spread else "no"
        rows.append(_seed_row(f"{larger} > {smaller}", metric, count, [], difference, spread, holds))
    return Table("seeds", SEED_COLUMNS, rows, footer)


def _seed_row(
    rows: str,
    metric: str,
    seeds: int,
    values: list[float],
    mean: float | None,
    spread: float,
    holds: str | None,
) -> dict[str, Any]:
    shown = " ".join(f"{v:.{DIGITS[metric]}f}" for v in values) or None
    return dict(zip(SEED_COLUMNS, (rows, metric, seeds, shown, mean, spread, holds), strict=True))


def _seed_order(method: str) -> tuple[str, int]:
    found = SEED.fullmatch(method)
    return (found[1], int(found[2])) if found else (method, 1)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def _spread(values: Sequence[float]) -> float:
    return max(values) - min(values)


def cell(column: str, row: dict[str, Any]) -> str:
    """A cell for people: figures with the digits of their metric, nothing where there is none."""
    value = row[column]
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.{DIGITS.get(column, DIGITS.get(row.get('metric', ''), 3))}f}"
    return str(value)


def to_csv(table: Table) -> str:
    """Figures with six significant digits, missing ones as empty cells."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(table.columns)
    for row in table.rows:
        writer.writerow(
            [f"{v:.6g}" if isinstance(v := row[c], float) else "" if v is None else v for c in table.columns]
        )
    return out.getvalue()


def to_md(table: Table) -> str:
    lines = [
        f"| {' | '.join(HEADINGS.get(c, c) for c in table.columns)} |",
        "|---" * len(table.columns) + "|",
    ]
    for row in table.rows:
        lines.append(f"| {' | '.join(_md(cell(c, row)) for c in table.columns)} |")
    lines += ["", *(f"- {_md(key)}: {_md(value)}" for key, value in table.footer.items())]
    return "\n".join(lines) + "\n"


def to_tex(table: Table) -> str:
    """A booktabs tabular, with the protocol as comments below."""
    lines = [
        rf"\begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}",
        r"\toprule",
        " & ".join(_tex(HEADINGS.get(c, c)) for c in table.columns) + r" \\",
        r"\midrule",
        *(" & ".join(_tex(cell(c, row)) for c in table.columns) + r" \\" for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}",
        *(f"% {key}: {' '.join(value.split())}" for key, value in table.footer.items()),
    ]
    return "\n".join(lines) + "\n"


def to_html(table: Table) -> str:
    """A `<table>` and its protocol, as a fragment of a page."""
    return html_table(table) + html_protocol(table.footer)


def html_table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(HEADINGS.get(c, c.replace('_', ' ')))}</th>" for c in table.columns)
    body = "\n".join(
        "<tr>" + "".join(f"<td>{html.escape(cell(c, row))}</td>" for c in table.columns) + "</tr>"
        for row in table.rows
    )
    caption = html.escape(TITLES.get(table.name, table.name))
    return (
        f"<table>\n<caption>{caption}</caption>\n<thead><tr>{head}</tr></thead>\n"
        f"<tbody>\n{body}\n</tbody>\n</table>\n"
    )


def html_protocol(footer: dict[str, str]) -> str:
    lines = "\n".join(
        f"<dt>{html.escape(k.replace('_', ' '))}</dt><dd>{html.escape(v)}</dd>" for k, v in footer.items()
    )
    return f'<dl class="protocol">\n{lines}\n</dl>\n'


WRITERS: dict[str, Callable[[Table], str]] = {"csv": to_csv, "md": to_md, "tex": to_tex, "html": to_html}


def _md(text: str) -> str:
    return " ".join(text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").split())


def _tex(text: str) -> str:
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
