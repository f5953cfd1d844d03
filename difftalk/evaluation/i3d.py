"""Features of FVD: the I3D of Carreira & Zisserman (CVPR 2017) trained on Kinetics-400, 400 logits a window.

Unterthiner et al., "Towards accurate generative models of video" (2018), take the logits of that network as
features. The architecture is that of DeepMind's release (kinetics-i3d, Apache-2.0), whose padding is
TensorFlow's `SAME`.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from difftalk.models.networks import Unit, gather, load_network, not_computed, weights_of
from difftalk.runtime.errors import UserError

WEIGHTS = "i3d-fvd"
WINDOW, SIDE, CLASSES = 16, 224, 400
NOT_COMPUTED = not_computed(WEIGHTS)
# Channels of each block's paths: 1; 1 and 3; 1 and 3; pooled and 1 (the sizes of their kernels).
BLOCKS = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}
EPS = 1e-3  # of the norms
NORM = ("weight", "bias", "running_mean", "running_var")


class Block(nn.Module):
    """Four paths side by side, whose features are concatenated."""

    def __init__(self, channels: int, a: int, b1: int, b: int, c1: int, c: int, d: int) -> None:
        super().__init__()
        self.b0 = _unit(channels, a, 1)
        self.b1a, self.b1b = _unit(channels, b1, 1), _unit(b1, b, 3)
        self.b2a, self.b2b = _unit(channels, c1, 1), _unit(c1, c, 3)
        self.b3b = _unit(channels, d, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of (B, C, T, H, W)."""
        pooled = functional.max_pool3d(x, 3, 1, padding=1)
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(pooled)], dim=1)


class I3dNetwork(nn.Module):
    """The network: windows (B, 3, 16, 224, 224) in [-1, 1] to logits (B, 400)."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv3d_1a_7x7 = Unit(nn.Conv3d(3, 64, 7, 2, bias=False))
        self.Conv3d_2b_1x1, self.Conv3d_2c_3x3 = _unit(64, 64, 1), _unit(64, 192, 3)
        channels = 192
        for name, sizes in BLOCKS.items():
            self.add_module(name, Block(channels, *sizes))
            channels = sizes[0] + sizes[2] + sizes[4] + sizes[5]
        self.logits = nn.Conv3d(channels, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, 400) of windows (B, 3, 16, 224, 224) in [-1, 1]."""
        x = self.Conv3d_1a_7x7(functional.pad(x, (2, 3, 2, 3, 2, 3)))
        x = self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(_halve(x, (1, 3, 3))))
        x = _halve(x, (1, 3, 3))
        for name in BLOCKS:
            x = _halve(x, (3, 3, 3)) if name == "Mixed_4b" else x
            x = _halve(x, (2, 2, 2)) if name == "Mixed_5b" else x
            x = self.get_submodule(name)(x)
        return self.logits(functional.avg_pool3d(x, (2, 7, 7), 1)).mean(dim=(2, 3, 4))


