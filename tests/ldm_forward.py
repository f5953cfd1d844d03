"""The networks of LDM and DiffTalk as plain functions of the tensors of a released checkpoint.

Written from the published description of the architectures, without diffusers or the package: the converters
are compared with it. `Tensors` records which names were used, so that a test sees that all were.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

GROUPS = 32
HEAD_CHANNELS = 32


class Tensors:
    """A state dict below a prefix; remembers, for all prefixes together, what was read."""

    def __init__(self, state: dict[str, Tensor], prefix: str = "", used: set[str] | None = None) -> None:
        self.state, self.prefix = state, prefix
        self.used: set[str] = set() if used is None else used

    def at(self, prefix: str) -> "Tensors":
        return Tensors(self.state, f"{self.prefix}{prefix}.", self.used)

    def has(self, module: str) -> bool:
        return any(name.startswith(f"{self.prefix}{module}.") for name in self.state)

    def get(self, name: str) -> Tensor:
        self.used.add(self.prefix + name)
        return self.state[self.prefix + name]

    def linear(self, x: Tensor, module: str, bias: bool = True) -> Tensor:
        return F.linear(x, self.get(f"{module}.weight"), self.get(f"{module}.bias") if bias else None)

    def conv(self, x: Tensor, module: str, stride: int = 1, padding: int = 0) -> Tensor:
        convolve = F.conv1d if x.ndim == 3 else F.conv2d
        return convolve(x, self.get(f"{module}.weight"), self.get(f"{module}.bias"), stride, padding)

    def group_norm(self, x: Tensor, module: str, eps: float) -> Tensor:
        return F.group_norm(x, GROUPS, self.get(f"{module}.weight"), self.get(f"{module}.bias"), eps)

    def layer_norm(self, x: Tensor, module: str) -> Tensor:
        return F.layer_norm(
            x, x.shape[-1:], self.get(f"{module}.weight"), self.get(f"{module}.bias"), eps=1e-5
        )


# First stage: VQGAN's encoder and decoder (Esser et al. 2021).


def _vq_block(t: Tensors, x: Tensor) -> Tensor:
    h = t.conv(F.silu(t.group_norm(x, "norm1", 1e-6)), "conv1", padding=1)
    h = t.conv(F.silu(t.group_norm(h, "norm2", 1e-6)), "conv2", padding=1)
    return (t.conv(x, "nin_shortcut") if t.has("nin_shortcut") else x) + h


def _vq_attention(t: Tensors, x: Tensor) -> Tensor:
    """One head over all positions, scaled by the root of the channels."""
    normed = t.group_norm(x, "norm", 1e-6)
    q, k, v = (t.conv(normed, name).flatten(2) for name in "qkv")  # (B, C, positions)
    scores = torch.softmax(q.transpose(1, 2) @ k / math.sqrt(x.shape[1]), dim=2)
    return x + t.conv((v @ scores.transpose(1, 2)).reshape(x.shape), "proj_out")


def _vq_middle(t: Tensors, x: Tensor) -> Tensor:
    x = _vq_attention(t.at("attn_1"), _vq_block(t.at("block_1"), x))
    return _vq_block(t.at("block_2"), x)


def vq_encode(t: Tensors, pixels: Tensor) -> Tensor:
    """Latents before quantisation."""
    e = t.at("encoder")
    x, level = e.conv(pixels, "conv_in", padding=1), 0
    while e.has(f"down.{level}"):
        index = 0
        while e.has(f"down.{level}.block.{index}"):
            x = _vq_block(e.at(f"down.{level}.block.{index}"), x)
            index += 1
        if e.has(f"down.{level}.downsample"):
            # Padded at the right and the bottom only.
            x = e.conv(F.pad(x, (0, 1, 0, 1)), f"down.{level}.downsample.conv", stride=2)
        level += 1
    x = _vq_middle(e.at("mid"), x)
    return t.conv(e.conv(F.silu(e.group_norm(x, "norm_out", 1e-6)), "conv_out", padding=1), "quant_conv")


def vq_decode(t: Tensors, latents: Tensor) -> Tensor:
    """Pixels of latents, each cell put to the nearest code."""
    codes = t.get("quantize.embedding.weight")
    cells = latents.permute(0, 2, 3, 1)
    nearest = (cells.unsqueeze(-2) - codes).pow(2).sum(-1).argmin(-1)
    d = t.at("decoder")
    x = d.conv(t.conv(codes[nearest].permute(0, 3, 1, 2), "post_quant_conv"), "conv_in", padding=1)
    x = _vq_middle(d.at("mid"), x)
    levels = [i for i in range(16) if d.has(f"up.{i}")]
    for level in reversed(levels):
        index = 0
        while d.has(f"up.{level}.block.{index}"):
            x = _vq_block(d.at(f"up.{level}.block.{index}"), x)
            index += 1
        if d.has(f"up.{level}.upsample"):
            x = d.conv(F.interpolate(x, scale_factor=2.0), f"up.{level}.upsample.conv", padding=1)
    return d.conv(F.silu(d.group_norm(x, "norm_out", 1e-6)), "conv_out", padding=1)


# The UNet (Dhariwal and Nichol 2021, with the spatial transformers of Rombach et al. 2022).


def _embedding(timesteps: Tensor, width: int) -> Tensor:
    half = width // 2
    frequencies = torch.exp(-math.log(10000.0) * torch.arange(half) / half)
    angles = timesteps[:, None].float() * frequencies
    return torch.cat([torch.cos(angles), torch.sin(angles)], dim=1)


def _block(t: Tensors, x: Tensor, time: Tensor) -> Tensor:
    h = t.conv(F.silu(t.group_norm(x, "in_layers.0", 1e-5)), "in_layers.2", padding=1)
    h = h + t.linear(F.silu(time), "emb_layers.1")[:, :, None, None]
    h = t.conv(F.silu(t.group_norm(h, "out_layers.0", 1e-5)), "out_layers.3", padding=1)
    return (t.conv(x, "skip_connection") if t.has("skip_connection") else x) + h


def _attention(t: Tensors, x: Tensor, context: Tensor) -> Tensor:
    q, k, v = (
        t.linear(y, name, bias=False) for y, name in ((x, "to_q"), (context, "to_k"), (context, "to_v"))
    )
    out = []
    for i in range(0, q.shape[2], HEAD_CHANNELS):
        part = slice(i, i + HEAD_CHANNELS)
        scores = torch.softmax(q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(HEAD_CHANNELS), dim=2)
        out.append(scores @ v[..., part])
    return t.linear(torch.cat(out, dim=2), "to_out.0")


def _transformer(t: Tensors, x: Tensor, context: Tensor) -> Tensor:
    h = t.conv(t.group_norm(x, "norm", 1e-6), "proj_in")
    h = h.flatten(2).transpose(1, 2)
    b = t.at("transformer_blocks.0")
    normed = b.layer_norm(h, "norm1")
    h = h + _attention(b.at("attn1"), normed, normed)
    h = h + _attention(b.at("attn2"), b.layer_norm(h, "norm2"), context)
    value, gate = b.linear(b.layer_norm(h, "norm3"), "ff.net.0.proj").chunk(2, dim=2)
    h = h + b.linear(value * F.gelu(gate), "ff.net.2")
    return x + t.conv(h.transpose(1, 2).reshape(x.shape), "proj_out")


def unet(t: Tensors, x: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
    width = t.state[f"{t.prefix}time_embed.0.weight"].shape[1]
    time = t.linear(F.silu(t.linear(_embedding(timesteps, width), "time_embed.0")), "time_embed.2")

    def module(m: Tensors, x: Tensor) -> Tensor:
        if m.has("in_layers"):
            return _block(m, x, time)
        if m.has("transformer_blocks"):
            return _transformer(m, x, context)
        if m.has("op"):
            return m.conv(x, "op", stride=2, padding=1)
        return m.conv(F.interpolate(x, scale_factor=2.0), "conv", padding=1)

    def row(name: str, x: Tensor) -> Tensor:
        index = 0
        while t.has(f"{name}.{index}"):
            x = module(t.at(f"{name}.{index}"), x)
            index += 1
        return x

    x = t.conv(x, "input_blocks.0.0", padding=1)
    kept, index = [x], 1
    while t.has(f"input_blocks.{index}"):
        x = row(f"input_blocks.{index}", x)
        kept.append(x)
        index += 1
    x = row("middle_block", x)
    for index in range(len(kept)):
        x = row(f"output_blocks.{index}", torch.cat([x, kept.pop()], dim=1))
    return t.conv(F.silu(t.group_norm(x, "out.0", 1e-5)), "out.2", padding=1)


# The condition encoders of DiffTalk.


def context(t: Tensors, speech: Tensor, landmarks: Tensor) -> Tensor:
    """Of speech windows (B, 8, 16, 29) and points (B, 39, 2) in pixels of a 256-px image: (B, 1, 128)."""

    def leaky(x: Tensor) -> Tensor:
        return F.leaky_relu(x, 0.02)

    a = t.at("cond_stage_model_for_audio")
    x = speech.flatten(0, 1).transpose(1, 2)
    for index in (0, 2, 4, 6):
        x = leaky(a.conv(x, f"encoder_conv.{index}", stride=2, padding=1))
    x = a.linear(leaky(a.linear(x.squeeze(2), "encoder_fc1.0")), "encoder_fc1.2")
    embeddings = x.unflatten(0, speech.shape[:2])  # (B, 8, 64)

    s = t.at("cond_stage_model_for_audio_smooth")
    y = embeddings[..., :32].transpose(1, 2)
    for index in (0, 2, 4, 6, 8):
        y = leaky(s.conv(y, f"attentionConvNet.{index}", padding=1))
    weights = torch.softmax(s.linear(y, "attentionNet.0"), dim=2)  # (B, 1, 8)
    audio = (weights @ embeddings).squeeze(1)

    e = t.at("cond_stage_model_for_ldm")
    z = leaky(e.linear(landmarks.flatten(1), "encoder_fc1.0"))
    z = e.linear(leaky(e.linear(z, "encoder_fc1.2")), "encoder_fc1.4")
    return torch.cat([audio, z], dim=1).unsqueeze(1)
