"""Networks of metrics whose weights `difftalk weights` keeps: loading them, and what is said without them."""

from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from difftalk.pretrained import table
from difftalk.runtime.errors import UserError

Network = TypeVar("Network", bound=nn.Module)


class Unit(nn.Module):
    """A convolution without bias, batch normalisation and ReLU: the layer of the Inception networks.

    Args:
        conv: the convolution, of two or three dimensions.
        eps: of the normalisation.
    """

    def __init__(self, conv: nn.Conv2d | nn.Conv3d, eps: float = 1e-3) -> None:
        super().__init__()
        norm = nn.BatchNorm2d if isinstance(conv, nn.Conv2d) else nn.BatchNorm3d
        self.conv, self.bn = conv, norm(conv.out_channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of (B, C, ...)."""
        return nn.functional.relu(self.bn(self.conv(x)), inplace=True)


def load_network(name: str, network: Network, device: str) -> Network | None:
    """Give a network its pretrained weights, for use alone; None where they are not there.

    Args:
        name: of the table of pretrained weights.
        network: of the architecture that the file is of.
        device: that it is put on.

    Raises:
        UserError: if the file is damaged, or is not of this network.
    """
    if table.present(name) is None:
        return None
    path = table.locate(name, asked_by="evaluation")
    try:
        fill(network, load_file(path), path)
    except (SafetensorError, OSError) as e:
        raise UserError(f"{path}: cannot be read: {' '.join(str(e).split())[:200]}") from None
    return network.eval().requires_grad_(False).to(device)


def fill(network: nn.Module, tensors: dict[str, Tensor], file: Path) -> None:
    """Load tensors into a network that has exactly these; how many batches a norm has seen is left out.

    Raises:
        UserError: naming those that are missing, unknown or of another shape.
    """
    expected = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    found = {k: v.float() for k, v in tensors.items() if not k.endswith("num_batches_tracked")}
    wrong = sorted(
        k for k in expected.keys() | found.keys()
        if k not in expected or k not in found or expected[k].shape != found[k].shape
    )  # fmt: skip
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        kind = type(network).__name__
        raise UserError(f"{file}: not the weights of {kind}: {', '.join(wrong[:5])}{more}")
    network.load_state_dict(found, strict=False, assign=True)


def gather(parts: list[Tensor], width: int) -> np.ndarray:
    """Return features (N, width) that were computed in batches, as one float32 array: one copy from a GPU."""
    return torch.cat(parts).float().cpu().numpy() if parts else np.zeros((0, width), np.float32)


def weights_of(name: str) -> str:
    """Return which weights are used, for the protocol: their name, and the first digits of their sha256."""
    return f"weights {name} {(table.recorded(name) or '')[:8]}"


def not_computed(name: str) -> str:
    """Return the line of the protocol for a metric whose weights are missing, with the way to get them."""
    return f"not computed: no weights {name} (`difftalk weights fetch {name}`)"
