"""The stages that use a GPU at the paper's sizes, on tensors without content: for `paper_size.py`."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import lpips
import torch
from diffusers import VQModel
from face_alignment.detection.sfd.net_s3fd import s3fd
from face_alignment.models import FAN
from live_memory import Operation, measured
from random_weights import HIDDEN, LAST_DENSE
from snakemake.utils import update_config
from torch import Tensor, nn

from difftalk.config import workflow
from difftalk.config.root import Config
from difftalk.evaluation.metrics import Lpips
from difftalk.face.face_alignment_backend import BATCH_SIZES, SEARCHED_PX, peaks
from difftalk.models.autoencoder import build_autoencoder, downsampling, frames_at_once
from difftalk.models.conditioning import LANDMARKS_SEEN, SPEECH_WINDOW, Conditioner
from difftalk.models.denoiser import LATENT_CHANNELS, Denoiser, build_unet, noise_schedule
from difftalk.models.examples import Examples
from difftalk.models.perceptual import Features, Perceptual
from difftalk.models.quantiser import quantise
from difftalk.models.syncnet import V2_SIZE, SyncNetV2
from difftalk.speech.deepspeech import INPUTS, LOGITS, DeepSpeech
from difftalk.training.data import TrainingBatch
from difftalk.training.first_stage import FirstStageTrainer
from difftalk.training.loss import squared_error
from difftalk.training.optimiser import build_ema, build_optimiser

ROOT = Path(__file__).resolve().parents[1]
LATENT = 64  # height and width, at 256 px by f = 4 and at 512 px by f = 8
FEATURES = 29  # of DeepSpeech
# Bytes for each parameter that an optimiser's step cannot but read or write, all in float32: the norm of the
# gradient 4, AdamW 28 (weight and both moments twice, gradient once), the average of the weights 12.
ADAMW, AVERAGE = 4 + 28, 12
SECONDS = 60  # of a clip of HDTF, for DeepSpeech
FULL_HD = (1080, 1920)


@dataclass
class Size:
    """One pass or step of a stage.

    Args:
        stage: what it is, without its batch.
        frames: in it.
        parameters: of all its networks.
        held: bytes between two passes.
        peak: bytes at most.
        flops: by rate, see `live_memory.Operation`.
        read: bytes of weights that have to be read.
        updated: bytes that the optimiser has to read and write, after all else.
        operations: of it, or of one of `repeats` equal parts.
        repeats: of the operations.
    """

    stage: str
    frames: int
    parameters: int
    held: int
    peak: int
    flops: dict[str, int]
    read: int
    updated: int
    operations: list[Operation]
    repeats: int = 1


def paper(name: str) -> Config:
    """Return the configuration `hdtf256` or `hdtf512`."""
    config = workflow.read_yaml(ROOT / "config.yaml")
    for overlay in ("hdtf256", *(["hdtf512"] if name == "hdtf512" else [])):
        update_config(config, workflow.read_yaml(ROOT / "config" / f"{overlay}.yaml"))
    return workflow.load(config, [])


def measure(
    stage: str,
    frames: int,
    build: Callable[[], tuple[Callable[[], object], list[nn.Module]]],
    updated: Callable[[list[nn.Module]], int] = lambda networks: 0,
    repeats: int = 1,
) -> Size:
    """Measure a stage.

    Args:
        stage: its name.
        frames: in a pass.
        build: makes what runs a pass, and the networks of it.
        updated: bytes that the optimiser reads and writes.
        repeats: passes that are one after another on the same frames.
    """
    networks: list[nn.Module] = []

    def started() -> Callable[[], object]:
        call, built = build()
        networks.extend(built)
        return call

    meter, held = measured(started)
    weights = [parameter for network in networks for parameter in network.parameters()]
    return Size(
        stage,
        frames,
        sum(weight.numel() for weight in weights),
        held,
        meter.peak,
        {name: flops * repeats for name, flops in meter.flops().items()},
        sum(weight.numel() * weight.element_size() for weight in weights) * repeats,
        updated(networks),
        meter.operations,
        repeats,
    )


def first_stage() -> Iterator[Size]:
    """Training of the first stage of `hdtf512`, in its last part, with the discriminator."""
    for checkpointed in (False, True):
        for batch in (1, 4, 8, 16):
            name = "first stage, training, 512 px" + (", checkpointed" if checkpointed else "")
            yield measure(name, batch, partial(_first_stage_step, batch, checkpointed), _first_stage_update)


class _Perceptual(Perceptual):
    """LPIPS with weights of no content."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.net = _lpips("vgg")
        self.net.net = Features(self.net.net)
        self.requires_grad_(False)


