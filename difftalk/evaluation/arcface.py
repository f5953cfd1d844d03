"""CSIM: the cosine similarity of ArcFace embeddings of faces, by the IResNet-50 of insightface's `buffalo_l`.

Deng et al., "ArcFace: additive angular margin loss for deep face recognition" (CVPR 2019). The weights are
for non-commercial research alone.
"""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from difftalk.models.networks import gather, load_network, not_computed, weights_of
from difftalk.pretrained.onnx_tensors import Layer
from difftalk.runtime.errors import UserError

WEIGHTS = "arcface"
SIDE, EMBEDDING = 112, 512
NOT_COMPUTED = not_computed(WEIGHTS)
# Where the network has seen the centres of the eyes, the tip of the nose and the corners of the mouth.
FIVE_POINTS = np.array(
    [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)]
)
CHANNELS, DEPTHS = (64, 128, 256, 512), (3, 4, 14, 3)


class Block(nn.Module):
    """A residual block; the norms that follow its convolutions are in their weights."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.prelu = nn.PReLU(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, stride, 1)
        self.downsample = nn.Conv2d(inputs, outputs, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of (B, C, H, W)."""
        return self.conv2(self.prelu(self.conv1(self.bn1(x)))) + self.downsample(x)


class IResNet(nn.Module):
    """The network: aligned faces (B, 3, 112, 112) in [-1, 1], RGB, to embeddings (B, 512) of any length.

    Args:
        channels: of the four stages, each of which halves the size.
        depths: blocks of each.
    """

    def __init__(self, channels: tuple[int, ...] = CHANNELS, depths: tuple[int, ...] = DEPTHS) -> None:
        super().__init__()
        self.conv1, self.prelu = nn.Conv2d(3, channels[0], 3, padding=1), nn.PReLU(channels[0])
        inputs, blocks = channels[0], []
        for outputs, depth in zip(channels, depths, strict=True):
            for k in range(depth):
                blocks.append(Block(inputs, outputs, 1 if k else 2))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.bn2 = nn.BatchNorm2d(inputs)
        self.fc = nn.Linear(inputs * (SIDE >> len(depths)) ** 2, EMBEDDING)
        self.features = nn.BatchNorm1d(EMBEDDING)

    def forward(self, x: Tensor) -> Tensor:
        """Return the embeddings (B, 512) of faces (B, 3, 112, 112)."""
        x = self.bn2(self.blocks(self.prelu(self.conv1(x))))
        return self.features(self.fc(x.flatten(1)))


class ArcFace:
    """The embeddings of faces whose landmarks are known.

    Args:
        network: in eval mode, on `device`.
        device: of the network.
    """

    def __init__(self, network: IResNet, device: str = "cpu") -> None:
        self._network, self._device = network, device
        self._batch = 4 if device == "cpu" else 128

    @classmethod
    def load(cls, device: str = "cpu") -> "ArcFace | None":
        """Load the pretrained network; None where its weights are not there (`NOT_COMPUTED` says so).

        Raises:
            UserError: if they are damaged.
        """
        network = load_network(WEIGHTS, IResNet(), device)
        return None if network is None else cls(network, device)

    @property
    def protocol(self) -> str:
        """How the embeddings are made, for the foot of the tables."""
        return (
            "ArcFace IResNet-50 (w600k_r50 of insightface's buffalo_l, non-commercial), faces aligned by "
            f"five points of the true landmarks to {SIDE} px; {weights_of(WEIGHTS)}"
        )

    @torch.inference_mode()
    def embeddings(self, frames: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        """Return the embedding of the face in each frame, of unit length: (T, 512) float32.

        Args:
            frames: (T, H, W, 3) uint8 RGB.
            landmarks: (T, 68, 2) of the *true* clip in pixels of the frames, which align the face.
        """
        parts = []
        for i in range(0, len(frames), self._batch):
            pairs = zip(frames[i : i + self._batch], landmarks[i : i + self._batch], strict=True)
            faces = np.stack([align(frame, points) for frame, points in pairs])
            x = torch.from_numpy(faces).to(self._device).permute(0, 3, 1, 2).float().sub(127.5).div(127.5)
            parts.append(functional.normalize(self._network(x), dim=1))
        return gather(parts, EMBEDDING)


def csim(reference: np.ndarray, embeddings: np.ndarray) -> float | None:
    """Return the mean cosine of the embeddings of a clip with those of the reference; None of an empty clip.

    Args:
        reference: (512,) of one frame, or (T, 512) of the same frames of the true clip; of unit length.
        embeddings: (T, 512), of unit length.
    """
    return float((embeddings * reference).sum(axis=1).mean()) if len(embeddings) else None


def align(frame: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return the face (112, 112, 3) uint8, moved, turned and scaled to where the network expects it.

    It is the similarity with the least squared distances, in complex numbers the line w = a z + b; what lies
    outside of the frame is black. `norm_crop` of insightface.

    Args:
        frame: (H, W, 3) uint8 RGB.
        points: (68, 2) in its pixels.
    """
    eyes = [points[first : first + 6].mean(axis=0) for first in (36, 42)]
    five = np.stack([*eyes, points[30], points[48], points[54]]).astype(np.float64)
    z, w = (p[:, 0] + 1j * p[:, 1] for p in (five, FIVE_POINTS))
    centred = z - z.mean()
    a = np.vdot(centred, w - w.mean()) / np.vdot(centred, centred).real
    b = w.mean() - a * z.mean()
    matrix = np.array([(a.real, -a.imag, b.real), (a.imag, a.real, b.imag)])
    return np.asarray(cv2.warpAffine(frame, matrix, (SIDE, SIDE), borderValue=0))


def named_tensors(layers: list[Layer], network: IResNet, file: Path) -> dict[str, Tensor]:
    """Return the tensors of a network that was exported to ONNX, by their names in `network`.

    An export names the convolutions by numbers: the layers are those of the network in their order.

    Raises:
        UserError: naming the first layer that does not fit.
    """
    expected, result = list(_layers(network)), {}
    if len(layers) != len(expected):
        raise UserError(f"{file}: not an IResNet-50: {len(layers)} layers with weights, not {len(expected)}")
    for k, ((kind, weights), (name, wanted, tensors)) in enumerate(zip(layers, expected, strict=True)):
        found = [w.reshape(-1) if kind == "PRelu" else w for w in weights]
        shapes = [tuple(t.shape) for t in tensors.values()]
        if kind != wanted or [w.shape for w in found] != shapes:
            what = f"layer {k} is {kind} {[w.shape for w in weights]}"
            raise UserError(f"{file}: not an IResNet-50: {what}, where {name} is {wanted} {shapes}")
        result.update(
            {f"{name}.{n}": torch.from_numpy(w.copy()) for n, w in zip(tensors, found, strict=True)}
        )
    return result


def _layers(network: IResNet) -> Iterator[tuple[str, str, dict[str, Tensor]]]:
    """Yield name, type in ONNX and tensors of each layer that has some, in the order of their use."""
    kinds = {nn.Conv2d: "Conv", nn.PReLU: "PRelu", nn.Linear: "Gemm"}
    for name, module in network.named_modules():
        if not next(module.children(), None) and module.state_dict():
            tensors = {k: v for k, v in module.state_dict().items() if k != "num_batches_tracked"}
            yield name, kinds.get(type(module), "BatchNormalization"), tensors
