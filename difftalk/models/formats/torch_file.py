"""Read the tensors of a torch file, and nothing else that it may hold."""

import zipfile
from pathlib import Path

import torch
from torch import Tensor

from difftalk.runtime.errors import UserError

STRIP = (
    "where you trust the file and have what wrote it, "
    "`torch.save(torch.load(FILE, weights_only=False)['state_dict'], 'tensors.ckpt')` writes one of tensors alone"
)
# What Lightning writes beside the tensors: its callbacks and settings. Their classes are neither needed nor imported.
BESIDE = ("pytorch_lightning.", "lightning.", "omegaconf.")


class Inert:
    """Stands in the place of an object of another package: whatever it is made of is dropped."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """A state dict, or the one under the key `state_dict` of a Lightning checkpoint, on the CPU.

    The file is mapped where it can be: what is not looked at, such as the state of an optimiser, is not read. Objects of
    Lightning and omegaconf beside the tensors become `Inert` ones; no class of theirs is imported.

    Raises:
        UserError: if it is no torch file, holds anything but tensors and plain values, or has no state dict.
    """
    foreign = _foreign(path)
    beside = [name for name in foreign if name.startswith(BESIDE)]
    try:
        with torch.serialization.safe_globals([(type(name, (Inert,), {}), name) for name in beside]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as e:  # noqa: BLE001 - torch.load raises many kinds for what is no torch file
        if foreign := [name for name in foreign if name not in beside]:
            raise UserError(
                f"{path} holds {', '.join(foreign)} beside tensors, which is not unpickled: {STRIP}"
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
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _foreign(path: Path) -> list[str]:
    """Names of classes and functions that the file would want imported; nothing of it is run."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # noqa: BLE001 - no torch file, or one of the old format
        return []
