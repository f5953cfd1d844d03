"""IResNet as insightface trains it, each norm a layer of its own, and the layers of its export to ONNX.

Written from the paper's figure (He et al., "Identity mappings", with the changes of ArcFace) and from what an
export holds: norms that follow a convolution go into it, and its tensors are named by numbers.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_weights


class Unit(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.before = nn.BatchNorm2d(inputs)
        self.first, self.norm = nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.slope = nn.PReLU(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False)
        self.after = nn.BatchNorm2d(outputs)
        self.narrows = stride == 2
        if self.narrows:
            self.side, self.side_norm = nn.Conv2d(inputs, outputs, 1, 2, bias=False), nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = self.after(self.second(self.slope(self.norm(self.first(self.before(x))))))
        return y + (self.side_norm(self.side(x)) if self.narrows else x)

    def layers(self) -> Iterator[tuple[str, list[Tensor]]]:
        yield from (norm(self.before), fused(self.first, self.norm), slope(self.slope))
        yield fused(self.second, self.after)
        if self.narrows:
            yield fused(self.side, self.side_norm)


class ReferenceIResNet(nn.Module):
    def __init__(self, channels: tuple[int, ...], depths: tuple[int, ...]) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, channels[0], 3, 1, 1, bias=False), nn.BatchNorm2d(channels[0])
        self.slope = nn.PReLU(channels[0])
        self.units, inputs = [], channels[0]
        for outputs, depth in zip(channels, depths, strict=True):
            for k in range(depth):
                self.units.append(Unit(inputs, outputs, 1 if k else 2))
                inputs = outputs
        self.body = nn.Sequential(*self.units)
        self.last, self.linear = nn.BatchNorm2d(inputs), nn.Linear(inputs * 49, 512)
        self.output = nn.BatchNorm1d(512)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(self.slope(self.norm(self.first(x))))
        return self.output(self.linear(self.last(x).flatten(1)))

    def layers(self) -> Iterator[tuple[str, list[Tensor]]]:
        """The layers of the export, in the order of their use."""
        yield from (fused(self.first, self.norm), slope(self.slope))
        for unit in self.units:
            yield from unit.layers()
        yield from (norm(self.last), ("Gemm", [self.linear.weight, self.linear.bias]), norm(self.output))


def fused(conv: nn.Module, bn: nn.Module) -> tuple[str, list[Tensor]]:
    state, n = conv.state_dict(), bn.state_dict()
    parts = fuse_conv_bn_weights(
        state["weight"], None, n["running_mean"], n["running_var"], 1e-5, n["weight"], n["bias"]
    )
    return "Conv", list(parts)


def slope(prelu: nn.Module) -> tuple[str, list[Tensor]]:
    return "PRelu", [prelu.state_dict()["weight"][:, None, None]]


def norm(bn: nn.Module) -> tuple[str, list[Tensor]]:
    names = ("weight", "bias", "running_mean", "running_var")
    return "BatchNormalization", [bn.state_dict()[name] for name in names]


def random_network(channels: tuple[int, ...], depths: tuple[int, ...]) -> ReferenceIResNet:
    """A network with random weights and statistics."""
    torch.manual_seed(0)
    network = ReferenceIResNet(channels, depths).eval()
    for name, value in network.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 2)
        elif name.endswith("running_mean") or name.endswith("bias"):
            value.normal_(0, 0.1)
        elif name.endswith("weight") and value.ndim == 1:
            value.uniform_(0.2, 0.8)
    return network
