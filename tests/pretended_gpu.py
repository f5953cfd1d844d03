"""A GPU that is not there: tensors that say `cuda:0`, lie on the CPU, and are strict about it.

What a GPU would refuse is refused: operations on tensors of both devices (`DeviceMismatch`), `numpy()`. What
would make the host wait for it is counted by the function of the package that asked: reading a number, a
copy to the CPU, a result whose size depends on data. A copy that is said not to block is empty until an event
is waited for, and does not count. Not pretended: kernels (results are the CPU's), autocast's list of
operations (the CPU's), compilation.

    python tests/pretended_gpu.py FOLDER PATH...

runs paths of `benchmarks/device_paths.py` on it, and writes what they computed to FOLDER/found.npz and the
waits to FOLDER/waits.json. `install` changes torch itself: a process that called it is good for nothing else.
"""

import json
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

aten = torch.ops.aten
GPU, CPU = torch.device("cuda:0"), torch.device("cpu")
PACKAGE = "/difftalk/"
# A GPU takes indices that lie on the CPU.
INDEXING = {aten.index.Tensor, aten.index_put_.default, aten._index_put_impl_.default}
SIZED_BY_DATA = {
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
    aten.bincount.default,
}

waits: Counter[str] = Counter()  # by "kind at module:function"
operations: Counter[str] = Counter()  # that ran there
# Copies to the CPU that did not block, and what will be in them when an event after them has been waited for.
under_way: list[tuple[torch.Tensor, torch.Tensor]] = []


class DeviceMismatch(RuntimeError):
    """An operation on tensors of both devices."""


def count_wait(kind: str) -> None:
    """Count a wait for the function of the package that is running."""
    frame = next((f for f in traceback.extract_stack()[::-1] if PACKAGE in f.filename), None)
    where = "elsewhere" if frame is None else f"{frame.filename.rsplit(PACKAGE, 1)[1]}:{frame.name}"
    waits[f"{kind} at {where}"] += 1