def _unit(inputs: int, outputs: int, kernel: int) -> Unit:
    return Unit(nn.Conv3d(inputs, outputs, kernel, padding=kernel // 2, bias=False))


def _halve(x: Tensor, kernel: tuple[int, int, int]) -> Tensor:
    """Take the maximum of each second place: of even sizes, `SAME` pads the end alone.

    A kernel of 1 keeps its dimension. The features are not negative: zeros are as good as no padding.
    """
    ends = [int(k == 3) for k in kernel]
    padded = functional.pad(x, (0, ends[2], 0, ends[1], 0, ends[0]))
    return functional.max_pool3d(padded, kernel, [min(k, 2) for k in kernel])


class I3d:
    """The features of FVD of clips.

    Args:
        network: in eval mode, on `device`.
        device: of the network.
    """

    def __init__(self, network: I3dNetwork, device: str = "cpu") -> None:
        self._network, self._device = network, device
        self._batch = 1 if device == "cpu" else 8

    @classmethod
    def load(cls, device: str = "cpu") -> "I3d | None":
        """Load the pretrained network; None where its weights are not there (`NOT_COMPUTED` says so).

        Raises:
            UserError: if they are damaged.
        """
        network = load_network(WEIGHTS, I3dNetwork(), device)
        return None if network is None else cls(network, device)

    @property
    def protocol(self) -> str:
        """How the features are made, for the foot of the tables."""
        return (
            f"I3D of Kinetics-400, {CLASSES} logits of windows of {WINDOW} consecutive frames of the crop, "
            f"side by side from the first frame on, the rest left out, resized to {SIDE} px (bilinear); "
            f"{weights_of(WEIGHTS)}"
        )

    @torch.inference_mode()
    def features(self, frames: np.ndarray) -> np.ndarray:
        """Return the logits of the windows of a clip: (T // 16, 400) float32.

        Args:
            frames: (T, H, W, 3) uint8 RGB.
        """
        count = len(frames) // WINDOW
        windows = frames[: count * WINDOW].reshape(count, WINDOW, *frames.shape[1:])
        parts = []
        for i in range(0, count, self._batch):
            some = torch.from_numpy(windows[i : i + self._batch]).to(self._device)
            x = some.flatten(0, 1).permute(0, 3, 1, 2).float()
            x = functional.interpolate(x, (SIDE, SIDE), mode="bilinear", align_corners=False)
            x = x.unflatten(0, some.shape[:2]).transpose(1, 2) / 127.5 - 1
            parts.append(self._network(x))
        return gather(parts, CLASSES)


def named_tensors(tensors: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
    """Return the tensors of a released I3D by the names of `I3dNetwork`, found by their order and shapes.

    The releases (a TorchScript archive, and PyTorch files) differ in names, not in order: convolutions come
    as the data goes through them, paths of a block from the first to the last; norms likewise. Only the last
    layer, known by its 400 classes, may be anywhere.

    Raises:
        UserError: naming the first tensor that does not fit.
    """
    network = I3dNetwork()
    tensors = {k: v for k, v in tensors.items() if v.ndim in (1, 5)}
    logits = [k for k, v in tensors.items() if v.ndim == 5 and len(v) == CLASSES]
    biases = [k for k, v in tensors.items() if tuple(v.shape) == (CLASSES,)]
    if len(logits) != 1 or len(biases) != 1:
        raise UserError(
            f"{file}: not an I3D: {len(logits)} layers of {CLASSES} classes, {len(biases)} biases"
        )
    result = {"logits.weight": tensors.pop(logits[0]), "logits.bias": tensors.pop(biases[0])}
    convolutions = [(k, v) for k, v in tensors.items() if v.ndim == 5]
    vectors = [(k, v) for k, v in tensors.items() if v.ndim == 1]
    count = len(vectors)
    units = [name for name, module in network.named_modules() if isinstance(module, Unit)]
    if len(vectors) == len(units):  # each convolution has its norm in it, and a bias
        vectors = [pair for name, bias in vectors for pair in _no_norm(name, bias)]
    if (len(convolutions), len(vectors)) != (len(units), len(NORM) * len(units)):
        raise UserError(
            f"{file}: not an I3D: {len(convolutions)} convolutions and {len(vectors)} vectors, where "
            f"{len(units)} and {len(NORM) * len(units)} are expected"
        )
    expected = network.state_dict()
    for k, unit in enumerate(units):
        norm = dict(zip(NORM, vectors[len(NORM) * k :], strict=False))
        found = {"conv.weight": convolutions[k]} | {f"bn.{kind}": norm[kind] for kind in NORM}
        for kind, (name, tensor) in found.items():
            last = name.rpartition(".")[2]
            named_otherwise = last in NORM and last != kind.partition(".")[2] and len(vectors) == count
            if named_otherwise or tensor.shape != expected[f"{unit}.{kind}"].shape:
                shape = tuple(expected[f"{unit}.{kind}"].shape)
                found_shape = tuple(tensor.shape)
                raise UserError(
                    f"{file}: not an I3D: {name} {found_shape} is in the place of {unit}.{kind} {shape}"
                )
            result[f"{unit}.{kind}"] = tensor
    return result


def _no_norm(name: str, bias: Tensor) -> list[tuple[str, Tensor]]:
    """The tensors of a norm that adds a bias and does nothing else, in the order of `NORM`."""
    nothing, one = torch.zeros_like(bias), torch.ones_like(bias)
    return [(name, t) for t in (one, bias, nothing, one - EPS)]
