"""LPIPS as a loss: the heads of the package `lpips` over a VGG16 backbone from a file."""

import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from difftalk.runtime.errors import UserError

# Convolutions of VGG16's `features`, by the slice of the package that has them.
SLICES = {0: 1, 2: 1, 5: 2, 7: 2, 10: 3, 12: 3, 14: 3, 17: 4, 19: 4, 21: 4, 24: 5, 26: 5, 28: 5}
TENSORS = [(layer, kind) for layer in SLICES for kind in ("weight", "bias")]


class Perceptual(nn.Module):
    """LPIPS 0.1 between two batches of images (B, 3, H, W) in [-1, 1]: (B,).

    H and W are at least 16. The network is frozen; gradients flow to the images. Nothing is downloaded.

    Args:
        backbone: safetensors with torchvision's names, `features.0.weight` and so on.

    Raises:
        UserError: if the file is not that.
    """

    def __init__(self, backbone: Path) -> None:
        super().__init__()
        import lpips

        try:
            state = load_file(backbone)
            stored = {f"slice{SLICES[k]}.{k}.{kind}": state[f"features.{k}.{kind}"] for k, kind in TENSORS}
            with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
                warnings.simplefilter("ignore")  # the package calls torchvision by an old name
                # pnet_rand only keeps it from downloading: every tensor of the backbone is replaced.
                self.net: Any = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
            self.net.net.load_state_dict(stored)
            self.net.net = Features(self.net.net)
        except (SafetensorError, OSError, KeyError, RuntimeError) as e:
            what = " ".join(f"{type(e).__name__}: {e}".split())[:200]
            raise UserError(f"{backbone}: not the VGG16 backbone of LPIPS ({what})") from None
        self.requires_grad_(False)
        self.eval()

    def forward(self, truth: torch.Tensor, images: torch.Tensor, *, bf16: bool = False) -> torch.Tensor:
        """Return the distance of each image (B, 3, H, W) to its truth, in the same shape: (B,).

        With `bf16` the backbone computes in bfloat16; its features are compared in float32 all the same.
        """
        self.net.net.bf16 = bf16
        return self.net(truth, images).flatten()


class Features(nn.Module):
    """The backbone, whose features come in float32 whatever it computes in."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone, self.bf16 = backbone, False

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Return the features of each slice, float32, of images (B, 3, H, W) as LPIPS scales them."""
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bf16):
            return [features.float() for features in self.backbone(images)]
