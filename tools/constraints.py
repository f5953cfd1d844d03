"""Pin what is installed here: for the tests and a new clone, and for the jobs in conda environments.

    python tools/constraints.py            constraints.txt: what difftalk with its `dev` extra needs
    python tools/constraints.py --conda    envs/difftalk.yaml: what the jobs need, in the same versions

`make constraints` writes both. Local version tags (`+cpu`, `+cu132`) are left out: they belong to the
machine.
"""

import sys
from importlib.metadata import distribution, version

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# What runs snakemake itself, which is outside of the environments of its jobs.
WORKFLOW_ONLY = frozenset({"snakemake", "pygments"})
CONSTRAINTS = "# Made by `make constraints`: the versions that the tests and the README's figures come from."
CONDA = """\
# Made by `make constraints`, for `snakemake --sdm conda`: what the jobs need, in the versions of
# constraints.txt. Without it they run in the environment of snakemake itself.
channels:
  - conda-forge
  - nodefaults
dependencies:
  - python =3.11
  - pip
  - pip:"""

Seen = dict[tuple[str, str], str]


def closure(name: str, extras: frozenset[str], seen: Seen) -> None:
    """Add to `seen` what `name` with `extras` needs on this platform, directly or not."""
    for extra in ("", *extras):
        if (canonicalize_name(name), extra) in seen:
            continue
        seen[canonicalize_name(name), extra] = version(name).split("+")[0]
        for needed in needs(name, extra):
            closure(needed.name, frozenset(needed.extras), seen)


def needs(name: str, extra: str = "") -> list[Requirement]:
    """Return what a distribution needs itself on this platform."""
    found = [Requirement(text) for text in distribution(name).requires or []]
    return [r for r in found if r.marker is None or r.marker.evaluate({"extra": extra})]


def pins(seen: Seen) -> list[str]:
    """Return `name==version` of each distribution, by name."""
    versions = {name: number for (name, _), number in seen.items()}
    left_out = {"difftalk", "pip", "setuptools"}
    return [f"{name}=={number}" for name, number in sorted(versions.items()) if name not in left_out]


def constraints() -> str:
    """Return the content of constraints.txt."""
    seen: Seen = {}
    closure("difftalk", frozenset({"dev"}), seen)
    return "\n".join([CONSTRAINTS, *pins(seen)])


def conda() -> str:
    """Return the content of envs/difftalk.yaml."""
    seen: Seen = {}
    for needed in needs("difftalk"):
        if needed.name not in WORKFLOW_ONLY:
            closure(needed.name, frozenset(needed.extras), seen)
    return "\n".join([CONDA, *(f"      - {pin}" for pin in pins(seen))])


if __name__ == "__main__":
    print(conda() if sys.argv[1:] == ["--conda"] else constraints())
