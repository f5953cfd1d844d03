"""What the tables say in words: whether a model has learnt, and tables that compare nothing."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from difftalk.evaluation.scores import Scores
from difftalk.reporting.averages import all_tables
from difftalk.reporting.checks import CANNOT_TELL, MISSED, NOT_COMPARED, REACHED, UNDECIDED, checks_table
from difftalk.reporting.figures import Figures
from difftalk.reporting.remarks import remarks
from difftalk.reporting.tables import WRITERS

Columns = Mapping[str, Sequence[float]]

CLIPS = 6
TRUTH = {"sync_confidence": [8.0, 9.0], "sync_offset": [0.0, 1.0], "mouth_corr": [0.95, 0.97]}
COPY = {"sync_confidence": [0.1, 0.2], "psnr_mouth": [18.0, 19.0]}
DEAF = {"sync_confidence": [0.4, 0.5], "sync_offset": [9.0, -9.0]}
GOOD = {"sync_confidence": [3.0, 3.2], "psnr_mouth": [21.0, 22.0], "mouth_corr": [0.8, 0.9]}


def run(clips: int = CLIPS, **methods: Columns) -> Scores:
    """Scores of `clips` clips, that take turns with the values given."""
    rows: dict[str, Any] = {
        method: {
            f"c{i}": {"problem": None, **{k: v[i % len(v)] for k, v in columns.items()}} for i in range(clips)
        }
        for method, columns in methods.items()
    }
    return Scores(rows, {})


def verdicts(scores: Scores, hidden: Sequence[str] = ()) -> list[str]:
    return [row["verdict"] for row in checks_table(Figures(scores, hidden=hidden), {}).rows]


def test_a_model_that_has_learnt_reaches_all() -> None:
    scores = run(ground_truth=TRUTH, reference_copy=COPY, no_audio=DEAF, difftalk=GOOD)
    assert verdicts(scores) == [REACHED, REACHED, REACHED]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"sync_confidence": [0.3, 0.6]}, UNDECIDED),  # 0.45 against 0.45, either way by clip
        ({"sync_confidence": [0.2, 0.3]}, MISSED),
    ],
)
def test_sync_is_judged_by_the_interval_of_the_paired_difference(
    columns: dict[str, list[float]], expected: str
) -> None:
    scores = run(ground_truth=TRUTH, reference_copy=COPY, no_audio=DEAF, difftalk=GOOD | columns)
    assert verdicts(scores)[0] == expected


@pytest.mark.parametrize(
    "truth",
    [
        {"sync_confidence": [0.01, 0.9]},  # not above what a method that hears nothing gets
        {"sync_offset": [6.0, 2.0, -3.0, -2.0, -3.0]},  # the truth itself is not in sync for it
    ],
)
def test_an_expert_that_cannot_tell_the_truth_judges_nothing(truth: dict[str, list[float]]) -> None:
    scores = run(ground_truth=TRUTH | truth, reference_copy=COPY, no_audio=DEAF, difftalk=GOOD)
    assert verdicts(scores)[0] == CANNOT_TELL


def test_small_differences_between_small_confidences_are_not_reached() -> None:
    weak = {"sync_confidence": [0.02, 0.02], "sync_offset": [6.0, -3.0]}
    scores = run(
        ground_truth=weak, no_audio={"sync_confidence": [0.01]}, difftalk={"sync_confidence": [0.02]}
    )
    assert verdicts(scores)[0] == CANNOT_TELL


def test_without_no_audio_the_copied_reference_stands_for_chance() -> None:
    scores = run(ground_truth=TRUTH, reference_copy=COPY, difftalk=GOOD)
    table = checks_table(Figures(scores), {})
    assert table.rows[0]["verdict"] == REACHED and "above reference_copy" in table.rows[0]["check"]


def test_what_is_missing_is_not_compared_and_named() -> None:
    rows = checks_table(Figures(run(difftalk={"psnr": [30.0]})), {}).rows
    assert [row["verdict"] for row in rows] == [NOT_COMPARED] * 3
    assert "no_audio or reference_copy" in rows[0]["found"]
    assert "no reference_copy in the run" in rows[1]["found"]
    hidden = checks_table(Figures(run(difftalk=GOOD), hidden=["mouth_corr"]), {}).rows
    assert "scores the truth itself below 0.9" in hidden[2]["found"]


@pytest.mark.parametrize(("clips", "sync"), [(1, CANNOT_TELL), (5, UNDECIDED)])
def test_few_clips_decide_nothing(clips: int, sync: str) -> None:
    scores = run(clips, ground_truth=TRUTH, reference_copy=COPY, no_audio=DEAF, difftalk=GOOD)
    assert verdicts(scores) == [sync, UNDECIDED, UNDECIDED]
    assert "that are needed" in checks_table(Figures(scores), {}).rows[1]["found"]


def test_a_model_of_another_name_is_checked_and_references_are_not() -> None:
    scores = run(ground_truth=TRUTH, reference_copy=COPY, no_audio=DEAF, am=GOOD)
    table = checks_table(Figures(scores), {})
    assert {row["method"] for row in table.rows} == {"am"} and not table.remarks
    none = checks_table(Figures(run(ground_truth=TRUTH, reference_copy=COPY)), {})
    assert none.rows == [] and none.remarks == ["No method was scored: there is nothing to check."]


def row(method: str, clips: int = 6) -> dict[str, Any]:
    return {"method": method, "clips": clips}


@pytest.mark.parametrize(
    ("name", "rows", "said"),
    [
        ("comparison", [], "No method was scored."),
        ("comparison", [row("ground_truth")], "No method of this table was scored, references alone."),
        ("comparison", [row("ground_truth"), row("mine")], "mine is the only method that was scored"),
        ("conditions", [], "No method of this table was scored: it compares a, al, alr, am, difftalk."),
        ("conditions", [row("difftalk")], "of the methods of this table the run has difftalk, and not a, al"),
        ("audio_smoothing", [row("ground_truth"), row("difftalk")], "and not no_smoothing."),
        ("comparison", [row("a", 1), row("b", 1)], "One clip was scored: a figure has no interval"),
        ("comparison", [row("a", 0), row("b", 0)], "No clip was scored"),
        ("comparison", [row("a", 5), row("b", 1)], "Of b one clip was scored: its figures have no interval."),
        ("comparison", [row("a", 5), row("b", 0)], "Of b no clip was scored: it has no figures."),
        ("seeds", [], "No method was trained with several seeds"),
        ("subgroups", [], "No subgroups"),
        ("differences", [], "there is no difference to show"),
    ],
)
def test_a_table_that_compares_nothing_says_so(name: str, rows: list[dict[str, Any]], said: str) -> None:
    assert any(said in remark for remark in remarks(name, rows))


@pytest.mark.parametrize("name", ["comparison", "conditions", "audio_smoothing"])
def test_a_table_that_compares_says_nothing_more(name: str) -> None:
    rows = [row("ground_truth"), row("no_smoothing"), row("difftalk"), row("am")]
    assert remarks(name, rows) == []


def test_words_are_in_each_form_for_people_and_a_csv_without_rows_is_its_header() -> None:
    for table in all_tables(run(), {}):
        assert table.remarks
        for form in ("md", "tex", "html"):
            assert table.remarks[0] in WRITERS[form](table), (table.name, form)
        assert WRITERS["csv"](table).count("\n") == 1
