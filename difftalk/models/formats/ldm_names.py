"""Tensor names of the LDM/DiffTalk format, by the names of the same tensors in our networks."""

from collections.abc import Iterator, Mapping

from diffusers import UNet2DConditionModel, VQModel
from torch import nn

from difftalk.models.conditioning import Conditioner

# Prefixes of a whole checkpoint; the condition encoders have none in common.
FIRST_STAGE, UNET, EMA = "first_stage_model.", "model.diffusion_model.", "model_ema."


def unet_names(unet: UNet2DConditionModel) -> dict[str, str]:
    """Return LDM's name, without `UNET`, of each tensor of our UNet."""
    levels, layers = len(unet.config.block_out_channels), unet.config.layers_per_block
    return _renamed(unet, dict(_unet_modules(levels, layers)))


def first_stage_names(model: VQModel) -> dict[str, str]:
    """Return LDM's name, without `FIRST_STAGE`, of each tensor of our first stage."""
    levels, layers = len(model.config.block_out_channels), model.config.layers_per_block
    return _renamed(model, dict(_first_stage_modules(levels, layers)))


def conditioner_names(conditioner: Conditioner) -> dict[str, str]:
    """Return DiffTalk's name of each tensor of our condition encoders."""
    audio, smooth = "cond_stage_model_for_audio", "cond_stage_model_for_audio_smooth"
    modules = {
        "audio_encoder.convolutions": f"{audio}.encoder_conv",
        "audio_encoder.head": f"{audio}.encoder_fc1",
        "temporal_filter.convolutions": f"{smooth}.attentionConvNet",
        "temporal_filter.weigh": f"{smooth}.attentionNet",
        # Ours begins with a layer that flattens the points.
        **{f"landmark_encoder.{i + 1}": f"cond_stage_model_for_ldm.encoder_fc1.{i}" for i in (0, 2, 4)},
    }
    return _renamed(conditioner, modules)


def ema_name(name: str) -> str:
    """Return LitEma's name, without `EMA`, for a tensor of the UNet: every dot is removed."""
    return f"diffusion_model{name.replace('.', '')}"


def _unet_modules(levels: int, layers: int) -> Iterator[tuple[str, str]]:
    """Yield (our module, LDM's). LDM numbers the blocks of all levels and the resamplers in one row."""

    def block(ours: str, theirs: str, index: int) -> Iterator[tuple[str, str]]:
        for a, b in (
            ("norm1", "in_layers.0"),
            ("conv1", "in_layers.2"),
            ("time_emb_proj", "emb_layers.1"),
            ("norm2", "out_layers.0"),
            ("conv2", "out_layers.3"),
            ("conv_shortcut", "skip_connection"),
        ):
            yield f"{ours}.resnets.{index}.{a}", f"{theirs}.0.{b}"
        yield f"{ours}.attentions.{index}", f"{theirs}.1"

    yield "conv_in", "input_blocks.0.0"
    yield "time_embedding.linear_1", "time_embed.0"
    yield "time_embedding.linear_2", "time_embed.2"
    for level in range(levels):
        first = 1 + level * (layers + 1)
        for index in range(layers):
            yield from block(f"down_blocks.{level}", f"input_blocks.{first + index}", index)
        yield f"down_blocks.{level}.downsamplers.0.conv", f"input_blocks.{first + layers}.0.op"
    yield from block("mid_block", "middle_block", 0)
    for ours, theirs in block("mid_block", "middle_block", 1):
        yield ours, theirs.replace("middle_block.0", "middle_block.2")
    for level in range(levels):
        first = level * (layers + 1)
        for index in range(layers + 1):
            yield from block(f"up_blocks.{level}", f"output_blocks.{first + index}", index)
        yield f"up_blocks.{level}.upsamplers.0.conv", f"output_blocks.{first + layers}.2.conv"
    yield "conv_norm_out", "out.0"
    yield "conv_out", "out.2"


def _first_stage_modules(levels: int, layers: int) -> Iterator[tuple[str, str]]:
    """Yield (our module, LDM's): LDM numbers the decoder's levels by resolution, diffusers in their order."""

    def block(ours: str, theirs: str) -> Iterator[tuple[str, str]]:
        for name in ("norm1", "conv1", "norm2", "conv2"):
            yield f"{ours}.{name}", f"{theirs}.{name}"
        yield f"{ours}.conv_shortcut", f"{theirs}.nin_shortcut"

    for half in ("encoder", "decoder"):
        yield f"{half}.conv_in", f"{half}.conv_in"
        for index in range(2):
            yield from block(f"{half}.mid_block.resnets.{index}", f"{half}.mid.block_{index + 1}")
        for a, b in (
            ("group_norm", "norm"),
            ("to_q", "q"),
            ("to_k", "k"),
            ("to_v", "v"),
            ("to_out.0", "proj_out"),
        ):
            yield f"{half}.mid_block.attentions.0.{a}", f"{half}.mid.attn_1.{b}"
        yield f"{half}.conv_norm_out", f"{half}.norm_out"
        yield f"{half}.conv_out", f"{half}.conv_out"
    for level in range(levels):
        down, up = f"encoder.down_blocks.{level}", f"decoder.up_blocks.{levels - 1 - level}"
        for index in range(layers):
            yield from block(f"{down}.resnets.{index}", f"encoder.down.{level}.block.{index}")
        yield f"{down}.downsamplers.0.conv", f"encoder.down.{level}.downsample.conv"
        for index in range(layers + 1):
            yield from block(f"{up}.resnets.{index}", f"decoder.up.{level}.block.{index}")
        yield f"{up}.upsamplers.0.conv", f"decoder.up.{level}.upsample.conv"
    for name in ("quant_conv", "quantize.embedding", "post_quant_conv"):
        yield name, name


def _renamed(model: nn.Module, modules: Mapping[str, str]) -> dict[str, str]:
    """Return the name of every tensor of `model` with the longest module path that begins it replaced."""
    names = {}
    for name in model.state_dict():
        parts = name.split(".")
        paths = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
        path = next(p for p in paths if p in modules)
        names[name] = modules[path] + name.removeprefix(path)
    return names
