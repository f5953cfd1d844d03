"""The benchmarks run, and compare what they say they compare."""

import copy
import re
import subprocess
import sys
from pathlib import Path

import full_size
import pytest
from conftest import ROOT
from snakemake.utils import update_config
from video_site import Site

from difftalk.config import workflow as configuration


def benchmark(name: str, *arguments: str) -> str:
    """What it prints."""
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / name, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    return done.stdout


def test_both_formulations_of_the_training_step_have_the_same_loss() -> None:
    small = [
        "--channels",
        "32",
        "64",
        "--first-stage",
        "8",
        "16",
        "16",
        "--layers",
        "1",
        "--batch",
        "1",
        "--repeats",
        "1",
    ]
    said = benchmark("training_step.py", *small)
    loss = {
        name: float(x) for name, x in re.findall(r"^(.+): loss of the first batch (.+)$", said, re.MULTILINE)
    }
    official = loss["official formulation"]
    # The same sums in another order; bfloat16 keeps 8 bits.
    assert abs(loss["ours in float32"] - official) < 1e-4
    assert abs(loss["official, latents cached"] - official) < 1e-4
    assert abs(loss["ours"] - official) < 1e-2
    assert "NARROWER than the paper's" in said
    rows = [line for line in said.splitlines() if line.startswith("| o")]
    assert len(rows) == 4 and all(float(row.split("|")[4]) > 0 for row in rows)


def test_the_preparation_is_timed_stage_by_stage_and_against_other_ways() -> None:
    small = ["--demo", "2", "--rounds", "1", "--sample", "2", "--size", "64", "--workers", "1"]
    said = benchmark("prepare.py", *small)
    rows = [line.split(" | ") for line in said.splitlines() if line.startswith("| demo")]
    assert [row[1] for row in rows[:6]] == [
        "fetch",
        "landmarks",
        "gates",
        "crops",
        "speech",
        "**all stages**",
    ]
    # The line is the sum of its stages, each rounded to a tenth of a second.
    assert abs(sum(float(row[2]) for row in rows[:5]) - float(rows[5][2])) < 0.25
    assert len(rows) == 11 and all(float(row[4]) > 0 for row in rows)
    assert "2 of 2 clips kept, 300 frames; the per-frame baseline found a face in 4 of 4" in said


def test_a_damaged_file_between_stages_is_refused_by_name(tmp_path: Path) -> None:
    """With the stage that needs the least of a run."""
    cases = [f"plan/clips.parquet/{damage}/fetch train-000" for damage in ("missing", "cut_tenth", "noise")]
    words = [word for case in cases for word in ("--only", case)]
    said = benchmark("damage.py", "--folder", str(tmp_path / "runs"), *words)
    assert "\n| fetch | 3 |  |  |  |  |  |  |\n3 cases: 3 refused, 0 rejected," in said


@pytest.mark.parametrize("setting", ["hdtf256", "hdtf512"])
def test_the_papers_configuration_is_run_with_its_own_networks(setting: str) -> None:
    config = configuration.read_yaml(ROOT / "config.yaml")
    for file in ["hdtf256", *([setting] if setting != "hdtf256" else [])]:
        update_config(config, configuration.read_yaml(ROOT / "config" / f"{file}.yaml"))
    papers = configuration.load(copy.deepcopy(config), [])
    update_config(config, full_size.overlay(Path("/tmp/full-size"), Site(url="http://x/{id}"), ["difftalk"]))
    ours = configuration.load(config, [])
    assert list(configuration.models(ours)) == ["difftalk"]
    assert len(configuration.models(papers)) == 6
    for name in ("channels", "layers", "head_channels", "precision", "smoothing_frames"):
        assert getattr(ours.training, name) == getattr(papers.training, name)
    for name in ("channels", "layers", "codes", "perceptual_weight", "discriminator_channels"):
        assert getattr(ours.autoencoder_training, name) == getattr(papers.autoencoder_training, name)
    assert ours.crops.size == papers.crops.size and ours.crops.mode == papers.crops.mode
    assert (ours.autoencoder, ours.syncnet) == (papers.autoencoder, papers.syncnet)
    assert ours.speech == papers.speech and ours.encode == papers.encode


def test_the_embedded_first_stage_keeps_faces_mouths_and_saturated_colours() -> None:
    """Few faces: the figures of docs/embedded_weights.md, of more of them, are a little apart."""
    said = benchmark("first_stage.py", "embedded", "--faces", "12")
    figures = re.findall(
        r"^(\w+), (\d+) px, [\w ]+: PSNR (\S+) dB .*mouth (\S+) dB, dE2000 (\S+) .*ST-LPIPS (\S+)$",
        said,
        re.MULTILINE,
    )
    assert [int(size) for _, size, *_ in figures] == [64, 64, 96, 96, 128, 128] * 2
    for name, _, whole, mouth, colour, distance in figures:
        if name == "truth":
            assert (whole, mouth, float(colour), float(distance)) == ("inf", "inf", 0, 0)
        else:
            assert float(whole) > 31 and float(mouth) > 30 and float(colour) < 2
