"""The benchmarks run, and compare what they say they compare."""

import re
import subprocess
import sys

from conftest import ROOT


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
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "training_step.py", *small],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    loss = {
        name: float(x)
        for name, x in re.findall(r"^(.+): loss of the first batch (.+)$", done.stdout, re.MULTILINE)
    }
    official = loss["official formulation"]
    # The same sums in another order; bfloat16 keeps 8 bits.
    assert abs(loss["ours in float32"] - official) < 1e-4
    assert abs(loss["official, latents cached"] - official) < 1e-4
    assert abs(loss["ours"] - official) < 1e-2
    assert "NARROWER than the paper's" in done.stdout
    rows = [line for line in done.stdout.splitlines() if line.startswith("| o")]
    assert len(rows) == 4 and all(float(row.split("|")[4]) > 0 for row in rows)
