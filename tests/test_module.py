"""The workflow as a module of another one: twice at once, with other settings, each below a prefix."""

import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import ROOT, Finished
from conftest import snakemake as run_workflow

SNAKEFILE = f"""
configfile: "studies.yaml"

module narrow:
    snakefile: "{ROOT}/workflow/Snakefile"
    config: config["narrow"]
    prefix: "one"

use rule * from narrow as narrow_*

module wide:
    snakefile: "{ROOT}/workflow/Snakefile"
    config: config["wide"]
    prefix: "two"

use rule * from wide as wide_*

rule both:
    default_target: True
    input:
        rules.narrow_all.input,
        rules.wide_all.input,
"""
# What the two modules share.
STUDY = """
  run: study
  dataset:
    {name: demo, identities: {train: TRAIN, test: 1}, clips_per_identity: 1, clip_seconds: 5.2, size: 192}
  landmarks: {backend: dlib}
  speech: {backend: mfcc}
  autoencoder: embedded
  syncnet: embedded
  training: {channels: [32, 64], steps: 3}
  experiments: {difftalk: {conditions: [audio, landmarks, masked, reference], smoothing: true}}
"""
# `run` is no key of the caller's for us, and its value none of a module's.
STUDIES = f"""
run: of the caller
narrow:{STUDY.replace("TRAIN", "2")}
  shards: {{train: 1, test: 1}}
  crops: {{size: 64}}
  max_reject_fraction: 0.25
wide:{STUDY.replace("TRAIN", "3")}
  shards: {{train: 2, test: 1}}
  crops: {{size: 96}}
  max_reject_fraction: 0.75
  store: kept
  gpu: 1
"""


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    (tmp_path / "studies.yaml").write_text(STUDIES)
    return tmp_path


def run(folder: Path, *arguments: str) -> Finished:
    return run_workflow("--snakefile", folder / "Snakefile", *arguments, directory=folder)


def commands(said: str, stage: str) -> dict[str, list[str]]:
    """The commands of a stage by the prefix of what they write."""
    found: dict[str, list[str]] = {"one": [], "two": []}
    for line in re.findall(rf"PYTHONPATH=.* -m difftalk {stage} [^\n]*(?:\n +--[^\n]*)*", said):
        found[re.search(r"--log (one|two)/results/study/", line)[1]].append(line)  # type: ignore[index]
    return found


def test_two_modules_have_settings_and_folders_of_their_own(studies: Path) -> None:
    done = run(studies, "-n", "-p", "--config", "run=of_the_command_line")
    assert done.status == 0, done.said
    assert (done.jobs["narrow_crops"], done.jobs["wide_crops"]) == (2, 3)
    for stage, flag, values in (
        ("gates", "--max-reject-fraction", ("0.25", "0.75")),
        ("fetch", "--store", ("one/results/store", "two/kept")),
        ("landmarks", "--cache", ("one/results/store/cache", "two/kept/cache")),
        ("train", "--state", ("one/results/study/state/", "two/results/study/state/")),
        ("train", "--curves", ("one/results/study/logs/train/", "two/results/study/logs/train/")),
        ("sample", "--state", ("one/results/study/state/samples/", "two/results/study/state/samples/")),
    ):
        for (prefix, lines), value in zip(commands(done.said, stage).items(), values, strict=True):
            assert lines and all(f"{flag} {value}" in line for line in lines), (prefix, stage)
    of_train = commands(done.said, "train")
    assert all("DIFFTALK_GPU='' " in line for line in of_train["one"])
    assert all("train" in line.partition("DIFFTALK_GPU=")[2].partition("'/")[0] for line in of_train["two"])


def test_jobs_of_two_modules_run_in_one_graph(studies: Path) -> None:
    rejects = "results/study/rejects/fetch/test-000.csv"
    done = run(studies, "--", f"one/{rejects}", f"two/{rejects}")
    assert done.status == 0, done.said
    plans = [
        pq.read_table(studies / prefix / "results/study/plan/clips.parquet").num_rows
        for prefix in ("one", "two")
    ]
    assert plans == [3, 4]
    assert list((studies / "one/results/store/sources").iterdir())
    assert list((studies / "two/kept/sources").iterdir())
    assert {path.name for path in studies.iterdir()} == {
        ".snakemake", "Snakefile", "one", "studies.yaml", "two",
    }  # fmt: skip
    assert run(studies, "--", f"one/{rejects}", f"two/{rejects}").idle


def test_a_module_without_a_configuration_runs_the_demo_and_not_the_callers(studies: Path) -> None:
    (studies / "config.yaml").write_text("nothing: of ours\n")
    text = SNAKEFILE.replace('    config: config["narrow"]\n', "").replace('    config: config["wide"]\n', "")
    (studies / "Snakefile").write_text(text)
    done = run(studies, "-n", "--", "one/results/demo/plan/clips.parquet")
    assert done.status == 0, done.said


def test_a_wrong_key_of_a_module_is_named_with_the_module(studies: Path) -> None:
    (studies / "studies.yaml").write_text(STUDIES.replace("  shards: {train: 2", "  shard: {train: 2"))
    done = run(studies, "-n")
    assert done.status != 0
    assert "module wide: shard" in done.said and "did you mean shards" in done.said
