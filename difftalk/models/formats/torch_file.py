"""Read the tensors of a torch file, and nothing else that it may contain."""

import zipfile
from pathlib import Path

import torch
from torch import Tensor

from difftalk.runtime.errors import UserError

STRIP = (
    "where you trust the file and have what wrote it, "
    "`torch.save(torch.load(FILE, weights_only=False)['state_dict'], 'tensors.ckpt')` "
    "writes one of tensors alone"
)
# Lightning stores its callbacks and settings next to the tensors. Their classes are not imported.
DROPPED = ("pytorch_lightning.", "lightning.", "omegaconf.")


class Inert:
    """Stand in for an object of another package; its arguments and state are dropped."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Return a state dict, or the one under the key `state_dict` of a Lightning checkpoint, on the CPU.

    The file is memory-mapped where possible: what is not used, such as an optimiser's state, is not read.
    Objects of Lightning and omegaconf become `Inert` ones; no class of theirs is imported.

    Raises:
        UserError: if it is no torch file, holds anything but tensors and plain values, or has no state dict.
    """
    foreign = _foreign(path)
    dropped = [name for name in foreign if name.startswith(DROPPED)]
    try:
        with torch.serialization.safe_globals([(type(name, (Inert,), {}), name) for name in dropped]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as e:  # noqa: BLE001 - torch.load raises many kinds for what is no torch file
        if foreign := [name for name in foreign if name not in dropped]:
            raise UserError(
                f"{path} holds {', '.join(foreign)} besides tensors, which is not unpickled: {STRIP}"
            ) from None
        raise UserError(f"{path} is no torch file: {' '.join(str(e).split())[:200]}") from None
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not state:
        raise UserError(f"{path} holds no state dict")
    wrong = [str(k) for k, v in state.items() if not isinstance(k, str) or not isinstance(v, Tensor)]
    if wrong:
        raise UserError(f"{path}: not a tensor: {listed(wrong)}")
    return state


def listed(names: list[str], most: int = 20) -> str:
    """Return the first names of a list, and how many more there are, as text."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _foreign(path: Path) -> list[str]:
    """Return the classes and functions that unpickling the file would import; nothing of it is run."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # noqa: BLE001 - no torch file, or one of the old format
        return []
