"""Compare images/s of a training step of ours with the official formulation, in one run.

python benchmarks/training_step.py [--batch 32] [--compile]

Both have the same UNet and batch. Official formulation: per image the first stage encodes target, masked
frame and reference; all in float32; attention is softmax(q k) v spelled out, for the one context token too;
AdamW and the average of the weights go tensor by tensor. Left out in its favour: decoding of its JPEG files,
and its gradient checkpointing. Ours: latents from a training shard, read from disk within the step; bf16
autocast, channels last, the one-token shortcut, fused attention, fused AdamW. Steps are taken in turn and
medians compared. On a GPU the nets are the paper's; on a CPU they are narrower.
"""

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel, VQModel
from diffusers.models.attention_processor import Attention
from diffusers.training_utils import EMAModel
from torch.utils.flop_counter import FlopCounterMode

from difftalk.config.training import TrainingSettings
from difftalk.media.shards import write_shard
from difftalk.models.autoencoder import build_autoencoder, encode_frames, to_pixels
from difftalk.models.conditioning import Conditioner
from difftalk.models.denoiser import Denoiser, build_unet, noise_schedule, use_one_token_shortcut
from difftalk.models.examples import Examples, LatentClips
from difftalk.runtime.device import default_device
from difftalk.training.data import Steps, TrainingBatch
from difftalk.training.loss import squared_error
from difftalk.training.optimiser import learning_rate

DEVICE = default_device()
CUDA = DEVICE == "cuda"
PAPER, PAPER_FIRST_STAGE = (256, 512, 768, 1024), (128, 256, 512)
NARROW, NARROW_FIRST_STAGE = (64, 128, 192, 256), (32, 64, 128)
LATENT = 64  # height and width, at 256 px
GIB = 2**30


@dataclass(frozen=True)
class Recipe:
    """How a step is computed."""

    name: str
    cached: bool = True  # latents from the shard; else three encodes per image
    bf16: bool = True
    fused: bool = True  # one-token shortcut, fused attention, channels last, fused AdamW, grouped average
    compiled: bool = False


@dataclass
class Runner:
    """One recipe with its copy of the nets, its optimiser and what was measured of it."""

    recipe: Recipe
    step: Callable[[int], float]  # number of the step to the loss
    peak: int  # bytes, of nets, optimiser and one step
    seconds: list[float] = field(default_factory=list)
    waited: list[float] = field(default_factory=list)


