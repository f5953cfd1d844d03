"""The patch discriminator that the first stage is trained against, and its losses.

PatchGAN, Isola et al. 2017.
"""

import torch
from torch import nn
from torch.nn import functional as F

SMALLEST_DENOMINATOR = 1e-6  # delta of the adaptive weight
LARGEST_WEIGHT = 1e4


class PatchDiscriminator(nn.Sequential):
    """Score each overlapping patch of images (B, 3, H, W) in [-1, 1]: (B, 1, h, w).

    Scores are high where a patch looks real. Three layers judge patches of 70 pixels; each layer fewer halves
    them, roughly.

    Args:
        channels: of the first layer; they double up to eight times as many.
        layers: convolutions that halve the image.
    """

    def __init__(self, channels: int = 64, layers: int = 3) -> None:
        widths = [channels * min(2**i, 8) for i in range(layers + 1)]
        parts: list[nn.Module] = [nn.Conv2d(3, widths[0], 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for i in range(1, layers + 1):
            stride = 2 if i < layers else 1
            parts += [
                nn.Conv2d(widths[i - 1], widths[i], 4, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(widths[i]),
                nn.LeakyReLU(0.2),
            ]
        super().__init__(*parts, nn.Conv2d(widths[-1], 1, 4, padding=1))
        for part in self:
            if isinstance(part, nn.Conv2d):
                nn.init.normal_(part.weight, 0.0, 0.02)
            elif isinstance(part, nn.BatchNorm2d):
                nn.init.normal_(part.weight, 1.0, 0.02)


def hinge_loss(real: torch.Tensor, generated: torch.Tensor) -> torch.Tensor:
    """Return the discriminator's loss from its scores of real and of generated images."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + generated).mean())


def adaptive_weight(
    reconstruction: torch.Tensor, adversarial: torch.Tensor, last_layer: torch.Tensor
) -> torch.Tensor:
    """Return the weight at which both losses have equal gradients at the decoder's last layer.

    lambda = |grad L_rec| / (|grad L_GAN| + delta), Eq. 7 of Esser et al. 2021 ("Taming Transformers", VQGAN),
    with the norms and the upper bound of 1e4 of their code; a scalar without gradient.
    """
    (reconstruction_gradient,) = torch.autograd.grad(reconstruction, last_layer, retain_graph=True)
    (adversarial_gradient,) = torch.autograd.grad(adversarial, last_layer, retain_graph=True)
    ratio = reconstruction_gradient.norm() / (adversarial_gradient.norm() + SMALLEST_DENOMINATOR)
    return ratio.clamp(max=LARGEST_WEIGHT).detach()
