"""Averages of clip scores: one row per method, and how much changes with the seed alone."""

import hashlib
import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from difftalk.config.report import TablesSettings
from difftalk.datasets.clips import read_columns
from difftalk.evaluation.scores import Scores
from difftalk.reporting.tables import DIGITS, Table

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

# Rows in the order of the paper's tables; `comparison` has every method but the ablations.
AUDIO_SMOOTHING = ("ground_truth", "no_smoothing", "difftalk")
CONDITIONS = ("a", "al", "alr", "am", "difftalk")
COMPARISON = ("ground_truth", "reconstruction", "reference_copy", "difftalk", "no_audio")

# The name of a further seed of a model.
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


SUBGROUP_COLUMNS = ("by", "group", *COLUMNS)


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


def all_tables(scores: Scores, footer: dict[str, str], groups: Sequence[Group] = ()) -> list[Table]:
    """Return the tables of a run: audio smoothing, conditions, comparison, seeds and subgroups.

    Args:
        scores: of all methods.
        footer: of `footer_of`.
        groups: of `groups_of`.
    """
    main = {method for method in scores.clips if not SEED.fullmatch(method)}
    others = sorted(main - {*AUDIO_SMOOTHING, *CONDITIONS, *COMPARISON})
    return [
        method_table("audio_smoothing", AUDIO_SMOOTHING, scores, footer),
        method_table("conditions", CONDITIONS, scores, footer),
        method_table("comparison", [*COMPARISON, *others], scores, footer),
        seeds_table(scores, footer),
        subgroups_table(groups, _ordered(main), scores, footer),
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


def footer_of(scores: Scores, plan: Path, settings: TablesSettings) -> dict[str, str]:
    """Return the protocol of the run, line by line.

    Args:
        scores: of all methods.
        plan: the clip table.
        settings: name of the run and further lines.
    """
    planned = read_columns(plan, "clip_id", "split", "identity")
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
    """Return the means of one method over its scored clips."""
    scored = [row for row in scores.clips[method].values() if row["problem"] is None]
    row: dict[str, Any] = {"method": method, "clips": len(scored), "clips_asked": len(scores.asked)}
    return row | {name: _mean([clip[name] for clip in scored]) for name in METRICS}


def method_table(name: str, methods: Sequence[str], scores: Scores, footer: dict[str, str]) -> Table:
    """Return a table with a row for each of `methods` that the run has, in that order."""
    return Table(name, COLUMNS, [method_row(m, scores) for m in methods if m in scores.clips], footer)


def subgroups_table(
    groups: Sequence[Group], methods: Sequence[str], scores: Scores, footer: dict[str, str]
) -> Table:
    """Return a row for each group and each of `methods`, over the clips of the group that were asked for.

    A group without any is left out: it has no test clips.
    """
    rows = []
    for group in groups:
        if not group.clips & set(scores.asked):
            continue
        within = {m: {c: row for c, row in of.items() if c in group.clips} for m, of in scores.clips.items()}
        part = Scores(within, scores.protocol)
        rows += [{"by": group.by, "group": group.name, **method_row(method, part)} for method in methods]
    return Table("subgroups", SUBGROUP_COLUMNS, rows, footer)


def _ordered(methods: Collection[str]) -> list[str]:
    """Return methods in the order of the paper's tables, and then by name."""
    known = dict.fromkeys([*COMPARISON, *AUDIO_SMOOTHING, *CONDITIONS])
    return [method for method in known if method in methods] + sorted(set(methods) - set(known))


def seeds_table(scores: Scores, footer: dict[str, str]) -> Table:
    """Return what changes with the seed alone, and whether the order of the rows exceeds that.

    One row per metric and trained method with several seeds: the value of each seed, their mean and their
    spread (largest minus smallest). Then a row per expected order: the difference of the means, the larger of
    the two spreads, and `yes` where the difference is larger. Empty where no method has several seeds.
    """
    values: dict[tuple[str, str], list[float]] = {}
    seeds: dict[str, int] = {}
    for method in sorted(scores.clips, key=_base_and_seed):
        base, _ = _base_and_seed(method)
        seeds[base] = seeds.get(base, 0) + 1
        row = method_row(method, scores)
        for metric in METRICS:
            known = values.setdefault((base, metric), [])
            known += [row[metric]] if row[metric] is not None else []

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


def _base_and_seed(method: str) -> tuple[str, int]:
    """The model that a method is a seed of, and the seed; the first has the model's name alone."""
    found = SEED.fullmatch(method)
    return (found[1], int(found[2])) if found else (method, 1)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def _spread(values: Sequence[float]) -> float:
    return max(values) - min(values)
