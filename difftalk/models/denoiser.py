"""The denoiser: diffusers' UNet with DiffTalk's conditioning inputs and noise schedule."""

from math import gcd

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import nn

from difftalk.config.training import TrainingSettings
from difftalk.models.conditioning import Conditioner
from difftalk.models.examples import LatentClips
from difftalk.runtime.errors import UserError

LATENT_CHANNELS = 3


class Denoiser(nn.Module):
    """UNet and condition encoders: all that is trained, and the one forward pass.

    Training runs `forward`; sampling runs `context` once and `predict` at every noise level.

    Args:
        unet: predicts noise or velocity.
        conditioner: encodes speech and landmarks to the context of its cross-attention.
        conditions: the conditioning inputs, of `difftalk.config.training.CONDITIONS`.
    """

    def __init__(
        self, unet: UNet2DConditionModel, conditioner: Conditioner, conditions: tuple[str, ...]
    ) -> None:
        super().__init__()
        self.unet, self.conditioner, self.conditions = unet, conditioner, conditions

    def forward(
        self,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        masked: torch.Tensor,
        reference: torch.Tensor,
        speech: torch.Tensor,
        landmarks: torch.Tensor,
    ) -> torch.Tensor:
        """Predict the noise (or velocity) in the latents `noisy` (B, C, h, w), in their shape.

        Args:
            noisy: latents at the noise levels `timesteps`.
            timesteps: (B,) int64.
            masked: (B, C, h, w) latents of the frames with the mouth masked.
            reference: (B, C, h, w) latents of another frame of each clip.
            speech: (B, neighbours, 16, features).
            landmarks: (B, 39, 2) in [0, 1] of the crop.
        """
        return self.predict(noisy, timesteps, masked, reference, self.context(speech, landmarks))

    def context(self, speech: torch.Tensor, landmarks: torch.Tensor) -> torch.Tensor:
        """Encode speech and landmarks to the context token (B, 1, D)."""
        dtype = self.unet.conv_in.weight.dtype
        return self.conditioner(speech.to(dtype), landmarks.to(dtype))

    def predict(
        self,
        noisy: torch.Tensor,
        timesteps: torch.Tensor | int,
        masked: torch.Tensor,
        reference: torch.Tensor,
        context: torch.Tensor,
    ) -> torch.Tensor:
        """Run the UNet on [noisy, masked, reference] (DiffTalk's order), of those conditioned on."""
        spatial = {"masked": masked, "reference": reference}
        inputs = torch.cat([noisy, *(x for name, x in spatial.items() if name in self.conditions)], dim=1)
        return self.unet(inputs.to(self.unet.conv_in.weight.dtype), timesteps, context).sample


def build_denoiser(settings: TrainingSettings, clips: LatentClips) -> Denoiser:
    """Build an untrained denoiser, sized for the experiment's conditions and for the clips.

    Raises:
        UserError: if nothing is left to condition the cross-attention on, or the channels do not fit.
    """
    conditions = settings.conditions
    neighbours = settings.smoothing_frames if settings.smoothing else 1
    try:
        conditioner = Conditioner(
            "audio" in conditions, "landmarks" in conditions, clips.speech_features, neighbours
        )
    except ValueError as e:
        raise UserError(f"train: conditions {list(conditions)}: {e}") from None
    spatial = ("masked" in conditions) + ("reference" in conditions)
    unet = build_unet(
        settings.channels,
        settings.layers,
        settings.head_channels,
        conditioner.width,
        spatial,
        clips.latent_shape[1],
    )
    use_one_token_shortcut(unet, settings.one_token_shortcut)
    return Denoiser(unet, conditioner, conditions)


def build_unet(
    channels: tuple[int, ...],
    layers: int,
    head_channels: int,
    context_width: int,
    spatial_conditions: int,
    latent_size: int,
) -> UNet2DConditionModel:
    """Build an untrained UNet; attention at every resolution but the highest.

    `build_unet((256, 512, 768, 1024), 2, 32, 128, 2, 64)` is the paper's, 530,152,963 parameters.

    Args:
        channels: per resolution, from the highest down.
        layers: residual blocks per resolution.
        head_channels: channels per attention head.
        context_width: size of the context token.
        spatial_conditions: latents stacked onto the noisy one, of masked frame and reference: 0, 1 or 2.
        latent_size: height and width of a latent.

    Raises:
        UserError: if the channels do not make whole attention heads.
    """
    if len(channels) < 2 or any(c % head_channels for c in channels[1:]):
        raise UserError(
            f"training.channels {list(channels)}: two or more, all but the first a multiple of "
            f"head_channels={head_channels}"
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


def noise_schedule(prediction_type: str) -> DDIMScheduler:
    """Build LDM's "linear" schedule: 1000 steps, sqrt(beta) linear from 0.0015 to 0.0195.

    Args:
        prediction_type: what the denoiser predicts, `epsilon` (the noise) or `v_prediction` (the velocity).
    """
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.0015,
        beta_end=0.0195,
        beta_schedule="scaled_linear",
        prediction_type=prediction_type,
        clip_sample=False,
        # As in LDM: the last step of noise prediction ends at the lowest noise level.
        set_alpha_to_one=prediction_type == "v_prediction",
        steps_offset=1,
        timestep_spacing="trailing" if prediction_type == "v_prediction" else "leading",
    )


class OneTokenAttention:
    """Cross-attention to a single token, exactly, without queries and keys.

    The softmax over one score is 1, so the output is the token's value, the same at every position. Where no
    gradient is wanted, that of the last token is kept: it is the same in every step of a sampler.
    """

    def __init__(self) -> None:
        self._last: tuple[torch.Tensor, torch.Tensor] | None = None

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the value of the token in `encoder_hidden_states` (B, 1, D) at each of N states: (B, N, C).

        Raises:
            ValueError: if there are several tokens.
        """
        if encoder_hidden_states.shape[1] != 1:
            raise ValueError(f"one context token expected, not {encoder_hidden_states.shape[1]}")
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            out = attn.to_out[0](attn.to_v(encoder_hidden_states))
        else:
            if self._last is None or self._last[0] is not encoder_hidden_states:
                self._last = encoder_hidden_states, attn.to_out[0](attn.to_v(encoder_hidden_states))
            out = self._last[1]
        return out.expand(-1, hidden_states.shape[1], -1)


def use_one_token_shortcut(model: UNet2DConditionModel, use: bool = True) -> None:
    """Replace every cross-attention by `OneTokenAttention`, or bring real attention back.

    Results, weights and their names stay the same. The queries, the keys and the norm before them change
    nothing, so they are not trained in the shortcut: processes that train together would wait for their
    gradients.
    """
    for block in model.modules():
        if isinstance(block, BasicTransformerBlock):
            block.attn2.set_processor(OneTokenAttention() if use else AttnProcessor2_0())
            for unused in (block.norm2, block.attn2.to_q, block.attn2.to_k):
                unused.requires_grad_(not use)
