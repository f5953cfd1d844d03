"""Features of FID: the Inception v3 of Heusel et al. (NeurIPS 2017), in the resize of pytorch-fid.

It is Inception v3 (Szegedy et al., CVPR 2016) as TensorFlow's release of 2015-12-05 has it: averages in the
blocks leave out the padding, and the last block takes a maximum where the others average. Tensors are named
as in torchvision, and as in the file `pt_inception-2015-12-05-6726825d.pth` of mseitzer/pytorch-fid.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from difftalk.models.networks import Unit, gather, load_network, not_computed, weights_of

WEIGHTS = "inception-fid"
SIDE, FEATURES = 299, 2048
NOT_COMPUTED = not_computed(WEIGHTS)

# One step of a path: name, channels, kernel; or a fork of such steps, side by side; or a pooling.
Kernel = int | tuple[int, int]
Step = tuple[str, int, Kernel]
Path = list[Step | list[Step] | str]


class Block(nn.Module):
    """Paths side by side, whose features are concatenated.

    Args:
        channels: of its input.
        paths: of steps one after the other. The pooling is `average` without the padding, or `maximum`.
        halve: whether the last convolution, or the maximum, of each path strides by two, without padding.
    """

    def __init__(self, channels: int, paths: list[Path], halve: bool = False) -> None:
        super().__init__()
        self.paths, self.halve = paths, halve
        for path in paths:
            inputs = channels
            for step in path:
                if isinstance(step, str):
                    continue
                for name, outputs, kernel in step if isinstance(step, list) else [step]:
                    strided = halve and step is path[-1]
                    self.add_module(name, unit(inputs, outputs, kernel, strided))
                inputs = outputs

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of (B, C, H, W)."""
        return torch.cat([self._walk(path, x) for path in self.paths], dim=1)

    def _walk(self, path: Path, x: Tensor) -> Tensor:
        for step in path:
            if step == "average":
                x = functional.avg_pool2d(x, 3, 1, padding=1, count_include_pad=False)
            elif step == "maximum":
                x = (
                    functional.max_pool2d(x, 3, 2)
                    if self.halve
                    else functional.max_pool2d(x, 3, 1, padding=1)
                )
            elif isinstance(step, list):
                x = torch.cat([self.get_submodule(name)(x) for name, *_ in step], dim=1)
            else:
                x = self.get_submodule(step[0])(x)
        return x