class Pretended(torch.Tensor):
    """A tensor of the pretended GPU, around one of the CPU."""

    elem: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, elem: torch.Tensor, requires_grad: bool = False) -> "Pretended":
        made: Pretended = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, elem.size(), strides=elem.stride(), storage_offset=elem.storage_offset(),
            dtype=elem.dtype, layout=elem.layout, device=CPU, requires_grad=requires_grad,
        )  # fmt: skip
        made.elem = elem
        return made

    device = property(lambda self: GPU)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_cpu = property(lambda self: False)  # type: ignore[assignment]

    def get_device(self) -> int:
        return 0

    def to(self, *args: Any, **options: Any) -> torch.Tensor:
        device, dtype = options.pop("device", None), options.pop("dtype", None)
        for value in args:
            if isinstance(value, torch.dtype):
                dtype = value
            elif isinstance(value, str | torch.device):
                device = value
            elif isinstance(value, torch.Tensor):
                device, dtype = value.device, value.dtype
        device = GPU if device is None else torch.device(device)
        if device.type == "cuda":
            same = dtype in (None, self.dtype) and options.get("memory_format") is None
            options.pop("non_blocking", None)
            return self if same else torch.Tensor.to(self, dtype=dtype or self.dtype, **options)
        return aten._to_copy(self, dtype=dtype or self.dtype, device=device, **options)

    def cpu(self, *args: Any, **options: Any) -> torch.Tensor:
        return self.to("cpu")

    def cuda(self, *args: Any, **options: Any) -> Self:
        return self

    def tolist(self) -> Any:
        count_wait("numbers read")
        return self.elem.tolist()

    def numpy(self, *args: Any, **options: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu()")

    __array__ = numpy

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return run(func, args, kwargs or {})


class Mode(TorchDispatchMode):
    """Sees the operations without any pretended tensor: those that make one."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run one operation of ATen on what lies behind the tensors, and pretend for what comes out."""
    tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
    pretended = [x for x in tensors if isinstance(x, Pretended)]
    options = {name: value for name, value in kwargs.items() if name != "pin_memory"}
    device = None if options.get("device") is None else torch.device(options["device"])
    if device is not None and device.type == "cuda":
        options["device"] = CPU
    elif device is not None and torch._C._current_graph_task_id() != -1:
        device = GPU  # autograd makes tensors where the wrapper says that it lies
    if func in (aten._local_scalar_dense.default, aten.is_pinned.default, aten._pin_memory.default):
        return _special(func, args, bool(pretended))
    goes_to_gpu = bool(pretended) if device is None else device.type == "cuda"
    if func in (aten._to_copy.default, aten.copy_.default):
        from_gpu = isinstance(args[-1 if func is aten.copy_.default and len(args) > 1 else 0], Pretended)
        lands_on_gpu = isinstance(args[0], Pretended) if func is aten.copy_.default else goes_to_gpu
        if from_gpu and not lands_on_gpu and not options.get("non_blocking"):
            count_wait("copied to the CPU")
    else:
        _check(func, args, tensors, pretended)

    plain_args, plain_options = tree_map(_plain, (args, options))
    if func is aten.copy_.default:
        func(*plain_args, **plain_options)
        return args[0]
    out = func(*plain_args, **plain_options)
    if func is aten._to_copy.default and out is plain_args[0]:
        out = out.clone()
    if not goes_to_gpu:
        if func is aten._to_copy.default and pretended and options.get("non_blocking"):
            under_way.append((torch.zeros_like(out), out))
            return under_way[-1][0]
        return out
    operations[str(func)] += 1
    wrappers = {id(x.elem): x for x in pretended} if func._schema.is_mutable else {}
    return tree_map(lambda x: wrappers[id(x)] if id(x) in wrappers else _pretend(x), out)


def _special(func: Any, args: Any, on_gpu: bool) -> Any:
    if func is aten._pin_memory.default:
        return args[0]
    if func is aten.is_pinned.default:
        return False
    if on_gpu:
        count_wait("number read")
    return func(_plain(args[0]))


def _check(func: Any, args: Any, tensors: list[torch.Tensor], pretended: list[Pretended]) -> None:
    """Refuse tensors of both devices, and count results whose size the host has to be told."""
    if not pretended:
        return
    of_the_cpu = [x for x in tensors if not isinstance(x, Pretended) and x.dim() > 0]
    put = args[2] if func in INDEXING and len(args) > 2 else None  # not an index
    mixed = isinstance(put, torch.Tensor) and not isinstance(put, Pretended) and put.dim() > 0
    allowed = func in INDEXING and isinstance(args[0], Pretended) and not mixed
    if of_the_cpu and not allowed:
        shapes = [tuple(x.shape) for x in of_the_cpu]
        raise DeviceMismatch(f"{func}: tensors of the GPU with {shapes} of the CPU")
    masks = func in INDEXING and any(x.dtype is torch.bool for x in tensors[1:])
    if func in SIZED_BY_DATA or masks:
        count_wait("size depends on data")


def _plain(x: Any) -> Any:
    return x.elem if isinstance(x, Pretended) else x


def _pretend(x: Any) -> Any:
    return Pretended(x) if isinstance(x, torch.Tensor) and not isinstance(x, Pretended) else x


class _Autocast(torch.autocast):
    def __init__(self, device_type: str, *args: Any, **options: Any) -> None:
        super().__init__("cpu" if device_type == "cuda" else device_type, *args, **options)


class _Event:
    def record(self, *args: Any) -> None:
        """All that was asked for before has been done."""

    def synchronize(self) -> None:
        for seen, arriving in under_way:
            seen.copy_(arriving)
        under_way.clear()


def install() -> None:
    """Make torch find the GPU. Before the package is imported."""
    tensor, to, grad_groups = torch.tensor, torch.Tensor.to, torch.nn.utils.clip_grad
    state_dict, module_to = torch.nn.Module.state_dict, torch.nn.Module.to

    def made(data: Any, *, device: Any = None, **options: Any) -> torch.Tensor:
        options.pop("pin_memory", None)
        on_gpu = device is not None and torch.device(device).type == "cuda"
        return Pretended(tensor(data, **options)) if on_gpu else tensor(data, **options)

    def moved(self: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        def indexed(x: Any) -> Any:
            return GPU if isinstance(x, str | torch.device) and torch.device(x).type == "cuda" else x

        return to(self, *map(indexed, args), **{k: indexed(v) for k, v in options.items()})

    def on_the_cpu(self: torch.nn.Module, *args: Any, **options: Any) -> Any:
        return {name: _plain(x) for name, x in state_dict(self, *args, **options).items()}

    def module_moved(self: torch.nn.Module, *args: Any, **options: Any) -> torch.nn.Module:
        # Moved once, modules get other parameters; moved again, an optimiser would be left with the old ones.
        there = all(isinstance(x, Pretended) for x in (*self.parameters(), *self.buffers()))
        asks = len(args) == 1 and not options and isinstance(args[0], str | torch.device)
        return self if there and asks and torch.device(args[0]) != CPU else module_to(self, *args, **options)

    said: dict[str, Any] = {
        "is_available": True, "device_count": 1, "current_device": 0, "is_bf16_supported": True,
        "is_initialized": True, "is_current_stream_capturing": False, "get_device_capability": (9, 0),
        "get_device_name": "a pretended GPU", "_is_compiled": True, "_lazy_init": None, "set_device": None,
        "synchronize": None, "empty_cache": None, "manual_seed_all": None,
    }  # fmt: skip
    for name, value in said.items():
        setattr(torch.cuda, name, lambda *args, value=value, **options: value)
    changed: list[tuple[Any, str, Any]] = [
        (torch.cuda, "default_generators", ()),
        (torch.cuda, "Event", _Event),
        (torch, "tensor", made),
        (torch, "autocast", _Autocast),
        (torch, "inference_mode", torch.no_grad),
        (torch.amp, "autocast", _Autocast),
        (torch.amp.autocast_mode, "autocast", _Autocast),
        (torch.Tensor, "to", moved),
        (torch.nn.Module, "to", module_moved),
        (torch.nn.Module, "state_dict", on_the_cpu),  # files are written from where tensors lie
        (torch.Tensor, "pin_memory", lambda self, *args, **options: self),
        (torch.backends.cudnn, "is_acceptable", lambda tensor: False),
        (torch.optim.Optimizer, "_accelerator_graph_capture_health_check", lambda self: None),
        # It asks the wrappers below Python, where they say that they lie on the CPU.
        (
            grad_groups,
            "_group_tensors_by_device_and_dtype",
            lambda lists: {(lists[0][0].device, None): (lists, None)},
        ),
    ]
    for owner, name, value in changed:
        setattr(owner, name, value)
    torch.autograd.set_multithreading_enabled(False)
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    Mode().__enter__()


def main(out: Path, names: list[str]) -> None:
    """Run the paths, and write what they computed, their waits, and the errors of those that failed."""
    install()
    import device_paths

    found: dict[str, np.ndarray] = {}
    report: dict[str, Any] = {}
    for name in names:
        waits.clear()
        operations.clear()
        with tempfile.TemporaryDirectory() as folder:
            try:
                for key, array in device_paths.PATHS[name](Path(folder)).items():
                    found[f"{name}/{key}"] = array
                report[name] = {"operations": operations.total(), "waits": dict(waits)}
            except Exception as e:
                traceback.print_exc()
                report[name] = {"error": f"{type(e).__name__}: {e}"}
    np.savez(out / "found.npz", **found)  # type: ignore[arg-type]
    (out / "waits.json").write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
