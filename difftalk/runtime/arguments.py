"""The kinds of paths that commands take: each is checked by the command line before its stage begins."""

import os
from pathlib import Path
from typing import Annotated, Any, get_args

from difftalk.runtime.checksums import FOREIGN, is_foreign
from difftalk.runtime.errors import UserError
from difftalk.runtime.faults import REASONS

INPUT_FILE, INPUT_FOLDER = "a file to read", "a folder to read"
OUTPUT_FILE, OUTPUT_FOLDER, KEPT_FOLDER = "a file to write", "a folder to write", "a folder to write in"
CACHE_FOLDER = "a folder to write in, where that is allowed"
KINDS = (INPUT_FILE, INPUT_FOLDER, OUTPUT_FILE, OUTPUT_FOLDER, KEPT_FOLDER, CACHE_FOLDER)

InputFile = Annotated[Path, INPUT_FILE]
InputFolder = Annotated[Path, INPUT_FOLDER]
OutputFile = Annotated[Path, OUTPUT_FILE]
# It replaces what an earlier run of the command wrote.
OutputFolder = Annotated[Path, OUTPUT_FOLDER]
# Files are added to it.
KeptFolder = Annotated[Path, KEPT_FOLDER]
# As a `KeptFolder`; that of others is of use, too, without the permission to write in it.
CacheFolder = Annotated[Path, CACHE_FOLDER]


def path_kind(hint: Any) -> str | None:
    """Return which of `KINDS` a type is; None for another type."""
    return next((kind for kind in KINDS if kind in get_args(hint)), None)


def check_path(kind: str, path: Path, flag: str) -> None:
    """Check that a path can be what a stage takes it for, as far as can be told without reading it.

    Args:
        kind: of `KINDS`.
        path: the value.
        flag: of the argument, such as `--plan`.

    Raises:
        UserError: naming flag and path.
    """
    try:
        problem = _problem_to_read(kind, path) if "read" in kind else _problem_to_write(kind, path)
    except OSError as e:  # such as a name that is too long, or a link to itself
        problem = REASONS.get(e.errno or 0, e.strerror or str(e))
    if problem:
        raise UserError(f"{flag}: {path}: {problem}")


def _problem_to_read(kind: str, path: Path) -> str:
    what = "folder" if kind == INPUT_FOLDER else "file"
    try:
        path.stat()
    except FileNotFoundError:
        return "a link to something that is gone" if path.is_symlink() else f"no such {what}"
    if path.is_dir() != (kind == INPUT_FOLDER):
        return f"a {'folder' if path.is_dir() else 'file'}; {kind} is wanted"
    if not os.access(path, os.R_OK if what == "file" else os.R_OK | os.X_OK):
        return "no permission to read it"
    if path.is_file() and path.stat().st_size == 0:
        return "an empty file: delete it, and run the command that writes it"
    return ""


def _problem_to_write(kind: str, path: Path) -> str:
    if path.is_dir() and kind == OUTPUT_FILE:
        return f"a folder; {kind} is wanted"
    if os.path.lexists(path) and not path.is_dir() and kind != OUTPUT_FILE:
        return f"a file; {kind} is wanted"
    if kind == OUTPUT_FOLDER and is_foreign(path):
        return FOREIGN
    around = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
    if not around.is_dir():
        return f"{around} is a file, not a folder"
    if kind == KEPT_FOLDER and path.is_dir():
        around = path
    if kind != CACHE_FOLDER and not os.access(around, os.W_OK | os.X_OK):
        return f"no permission to write in {around}"
    return ""
