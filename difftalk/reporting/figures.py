"""The figures of a run by method and clip: means, intervals, paired differences, and which is best."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from difftalk.evaluation.columns import METRICS, Better
from difftalk.evaluation.scores import Scores, SetFigure
from difftalk.reporting.intervals import FEW, interval, resampled_means
from difftalk.reporting.methods import compared

# An instrument that scores the truth itself below its floor cannot measure a method.
FLOORS = {"mouth_corr": 0.9}
TRUTH = "ground_truth"
WITHIN_FRAMES = 1


@dataclass(frozen=True)
class Difference:
    """A method minus another in one column, over the clips that both have.

    Args:
        value: the mean of the differences.
        interval: None where fewer than two clips have both.
        clips: that have both.
    """

    value: float
    interval: tuple[float, float] | None
    clips: int


def clip_figure(row: Mapping[str, Any], column: str) -> float | None:
    """Return a figure of a clip as it is averaged: an offset without its sign, or whether it is near 0.

    Args:
        row: of the clip in the metrics file; what is not finite counts as missing.
        column: of METRICS.
    """
    if column == "offset_within_1":
        offset = row.get("sync_offset")
        return None if offset is None or not np.isfinite(offset) else float(abs(offset) <= WITHIN_FRAMES)
    value = row.get(column)
    if value is None or not np.isfinite(value):
        return None
    return abs(value) if column in ("sync_offset", "sync2_offset") else float(value)


def failed_instruments(scores: Scores) -> dict[str, float]:
    """Return the columns whose instrument scores the truth below its floor, and the truth's mean in each."""
    truth = Figures(scores).means.get(TRUTH, {})
    return {name: mean for name, floor in FLOORS.items() if (mean := truth.get(name, floor)) < floor}


class Figures:
    """The figures of all methods on some clips.

    Args:
        scores: of all methods.
        clips: their ids; None for all that any method was asked for. Columns of figures that were measured on
            all clips together are empty for a part of them.
        hidden: columns left empty.
        columns: of METRICS, and what a table has beside them.
    """

    def __init__(
        self,
        scores: Scores,
        clips: Collection[str] | None = None,
        hidden: Collection[str] = (),
        columns: Sequence[str] = tuple(METRICS),
    ) -> None:
        self.methods = list(scores.clips)
        self.hidden = frozenset(hidden)
        self.protocol = scores.protocol
        self.columns = columns
        self.clips = [clip for clip in scores.asked if clips is None or clip in clips]
        self.scored = {
            method: sum(of[clip]["problem"] is None for clip in self.clips if clip in of)
            for method, of in scores.clips.items()
        }
        self._of_set = scores.of_set if clips is None else {}
        per_clip = [c for c in columns if c not in hidden and not (c in METRICS and METRICS[c].of_set)]
        none: dict[str, Any] = {}
        self._values = {
            column: np.array(
                [
                    [
                        np.nan if (figure := clip_figure(of.get(clip, none), column)) is None else figure
                        for clip in self.clips
                    ]
                    for of in scores.clips.values()
                ]
            ).reshape(len(self.methods), len(self.clips))
            for column in per_clip
        }

    @cached_property
    def means(self) -> dict[str, dict[str, float]]:
        """The mean over clips of each method and column that has one."""
        return {
            method: {
                column: float(np.nanmean(values[number]))
                for column, values in self._values.items()
                if not np.isnan(values[number]).all()
            }
            for number, method in enumerate(self.methods)
        }

    def of_clips(self, method: str, column: str) -> np.ndarray:
        """Return the figures of one method, (clips,) float64, NaN where there is none."""
        values = self._values.get(column)
        if values is None or method not in self.methods:
            return np.full(len(self.clips), np.nan)
        found: np.ndarray = values[self.methods.index(method)]
        return found

    def known(self, method: str, column: str) -> int:
        """Return how many clips have a figure of a method in a column."""
        return int((~np.isnan(self.of_clips(method, column))).sum())

    def interval(self, method: str, column: str) -> tuple[float, float] | None:
        """Return the interval of a mean; None where fewer than two clips have a figure."""
        known = self.known(method, column)
        return interval(resampled_means(self.of_clips(method, column)), known) if known > 1 else None

    def row(self, method: str) -> dict[str, Any]:
        """Return the cells of a method: clips, clips_asked, each column X, and its interval X_lo, X_hi."""
        of_clips = self.means.get(method, {})
        of_set = self._of_set.get(method, {})
        row: dict[str, Any] = {
            "method": method,
            "clips": self.scored.get(method, 0),
            "clips_asked": len(self.clips),
        }
        for column in self.columns:
            found = of_set.get(column, SetFigure())
            bounds = found.interval or self.interval(method, column) or (None, None)
            row[column] = of_clips.get(column, found.value)
            row[f"{column}_lo"], row[f"{column}_hi"] = bounds
        return row

    def difference(self, method: str, against: str, column: str) -> Difference | None:
        """Return `method` minus `against` over the clips that both have; None where there is none."""
        values = self.of_clips(method, column) - self.of_clips(against, column)
        known = int((~np.isnan(values)).sum())
        if not known:
            return None
        return Difference(float(np.nanmean(values)), interval(resampled_means(values), known), known)

    def best(self, methods: Sequence[str], column: str) -> str | None:
        """Return the method that is better than every other one, by the intervals of paired differences.

        None where an interval has zero in it or is of fewer than `FEW` clips, where there are no two methods
        to compare, or where the column says nothing about quality or was measured on all clips together.
        References are left out.
        """
        better = METRICS[column].better if column in METRICS else None
        there = [m for m in compared(methods) if column in self.means.get(m, {})]
        truth = self.means.get(TRUTH, {}).get(column)
        if better is None or len(there) < 2 or (better == "truth" and truth is None):
            return None
        means = {method: np.float64(self.means[method][column]) for method in there}
        winner = max(there, key=lambda m: _quality(means[m], np.float64(truth or 0.0), better))
        others = (m for m in there if m != winner)
        if all((found := self._gain(winner, other, column, better)) and found[0] > 0 for other in others):
            return winner
        return None

    def _gain(self, method: str, other: str, column: str, better: Better) -> tuple[float, float] | None:
        """The interval of how much better `method` is than `other`; None where too few clips have both."""
        of_two = [self.of_clips(name, column) for name in (method, other)]
        truth = self.of_clips(TRUTH, column) if better == "truth" else np.zeros(len(self.clips))
        known = ~np.isnan(of_two[0] + of_two[1] + truth)
        if known.sum() < FEW:
            return None
        means = resampled_means(np.where(known, [*of_two, truth], np.nan))
        gains = _quality(means[0], means[2], better) - _quality(means[1], means[2], better)
        return interval(gains, int(known.sum()))


def _quality(value: Any, truth: Any, better: Better) -> Any:
    """A number that is larger where a mean is better."""
    match better:
        case "higher":
            return value
        case "lower":
            return -value
        case "one":
            return -abs(value - 1)
        case "truth":
            return -abs(value - truth)
