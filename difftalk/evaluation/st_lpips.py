"""ST-LPIPS, the perceptual distance that tolerates small shifts (Ghildyal & Liu, ECCV 2022), on AlexNet.

The trained network comes with the package `stlpips-pytorch` (BSD-2-Clause), which is located and never
imported: it imports what it does not declare, and code for non-commercial use. Its tensors are read; the
network is written here from the paper and the names and shapes of the tensors.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from difftalk.evaluation.metrics import Box
from difftalk.pretrained.package_files import package_file
from difftalk.runtime.errors import UserError

WEIGHTS = "weights/vST0.0/alex_shift_tolerant.pth"
REQUIREMENT = "stlpips-pytorch>=0.0.2,<0.1"
PROTOCOL = "vST0.0, AlexNet (package stlpips-pytorch)"
# The convolutions in their order, each with its padding.
CONVOLUTIONS = (("slice1.0", 2), ("slice2.5", 2), ("slice3.9", 1), ("slice4.11", 1), ("slice5.13", 1))


class StLpips:
    """ST-LPIPS of frames against the true ones, over whole frames and over a box.

    Args:
        device: that it is computed on.

    Raises:
        UserError: if the package is not installed, or its file holds something else.
    """

    def __init__(self, device: str = "cpu") -> None:
        path = package_file("stlpips_pytorch", WEIGHTS, REQUIREMENT)
        self._device = device
        self._batch = 2 if device == "cpu" else 32  # more no longer fit a core's cache
        try:
            stored = torch.load(path, map_location="cpu", weights_only=True)
            state: dict[str, Tensor] = {name: tensor.to(device) for name, tensor in stored.items()}
            self._layers = [(state[f"net.{n}.weight"], state[f"net.{n}.bias"], p) for n, p in CONVOLUTIONS]
            self._blurs = [state[f"net.{n}.filt"] for n in ("slice1.1", "slice2.4", "slice3.8")]
            self._heads = [state[f"lin{k}.model.1.weight"] for k in range(len(CONVOLUTIONS))]
            self._shift, self._scale = state["scaling_layer.shift"], state["scaling_layer.scale"]
        except Exception as e:  # noqa: BLE001 - torch.load raises many kinds for what is no state dict
            reason = " ".join(f"{type(e).__name__}: {e}".split())[:200]
            raise UserError(f"{path}: not the network of ST-LPIPS: {reason}") from None

    @torch.inference_mode()
    def __call__(self, truth: np.ndarray, frames: np.ndarray, box: Box) -> tuple[np.ndarray, np.ndarray]:
        """Return the ST-LPIPS of each frame, and the mean of its map inside `box`, (T,) float64 both.

        The map is each layer's, resized to the frame bilinearly, as for LPIPS.

        Args:
            truth: (T, H, W, 3) uint8 RGB, sides of at least 16 pixels.
            frames: likewise.
            box: x0, y0, x1, y1 in pixels.
        """
        whole, inside, batch = [], [], self._batch
        x0, y0, x1, y1 = box
        for i in range(0, len(frames), batch):
            maps = self._maps(self._tensor(truth[i : i + batch]), self._tensor(frames[i : i + batch]))
            whole.append(torch.stack([m.mean(dim=(1, 2, 3)) for m in maps]).sum(0))
            full = [functional.interpolate(m, frames.shape[1:3], mode="bilinear") for m in maps]
            inside.append(torch.stack([m[:, 0, y0:y1, x0:x1].mean(dim=(1, 2)) for m in full]).sum(0))
        if not whole:
            return np.zeros(0), np.zeros(0)
        both = torch.stack([torch.cat(whole), torch.cat(inside)]).double().cpu().numpy()
        return both[0], both[1]

    def _maps(self, a: Tensor, b: Tensor) -> list[Tensor]:
        """Weighted squared differences of unit features, one (B, 1, h, w) per layer."""
        pairs = zip(self._features(a), self._features(b), self._heads, strict=True)
        return [functional.conv2d((_unit(p) - _unit(q)) ** 2, head) for p, q, head in pairs]

    def _features(self, x: Tensor) -> list[Tensor]:
        """The features of five layers of frames (B, 3, H, W) in [-1, 1].

        Where AlexNet strides, this network blurs before it takes every second pixel: after its first
        convolution, and after the maximum of the neighbours before the second and the third.
        """
        x = (x - self._shift) / self._scale
        found: list[Tensor] = []
        for k, (weight, bias, padding) in enumerate(self._layers):
            if 1 <= k < len(self._blurs):
                x = _halve(functional.max_pool2d(x, 3, 1), self._blurs[k])
            x = functional.conv2d(x, weight, bias, padding=padding)
            x = functional.relu(_halve(x, self._blurs[0]) if k == 0 else x)
            found.append(x)
        return found

    def _tensor(self, frames: np.ndarray) -> Tensor:
        tensor: Any = torch.from_numpy(frames).to(self._device)
        return tensor.permute(0, 3, 1, 2).float().div(127.5).sub(1)


def _halve(x: Tensor, blur: Tensor) -> Tensor:
    """Blur each channel, two pixels reflected at each border, and take every second pixel."""
    padded = functional.pad(x, (2, 2, 2, 2), mode="reflect")
    return functional.conv2d(padded, blur, stride=2, groups=x.shape[1])


def _unit(x: Tensor) -> Tensor:
    """The features at each pixel, of length 1."""
    return x / (x.norm(dim=1, keepdim=True) + 1e-10)
