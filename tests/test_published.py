"""Published figures: the file, and how they stand below those of a run."""

import csv
import io

import pytest

from difftalk.evaluation.scores import Scores
from difftalk.reporting.averages import all_tables
from difftalk.reporting.published import (
    DIFFTALK,
    MARK,
    MEASURED,
    check_sources,
    published_rows,
    read_published,
)
from difftalk.reporting.tables import WRITERS, Table
from difftalk.runtime.errors import UserError


def tables(*published: str) -> dict[str, Table]:
    rows = {f"c{i}": {"problem": None, "psnr": 30.0 + i} for i in range(6)}
    worse = {clip: row | {"psnr": 20.0} for clip, row in rows.items()}
    scores = Scores({"difftalk": rows, "wav2lip": worse}, {})
    return {table.name: table for table in all_tables(scores, {}, published=published)}


def test_every_figure_of_the_file_is_a_number_and_says_where_it_is_from() -> None:
    for row in read_published():
        assert row["source"] and row["method"] and row["protocol"], row
        assert row["status"] in ("paper", "second-hand"), row
        for column in (*MEASURED, "lmd"):
            assert not row[column] or float(row[column]) >= 0, row


def test_difftalks_tables_are_those_of_the_paper() -> None:
    rows = {(r["table"], r["method"]): r for r in read_published() if r["source"] == DIFFTALK}
    ours = rows["3 (clip A)", "DiffTalk"]
    assert (ours["psnr"], ours["ssim"], ours["lpips"], ours["lse_c"]) == ("34.54", "0.950", "0.024", "6.381")
    assert rows["1 (B)", "with"]["lse_c"] == "5.387" and rows["1 (A)", "GT"]["lse_c"] == "9.610"
    assert not any(table.startswith("2") for table, _ in rows)


def test_table_1_stands_below_audio_smoothing_and_the_rest_below_comparison() -> None:
    assert len(published_rows("audio_smoothing", [DIFFTALK])) == 6
    assert len(published_rows("comparison", [DIFFTALK])) == 12
    assert published_rows("conditions", [DIFFTALK]) == []


def test_they_are_marked_in_all_forms_and_keep_their_digits() -> None:
    table = tables(DIFFTALK)["comparison"]
    for form, write in WRITERS.items():
        lines = [line for line in write(table).splitlines() if "MakeItTalk (published)" in line]
        assert len(lines) == 2, form
        assert all(MARK in line and "0.544" in line or "0.648" in line for line in lines), form
    assert "| 0.190 |" in WRITERS["md"](table)


def test_they_change_no_figure_of_the_run() -> None:
    without, with_them = tables(), tables(DIFFTALK, "OmniSync")
    for name, table in without.items():
        assert with_them[name].rows[: len(table.rows)] == table.rows, name
    assert without["differences"].rows == with_them["differences"].rows
    assert all(not row.get("best") for row in with_them["comparison"].rows[2:])
    read = list(csv.DictReader(io.StringIO(WRITERS["csv"](with_them["comparison"]))))
    assert [row["method"] for row in read if not row["published"]] == ["difftalk", "wav2lip"]


def test_their_confidences_are_in_no_column_of_another_sync_expert() -> None:
    row = published_rows("comparison", [DIFFTALK], lse=False)[5]
    assert "sync_confidence" not in row and "LSE-C 6.381" in row["published"] and row["psnr"] == "34.54"


def test_without_a_choice_there_are_none() -> None:
    assert "published" not in WRITERS["md"](tables()["comparison"])


def test_an_unknown_source_is_named_with_the_nearest() -> None:
    with pytest.raises(UserError, match="published: no source 'DiffTalk'; did you mean DiffTalk CVPR23"):
        check_sources(["DiffTalk"])
