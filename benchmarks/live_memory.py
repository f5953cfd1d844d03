"""Memory, FLOPs and traffic of a computation whose tensors have shapes and no content.

Under `pretended()` tensors are fake (`FakeTensorMode`): nothing is allocated and nothing computed, so that
the paper's networks fit into a laptop at any batch. `Meter` sees every operation below autograd, what the
backward pass saves included. Fake tensors lie on the CPU, because those of a GPU need its driver; `pretended`
makes autocast cast as it does on a GPU.
"""

import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from math import prod
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

# What the networks use of what autocast computes in float32 on a GPU, and in bfloat16 on a CPU.
# https://docs.pytorch.org/docs/stable/amp.html#cuda-ops-that-can-autocast-to-float32
FLOAT32_ON_A_GPU = ("group_norm", "layer_norm", "softmax", "mse_loss", "l1_loss")
CONVOLUTIONS = ("convolution", "convolution_backward")


def _lstm_flops(inputs: Tensor, weight_ih: Tensor, weight_hh: Tensor, *_: Any) -> int:
    steps = prod(inputs.shape[:-1])
    return 2 * steps * (weight_ih.numel() + weight_hh.numel())


def _distances_flops(a: Tensor, b: Tensor, *_: Any) -> int:
    return 2 * a.shape[-2] * b.shape[-2] * a.shape[-1]


# Matrix products that torch does not count.
UNCOUNTED: dict[str, Callable[..., int]] = {
    "mkldnn_rnn_layer": _lstm_flops,
    "_cdist_forward": _distances_flops,
}


@dataclass
class Operation:
    """One operation, as a GPU without fusion would run it.

    Args:
        name: of the ATen operator.
        rate: which rate its FLOPs go at: `bf16`, `tf32` or `fp32`.
        flops: of matrix products and convolutions; 0 for all others.
        traffic: bytes of its inputs and outputs.
    """

    name: str
    rate: str
    flops: int
    traffic: int


@dataclass(eq=False)
class Meter(TorchDispatchMode):
    """Live bytes of all tensors that are made inside the block, their peak, and every operation.

    A storage counts from the operation that makes it until nothing refers to it any more; views count once.
    Rounding of an allocator and what a kernel needs inside itself are not in it.
    """

    live: int = 0
    peak: int = 0
    operations: list[Operation] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self._storages: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        made = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        for tensor in made:
            self._hold(tensor)
        self.peak = max(self.peak, self.live)
        known = {x.untyped_storage()._cdata for x in given}
        new = [x for x in made if x.untyped_storage()._cdata not in known]
        written = [
            value
            for value, argument in zip(args, func._schema.arguments, strict=False)
            if argument.alias_info is not None and argument.alias_info.is_write
        ]
        written = [x for x in tree_leaves(written) if isinstance(x, Tensor)]
        if new or written:  # else it is a view
            self._note(func, args, kwargs or {}, out, given, [*new, *written])
        return out

    def restart(self) -> int:
        """Forget peak and operations so far; return the bytes that are live."""
        self.peak, self.operations = self.live, []
        return self.live

    def flops(self) -> dict[str, int]:
        """Return the FLOPs by rate."""
        total: dict[str, int] = {}
        for operation in self.operations:
            if operation.flops:
                total[operation.rate] = total.get(operation.rate, 0) + operation.flops
        return total

    def _hold(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._storages:
            self._storages[key] = storage.nbytes()
            self.live += self._storages[key]
            weakref.finalize(storage, self._free, key)

    def _free(self, key: int) -> None:
        self.live -= self._storages.pop(key)

    def _note(
        self, func: Any, args: Any, kwargs: Any, out: Any, given: list[Tensor], made: list[Tensor]
    ) -> None:
        packet = func._overloadpacket
        count = flop_registry.get(packet)
        name = packet.__name__
        flops = int(count(*args, **kwargs, out_val=out)) if count is not None else 0
        if name in UNCOUNTED:
            flops = UNCOUNTED[name](*args)
        halved = bool(given) and any(x.dtype == torch.bfloat16 for x in given)
        # In float32 torch lets convolutions round to TF32, and other products not.
        rate = "bf16" if halved else "tf32" if name in CONVOLUTIONS else "fp32"
        self.operations.append(Operation(name, rate, flops, sum(map(size, [*given, *made]))))


def _in_float32(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a function that autocast computes in float32, as on a GPU."""

    def called(*args: Any, **kwargs: Any) -> Tensor:
        if not torch.is_autocast_enabled("cpu"):
            return function(*args, **kwargs)
        widened = {name: _widened(value) for name, value in kwargs.items()}
        with torch.autocast("cpu", enabled=False):
            return function(*map(_widened, args), **widened)

    return called


def _widened(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype == torch.bfloat16 else value


def _converted(module: nn.Module, convert: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """Do what a module's `to` does: torch's own cannot with fake tensors."""
    for child in module.children() if recurse else ():
        child._apply(convert)
    for name, parameter in module._parameters.items():
        if parameter is not None and (new := convert(parameter.detach())).dtype != parameter.dtype:
            module._parameters[name] = nn.Parameter(new, parameter.requires_grad)
    for name, buffer in module._buffers.items():
        if buffer is not None:
            module._buffers[name] = convert(buffer)
    return module


def _counted(values: Tensor, minlength: int) -> Tensor:
    """Do what `torch.bincount` does where no value reaches `minlength`: else its length depends on them."""
    return torch.zeros(minlength, dtype=torch.int64)


@contextmanager
def pretended() -> Iterator[Meter]:
    """Make tensors without content inside the block, and count what they take; see `Meter`."""
    meter = Meter()
    with ExitStack() as patches:
        for name in FLOAT32_ON_A_GPU:
            patches.enter_context(patch.object(F, name, _in_float32(getattr(F, name))))
        patches.enter_context(patch.object(torch, "bincount", _counted))
        patches.enter_context(patch.object(nn.Module, "_apply", _converted))
        patches.enter_context(FakeTensorMode())
        patches.enter_context(meter)
        yield meter


def size(tensor: Tensor) -> int:
    """Return the bytes of a tensor; of one that was expanded, those that there are."""
    return min(prod(tensor.shape) * tensor.element_size(), tensor.untyped_storage().nbytes())


def measured(build: Callable[[], Callable[[], object]]) -> tuple[Meter, int]:
    """Count one call of what `build` returns, after another that sets up optimisers.

    Returns:
        The meter after the second call, and the bytes that were live before it.
    """
    with pretended() as meter:
        call = build()
        call()
        held = meter.restart()
        call()
    return meter, held
