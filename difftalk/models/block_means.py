"""A first stage whose latents are, before it has learnt anything, the mean colours of its blocks.

Group normalisation takes brightness and saturation out of a frame that is all of one colour. A first stage
with random weights learns only slowly to carry them past its normalisations, and paints grey what it has not
seen often. Here a few channels carry them from the first step on, in a form that normalisation and activation
leave alone: each colour x comes with -x and with two constants, c and -c. Their mean is 0 and their spread
hardly depends on x, and silu(x) - silu(-x) = x. Everything is trained as usual from there.
"""

import math

import torch
from diffusers import VQModel
from torch import Tensor, nn

from difftalk.runtime.errors import UserError

CONSTANT = 4.0  # c, against colours in [-1, 1]
COLOUR_VARIANCE = 0.25  # of a colour in [-1, 1], about; only scales
OTHERS = 0.1  # the factor of what the other channels add to the output
CHANNELS = 4  # x, -x, c and -c


def start_from_block_means(model: VQModel) -> None:
    """Set the weights of a new first stage such that it encodes means of blocks and interpolates them.

    The residual blocks and the attention add nothing at first. All other weights stay random.

    Args:
        model: from `build_autoencoder`, with three latent channels and at least 16 channels at each
            resolution.

    Raises:
        UserError: if it has other latents, or too few channels.
    """
    config = model.config
    if config.latent_channels != 3:
        raise UserError(f"block means are three numbers, and not latents of {config.latent_channels}")
    carried = {channels: _Carried(channels, config.norm_num_groups) for channels in config.block_out_channels}
    narrow, wide = config.block_out_channels[0], config.block_out_channels[-1]
    halve = torch.zeros(3, 3)
    halve[:2, :2] = 0.25
    slope = torch.tensor([0.25, 0.5, 0.25])  # after a doubling this interpolates linearly
    with torch.no_grad():
        for part, blocks, first, last in (
            (model.encoder, model.encoder.down_blocks, narrow, wide),
            (model.decoder, model.decoder.up_blocks, wide, narrow),
        ):
            carried[first].begin(part.conv_in)
            for block in (part.mid_block, *blocks):
                for residual in block.resnets:
                    _silence(residual.conv2)
                    if residual.conv_shortcut is not None:
                        _pass_on(residual.conv_shortcut, carried, torch.ones(1, 1))
                for attention in getattr(block, "attentions", []):
                    _silence(attention.to_out[0])
                for scaling in getattr(block, "downsamplers", None) or []:
                    _pass_on(scaling.conv, carried, halve)
                for scaling in getattr(block, "upsamplers", None) or []:
                    _pass_on(scaling.conv, carried, slope[:, None] * slope)
            carried[last].end(part.conv_norm_out, part.conv_out)
        for mixing in (model.quant_conv, model.post_quant_conv):
            mixing.weight.copy_(torch.eye(3)[:, :, None, None])
            mixing.bias.zero_()


class _Carried:
    """Which channels of a layer carry the three colours.

    Args:
        channels: of the layer.
        groups: of its normalisation.

    Raises:
        UserError: if a group is too small for the colours that it gets.
    """

    def __init__(self, channels: int, groups: int) -> None:
        self.of_group = channels // groups
        self.colours_of_group = [len(range(group, 3, groups)) for group in range(min(groups, 3))]
        if max(self.colours_of_group) * CHANNELS > self.of_group:
            raise UserError(
                f"autoencoder_training.initial: block_means: {channels} channels in {groups} groups are too "
                f"few to carry colours; let autoencoder_training.channels rise from 16 or more"
            )
        starts = [(k % groups) * self.of_group + k // groups * CHANNELS for k in range(3)]
        self.plus, self.minus, self.up, self.down = (
            torch.tensor([start + i for start in starts]) for i in range(CHANNELS)
        )
        # The other channels of these groups are silent at first, or they would change the spread.
        self.whole = torch.arange(len(self.colours_of_group) * self.of_group)

    def begin(self, conv: nn.Conv2d) -> None:
        """Let a convolution of the three colours write them here, with the constants."""
        assert conv.bias is not None
        conv.weight[self.whole] = 0
        conv.bias[self.whole] = 0
        for colour in range(3):
            conv.weight[self.plus[colour], colour, 1, 1] = 1
            conv.weight[self.minus[colour], colour, 1, 1] = -1
        conv.bias[self.up], conv.bias[self.down] = CONSTANT, -CONSTANT

    def end(self, norm: nn.GroupNorm, conv: nn.Conv2d) -> None:
        """Let the last normalisation keep their scale, and the last convolution read them."""
        for group, colours in enumerate(self.colours_of_group):
            inside = slice(group * self.of_group, (group + 1) * self.of_group)
            variance = colours * 2 * (COLOUR_VARIANCE + CONSTANT**2) / self.of_group
            norm.weight[inside] = math.sqrt(variance)
        conv.weight *= OTHERS
        conv.weight[:, self.whole] = 0
        _silence_bias(conv)
        for colour in range(3):
            conv.weight[colour, self.plus[colour], 1, 1] = 1
            conv.weight[colour, self.minus[colour], 1, 1] = -1


def _pass_on(conv: nn.Conv2d, carried: dict[int, _Carried], taps: Tensor) -> None:
    """Let a convolution pass the carrying channels on, each weighted by `taps`."""
    source, target = carried[conv.in_channels], carried[conv.out_channels]
    assert conv.bias is not None
    conv.weight[target.whole] = 0
    conv.bias[target.whole] = 0
    for name in ("plus", "minus", "up", "down"):
        for i, o in zip(getattr(source, name), getattr(target, name), strict=True):
            conv.weight[o, i] = taps


def _silence(layer: nn.Conv2d | nn.Linear) -> None:
    layer.weight.zero_()
    _silence_bias(layer)


def _silence_bias(layer: nn.Conv2d | nn.Linear) -> None:
    if layer.bias is not None:
        layer.bias.zero_()
