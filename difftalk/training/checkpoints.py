"""Checkpoints that survive a kill: written beside and renamed, read with `weights_only=True`, newest first."""

import hashlib
import json
import pickle
import re
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from difftalk.errors import UserError
from difftalk.files import atomic_file
from difftalk.fingerprint import fingerprint

KEPT = 2


def made_of(settings: Any, arrays: Iterable[np.ndarray], module: str) -> str:
    """What a training is made of: its settings (a dataclass), arrays that tell data sets apart, and its code."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.shape} {array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    parts = {"settings": asdict(settings), "data": digest.hexdigest(), "code": fingerprint(module)}
    return json.dumps(parts, sort_keys=True)


def save_checkpoint(state: Path, step: int, made_of: str, tensors: dict[str, Any]) -> Path:
    """Write `state/step-{step}.pt`, then drop all but the newest two.

    Args:
        made_of: as the function of that name gives it; `load_newest` continues no other training.
        tensors: state dicts and plain numbers, nothing that needs unpickling code.
    """
    path = state / f"step-{step:08d}.pt"
    try:
        with atomic_file(path) as beside:
            torch.save({"step": step, "made_of": made_of, **tensors}, beside)
    except OSError as e:
        raise UserError(
            f"{path}: the checkpoint could not be written ({e.strerror}); the one before is intact"
        ) from e
    for old in _checkpoints(state)[KEPT:]:
        old.unlink()
    return path


def load_newest(state: Path, made_of: str) -> dict[str, Any] | None:
    """The newest readable checkpoint of the same settings, data and code, or None.

    A damaged file is named and passed over for the one before it. Others are of another model: they are named and
    removed, and training starts afresh.
    """
    for path in _checkpoints(state):
        try:
            checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            same = checkpoint.get("made_of") == made_of
        except (RuntimeError, OSError, EOFError, ValueError, AttributeError, pickle.UnpicklingError) as e:
            print(f"{path}: damaged ({type(e).__name__}), trying the one before", file=sys.stderr)
            continue
        if same:
            return checkpoint
        print(f"{path}: made with other settings, data or code, not continued", file=sys.stderr)
        path.unlink()
    return None


def _checkpoints(state: Path) -> list[Path]:
    """Newest first."""
    found = (
        [p for p in state.glob("step-*.pt") if re.fullmatch(r"step-\d{8}", p.stem)] if state.is_dir() else []
    )
    return sorted(found, reverse=True)
