"""Checkpoints: written atomically, verified before use, resumed by the same training alone."""

import hashlib
import json
import os
import pickle
import re
import shutil
import zipfile
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from difftalk.config.section import Section
from difftalk.runtime.checksums import digest_of_model, read_sums, verify, verify_folder, write_sums
from difftalk.runtime.errors import UserError
from difftalk.runtime.files import atomic_file, atomic_folder, read_json
from difftalk.runtime.fingerprint import fingerprint
from difftalk.runtime.progress import say

KEPT_CHECKPOINTS = 2
FINISHED = "finished"
NOT_PUT_BACK = "the finished model is not put back: the training starts afresh"


def provenance(settings: Section, arrays: Iterable[np.ndarray], module: str, base: Path | None = None) -> str:
    """Return what a training's result depends on, as JSON: its settings, its data and its code.

    Args:
        settings: the settings of the stage.
        arrays: enough of the data to tell one data set from another.
        module: name of the module that reaches all of the training's code by its imports.
        base: folder of the model that the training starts from.
    """
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.shape} {array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    parts = {"settings": settings.as_dict(), "data": digest.hexdigest(), "code": fingerprint(module)}
    if base is not None:
        parts["base"] = digest_of_model(base)
    return json.dumps(parts, sort_keys=True)


def save_checkpoint(state: Path, step: int, provenance: str, tensors: dict[str, Any]) -> Path:
    """Write `state/step-{step}.pt`, then delete all but the newest two.

    Args:
        state: folder of the checkpoints.
        step: steps done so far.
        provenance: from the function of that name; no other training resumes from the checkpoint.
        tensors: state dicts and plain numbers, nothing that needs code to be unpickled.

    Returns:
        The path of the checkpoint.

    Raises:
        UserError: if it could not be written, such as on a full disk; those before it are intact.
    """
    path = state / f"step-{step:08d}.pt"
    before = _checkpoints(state)
    needs = before[0].stat().st_size if before else None
    with (
        atomic_file(path, "the checkpoints before it are intact", needs=needs) as tmp,
        tmp.open("wb") as file,
    ):
        torch.save({"step": step, "provenance": provenance, **tensors}, file)
    for old in _checkpoints(state)[KEPT_CHECKPOINTS:]:
        old.unlink()
    return path


def resume(state: Path, provenance: str, may_change: Collection[str] = ()) -> dict[str, Any] | None:
    """Load the latest valid checkpoint, as `load_checkpoint` does; None where there is none."""
    path = latest_valid(state)
    return None if path is None else load_checkpoint(path, provenance, may_change)


def latest_valid(state: Path) -> Path | None:
    """Return the newest checkpoint that is intact; None where there is none.

    The checksum of every byte is verified. A damaged file is named and skipped.
    """
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


def step_of(checkpoint: Path) -> int:
    """Return the steps that were done when a checkpoint of `save_checkpoint` was written."""
    return int(checkpoint.stem.removeprefix("step-"))


def load_checkpoint(
    path: Path, provenance: str, may_change: Collection[str] = (), *, verbose: bool = True
) -> dict[str, Any]:
    """Load the checkpoint `path`, if the training that asks for it is the one that wrote it.

    Args:
        path: the file.
        provenance: of the training that asks.
        may_change: settings that may differ, and `code`.
        verbose: print which of those differ.

    Raises:
        UserError: naming every setting that differs, with both values, and whether data or code do.
    """
    checkpoint = _read(path)
    changed = differences(checkpoint.get("provenance", "{}"), provenance)
    refused = [description for key, description in changed.items() if key not in may_change]
    if refused:
        raise UserError(
            f"{path} is of another training: {'; '.join(refused)}. Put this back to continue it, or delete "
            f"{path.parent} to start afresh"
        )
    if changed and verbose:
        say(f"{path}: continued, although changed since: {'; '.join(changed.values())}")
    return checkpoint


def differences(old: str, new: str) -> dict[str, str]:
    """Compare two provenances.

    Returns:
        The settings that differ, and `data`, `base` or `code`, each with a description for a person.
    """
    before, now = json.loads(old), json.loads(new)
    absent = object()
    found = {}
    settings = before.get("settings", {}), now.get("settings", {})
    for key in sorted({*settings[0], *settings[1]}):
        values = [s.get(key, absent) for s in settings]
        if values[0] != values[1]:
            shown = ("absent" if v is absent else json.dumps(v) for v in values)
            found[key] = f"{key} {' -> '.join(shown)}"
    for part, description in (
        ("data", "data: the clips are others"),
        ("base", "base: the model that it started from is another"),
        ("code", "code: the training's was edited"),
    ):
        if before.get(part) != now.get(part):
            found[part] = description
    return found


def keep_finished(state: Path, model: Path, provenance: str) -> None:
    """Replace the checkpoints by a record of the finished model: hard links, without a copy.

    Whoever ran the job may die before it notices the end, or send a signal in the last moment, and then
    deletes the model as unfinished.
    """
    shutil.rmtree(state / FINISHED, ignore_errors=True)
    with suppress(OSError), atomic_folder(state / FINISHED) as tmp:  # no links: another file system
        shutil.copytree(model, tmp / "model", copy_function=os.link)
        (tmp / "provenance.json").write_text(provenance)
        write_sums(tmp, {f"model/{name}": sha256 for name, sha256 in (read_sums(model) or {}).items()})
    for path in (*_checkpoints(state), state / "log.jsonl"):
        path.unlink(missing_ok=True)


def restore_finished(state: Path, model: Path, provenance: str, may_change: Collection[str] = ()) -> bool:
    """Put the recorded model back if it is of this training, and whole; else delete the record.

    Returns:
        Whether the model is in its place.
    """
    record = state / FINISHED
    if not (record / "provenance.json").is_file():
        return False
    try:
        verify_folder(record / "model", NOT_PUT_BACK)
        verify(record / "provenance.json", NOT_PUT_BACK)
        recorded = read_json(record / "provenance.json")
    except UserError as e:
        say(str(e))
        shutil.rmtree(record)
        return False
    if set(differences(json.dumps(recorded), provenance)) - set(may_change):
        shutil.rmtree(record)
        return False
    with atomic_folder(model) as tmp:
        shutil.copytree(record / "model", tmp, copy_function=os.link, dirs_exist_ok=True)
    say(f"{model}: this training had come to its end, its model is put back; to retrain, delete {state}")
    return True


def _read(path: Path) -> dict[str, Any]:
    """Load a file; its tensors stay memory-mapped until they are used."""
    checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return checkpoint


def _checkpoints(state: Path) -> list[Path]:
    """Newest first."""
    files = state.glob("step-*.pt") if state.is_dir() else ()
    return sorted((p for p in files if re.fullmatch(r"step-\d{8}", p.stem)), reverse=True)