def _lpips(net: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package calls torchvision by an old name
        return lpips.LPIPS(net=net, pnet_rand=True, pretrained=False, verbose=False).eval()


def _first_stage_step(batch: int, checkpointed: bool) -> tuple[Callable[[], object], list[nn.Module]]:
    config = paper("hdtf512")
    settings = config.autoencoder_training.model_copy(update={"gradient_checkpointing": checkpointed})
    perceptual = _Perceptual()
    trainer = FirstStageTrainer(settings, "cpu", perceptual)
    for optimiser in (trainer.optimiser, trainer.discriminator_optimiser):
        for group in optimiser.param_groups:
            group["foreach"] = True  # as on a GPU
    frames = torch.empty(batch, 3, config.crops.size, config.crops.size)
    # Past the last redrawing of codes.
    networks = [trainer.model, trainer.discriminator, perceptual]
    return partial(trainer.step, settings.steps - 1, frames), networks


def _first_stage_update(networks: list[nn.Module]) -> int:
    return ADAMW * sum(p.numel() for network in networks[:2] for p in network.parameters())


def _first_stage(name: str) -> tuple[VQModel, int]:
    """Return the frozen first stage of a configuration, and the side of its frames."""
    config = paper(name)
    channels: tuple[int, ...] = (128, 256, 512)  # vq-f4
    layers, codes = 2, 8192
    if config.autoencoder == "train":
        training = config.autoencoder_training
        channels, layers, codes = training.channels, training.layers, training.codes
    return build_autoencoder(channels, layers, codes).eval().requires_grad_(False), config.crops.size


def encode_and_decode() -> Iterator[Size]:
    """The first stage as `encode` and `sample` run it, in passes of `frames_at_once`, and with 64 frames."""
    for name, side in (("hdtf256", 256), ("hdtf512", 512)):
        passed = frames_at_once(_first_stage(name)[0], side, 64)
        for batch in (passed, 64):
            yield measure(f"encode, {side} px", batch, partial(_encode, name, batch))
            yield measure(f"decode, {side} px", batch, partial(_decode, name, batch))


def _encode(name: str, batch: int) -> tuple[Callable[[], object], list[nn.Module]]:
    model, side = _first_stage(name)
    frames = torch.empty(batch, 3, side, side)
    return torch.no_grad()(lambda: model.encode(frames).latents), [model.encoder, model.quant_conv]


def _decode(name: str, batch: int) -> tuple[Callable[[], object], list[nn.Module]]:
    model, side = _first_stage(name)
    latents = torch.empty(batch, LATENT_CHANNELS, *2 * [side // downsampling(model)])
    used = [model.quantize, model.post_quant_conv, model.decoder]

    def decode() -> Tensor:
        codes, _, _ = quantise(model, latents)
        return model.decode(codes, force_not_quantize=True).sample

    return torch.no_grad()(decode), used


def _denoiser() -> Denoiser:
    """The denoiser of the experiment `difftalk`."""
    training = paper("hdtf256").training
    conditioner = Conditioner(True, True, FEATURES, training.smoothing_frames)
    unet = build_unet(
        training.channels, training.layers, training.head_channels, conditioner.width, 2, LATENT
    )
    return Denoiser(unet, conditioner, ("audio", "landmarks", "masked", "reference"))


def _inputs(batch: int) -> dict[str, Tensor]:
    latent = (batch, LATENT_CHANNELS, LATENT, LATENT)
    neighbours = paper("hdtf256").training.smoothing_frames
    return {
        "masked": torch.empty(latent),
        "reference": torch.empty(latent),
        "speech": torch.empty(batch, neighbours, SPEECH_WINDOW, FEATURES),
        "landmarks": torch.empty(batch, len(LANDMARKS_SEEN), 2),
    }


def denoiser() -> Iterator[Size]:
    """A training step of the denoiser, without `torch.compile`."""
    for batch in (8, 16, 32, 64):
        yield measure("denoiser, training", batch, partial(_training_step, batch), _denoiser_update)


def _denoiser_update(networks: list[nn.Module]) -> int:
    return (ADAMW + AVERAGE) * sum(p.numel() for p in networks[0].parameters())


def _training_step(batch: int) -> tuple[Callable[[], object], list[nn.Module]]:
    settings, model = workflow.models(paper("hdtf256"))["difftalk"], _denoiser()
    scheduler = noise_schedule(settings.prediction_type)
    optimiser, ema = build_optimiser(model, settings), build_ema(model, settings)
    latent = (batch, LATENT_CHANNELS, LATENT, LATENT)
    examples = Examples(
        target=torch.empty(latent),
        generated=torch.empty(batch, 1, LATENT, LATENT, dtype=torch.bool),
        **_inputs(batch),
    )
    training_batch = TrainingBatch(examples, torch.empty(latent), torch.empty(batch, dtype=torch.int64))

    def forward(*inputs: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return model(*inputs).float()

    def step() -> None:
        squared_error(forward, scheduler, training_batch, settings).backward()
        nn.utils.clip_grad_norm_(model.parameters(), settings.gradient_clip, foreach=True)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        ema.step(model.parameters())

    return step, [model]


def sampling() -> Iterator[Size]:
    """Sampling of 20 frames, as `sampling.batch_size` of the paper, and of one frame."""
    frames = paper("hdtf256").sampling.batch_size
    for held in (True, False):
        for steps in (10, 200):
            for batch in (1, frames, 3 * frames):
                name = f"sampling, {steps} steps, " + ("bf16 weights" if held else "autocast")
                yield measure(name, batch, partial(_sampling_step, batch, held), repeats=steps)


def _sampling_step(batch: int, held: bool) -> tuple[Callable[[], object], list[nn.Module]]:
    model, given = _denoiser().eval(), _inputs(batch)
    if held:
        model.to(torch.bfloat16)
    noisy = torch.empty(batch, LATENT_CHANNELS, LATENT, LATENT)
    timestep = torch.empty(batch, dtype=torch.int64)
    with torch.no_grad():
        context = model.context(given["speech"], given["landmarks"])

    @torch.no_grad()
    def step() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=not held):
            return model.predict(noisy, timestep, given["masked"], given["reference"], context).float()

    return step, [model.unet]


def landmarks() -> Iterator[Size]:
    """The detector on frames of 1080p, scaled down, and the landmark network on crops, batched as there."""
    detected, followed = BATCH_SIZES["cuda"]
    yield measure("landmarks, S3FD", detected, partial(_detection, detected))
    yield measure("landmarks, 2DFAN-4", followed, partial(_alignment, followed))


def _detection(batch: int) -> tuple[Callable[[], object], list[nn.Module]]:
    net = s3fd().eval()
    height, width = (round(side * SEARCHED_PX / max(FULL_HD)) for side in FULL_HD)
    return _in_bf16(lambda: net(torch.empty(batch, 3, height, width))), [net]


def _alignment(batch: int) -> tuple[Callable[[], object], list[nn.Module]]:
    net = FAN(4).eval()
    return _in_bf16(lambda: peaks(net(torch.empty(batch, 3, 256, 256))[-1].float())), [net]


def _in_bf16(call: Callable[[], object]) -> Callable[[], object]:
    def called() -> object:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            return call()

    return called


def speech() -> Iterator[Size]:
    """DeepSpeech on a clip of a minute."""
    yield measure(f"speech, DeepSpeech, {SECONDS} s", 25 * SECONDS, _deepspeech)


def _deepspeech() -> tuple[Callable[[], object], list[nn.Module]]:
    widths = (INPUTS, HIDDEN, HIDDEN, LAST_DENSE)
    shapes: dict[str, tuple[int, ...]] = {f"dense{i}": (b, a) for i, (a, b) in enumerate(pairwise(widths), 1)}
    shapes |= {"dense5": (HIDDEN, 2 * HIDDEN), "dense6": (LOGITS, HIDDEN)}
    tensors = {f"{name}.weight": torch.empty(shape) for name, shape in shapes.items()}
    tensors |= {f"{name}.bias": torch.empty(shape[0]) for name, shape in shapes.items()}
    for suffix in ("l0", "l0_reverse"):
        for kind, inputs in (("ih", LAST_DENSE), ("hh", HIDDEN)):
            tensors[f"lstm.weight_{kind}_{suffix}"] = torch.empty(4 * HIDDEN, inputs)
            tensors[f"lstm.bias_{kind}_{suffix}"] = torch.empty(4 * HIDDEN)
    net = DeepSpeech(tensors).eval()
    return torch.no_grad()(lambda: net(torch.empty(50 * SECONDS, INPUTS))), [net]


def score() -> Iterator[Size]:
    """The networks of `score`: LPIPS over frames and mouth, and SyncNet's video."""
    for side in (256, 512):
        yield measure(f"score, LPIPS, {side} px", 32, partial(_image_distance, 32, side))
    yield measure("score, SyncNet", 100, _sync)


def _image_distance(batch: int, side: int) -> tuple[Callable[[], object], list[nn.Module]]:
    distance = Lpips.__new__(Lpips)
    distance._model = _lpips("alex").requires_grad_(False)

    def call() -> Tensor:
        truth, frames = (torch.empty(batch, 3, side, side) for _ in range(2))
        maps = distance._maps(truth, frames)
        enlarged = (
            nn.functional.interpolate(m, (side, side), mode="bilinear", align_corners=False) for m in maps
        )
        return torch.stack([m.mean() for m in enlarged])

    return torch.no_grad()(call), [distance._model]


def _sync() -> tuple[Callable[[], object], list[nn.Module]]:
    net = SyncNetV2().eval()
    return torch.no_grad()(lambda: net.video(torch.empty(1, 3, 104, V2_SIZE, V2_SIZE))), [net]


MEASURED: dict[str, Callable[[], Iterator[Size]]] = {
    "first_stage": first_stage,
    "encode_and_decode": encode_and_decode,
    "denoiser": denoiser,
    "sampling": sampling,
    "landmarks": landmarks,
    "speech": speech,
    "score": score,
}