class UnfusedAttention:
    """softmax(q k) v with the scores in memory, whatever the number of tokens."""

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Attend from states (B, N, C) to the context (B, M, D), or to themselves: (B, N, C)."""
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states

        def heads(x: torch.Tensor) -> torch.Tensor:
            return x.unflatten(2, (attn.heads, -1)).transpose(1, 2).flatten(0, 1)

        q, k, v = heads(attn.to_q(hidden_states)), heads(attn.to_k(context)), heads(attn.to_v(context))
        scores = torch.einsum("bid,bjd->bij", q, k) * attn.scale
        out = torch.einsum("bij,bjd->bid", scores.softmax(dim=-1), v)
        merged = out.unflatten(0, (-1, attn.heads)).transpose(1, 2).flatten(2)
        return attn.to_out[0](merged)


def unfuse(unet: UNet2DConditionModel) -> None:
    for module in unet.modules():
        if isinstance(module, Attention):
            module.set_processor(UnfusedAttention())


class Data:
    """A training shard on disk, and the frames that its latents were made from."""

    def __init__(self, folder: Path, first_stage: VQModel, frames: int) -> None:
        self.first_stage = first_stage
        rng = np.random.default_rng(0)
        factor = 2 ** (len(first_stage.config.block_out_channels) - 1)
        self.frames = rng.integers(0, 256, (frames, LATENT * factor, LATENT * factor, 3), dtype=np.uint8)
        self.masked = self.frames.copy()
        self.masked[:, LATENT * factor // 2 :] = 0
        self.latents = encode_frames(first_stage, self.frames, 4).numpy()
        generated = np.zeros((frames, LATENT, LATENT), np.uint8)
        generated[:, LATENT // 2 :] = 1
        files = {
            "latents.npy": self.latents,
            "masked.npy": encode_frames(first_stage, self.masked, 4).numpy(),
            "generated.npy": generated,
            "speech.npy": rng.normal(size=(2 * frames, 29)).astype(np.float32),
            "landmarks.npy": rng.random((frames, 68, 2)).astype(np.float32),
            "json": {},
        }
        write_shard(folder / "train-000.tar", [("clip", files)])
        self.clips = LatentClips([folder / "train-000.tar"], neighbours=8)

    def batch(self, size: int, step: int) -> TrainingBatch:
        """Gather `size` examples for training step `step`."""
        return Steps(self.clips, size, seed=1, reference_distance=1, schedule_steps=1000)[step]

    def frames_in(self, batch: Examples) -> list[torch.Tensor]:
        """Target, masked frame and reference of a batch in pixels, found by their latents."""

        def number(latent: torch.Tensor) -> int:
            return int((self.latents == latent.numpy()).all(axis=(1, 2, 3)).argmax())

        target = [number(x) for x in batch.target]
        reference = [number(x) for x in batch.reference]
        return [
            to_pixels(self.frames[target]),
            to_pixels(self.masked[target]),
            to_pixels(self.frames[reference]),
        ]


def build(recipe: Recipe, nets: Denoiser, scheduler: DDIMScheduler, data: Data, batch_size: int) -> Runner:
    """Copy the nets, take two steps of warm-up, and note how much memory that took."""
    before = start_of_peak()
    nets = copy.deepcopy(nets).to(DEVICE)
    settings = TrainingSettings()
    if recipe.fused:
        nets.unet.to(memory_format=torch.channels_last)
        optimiser = torch.optim.AdamW(nets.parameters(), lr=learning_rate(0, settings), fused=True)
        averaged = EMAModel(nets.parameters(), decay=settings.ema_decay, foreach=True)
    else:
        unfuse(nets.unet)
        optimiser = torch.optim.AdamW(
            nets.parameters(), lr=learning_rate(0, settings), foreach=False, fused=False
        )
        averaged = EMAModel(nets.unet.parameters(), decay=settings.ema_decay, foreach=False)
    if recipe.compiled:
        nets.unet.compile()
    runner: Runner

    def step(number: int) -> float:
        # `train` lets cuDNN try its kernels; in float32, unfused and at 64 frames, that takes over a minute.
        torch.backends.cudnn.benchmark = CUDA and recipe.fused
        started = time.monotonic()
        batch = data.batch(batch_size, number)
        frames = None if recipe.cached else [x.to(DEVICE) for x in data.frames_in(batch.examples)]
        batch = batch.to(DEVICE)
        synchronise()
        ready = time.monotonic()
        if frames is not None:
            with torch.no_grad():
                encoded = [data.first_stage.encode(x).latents for x in frames]
            seen = batch.examples
            seen.target, seen.masked, seen.reference = encoded
        elif recipe.fused:
            for name in ("target", "masked", "reference"):
                setattr(
                    batch.examples, name, getattr(batch.examples, name).to(memory_format=torch.channels_last)
                )
        with torch.autocast(DEVICE, torch.bfloat16, enabled=recipe.bf16):
            loss = squared_error(nets, scheduler, batch, settings) / batch.noise.numel()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(nets.parameters(), settings.gradient_clip)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        averaged.step(nets.parameters() if recipe.fused else nets.unet.parameters())
        value = loss.item()
        synchronise()
        # The official one has its frames in memory: what it costs to find them is not its own.
        waited = ready - started if recipe.cached else 0.0
        runner.seconds.append(time.monotonic() - (started if recipe.cached else ready))
        runner.waited.append(waited)
        return value

    runner = Runner(recipe, step, 0)
    first_loss = step(0)
    step(1)  # the state of AdamW is there from the second step on
    runner.peak = peak() - before
    runner.seconds.clear()
    runner.waited.clear()
    print(f"{recipe.name}: loss of the first batch {first_loss:.6f}", flush=True)
    return runner


def gigaflop_per_image(nets: Denoiser, scheduler: DDIMScheduler, data: Data) -> float:
    """Forward and backward of one image through UNet and condition encoders, with the shortcut."""
    nets = copy.deepcopy(nets).to(DEVICE)
    # The counter knows products, but not every fused attention.
    unfuse(nets.unet)
    use_one_token_shortcut(nets.unet)
    with FlopCounterMode(display=False) as counter:
        squared_error(nets, scheduler, data.batch(1, 0).to(DEVICE), TrainingSettings()).backward()
    return counter.get_total_flops() / 1e9


def matmul_rate(dtype: torch.dtype) -> float:
    """Measured TFLOP/s of a large square product.

    On a CPU without bfloat16 a product of 2048 takes half a minute, and one of 512 is as good a measure.
    """
    n = 8192 if CUDA else 512
    a, b = (torch.randn(n, n, device=DEVICE).to(dtype) for _ in range(2))
    seconds = []
    for _ in range(12):
        started = time.monotonic()
        a @ b
        synchronise()
        seconds.append(time.monotonic() - started)
    return 2 * n**3 / statistics.median(seconds[2:]) / 1e12


def synchronise() -> None:
    if CUDA:
        torch.cuda.synchronize()


def start_of_peak() -> int:
    """Bytes in use now; `peak` gives the most since."""
    if CUDA:
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def peak() -> int:
    return torch.cuda.max_memory_allocated() if CUDA else _status("VmHWM")


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


RECIPES = (
    Recipe("official formulation", cached=False, bf16=False, fused=False),
    Recipe("official, latents cached", bf16=False, fused=False),
    Recipe("ours in float32", bf16=False),
    Recipe("ours"),
    Recipe("ours, compiled", compiled=True),
)


@dataclass(frozen=True)
class Sizes:
    """Of the networks, and how much of it is measured."""

    channels: tuple[int, ...] = PAPER if CUDA else NARROW
    first_stage: tuple[int, ...] = PAPER_FIRST_STAGE if CUDA else NARROW_FIRST_STAGE
    layers: int = 2
    head_channels: int = 32
    batch: int = 32 if CUDA else 2
    repeats: int = 20 if CUDA else 5


def compare(sizes: Sizes, recipes: Sequence[Recipe]) -> tuple[float, list[Runner]]:
    """Take the steps of all recipes in turn; return GFLOP per image, and what was measured of each."""
    torch.manual_seed(0)
    unet = build_unet(sizes.channels, sizes.layers, sizes.head_channels, 128, 2, LATENT)
    nets = Denoiser(unet, Conditioner(), TrainingSettings().conditions)
    scheduler = noise_schedule("epsilon")
    first_stage = build_autoencoder(sizes.first_stage, sizes.layers, 8192).eval().requires_grad_(False)
    name = torch.cuda.get_device_name() if CUDA else f"CPU, {torch.get_num_threads()} threads"
    width = "at the paper's size" if sizes.channels == PAPER else "NARROWER than the paper's"
    count = sum(p.numel() for p in unet.parameters())
    print(f"{name}; torch {torch.__version__}; UNet {sizes.channels}, {count:,} parameters, {width};")
    print(
        f"first stage {sizes.first_stage}; latents {LATENT} x {LATENT}; batch {sizes.batch}; "
        f"{sizes.repeats} steps each"
    )
    with tempfile.TemporaryDirectory() as folder:
        data = Data(Path(folder), first_stage.to(DEVICE), 2 * sizes.batch + 2)
        gigaflop = gigaflop_per_image(nets, scheduler, data)
        runners = [build(recipe, nets, scheduler, data, sizes.batch) for recipe in recipes]
        for number in range(1, sizes.repeats + 1):
            for runner in runners:
                runner.step(number)
    return gigaflop, runners


def table(sizes: Sizes, gigaflop: float, runners: list[Runner], bf16_rate: float) -> str:
    """The table in Markdown; `bf16_rate` in TFLOP/s."""
    lines = [
        "| step | s | images/s | times official | of the bf16 matmul rate | wait for data | peak memory |"
    ]
    lines.append("|---|---|---|---|---|---|---|")
    official = statistics.median(runners[0].seconds)
    for runner in runners:
        seconds = statistics.median(runner.seconds)
        images = sizes.batch / seconds
        share = images * gigaflop / 1e3 / bf16_rate
        waited = sum(runner.waited) / sum(runner.seconds)
        wait = f"{waited:.2%}" if runner.recipe.cached else "not counted"
        figures = f"{seconds:.3f} | {images:.2f} | {official / seconds:.2f} | {share:.0%} | {wait}"
        lines.append(f"| {runner.recipe.name} | {figures} | {runner.peak / GIB:.2f} GiB |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    usual = Sizes()
    parser.add_argument("--channels", type=int, nargs="+", default=usual.channels)
    parser.add_argument("--first-stage", type=int, nargs="+", default=usual.first_stage)
    parser.add_argument("--layers", type=int, default=2, help="residual blocks per resolution, of both nets")
    parser.add_argument("--head-channels", type=int, default=32)
    parser.add_argument("--batch", type=int, default=usual.batch)
    parser.add_argument("--repeats", type=int, default=usual.repeats)
    parser.add_argument("--compile", action="store_true", help="also ours under torch.compile")
    args = parser.parse_args()

    sizes = Sizes(
        tuple(args.channels),
        tuple(args.first_stage),
        args.layers,
        args.head_channels,
        args.batch,
        args.repeats,
    )
    gigaflop, runners = compare(sizes, [r for r in RECIPES if args.compile or not r.compiled])
    rate = {dtype: matmul_rate(dtype) for dtype in (torch.bfloat16, torch.float32)}
    print(f"matmul: {rate[torch.bfloat16]:.3g} TFLOP/s in bf16, {rate[torch.float32]:.3g} in float32")
    print(f"UNet and condition encoders, forward and backward: {gigaflop:.1f} GFLOP per image\n")
    print(table(sizes, gigaflop, runners, rate[torch.bfloat16]))


if __name__ == "__main__":
    main()
