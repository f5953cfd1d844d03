"""The denoiser: diffusers' conditional UNet over latents, its inputs and its noise as DiffTalk has them."""

from math import gcd

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention, AttnProcessor2_0

from difftalk.runtime.errors import UserError

LATENT_CHANNELS = 3


def build_denoiser(
    channels: tuple[int, ...],
    layers: int,
    head_channels: int,
    context_width: int,
    spatial_conditions: int,
    latent_size: int,
) -> UNet2DConditionModel:
    """The UNet; attention at every resolution but the highest.

    `build_denoiser((256, 512, 768, 1024), 2, 32, 128, 2, 64)` is the paper's, 530,152,963 parameters.

    Args:
        channels: per resolution, from the highest down.
        spatial_conditions: latents stacked below the noisy one, of masked frame and reference: 0, 1 or 2.
        latent_size: height and width of a latent.

    Raises:
        UserError: if the channels do not make whole attention heads.
    """
    if len(channels) < 2 or any(c % head_channels for c in channels[1:]):
        raise UserError(
            f"training.channels {list(channels)}: two or more, all but the first a multiple of head_channels={head_channels}"
        )
    below = len(channels) - 1
    model = UNet2DConditionModel(
        sample_size=latent_size,
        in_channels=LATENT_CHANNELS * (1 + spatial_conditions),
        out_channels=LATENT_CHANNELS,
        block_out_channels=channels,
        layers_per_block=layers,
        down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * below),
        up_block_types=(*("CrossAttnUpBlock2D",) * below, "UpBlock2D"),
        cross_attention_dim=context_width,
        # diffusers calls the number of heads `attention_head_dim`.
        attention_head_dim=tuple(max(1, c // head_channels) for c in channels),
        norm_num_groups=gcd(32, *channels),
    )
    use_one_token_shortcut(model)
    return model


def noise_schedule(prediction: str) -> DDIMScheduler:
    """LDM's "linear" schedule: 1000 steps, sqrt(beta) linear from 0.0015 to 0.0195."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.0015,
        beta_end=0.0195,
        beta_schedule="scaled_linear",
        prediction_type=prediction,
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
        timestep_spacing="trailing" if prediction == "v_prediction" else "leading",
    )


class OneTokenAttention:
    """Cross-attention to a single token, exactly, without queries and keys.

    The softmax over one score is 1, so the output is the token's value, the same at every position.
    """

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        if encoder_hidden_states.shape[1] != 1:
            raise ValueError(f"one context token expected, not {encoder_hidden_states.shape[1]}")
        out = attn.to_out[0](attn.to_v(encoder_hidden_states))
        return out.expand(-1, hidden_states.shape[1], -1)


def use_one_token_shortcut(model: UNet2DConditionModel, use: bool = True) -> None:
    """Put `OneTokenAttention` in place of every cross-attention, or real attention back; results stay the same.

    So do weights and their names. The queries, the keys and the norm before them change nothing, so they are not
    trained in the shortcut: processes that train together would wait for their gradients.
    """
    for block in model.modules():
        if isinstance(block, BasicTransformerBlock):
            block.attn2.set_processor(OneTokenAttention() if use else AttnProcessor2_0())
            for unused in (block.norm2, block.attn2.to_q, block.attn2.to_k):
                unused.requires_grad_(not use)


def stack_inputs(
    noisy: torch.Tensor, masked: torch.Tensor, reference: torch.Tensor, conditions: tuple[str, ...]
) -> torch.Tensor:
    """The UNet's input, in DiffTalk's order: [noisy, masked, reference], without those not conditioned on."""
    spatial = {"masked": masked, "reference": reference}
    return torch.cat([noisy, *(x for name, x in spatial.items() if name in conditions)], dim=1)
