"""Weights that ship in packages of the package index, which are located and never imported."""

import importlib.util
from pathlib import Path

from difftalk.runtime.errors import UserError


def package_file(package: str, name: str, requirement: str | None = None) -> Path:
    """Return a file of an installed package.

    Args:
        package: the name by which it would be imported.
        name: path of the file below its folder.
        requirement: what pip installs it by, where that is not `package`.

    Raises:
        UserError: if it is not installed, or has no such file.
    """
    found = importlib.util.find_spec(package)
    folders = found.submodule_search_locations if found is not None else None
    path = Path(folders[0]) / name if folders else None
    if path is None or not path.is_file():
        raise UserError(f"{Path(name).name} is missing: pip install '{requirement or package}'")
    return path
