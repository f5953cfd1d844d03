"""Checkpoints that survive a kill: written beside and renamed, checked before use, continued by the same training alone."""

import errno
import hashlib
import json
import os
import pickle
import re
import shutil
import zipfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from difftalk.runtime.errors import UserError
from difftalk.runtime.files import atomic_file, atomic_folder
from difftalk.runtime.fingerprint import fingerprint
from difftalk.runtime.progress import say

KEPT = 2
FINISHED = "finished"
NO_ROOM = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "the file is too large",
}


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

    Raises:
        UserError: if it could not be written, for want of room as a rule; those before it are intact.
    """
    path = state / f"step-{step:08d}.pt"
    with (
        room_for(path, "the checkpoints before it are intact"),
        atomic_file(path) as beside,
        beside.open("wb") as file,
    ):
        torch.save({"step": step, "made_of": made_of, **tensors}, file)
    for old in _checkpoints(state)[KEPT:]:
        old.unlink()
    return path


def load_newest(state: Path, made_of: str, may_change: Collection[str] = ()) -> dict[str, Any] | None:
    """The newest whole checkpoint, or None where there is none; see `newest_whole` and `continued`."""
    found = newest_whole(state)
    return None if found is None else continued(found, made_of, may_change)


def newest_whole(state: Path) -> Path | None:
    """The newest checkpoint that is whole. Every byte is checked; a damaged file is named and passed over."""
    for path in _checkpoints(state):
        try:
            with zipfile.ZipFile(path) as members:
                damaged = members.testzip()
            if damaged is not None:
                raise ValueError(f"checksum of {damaged}")
            _read(path)
        except (
            RuntimeError, OSError, EOFError, ValueError, AttributeError, KeyError, pickle.UnpicklingError,
            zipfile.BadZipFile,
        ) as e:  # fmt: skip
            say(f"{path}: damaged ({type(e).__name__}), trying the one before")
            continue
        return path
    return None


def continued(
    path: Path, made_of: str, may_change: Collection[str] = (), *, aloud: bool = True
) -> dict[str, Any]:
    """The checkpoint `path`, if the training that asks for it is the one that wrote it.

    Args:
        made_of: as the function of that name gives it for the training that asks.
        may_change: settings that may differ, and `code`.
        aloud: name those that do.

    Raises:
        UserError: naming every setting that differs, with both values, and whether data or code do.
    """
    checkpoint = _read(path)
    changed = differences(checkpoint.get("made_of", "{}"), made_of)
    refused = [words for key, words in changed.items() if key not in may_change]
    if refused:
        raise UserError(
            f"{path} is of another training: {'; '.join(refused)}. Put this back to continue it, or delete "
            f"{path.parent} to start afresh"
        )
    if changed and aloud:
        say(f"{path}: continued, although changed since: {'; '.join(changed.values())}")
    return checkpoint


def differences(old: str, new: str) -> dict[str, str]:
    """What differs between two values of `made_of`: setting, `data` or `code`, each with words for a person."""
    before, now = json.loads(old), json.loads(new)
    absent = object()
    found = {}
    settings = before.get("settings", {}), now.get("settings", {})
    for key in sorted({*settings[0], *settings[1]}):
        values = [s.get(key, absent) for s in settings]
        if values[0] != values[1]:
            shown = ("absent" if v is absent else json.dumps(v) for v in values)
            found[key] = f"{key} {' -> '.join(shown)}"
    for part, words in (("data", "data: the clips are others"), ("code", "code: the training's was edited")):
        if before.get(part) != now.get(part):
            found[part] = words
    return found


def keep_finished(state: Path, model: Path, made_of: str) -> None:
    """Exchange the checkpoints for a record of the finished model, of links to its files that take no room.

    Whoever ran the job may die before it takes note of the end, or signal it in its last moment, and then throws the
    model away as unfinished.
    """
    with suppress(OSError), atomic_folder(state / FINISHED) as beside:  # no links: another file system
        shutil.copytree(model, beside / "model", copy_function=os.link)
        (beside / "made_of.json").write_text(made_of)
    for path in (*_checkpoints(state), state / "log.jsonl"):
        path.unlink(missing_ok=True)


def restore_finished(state: Path, model: Path, made_of: str, may_change: Collection[str] = ()) -> bool:
    """Put the model of the record in its place, if it is what is asked for; the record of another is removed."""
    record = state / FINISHED
    if not (record / "made_of.json").is_file():
        return False
    if set(differences((record / "made_of.json").read_text(), made_of)) - set(may_change):
        shutil.rmtree(record)
        return False
    with atomic_folder(model) as beside:
        shutil.copytree(record / "model", beside, copy_function=os.link, dirs_exist_ok=True)
    say(f"{model}: this training had come to its end, its model is put back; to train anew delete {state}")
    return True


@contextmanager
def room_for(path: Path, reassurance: str) -> Iterator[None]:
    """Turn a failed write into an error that says so: disk full, quota, or whatever the system gives as reason."""
    try:
        yield
    except (OSError, RuntimeError) as e:
        # torch reports a failed write as a RuntimeError of its own, raised on top of the system's.
        cause: BaseException | None = e
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            raise
        reason = NO_ROOM.get(cause.errno or 0, cause.strerror or str(cause))
        raise UserError(f"{path} could not be written: {reason}; {reassurance}") from e


def _read(path: Path) -> dict[str, Any]:
    """Tensors stay mapped in the file until they are used, so that it costs no memory beside the model's."""
    checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return checkpoint


def _checkpoints(state: Path) -> list[Path]:
    """Newest first."""
    found = (
        [p for p in state.glob("step-*.pt") if re.fullmatch(r"step-\d{8}", p.stem)] if state.is_dir() else []
    )
    return sorted(found, reverse=True)
