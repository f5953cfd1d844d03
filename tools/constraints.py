"""Print `name==version` of everything that difftalk with its `dev` extra needs, as installed here.

`make constraints` writes constraints.txt with it. Local version tags (`+cpu`, `+cu132`) are left out: they
belong to the machine.
"""

from importlib.metadata import distribution, version

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def closure(name: str, extras: frozenset[str], seen: dict[tuple[str, str], str]) -> None:
    """Add to `seen` what `name` with `extras` needs on this platform, directly or not."""
    for extra in ("", *extras):
        if (canonicalize_name(name), extra) in seen:
            continue
        seen[canonicalize_name(name), extra] = version(name).split("+")[0]
        for text in distribution(name).requires or []:
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                closure(needed.name, frozenset(needed.extras), seen)


if __name__ == "__main__":
    found: dict[tuple[str, str], str] = {}
    closure("difftalk", frozenset({"dev"}), found)
    print("# Made by `make constraints`: the versions that the tests and the README's figures come from.")
    for name, number in sorted({name: number for (name, _), number in found.items()}.items()):
        if name not in {"difftalk", "pip", "setuptools"}:
            print(f"{name}=={number}")
