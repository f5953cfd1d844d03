"""`snakemake --cache`: which outputs are shared between folders, also in the process of a job."""

from pathlib import Path

import pytest
from conftest import TINY, Finished, snakemake

from difftalk.runtime.checksums import record_of, verify
from difftalk.runtime.files import write_csv

LANDMARKS = "results/tiny/landmarks/train-000.parquet"
CROPS = "results/tiny/crops/train-000.tar"
OF_CACHE = "global between-workflow cache"


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of Snakemake's cache."""
    folder = tmp_path / "shared"
    folder.mkdir()
    monkeypatch.setenv("SNAKEMAKE_OUTPUT_CACHE", str(folder))
    return folder


def run(folder: Path, *arguments: str) -> Finished:
    folder.mkdir(exist_ok=True)
    done = snakemake(*arguments, "--cache", "--configfile", TINY, directory=folder)
    assert done.status == 0, done.said
    return done


def test_another_folder_takes_over_what_steps_of_the_same_kind_have_made(
    tmp_path: Path, shared: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    run(first, CROPS, "--config", "cache={keeps: []}")
    done = run(second, CROPS, "--config", "cache={keeps: []}")
    assert f"Symlinking output file {LANDMARKS} from cache" in done.said
    for name in (LANDMARKS, CROPS):
        assert (second / name).resolve().parent == shared.resolve()
        assert (second / name).read_bytes() == (first / name).read_bytes()
    assert not (second / "results/tiny/sources/train-000").is_symlink(), "what is fetched is not cached"
    # As a cluster runs it.
    (second / LANDMARKS).unlink()
    job = ("--mode", "remote", "--nolock", "--allowed-rules", "landmarks")
    done = run(second, *job, "--target-jobs", "landmarks:shard=train-000")
    assert f"Symlinking output file {LANDMARKS} from cache" in done.said


def test_nothing_that_was_made_of_downloads_is_cached(tmp_path: Path, shared: Path) -> None:
    landmarks = "results/{}/landmarks/train-000.parquet"
    hdtf = ("--configfile", TINY.with_name("hdtf.yaml"))
    said = snakemake(landmarks.format("hdtf"), "-n", "--cache", *hdtf, directory=tmp_path).said
    assert "Find faces and landmarks" in said and OF_CACHE not in said
    demo = snakemake(landmarks.format("demo"), "-n", "--cache", "landmarks", directory=tmp_path)
    assert OF_CACHE in demo.said


def test_a_link_into_a_cache_has_no_record_of_its_own(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    write_csv(table, ("a",), [[1]])
    assert record_of(table).is_file()
    table.unlink()
    (tmp_path / "kept").write_text("a\n2\n")
    table.symlink_to(tmp_path / "kept")
    assert verify(table) == table