def unit(inputs: int, outputs: int, kernel: Kernel, strided: bool = False) -> Unit:
    """A convolution that keeps the size, or strides by two without padding."""
    height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
    padding = 0 if strided else (height // 2, width // 2)
    conv = nn.Conv2d(inputs, outputs, (height, width), 2 if strided else 1, padding, bias=False)
    return Unit(conv)


def block_a(channels: int, pooled: int) -> Block:
    """Mixed_5: 35 x 35."""
    return Block(channels, [
        [("branch1x1", 64, 1)],
        [("branch5x5_1", 48, 1), ("branch5x5_2", 64, 5)],
        [("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3)],
        ["average", ("branch_pool", pooled, 1)],
    ])  # fmt: skip


def block_c(inner: int) -> Block:
    """Mixed_6b to 6e: 17 x 17."""
    across, down = (1, 7), (7, 1)
    double: Path = [("branch7x7dbl_1", inner, 1), ("branch7x7dbl_2", inner, down),
                    ("branch7x7dbl_3", inner, across), ("branch7x7dbl_4", inner, down),
                    ("branch7x7dbl_5", 192, across)]  # fmt: skip
    return Block(768, [
        [("branch1x1", 192, 1)],
        [("branch7x7_1", inner, 1), ("branch7x7_2", inner, across), ("branch7x7_3", 192, down)],
        double,
        ["average", ("branch_pool", 192, 1)],
    ])  # fmt: skip


def block_e(channels: int, pooling: str) -> Block:
    """Mixed_7b and 7c: 8 x 8."""
    across, down = (1, 3), (3, 1)
    return Block(channels, [
        [("branch1x1", 320, 1)],
        [("branch3x3_1", 384, 1), [("branch3x3_2a", 384, across), ("branch3x3_2b", 384, down)]],
        [("branch3x3dbl_1", 448, 1), ("branch3x3dbl_2", 384, 3),
         [("branch3x3dbl_3a", 384, across), ("branch3x3dbl_3b", 384, down)]],
        [pooling, ("branch_pool", 192, 1)],
    ])  # fmt: skip


class InceptionV3(nn.Module):
    """The network up to its last average: frames (B, 3, 299, 299) in [-1, 1] to (B, 2048)."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = unit(3, 32, 3, strided=True)
        self.Conv2d_2a_3x3 = Unit(nn.Conv2d(32, 32, 3, bias=False))
        self.Conv2d_2b_3x3 = unit(32, 64, 3)
        self.Conv2d_3b_1x1 = unit(64, 80, 1)
        self.Conv2d_4a_3x3 = Unit(nn.Conv2d(80, 192, 3, bias=False))
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = block_a(192, 32), block_a(256, 64), block_a(288, 64)
        self.Mixed_6a = Block(288, [
            [("branch3x3", 384, 3)],
            [("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3)],
            ["maximum"],
        ], halve=True)  # fmt: skip
        self.Mixed_6b, self.Mixed_6c = block_c(128), block_c(160)
        self.Mixed_6d, self.Mixed_6e = block_c(160), block_c(192)
        self.Mixed_7a = Block(768, [
            [("branch3x3_1", 192, 1), ("branch3x3_2", 320, 3)],
            [("branch7x7x3_1", 192, 1), ("branch7x7x3_2", 192, (1, 7)), ("branch7x7x3_3", 192, (7, 1)),
             ("branch7x7x3_4", 192, 3)],
            ["maximum"],
        ], halve=True)  # fmt: skip
        self.Mixed_7b, self.Mixed_7c = block_e(1280, "average"), block_e(2048, "maximum")

    def forward(self, x: Tensor) -> Tensor:
        """Return the features (B, 2048) of frames (B, 3, 299, 299) in [-1, 1]."""
        for name, layer in self.named_children():
            if name in ("Conv2d_3b_1x1", "Mixed_5b"):
                x = functional.max_pool2d(x, 3, 2)
            x = layer(x)
        return x.mean(dim=(2, 3))


class Inception:
    """The features of FID of frames.

    Args:
        network: in eval mode, on `device`.
        device: of the network.
    """

    def __init__(self, network: InceptionV3, device: str = "cpu") -> None:
        self._network, self._device = network, device
        self._batch = 4 if device == "cpu" else 64

    @classmethod
    def load(cls, device: str = "cpu") -> "Inception | None":
        """Load the pretrained network; None where its weights are not there (`NOT_COMPUTED` says so).

        Raises:
            UserError: if they are damaged.
        """
        network = load_network(WEIGHTS, InceptionV3(), device)
        return None if network is None else cls(network, device)

    @property
    def protocol(self) -> str:
        """How the features are made, for the foot of the tables."""
        return (
            f"Inception v3 of 2015-12-05, {FEATURES} features of a frame of the crop, 8 bit RGB, resized "
            f"to {SIDE} px as pytorch-fid does (bilinear, no antialiasing); {weights_of(WEIGHTS)}"
        )

    @torch.inference_mode()
    def features(self, frames: np.ndarray) -> np.ndarray:
        """Return the features of frames (N, H, W, 3) uint8 RGB: (N, 2048) float32."""
        parts = []
        for i in range(0, len(frames), self._batch):
            x = (
                torch.from_numpy(frames[i : i + self._batch]).to(self._device).permute(0, 3, 1, 2).float()
                / 255
            )
            x = functional.interpolate(x, (SIDE, SIDE), mode="bilinear", align_corners=False)
            parts.append(self._network(2 * x - 1))
        return gather(parts, FEATURES)
