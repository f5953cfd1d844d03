"""Read the tensors of a TorchScript archive: none of its code is compiled or run, and nothing is imported."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from difftalk.runtime.errors import UserError

# The storages that a tensor may have, by the names of their classes in the archive.
DTYPES = {
    "FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "BoolStorage": torch.bool, "ByteStorage": torch.uint8, "CharStorage": torch.int8,
    "ShortStorage": torch.int16,
}  # fmt: skip


class Module:
    """A module of the archive: its attributes, and none of its class."""

    def __init__(self, *_: object) -> None:
        self.attributes: dict[str, Any] = {}

    def __setstate__(self, state: object) -> None:
        self.attributes = state if isinstance(state, dict) else {"state": state}


class _Unpickler(pickle.Unpickler):
    """Rebuilds tensors and plain values; all classes of the archive become `Module`."""

    def __init__(self, archive: zipfile.ZipFile, root: str, part: str) -> None:
        super().__init__(archive.open(f"{root}/{part}.pkl"))
        self._archive, self._folder = archive, f"{root}/{part}"

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "__torch__":
            return Module
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if module == "torch.jit._pickle" and name.startswith("build_"):
            return list
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        raise pickle.UnpicklingError(f"it holds {module}.{name}")

    def persistent_load(self, pid: Any) -> Tensor:
        """The elements of a storage, in one dimension."""
        _, dtype, key, _, count = pid
        content = bytearray(self._archive.read(f"{self._folder}/{key}"))
        return torch.frombuffer(content, dtype=dtype, count=count) if count else torch.empty(0, dtype=dtype)


def _tensor(
    storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object
) -> Tensor:
    return storage.as_strided(size, stride, offset).clone()


def is_torchscript(path: Path) -> bool:
    """Whether a file is a TorchScript archive: a torch file with code and constants."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.count("/") == 1 and name.endswith("/constants.pkl") for name in archive.namelist())


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """Return all tensors of an archive by the path of their attributes, in the order of the archive.

    Constants of a frozen module are `constants.0` and so on, and come last.

    Raises:
        UserError: if it is no such archive, is damaged, or holds anything but modules, tensors and values.
    """
    found: dict[str, Tensor] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            root = archive.namelist()[0].partition("/")[0]
            _collect(_Unpickler(archive, root, "data").load(), "", found)
            _collect(_Unpickler(archive, root, "constants").load(), "constants", found)
    except Exception as e:  # noqa: BLE001 - pickle raises many kinds for what is none
        reason = " ".join(f"{type(e).__name__}: {e}".split())[:200]
        raise UserError(f"{path} is no TorchScript archive of tensors alone: {reason}") from None
    return found


def _collect(value: object, path: str, found: dict[str, Tensor]) -> None:
    """Add the tensors below a value, by path."""
    if isinstance(value, Tensor):
        found[path] = value
        return
    if isinstance(value, Module):
        value = value.attributes
    inside: Any = ()
    if isinstance(value, dict):
        inside = value.items()
    elif isinstance(value, (list, tuple)):
        inside = enumerate(value)
    for name, item in inside:
        _collect(item, f"{path}.{name}" if path else str(name), found)
