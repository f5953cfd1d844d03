"""What is installed: the same in pyproject.toml, in the conda environment and in the constraints."""

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# What runs snakemake itself, which is outside of the environments of its jobs.
WORKFLOW_ONLY = ("snakemake", "pygments")


def test_the_conda_environment_has_the_dependencies_of_the_package() -> None:
    environment = yaml.safe_load((ROOT / "envs" / "difftalk.yaml").read_text())
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert pip == [d for d in PROJECT["dependencies"] if not d.startswith(WORKFLOW_ONLY)]


def test_constraints_pin_every_dependency_and_name_no_machine() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line) for line in lines)
    pinned = {line.partition("==")[0] for line in lines}
    wanted = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]
    assert {re.match(r"[\w-]+", name)[0].lower().replace("_", "-") for name in wanted} <= pinned
