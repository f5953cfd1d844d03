"""The figures of the demo that stand in README.md and docs/: what needs no training is measured again."""

import csv
import runpy
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import ROOT, snakemake

README = runpy.run_path(str(ROOT / "tools" / "readme.py"))
METHODS = ("ground_truth", "recompressed", "reconstruction", "reference_copy")
# Between processors: encoders and detectors round differently. Decibels, and parts of the other figures.
MOST_APART_DB, MOST_APART = 0.1, 0.03


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, float]]:
    """The figures of one clip of the demo, by method: a test shard of its own, and no training."""
    folder = tmp_path_factory.mktemp("demo")
    (folder / "shards.yaml").write_text("shards: {train: 1, test: 24}\n")
    given = ("--configfile", folder / "shards.yaml", "--")
    planned = snakemake(*given, "results/demo/plan/clips.parquet", directory=folder)
    assert planned.status == 0, planned.said
    plan = pq.read_table(folder / "results/demo/plan/clips.parquet").to_pylist()
    clip = min((row for row in plan if row["split"] == "test"), key=lambda row: row["clip_id"])
    targets = [f"results/demo/metrics/{method}/{clip['shard']}.parquet" for method in METHODS]
    done = snakemake(*given, *targets, directory=folder)
    assert done.status == 0, done.said
    found = README["of_clips"](folder / "results/demo")
    return {method: found[method, clip["clip_id"]] | {"clip": clip["clip_id"]} for method in METHODS}


@pytest.mark.parametrize("method", METHODS)
def test_the_code_still_has_the_figures_that_are_written_down(
    method: str, measured: dict[str, dict[str, float]]
) -> None:
    found = dict(measured[method])
    recorded = README["read_recorded"]()[method, found.pop("clip")]
    assert found.keys() == recorded.keys()
    for column, value in recorded.items():
        allowed = MOST_APART_DB if column == "psnr_mouth" else MOST_APART * max(abs(value), 1)
        assert abs(found[column] - value) <= allowed, f"{column}: `make demo`, then `make readme`"


def test_the_table_of_the_readme_is_of_the_recorded_figures() -> None:
    recorded = README["read_recorded"]()
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text.partition("<!-- demo:main -->\n")[2].partition("\n<!-- /demo:main -->")[0]
    head, _, *rows = [
        [cell.strip(" *") for cell in line.strip("|").split("|")] for line in table.splitlines()
    ]
    assert len(head) == 1 + len(README["RECORDED"]) and rows
    for method, *cells in rows:
        for column, cell in zip(README["RECORDED"], cells, strict=True):
            of_clips = [
                row[column] for (name, _), row in recorded.items() if name == method and column in row
            ]
            if not cell:
                assert not of_clips
                continue
            figure = cell.split()[0].strip("*")
            values = [abs(value) if column == "sync_offset" else value for value in of_clips]
            digits = len(figure.partition(".")[2])
            assert abs(float(figure) - sum(values) / len(values)) <= 10**-digits, (method, column)


def test_a_run_of_other_figures_is_told_from_the_recorded_one(tmp_path: Path) -> None:
    write, read = README["write_recorded"], README["read_recorded"]
    figures = {("difftalk", f"clip{k}"): {"psnr_mouth": 22 + k / 10, "mouth_corr": 0.8} for k in range(5)}
    write(figures, tmp_path / "figures.csv")
    assert read(tmp_path / "figures.csv") == figures
    with (tmp_path / "figures.csv").open() as file:
        assert next(csv.reader(file)) == ["method", "clip_id", *README["RECORDED"]]
