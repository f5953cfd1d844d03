"""Means with intervals, paired differences and the best of a column: made scores in, known figures out."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from difftalk.evaluation.columns import METRICS
from difftalk.evaluation.scores import Scores, SetFigure
from difftalk.reporting.averages import (
    all_tables,
    cross_driven_table,
    differences_table,
    method_table,
)
from difftalk.reporting.figures import Figures, failed_instruments
from difftalk.reporting.footer import protocol_hash, set_lines
from difftalk.reporting.intervals import RESAMPLES, interval, resampled_means
from difftalk.reporting.tables import WRITERS, Table


def scores_of(column: str, methods: dict[str, list[float | None]]) -> Scores:
    """Scores of clips c0, c1, ... in one column; None is a clip without a figure."""
    clips: dict[str, Any] = {
        method: {
            f"c{i}": {"clip_id": f"c{i}", "method": method, "problem": None, column: value}
            for i, value in enumerate(values)
        }
        for method, values in methods.items()
    }
    return Scores(clips, {"mouth": "box"})


def figures_of(column: str, **methods: list[float | None]) -> Figures:
    return Figures(scores_of(column, methods))


def test_an_interval_is_that_of_scipys_percentile_bootstrap() -> None:
    values = np.random.default_rng(0).gamma(2.0, 3.0, 40)
    found = interval(resampled_means(values), len(values))
    expected = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", random_state=1)
    # Both ends are quantiles of random resamples: at 2,000 of them they vary by a twentieth of the width.
    width = expected.confidence_interval.high - expected.confidence_interval.low
    assert found == pytest.approx(tuple(expected.confidence_interval), abs=width / 20)


def test_a_single_clip_has_no_interval() -> None:
    row = figures_of("psnr", mine=[30.0]).row("mine")
    assert row["psnr"] == 30.0 and row["psnr_lo"] is None and row["psnr_hi"] is None
    assert resampled_means(np.zeros((3, 0))).shape == (3, RESAMPLES)


def test_differences_are_paired_by_clip() -> None:
    spread = [20.0, 40.0, 25.0, 35.0, 10.0, 50.0]
    figures = figures_of("psnr", mine=[v + 0.5 for v in spread], other=list(spread))
    found = figures.difference("mine", "other", "psnr")
    assert found is not None and found.interval is not None
    # The methods' own intervals overlap by nearly all of their width; that of the difference has none.
    assert found.value == pytest.approx(0.5) and found.interval == pytest.approx((0.5, 0.5))


def test_a_difference_is_over_the_clips_that_both_have() -> None:
    figures = figures_of("psnr", mine=[1.0, 2.0, None, 4.0], other=[0.0, None, 7.0, 2.0])
    found = figures.difference("mine", "other", "psnr")
    assert found is not None and (found.value, found.clips) == (1.5, 2)
    assert figures_of("psnr", mine=[1.0, None], other=[None, 1.0]).difference("mine", "other", "psnr") is None


def test_the_table_of_differences_compares_each_row_with_the_one_above() -> None:
    scores = scores_of("psnr", {"ground_truth": [None], "reference_copy": [1.0], "difftalk": [3.0]})
    figures = Figures(scores)
    table = method_table("comparison", ["ground_truth", "reference_copy", "difftalk"], figures, {})
    rows = differences_table([table], figures, {}).rows
    assert [(r["table"], r["method"], r["against"], r["metric"], r["difference"]) for r in rows] == [
        ("comparison", "difftalk", "reference_copy", "psnr", 2.0)
    ]


def test_offsets_are_averaged_without_their_sign() -> None:
    row = figures_of("sync_offset", ground_truth=[6.0, 2.0, -3.0, -2.0, -3.0, 1.0, -1.0, 0.0]).row(
        "ground_truth"
    )
    assert row["sync_offset"] == pytest.approx(18 / 8)
    assert row["offset_within_1"] == pytest.approx(3 / 8)


UP, DOWN = [10.0, 11.0, 12.0, 13.0, 14.0, 15.0], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]


@pytest.mark.parametrize(
    ("column", "one", "two", "best"),
    [
        ("psnr", UP, DOWN, "one"),
        ("lpips", UP, DOWN, "two"),
        ("sync_offset", [-v for v in UP], DOWN, "two"),
        ("jitter", [0.9] * 6, [1.3] * 6, "one"),  # nearer to 1
        ("silent_lip", [4.0] * 6, [9.0] * 6, "one"),  # nearer to the truth's 5
        ("brow_dynamics", UP, DOWN, None),  # says nothing about quality
        ("psnr", UP, [v + 5 * (-1) ** i for i, v in enumerate(UP)], None),  # its interval has zero in it
    ],
)
def test_the_best_of_a_column(column: str, one: list[float], two: list[float], best: str | None) -> None:
    figures = figures_of(column, ground_truth=[5.0] * 6, one=list(one), two=list(two))
    assert figures.best(["ground_truth", "one", "two"], column) == best


def test_a_figure_of_fewer_clips_than_were_scored_says_of_how_many() -> None:
    table = tables_of(scores_of("psnr", {"one": [1.0, 2.0, None, None], "two": [1.0, None, None, None]}))
    rows = table["comparison"].rows
    assert [row["partial"] for row in rows] == ["psnr=2", "psnr=1"]
    assert "| 1.50 [1.00, 2.00] of 2 |" in WRITERS["md"](table["comparison"])
    assert "| 1.00 of 1 |" in WRITERS["md"](table["comparison"])


def test_few_clips_make_no_method_the_best() -> None:
    for count, best in ((5, None), (6, "one")):
        figures = figures_of("psnr", one=list(UP[:count]), two=list(DOWN[:count]))
        assert figures.best(["one", "two"], "psnr") == best


def test_references_do_not_compete_and_a_single_method_is_not_the_best() -> None:
    figures = figures_of("psnr", reconstruction=[99.0] * 6, one=list(UP), two=list(DOWN))
    assert figures.best(["reconstruction", "one", "two"], "psnr") == "one"
    assert figures.best(["reconstruction", "one"], "psnr") is None


def tables_of(scores: Scores, footer: dict[str, str] | None = None) -> dict[str, Table]:
    return {table.name: table for table in all_tables(scores, footer or {})}


def test_intervals_and_the_best_are_shown_in_each_form() -> None:
    table = tables_of(scores_of("psnr", {"one": list(UP), "two": list(DOWN)}))["comparison"]
    low, high = (table.rows[0][f"psnr_{end}"] for end in ("lo", "hi"))
    ends = f"[{low:.2f}, {high:.2f}]"
    csv, md, tex, html = (WRITERS[form](table) for form in ("csv", "md", "tex", "html"))
    assert f"**12.50** {ends}" in md
    assert rf"\textbf{{12.50}}\,{{\scriptsize{ends}}}" in tex
    assert "<b>12.50</b> <span" in html and ends in html
    assert ",12.5," in csv and f"{low:.6g},{high:.6g}" in csv and ",psnr," in csv


@pytest.mark.parametrize(
    ("expert", "called"), [("syncnet_v2, shifts", "LSE-C ↑"), ("small, shifts", "confidence ↑")]
)
def test_confidences_of_another_expert_than_syncnet_v2_are_not_called_lse(expert: str, called: str) -> None:
    table = tables_of(scores_of("sync_confidence", {"one": [1.0, 2.0]}), {"sync": expert})["comparison"]
    assert f"| {called} |" in WRITERS["md"](table)


def test_columns_without_a_figure_are_in_the_csv_alone() -> None:
    table = tables_of(scores_of("psnr", {"one": list(UP)}))["comparison"]
    assert "lpips" in WRITERS["csv"](table)
    for form in ("md", "tex", "html"):
        assert "PSNR" in WRITERS[form](table) and "LPIPS" not in WRITERS[form](table)


@pytest.mark.parametrize(("truth", "shown"), [(0.27, False), (0.95, True)])
def test_an_instrument_that_cannot_measure_the_truth_is_no_column(truth: float, shown: bool) -> None:
    scores = scores_of("mouth_corr", {"ground_truth": [truth] * 3, "difftalk": [0.2] * 3})
    assert failed_instruments(scores) == ({} if shown else {"mouth_corr": pytest.approx(truth)})
    for table in tables_of(scores).values():
        assert ("mouth corr." in WRITERS["md"](table)) <= shown
        assert all(row.get("mouth_corr") is None or shown for row in table.rows)
    assert any(row["metric"] == "mouth_corr" for row in tables_of(scores)["differences"].rows) == shown


def test_figures_of_all_clips_together_come_with_what_they_are_of() -> None:
    scores = scores_of("psnr", {"one": list(UP), "two": list(DOWN)})
    about = {"frames": "900", "floor": "3.2"}
    scores.of_set = {"one": {"fid": SetFigure(12.5, (11.0, 14.0), about)}, "two": {"fid": SetFigure(20.0)}}
    rows = {row["method"]: row for row in tables_of(scores)["comparison"].rows}
    assert (rows["one"]["fid"], rows["one"]["fid_lo"], rows["two"]["fid"]) == (12.5, 11.0, 20.0)
    assert set_lines(scores) == {"fid_of": "frames: 900, floor: 3.2"}
    part = Figures(scores, clips={"c0"})
    assert part.row("one")["fid"] is None, "it is not of a part of the clips"


def test_the_protocol_hash_is_of_how_figures_were_made_and_in_each_form() -> None:
    made = {"mouth": "box", "versions": "1"}
    assert protocol_hash(made) == protocol_hash(made | {"versions": "2"})
    digits = protocol_hash(made)
    assert len(digits) == 12 and digits != protocol_hash(made | {"mouth": "hull"})
    for table in tables_of(scores_of("psnr", {"one": [1.0]}), {"protocol_sha256": digits}).values():
        for form, write in WRITERS.items():
            assert digits in write(table) or (form == "csv" and not table.rows)


def test_cross_driven_has_a_row_for_each_method_and_voice() -> None:
    own = scores_of("sync_confidence", {"difftalk": [5.0, 6.0]})
    other = scores_of("leakage", {"difftalk": [0.2, 0.4], "no_audio": [0.9, 0.9]})
    table = cross_driven_table({"own": own, "other": other}, {})
    assert [(r["method"], r["voice"], r["sync_confidence"], r["leakage"]) for r in table.rows] == [
        ("difftalk", "own", 5.5, None),
        ("difftalk", "other", None, pytest.approx(0.3)),
        ("no_audio", "other", None, pytest.approx(0.9)),
    ]
    names = (
        "method,voice,clips,clips_asked,sync_offset,offset_within_1,sync_confidence,sync_distance,id_distance"
    )
    assert WRITERS["csv"](table).startswith(f"{names},leakage")
    assert table.rows[1]["leakage_lo"] <= 0.3 <= table.rows[1]["leakage_hi"]


def test_a_figure_that_is_not_a_number_is_missing() -> None:
    row = figures_of("mouth_corr", mine=[float("nan"), float("inf"), 0.5, 0.7]).row("mine")
    assert row["mouth_corr"] == pytest.approx(0.6)
    assert row["mouth_corr_hi"] == pytest.approx(0.7)


def test_every_metric_has_its_ends() -> None:
    assert all(
        {name, f"{name}_lo", f"{name}_hi"} <= figures_of("psnr", a=[1.0]).row("a").keys() for name in METRICS
    )
