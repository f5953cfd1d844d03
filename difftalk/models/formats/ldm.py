"""Convert checkpoints in the format of LDM and DiffTalk's released code to our networks, and back.

The networks are the same; tensor names differ, and the first stage's attention has 1x1 convolutions where
diffusers has linear layers. Two things are folded into weights, so that outputs are equal though inputs are
scaled differently: the released landmark encoder reads pixels of a 256-px image where ours reads fractions of
the crop, and the released code has no `scaling_factor` of latents.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel, VQModel
from torch import Tensor, nn

from difftalk.models.autoencoder import build_autoencoder
from difftalk.models.conditioning import Conditioner
from difftalk.models.denoiser import LATENT_CHANNELS, build_unet
from difftalk.models.formats.ldm_names import (
    EMA,
    FIRST_STAGE,
    UNET,
    conditioner_names,
    ema_name,
    first_stage_names,
    unet_names,
)
from difftalk.models.formats.torch_file import listed
from difftalk.runtime.errors import UserError

GROUPS = 32  # of every group norm
HEAD_CHANNELS = 32
LATENT_SIZE = 64
LANDMARK_PIXELS = 256.0  # a power of two, so that folding it in and out again changes no bit
EMA_DECAY = 0.9999

CONDITIONS = ("audio", "landmarks", "masked", "reference")

State = dict[str, Tensor]


def from_ldm(state: State, where: str) -> tuple[UNet2DConditionModel, Conditioner, VQModel]:
    """Return the three networks of a state dict in the LDM/DiffTalk format.

    The UNet is that of the moving averages; where there are none, that of the last weights.

    Raises:
        UserError: if a tensor is unknown, missing or of another shape, or the noise schedule is another one.
    """
    part = {p: _below(state, p) for p in (FIRST_STAGE, UNET, EMA)}
    encoders = {k: v for k, v in state.items() if k.startswith("cond_stage_model_for_")}
    schedule = {k: v for k, v in state.items() if "." not in k}
    with torch.device("meta"):
        unet, conditioner = _unet_like(part[UNET], where), _conditioner_like(encoders, where)
        first_stage = _first_stage_like(part[FIRST_STAGE], where)
    expected = full_shapes(unet, conditioner, first_stage)
    if not part[EMA]:
        expected = {k: v for k, v in expected.items() if not k.startswith(EMA)}
    _check_names(state, expected, where)
    check_schedule(schedule, where)
    averaged = {k: part[EMA].get(ema_name(k), v) for k, v in part[UNET].items()}
    _fill(unet, averaged, unet_names(unet))
    _fill(conditioner, _scale_landmarks(encoders, LANDMARK_PIXELS), conditioner_names(conditioner))
    _fill(first_stage, part[FIRST_STAGE], first_stage_names(first_stage))
    return unet, conditioner, first_stage


def to_ldm(unet: UNet2DConditionModel, conditioner: Conditioner, first_stage: VQModel, where: str) -> State:
    """Return the state dict in the LDM/DiffTalk format of our three networks: the inverse of `from_ldm`.

    Raises:
        UserError: if their heads or groups are not those of the released code.
    """
    with_attention = (b for b in unet.down_blocks if hasattr(b, "attentions"))
    heads = {block.transformer_blocks[0].attn1 for b in with_attention for block in b.attentions}
    if any(a.to_q.out_features != HEAD_CHANNELS * a.heads for a in heads):
        raise UserError(f"{where}: the LDM/DiffTalk format has {HEAD_CHANNELS} channels to a head")
    for name, model in (("UNet", unet), ("first stage", first_stage)):
        if model.config.norm_num_groups != GROUPS:
            raise UserError(
                f"{where}: the LDM/DiffTalk format has {GROUPS} groups to a norm, "
                f"this {name} has {model.config.norm_num_groups}"
            )
    weights = _named(unet, unet_names(unet), UNET)
    averages = {f"{EMA}{ema_name(k.removeprefix(UNET))}": v for k, v in weights.items()}
    encoders = _scale_landmarks(_named(conditioner, conditioner_names(conditioner), ""), 1 / LANDMARK_PIXELS)
    ema = {f"{EMA}decay": torch.tensor(EMA_DECAY), f"{EMA}num_updates": torch.tensor(0, dtype=torch.int32)}
    stage = export_first_stage(first_stage, FIRST_STAGE)
    return {**schedule_buffers(), **weights, **ema, **averages, **stage, **encoders}


def import_first_stage(state: State, where: str) -> VQModel:
    """Return a first stage of LDM (`vq-f4`), or that of a whole checkpoint; tensors of its loss are ignored.

    Raises:
        UserError: if a tensor is unknown, missing or of another shape.
    """
    inside = _below(state, FIRST_STAGE)
    state = inside or {k: v for k, v in state.items() if not k.startswith("loss.")}
    with torch.device("meta"):
        model = _first_stage_like(state, where)
    names = first_stage_names(model)
    _check_names(state, _shapes(model, names, ""), where)
    return _fill(model, state, names)


def export_first_stage(model: VQModel, prefix: str = "") -> State:
    """Return the LDM state dict of a first stage.

    A `scaling_factor` s is folded in: the latents before quantisation, hence the codes, are multiplied by s.
    """
    state = _named(model, first_stage_names(model), prefix)
    scale = float(model.config.scaling_factor)
    if scale != 1.0:
        for name in ("quant_conv.weight", "quant_conv.bias", "quantize.embedding.weight"):
            state[prefix + name] = state[prefix + name] * scale
        state[f"{prefix}post_quant_conv.weight"] = state[f"{prefix}post_quant_conv.weight"] / scale
    return state


def schedule_buffers(steps: int = 1000, first: float = 0.0015, last: float = 0.0195) -> State:
    """Return DDPM's float32 constants (Ho et al. 2020) in a checkpoint, for LDM's "linear" schedule."""
    betas = np.linspace(first**0.5, last**0.5, steps) ** 2
    products = np.cumprod(1 - betas)
    before = np.append(1.0, products[:-1])
    variance = betas * (1 - before) / (1 - products)
    values = {
        "betas": betas,
        "alphas_cumprod": products,
        "alphas_cumprod_prev": before,
        "sqrt_alphas_cumprod": np.sqrt(products),
        "sqrt_one_minus_alphas_cumprod": np.sqrt(1 - products),
        "log_one_minus_alphas_cumprod": np.log(1 - products),
        "sqrt_recip_alphas_cumprod": np.sqrt(1 / products),
        "sqrt_recipm1_alphas_cumprod": np.sqrt(1 / products - 1),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": np.log(np.maximum(variance, 1e-20)),
        "posterior_mean_coef1": betas * np.sqrt(before) / (1 - products),
        "posterior_mean_coef2": (1 - before) * np.sqrt(1 - betas) / (1 - products),
    }
    return {name: torch.from_numpy(v).float() for name, v in values.items()}


def full_shapes(
    unet: UNet2DConditionModel, conditioner: Conditioner, first_stage: VQModel
) -> dict[str, torch.Size]:
    """Return every tensor name and shape of a checkpoint of networks of these sizes."""
    weights = _shapes(unet, unet_names(unet), UNET)
    averages = {f"{EMA}{ema_name(k.removeprefix(UNET))}": v for k, v in weights.items()}
    return {
        **{k: v.shape for k, v in schedule_buffers().items()},
        **weights,
        **dict.fromkeys((f"{EMA}decay", f"{EMA}num_updates"), torch.Size()),
        **averages,
        **_shapes(first_stage, first_stage_names(first_stage), FIRST_STAGE),
        **_shapes(conditioner, conditioner_names(conditioner), ""),
    }


def _unet_like(state: State, where: str) -> UNet2DConditionModel:
    """Return an empty UNet of the size that the tensors show."""
    first = _tensor(state, "input_blocks.0.0.weight", UNET, where)
    changes = [i for i in range(1, len(state)) if f"input_blocks.{i}.0.op.weight" in state]
    layers = changes[0] - 1 if changes else 0
    if layers < 1 or first.ndim != 4 or first.shape[1] % LATENT_CHANNELS:
        raise UserError(f"{where}: {UNET}input_blocks are not those of LDM's UNet")
    starts = [1, *(i + 1 for i in changes)]
    outs = [_tensor(state, f"input_blocks.{i}.0.out_layers.3.weight", UNET, where) for i in starts]
    key = f"input_blocks.{starts[-1]}.1.transformer_blocks.0.attn2.to_k.weight"
    return build_unet(
        channels=tuple(len(w) for w in outs),
        layers=layers,
        head_channels=HEAD_CHANNELS,
        context_width=_tensor(state, key, UNET, where).shape[1],
        spatial_conditions=first.shape[1] // LATENT_CHANNELS - 1,
        latent_size=LATENT_SIZE,
    )


def _conditioner_like(encoders: State, where: str) -> Conditioner:
    speech = _tensor(encoders, "cond_stage_model_for_audio.encoder_conv.0.weight", "", where)
    neighbours = _tensor(encoders, "cond_stage_model_for_audio_smooth.attentionNet.0.weight", "", where)
    return Conditioner(speech_features=speech.shape[1], neighbours=len(neighbours))


def _first_stage_like(state: State, where: str) -> VQModel:
    codes = _tensor(state, "quantize.embedding.weight", FIRST_STAGE, where)
    convolutions: list[Tensor] = []
    while (name := f"encoder.down.{len(convolutions)}.block.0.conv1.weight") in state:
        convolutions.append(state[name])
    layers = sum(f"encoder.down.0.block.{i}.conv1.weight" in state for i in range(len(state)))
    if not convolutions or codes.ndim != 2:
        raise UserError(f"{where}: no encoder.down.0.block.0: not a first stage of LDM")
    ours = build_autoencoder(tuple(len(c) for c in convolutions), layers, len(codes), codes.shape[1])
    model: VQModel = VQModel.from_config({**ours.config, "norm_num_groups": GROUPS})
    return model


def _tensor(state: State, name: str, prefix: str, where: str) -> Tensor:
    if name not in state:
        raise UserError(f"{where}: not in the LDM/DiffTalk format: {prefix}{name} is missing")
    return state[name]


def _below(state: State, prefix: str) -> State:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def _scale_landmarks(state: State, factor: float) -> State:
    name = "cond_stage_model_for_ldm.encoder_fc1.0.weight"
    return {**state, name: state[name] * factor}


def _is_attention_of_first_stage(name: str) -> bool:
    return ".mid.attn_1." in name and name.endswith("weight") and ".norm." not in name


def _shapes(model: nn.Module, names: Mapping[str, str], prefix: str) -> dict[str, torch.Size]:
    return {
        prefix + names[k]: torch.Size((*v.shape, 1, 1)) if _is_attention_of_first_stage(names[k]) else v.shape
        for k, v in model.state_dict().items()
    }


def _named(model: nn.Module, names: Mapping[str, str], prefix: str) -> State:
    shapes = _shapes(model, names, "")
    return {
        prefix + names[k]: v.detach().cpu().float().reshape(shapes[names[k]]).contiguous()
        for k, v in model.state_dict().items()
    }


def _fill(model: Any, state: State, names: Mapping[str, str]) -> Any:
    """Load into an empty model the tensors of `state`, checked before, by their names in the format."""
    ours = model.state_dict()
    tensors = {k: state[names[k]].float().reshape(ours[k].shape) for k in ours}
    model.load_state_dict(tensors, assign=True)
    return model.eval().requires_grad_(False)


def _check_names(state: State, expected: Mapping[str, torch.Size], where: str) -> None:
    said = []
    if missing := [k for k in expected if k not in state]:
        said.append(f"missing: {listed(missing)}")
    if unknown := [k for k in state if k not in expected]:
        said.append(f"unknown: {listed(unknown)}")
    wrong = [
        f"{k} {list(state[k].shape)} instead of {list(v)}"
        for k, v in expected.items()
        if k in state and state[k].shape != v
    ]
    if wrong:
        said.append(f"of another shape: {listed(wrong)}")
    if said:
        raise UserError(f"{where}: not in the LDM/DiffTalk format: {'; '.join(said)}")


def check_schedule(found: Mapping[str, Tensor], where: str) -> None:
    """Compare buffers with DiffTalk's schedule; the tolerance is that of products of 1000 float32 factors."""
    ours = schedule_buffers()
    differ = [k for k, v in found.items() if not torch.allclose(v.float(), ours[k], rtol=1e-3, atol=1e-6)]
    if differ:
        raise UserError(f"{where}: another noise schedule than DiffTalk's: {listed(differ)}")
