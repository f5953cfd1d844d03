"""Checkpoints that survive a kill: written beside and renamed, read with `weights_only=True`, newest first."""

import pickle
import re
import sys
from pathlib import Path
from typing import Any

import torch

from difftalk.errors import UserError
from difftalk.files import atomic_file

KEPT = 2


def save_checkpoint(state: Path, step: int, settings: str, tensors: dict[str, Any]) -> Path:
    """Write `state/step-{step}.pt`, then drop all but the newest two.

    Args:
        settings: the settings as JSON; `load_newest` refuses to continue under others.
        tensors: state dicts and plain numbers, nothing that needs unpickling code.
    """
    path = state / f"step-{step:08d}.pt"
    try:
        with atomic_file(path) as beside:
            torch.save({"step": step, "settings": settings, **tensors}, beside)
    except OSError as e:
        raise UserError(
            f"{path}: the checkpoint could not be written ({e.strerror}); the one before is intact"
        ) from e
    for old in _checkpoints(state)[KEPT:]:
        old.unlink()
    return path


def load_newest(state: Path, settings: str) -> dict[str, Any] | None:
    """The newest readable checkpoint made under the same settings, or None.

    A damaged file is named and passed over for the one before it. Checkpoints of other settings are of another
    model: they are named, and training starts afresh.
    """
    for path in _checkpoints(state):
        try:
            checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, OSError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as e:
            print(f"{path}: damaged ({type(e).__name__}), trying the one before", file=sys.stderr)
            continue
        if checkpoint["settings"] != settings:
            print(f"{path}: made with other settings, not continued", file=sys.stderr)
            continue
        return checkpoint
    return None


def _checkpoints(state: Path) -> list[Path]:
    """Newest first."""
    found = (
        [p for p in state.glob("step-*.pt") if re.fullmatch(r"step-\d{8}", p.stem)] if state.is_dir() else []
    )
    return sorted(found, reverse=True)
