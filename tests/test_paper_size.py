"""Memory and FLOPs are counted as a hand counts them, and times follow from a card's rates."""

import gc
from collections.abc import Callable
from functools import partial
from itertools import accumulate
from typing import Any

import pytest
import torch
from conftest import ROOT
from live_memory import Meter, measured, pretended
from paper_size import CARDS, TESTED, TRAINED, bound_s, largest_batch, unfused_s
from paper_stages import Size, paper, sampling
from torch import nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils.checkpoint import checkpoint

from difftalk.datasets.hdtf.annotations import read_table
from difftalk.models.denoiser import build_unet

WIDTH, BATCH, DEPTH = 1000, 500, 3
WEIGHT, STATES = 4 * WIDTH * WIDTH, 4 * BATCH * WIDTH  # bytes of a layer's weight and of its output


class Layers(nn.Sequential):
    """Linear layers without bias, with a ReLU after each."""

    def __init__(self) -> None:
        super().__init__(
            *(part for _ in range(DEPTH) for part in (nn.Linear(WIDTH, WIDTH, False), nn.ReLU()))
        )
        self.inputs = torch.zeros(BATCH, WIDTH)

    def step(self) -> None:
        self.zero_grad(set_to_none=True)
        self(self.inputs).sum().backward()


def test_peak_and_flops_of_a_step_are_those_of_a_count_by_hand() -> None:
    meter, held = measured(lambda: Layers().step)
    # Weights and their gradients, and the inputs.
    assert held == 2 * DEPTH * WEIGHT + STATES
    # At the first layer's weight, all is there but the output of a layer: weights, their gradients, inputs,
    # and the gradient of the first layer's output. Eight bytes are the loss and its gradient.
    assert meter.peak == 2 * DEPTH * WEIGHT + 2 * STATES + 8
    # Forward, gradient of the weight, gradient of the input; the first layer's has no taker.
    assert meter.flops() == {"fp32": (3 * DEPTH - 1) * 2 * BATCH * WIDTH * WIDTH}


def test_tensors_with_content_count_the_same() -> None:
    fake, held = measured(lambda: Layers().step)
    with Meter() as real:
        layers = Layers()
        layers.step()
        assert real.restart() == held
        layers.step()
    assert (real.peak, real.flops()) == (fake.peak, fake.flops())
    del layers
    gc.collect()
    assert real.live == 0


def test_the_peak_of_a_training_step_is_that_of_the_allocator() -> None:
    """The CPU's, which notes what it gives and takes back while torch's profiler looks."""

    def build() -> Callable[[], None]:
        unet = build_unet((32, 64, 96), 1, 32, 64, 2, 32)
        optimiser = torch.optim.AdamW(unet.parameters(), fused=True)
        noisy, token, timesteps = torch.zeros(8, 9, 32, 32), torch.zeros(8, 1, 64), torch.zeros(8).long()

        def step() -> None:
            unet(noisy, timesteps, token).sample.square().mean().backward()
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)

        return step

    meter, held = measured(build)
    step = build()
    step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        step()
    assert seen.profiler is not None
    events: Any = seen.profiler.kineto_results.events()
    changes = [e.nbytes() for e in sorted(events, key=lambda e: e.start_ns()) if e.name() == "[memory]"]
    # Kernels on the CPU need some memory inside themselves.
    assert meter.peak - held == pytest.approx(max(accumulate(changes)), rel=0.03)


def test_a_view_costs_nothing_and_an_operation_what_it_reads_and_writes() -> None:
    with pretended() as meter:
        a = torch.empty(256, 1024)
        meter.restart()
        b = a.t()[:10]
        assert meter.live == a.nbytes and not meter.operations
        b.add_(1.0)
        c = b.expand(3, 10, 256).clone()
    assert meter.live == a.nbytes + c.nbytes
    assert [(o.name, o.traffic) for o in meter.operations] == [
        ("add_", 2 * b.nbytes),
        ("clone", 2 * c.nbytes),
    ]


