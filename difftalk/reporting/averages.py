"""The tables of a run: a row per method with intervals, differences of rows, seeds, and groups of clips."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from difftalk.datasets.clips import read_columns
from difftalk.evaluation.columns import LEAK_CONFIDENCE, LEAKAGE, METRICS
from difftalk.evaluation.scores import Scores
from difftalk.reporting.checks import checks_table
from difftalk.reporting.figures import Figures, failed_instruments
from difftalk.reporting.methods import (
    AUDIO_SMOOTHING,
    COMPARISON,
    CONDITIONS,
    base_and_seed,
    first_seeds,
)
from difftalk.reporting.published import published_rows
from difftalk.reporting.tables import Table, csv_columns, figure_text, is_lse

FIRST_COLUMNS = ("method", "clips", "clips_asked")
COLUMNS = (*FIRST_COLUMNS, *METRICS, "published", "best", "partial")
SUBGROUP_COLUMNS = ("by", "group", *FIRST_COLUMNS, *METRICS, "best", "partial")
DIFFERENCE_COLUMNS = ("table", "method", "against", "metric", "difference", "lo", "hi", "clips")
SYNC_COLUMNS = (
    "sync_offset",
    "offset_within_1",
    "sync_confidence",
    "sync_distance",
    "id_distance",
    LEAKAGE.name,
    LEAK_CONFIDENCE.name,
)
CROSS_DRIVEN_COLUMNS = ("method", "voice", "clips", "clips_asked", *SYNC_COLUMNS)
# Of the protocol of clips that another voice drives.
CROSS_DRIVEN_LINES = ("voices", LEAKAGE.name)

# What a reader expects to hold: the first is larger than the second in this metric.
ORDERS = (
    ("ground_truth", "difftalk", "sync_confidence"),
    ("difftalk", "no_audio", "sync_confidence"),
    ("difftalk", "no_audio", "mouth_corr"),
    ("difftalk", "reference_copy", "psnr_mouth"),
)
SEED_METRICS = ("psnr_mouth", "ssim_mouth", "sync_confidence", "sync_distance", "mouth_corr")
SEED_COLUMNS = ("rows", "metric", "seeds", "values", "mean", "spread", "holds")


@dataclass(frozen=True)
class Group:
    """The clips that have one value in a column of the plan.

    Args:
        by: name of the column.
        name: the value.
        clips: their ids.
    """

    by: str
    name: str
    clips: frozenset[str]


def all_tables(
    scores: Scores, footer: dict[str, str], groups: Sequence[Group] = (), published: Sequence[str] = ()
) -> list[Table]:
    """Return the tables of a run.

    Args:
        scores: of all methods.
        footer: of `footer_of`.
        groups: of `groups_of`.
        published: names of sources whose figures stand below those of the run.

    Raises:
        UserError: if there is no such source.
    """
    hidden = tuple(failed_instruments(scores))
    figures = Figures(scores, hidden=hidden)
    main = first_seeds(scores.clips)
    of_paper = {*AUDIO_SMOOTHING, *CONDITIONS, *COMPARISON}
    compared = [
        method_table(name, methods, figures, footer)
        for name, methods in (
            ("audio_smoothing", AUDIO_SMOOTHING),
            ("conditions", CONDITIONS),
            ("comparison", [*COMPARISON, *(m for m in main if m not in of_paper)]),
        )
    ]
    differences = differences_table(compared, figures, footer)
    for table in compared:
        table.rows += published_rows(table.name, published, lse=is_lse(footer))
    return [
        *compared,
        differences,
        checks_table(figures, footer),
        seeds_table(figures, footer),
        subgroups_table(groups, main, scores, footer, hidden),
    ]


def groups_of(plan: Path, columns: Sequence[str]) -> list[Group]:
    """Return the groups of clips by each of some columns, in order of the columns and of the values.

    A clip without a value is in no group; one with several tags is in as many.

    Args:
        plan: the clip table.
        columns: any of identity, subset, tags; one that the table lacks has no groups.
    """
    rows = read_columns(plan, "clip_id")
    there = [column for column in columns if rows and column in rows[0]]
    found: dict[tuple[str, str], set[str]] = {}
    for column in there:
        for row in rows:
            value = row[column] or ""
            for name in value.split(";") if column == "tags" else [value]:
                if name:
                    found.setdefault((column, name), set()).add(row["clip_id"])
    ordered = sorted(found, key=lambda key: (there.index(key[0]), key[1]))
    return [Group(by, name, frozenset(found[by, name])) for by, name in ordered]


def method_table(name: str, methods: Sequence[str], figures: Figures, footer: dict[str, str]) -> Table:
    """Return a table with a row for each of `methods` that the run has, in that order."""
    there = [method for method in methods if method in figures.methods]
    return Table(name, csv_columns(COLUMNS), _method_rows(there, figures), footer)


def _method_rows(methods: Sequence[str], figures: Figures) -> list[dict[str, Any]]:
    best = {column: figures.best(methods, column) for column in figures.columns}
    rows = []
    for method in methods:
        won = [column for column, winner in best.items() if winner == method]
        scored = figures.scored[method]
        counts = {column: figures.known(method, column) for column in figures.columns}
        part = [f"{column}={clips}" for column, clips in counts.items() if 0 < clips < scored]
        marks = {"best": ";".join(won) or None, "partial": ";".join(part) or None}
        rows.append({"published": None, **figures.row(method), **marks})
    return rows


def differences_table(tables: Sequence[Table], figures: Figures, footer: dict[str, str]) -> Table:
    """Return the difference of each row of the tables to the row above, a row for each metric.

    Paired: over the clips that both have. A metric that has none is left out.
    """
    rows = []
    for table in tables:
        methods = [row["method"] for row in table.rows]
        for against, method in zip(methods, methods[1:], strict=False):
            for metric in figures.columns:
                found = figures.difference(method, against, metric)
                if found is None:
                    continue
                cells = (table.name, method, against, metric, found.value, *(found.interval or (None, None)))
                rows.append(dict(zip(DIFFERENCE_COLUMNS, (*cells, found.clips), strict=True)))
    return Table("differences", csv_columns(DIFFERENCE_COLUMNS), rows, footer)


def subgroups_table(
    groups: Sequence[Group],
    methods: Sequence[str],
    scores: Scores,
    footer: dict[str, str],
    hidden: Sequence[str] = (),
) -> Table:
    """Return a row for each group and each of `methods`, over the clips of the group that were asked for.

    A group without any is left out: it has no test clips. Columns in `hidden` are empty.
    """
    rows = []
    for group in groups:
        if group.clips & set(scores.asked):
            of_group = _method_rows(methods, Figures(scores, group.clips, hidden))
            rows += [{"by": group.by, "group": group.name, **row} for row in of_group]
    return Table("subgroups", csv_columns(SUBGROUP_COLUMNS), rows, footer)


def cross_driven_table(scores_by_voice: Mapping[str, Scores], footer: dict[str, str]) -> Table:
    """Return a row for each method and voice that it was driven by: the columns that need no true frames.

    Methods that no other voice than their own has driven are left out.

    Args:
        scores_by_voice: of each voice: own, other and silence.
        footer: of `footer_of`.
    """
    of_voice = {voice: Figures(scores, columns=SYNC_COLUMNS) for voice, scores in scores_by_voice.items()}
    driven = {m for voice, figures in of_voice.items() if voice != "own" for m in figures.methods}
    methods = first_seeds(driven)
    rows = [
        {**figures.row(method), "voice": voice}
        for method in methods
        for voice, figures in of_voice.items()
        if method in figures.methods
    ]
    lines = {k: v for s in scores_by_voice.values() for k, v in s.protocol.items() if k in CROSS_DRIVEN_LINES}
    return Table("cross_driven", csv_columns(CROSS_DRIVEN_COLUMNS), rows, footer | lines)


def seeds_table(figures: Figures, footer: dict[str, str]) -> Table:
    """Return what changes with the seed alone, and whether the order of the rows exceeds that.

    One row per metric and trained method with several seeds: the value of each seed, their mean and their
    spread (largest minus smallest). Then a row per expected order: the difference of the means, the larger of
    the two spreads, and `yes` where the difference is larger. Empty where no method has several seeds.
    """
    values: dict[tuple[str, str], list[float]] = {}
    seeds: dict[str, int] = {}
    for method in sorted(figures.methods, key=base_and_seed):
        base, _ = base_and_seed(method)
        seeds[base] = seeds.get(base, 0) + 1
        for metric in METRICS:
            known = values.setdefault((base, metric), [])
            known += [mean] if (mean := figures.means[method].get(metric)) is not None else []

    several = [method for method in seeds if seeds[method] > 1]
    rows = [
        _seed_row(method, metric, seeds[method], known, _mean(known), _spread(known), None)
        for method in several
        for metric in SEED_METRICS
        if (known := values[method, metric])
    ]
    for larger, smaller, metric in ORDERS:
        pair = [values.get((method, metric), []) for method in (larger, smaller)]
        if not all(pair) or not {larger, smaller} & set(several):
            continue
        difference = (_mean(pair[0]) or 0.0) - (_mean(pair[1]) or 0.0)
        spread = max(map(_spread, pair))
        holds = "yes" if difference > spread else "no"
        rows.append(
            _seed_row(f"{larger} > {smaller}", metric, max(map(len, pair)), [], difference, spread, holds)
        )
    return Table("seeds", csv_columns(SEED_COLUMNS), rows, footer)


def _seed_row(
    rows: str,
    metric: str,
    seeds: int,
    values: list[float],
    mean: float | None,
    spread: float,
    holds: str | None,
) -> dict[str, Any]:
    shown = " ".join(figure_text(metric, v) for v in values) or None
    return dict(zip(SEED_COLUMNS, (rows, metric, seeds, shown, mean, spread, holds), strict=True))


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _spread(values: Sequence[float]) -> float:
    return max(values) - min(values)
