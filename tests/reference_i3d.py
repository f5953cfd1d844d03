"""I3D written down from the paper (Carreira & Zisserman 2017, figure 3) and TensorFlow's padding rule.

It shares nothing with `difftalk.evaluation.i3d`: other names of tensors, one rule of padding for all layers.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

# Channels of the paths 1, 1-3, 1-3, pool-1 of each inception block; a number pools before it (kernel = stride
# but for 3, whose stride is 2).
BLOCKS: list[tuple[int, ...] | int] = [
    (64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64), 3,
    (192, 96, 208, 16, 48, 64), (160, 112, 224, 24, 64, 64), (128, 128, 256, 24, 64, 64),
    (112, 144, 288, 32, 64, 64), (256, 160, 320, 32, 128, 128), 2,
    (256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128),
]  # fmt: skip


def same(x: Tensor, kernel: Sequence[int], stride: Sequence[int]) -> Tensor:
    """Pad (B, C, T, H, W) as TensorFlow does: ceil(size / stride) places, what is odd at the end."""
    pads: list[int] = []
    for size, k, s in zip(x.shape[:1:-1], kernel[::-1], stride[::-1], strict=True):
        total = max((-(-int(size) // s) - 1) * s + k - int(size), 0)
        pads += [total // 2, total - total // 2]
    return functional.pad(x, pads)


class Layer(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.kernel, self.stride = [kernel] * 3, [stride] * 3
        self.conv3d = nn.Conv3d(inputs, outputs, kernel, stride, bias=False)
        self.batch3d = nn.BatchNorm3d(outputs, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return self.batch3d(self.conv3d(same(x, self.kernel, self.stride))).clamp(min=0)


def pool(x: Tensor, kernel: list[int], stride: list[int]) -> Tensor:
    return functional.max_pool3d(same(x, kernel, stride), kernel, stride)


class Mixed(nn.Module):
    def __init__(self, inputs: int, sizes: tuple[int, ...]) -> None:
        super().__init__()
        a, b1, b, c1, c, d = sizes
        self.branch_0 = Layer(inputs, a, 1)
        self.branch_1 = nn.Sequential(Layer(inputs, b1, 1), Layer(b1, b, 3))
        self.branch_2 = nn.Sequential(Layer(inputs, c1, 1), Layer(c1, c, 3))
        self.branch_3 = Layer(inputs, d, 1)
        self.outputs = a + b + c + d

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.branch_3(pool(x, [3, 3, 3], [1, 1, 1]))
        return torch.cat([self.branch_0(x), self.branch_1(x), self.branch_2(x), pooled], 1)


class ReferenceI3d(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = Layer(3, 64, 7, 2), Layer(64, 64, 1), Layer(64, 192, 3)
        self.mixed, inputs = nn.ModuleList(), 192
        for sizes in BLOCKS:
            if isinstance(sizes, tuple):
                block = Mixed(inputs, sizes)
                self.mixed.append(block)
                inputs = block.outputs
        self.last = nn.Conv3d(inputs, 400, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, 400) of (B, 3, 16, 224, 224)."""
        x = pool(self.first(x), [1, 3, 3], [1, 2, 2])
        x = pool(self.third(self.second(x)), [1, 3, 3], [1, 2, 2])
        blocks = iter(self.mixed)
        for sizes in BLOCKS:
            x = next(blocks)(x) if isinstance(sizes, tuple) else pool(x, [sizes] * 3, [2] * 3)
        return self.last(functional.avg_pool3d(x, (2, *x.shape[3:]), 1)).mean((2, 3, 4))