def test_autocast_casts_as_on_a_gpu() -> None:
    torchs_own = F.group_norm
    with pretended() as meter, torch.no_grad():
        convolution, norm = nn.Conv2d(8, 8, 1), nn.GroupNorm(2, 8)
        x = torch.empty(2, 8, 64, 64)
        meter.restart()
        with torch.autocast("cpu", torch.bfloat16):
            y = convolution(x)
            z = norm(y)
            again = convolution(z)
        score = F.softmax(again, 1)
    assert [t.dtype for t in (y, z, again)] == [torch.bfloat16, torch.float32, torch.bfloat16]
    assert score.dtype == torch.bfloat16  # outside of autocast
    assert meter.flops() == {"bf16": 2 * 2 * (2 * 64 * 64) * 8 * 8}
    assert F.group_norm is torchs_own


def test_fused_attention_has_no_score_matrix() -> None:
    def build() -> partial[torch.Tensor]:
        q = torch.empty(1, 1, 4096, 32, dtype=torch.bfloat16)
        return partial(F.scaled_dot_product_attention, q, q, q)

    meter, _ = measured(build)
    assert meter.peak < 4096 * 4096
    assert meter.flops() == {"bf16": 2 * 2 * 4096 * 4096 * 32}


def test_a_checkpointed_part_is_computed_again_and_not_kept() -> None:
    def step(kept: bool) -> Meter:
        def build() -> partial[None]:
            parts = nn.ModuleList(
                nn.Sequential(nn.GroupNorm(2, 8), nn.SiLU(), nn.Conv2d(8, 8, 1), nn.SiLU()) for _ in range(8)
            )
            x = torch.empty(4, 8, 64, 64, requires_grad=True)

            def call() -> None:
                y = x
                with torch.autocast("cpu", torch.bfloat16):
                    for part in parts:
                        y = part(y) if kept else checkpoint(part, y, use_reentrant=False)
                y.float().sum().backward()

            return partial(call)

        return measured(build)[0]

    kept, dropped = step(True), step(False)
    assert dropped.peak < 0.4 * kept.peak
    assert sum(dropped.flops().values()) * 3 == sum(kept.flops().values()) * 4


def test_the_bound_is_the_sums_or_the_reading_and_then_the_update() -> None:
    card = CARDS["H100"]
    size = Size("x", 1, 0, 0, 0, {"bf16": int(792e12)}, int(3.35e12), int(3.35e12), [], 1)
    assert bound_s(size, card) == pytest.approx(2.0)
    assert bound_s(Size("x", 1, 0, 0, 0, {}, int(6.7e12), 0, [], 1), card) == pytest.approx(2.0)


def test_the_largest_batch_lies_on_the_line_of_two_others() -> None:
    sizes = [Size("x", n, 0, 0, int(1e9 + n * 0.5e9), {}, 0, 0, []) for n in (1, 8, 16)]
    assert largest_batch(sizes, 10) == 16  # of which 9 GB
    assert largest_batch(sizes, 1) == 0


def test_the_sampler_is_measured_with_the_papers_unet() -> None:
    size = next(sampling())
    assert size.parameters == 530_152_963 and size.stage.startswith("sampling, 10 steps")
    assert sum(size.flops.values()) == pytest.approx(10 * 0.333e12, rel=0.01)
    assert size.peak < 1.1 * size.held < 1.1 * 2.05 * size.parameters
    assert unfused_s(size, CARDS["H100"]) > bound_s(size, CARDS["H100"])


def test_frames_are_those_of_the_table_of_hdtf() -> None:
    config = paper("hdtf256")
    named = set((ROOT / "difftalk/datasets/hdtf/train_names.txt").read_text().split())
    frames = {True: 0, False: 0}
    for row in read_table():
        if row.start_s is not None and row.end_s is not None:
            limit = config.dataset.model_dump()["max_frames"]
            frames[row.clip_id in named] += min(limit, 25 * (row.end_s - row.start_s))
    assert (frames[True], frames[False]) == (TRAINED, TESTED)
