"""A first stage that begins with block means, and the optimiser Muon."""

from pathlib import Path

import numpy as np
import pytest
import torch
from test_first_stage import TINY, random_frames
from torch.nn import functional

from difftalk.config.autoencoder import AutoencoderTraining
from difftalk.config.section import from_dict
from difftalk.models.autoencoder import build_autoencoder
from difftalk.models.block_means import start_from_block_means
from difftalk.runtime.errors import UserError
from difftalk.training.first_stage import train_autoencoder
from difftalk.training.frames import Batches
from difftalk.training.muon import ADAMW_STEP, Muon, orthogonal

RECIPE = {"channels": [16, 16, 16], "initial": "block_means", "optimiser": "muon"}


@pytest.mark.parametrize("channels", [(16, 32), (12, 24, 24), (24, 48), (32, 64, 96), (32, 64, 64, 128)])
@torch.no_grad()
def test_latents_are_block_means_and_frames_their_interpolation(channels: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = build_autoencoder(channels, 1, 32).eval()
    start_from_block_means(model)
    block = 2 ** (len(channels) - 1)
    x = torch.rand(2, 3, 8 * block, 8 * block) * 2 - 1
    means = functional.avg_pool2d(x, block)
    # The other channels, whose weights are random, add a little.
    assert (model.encode(x).latents - means).abs().mean() < 0.05
    made = model.decode(means, force_not_quantize=True).sample
    expected = functional.interpolate(means, scale_factor=block, mode="bilinear")
    inside = slice(block, -block)  # at the border, convolutions see zeros
    assert (made - expected)[:, :, inside, inside].abs().mean() < 0.05


@torch.no_grad()
def test_saturated_frames_of_one_colour_keep_it_as_random_weights_do_not() -> None:
    torch.manual_seed(0)
    model = build_autoencoder((32, 64, 96), 1, 32).eval()
    colours = torch.rand(16, 3, 1, 1, generator=torch.Generator().manual_seed(1)) * 2 - 1
    frames = colours.expand(16, 3, 64, 64)

    def error() -> float:
        made = model.decode(model.encode(frames).latents, force_not_quantize=True).sample
        return float((made - frames)[:, :, 16:48, 16:48].square().mean().sqrt())

    assert error() > 0.3
    start_from_block_means(model)
    assert error() < 0.06


def test_too_few_channels_are_named() -> None:
    settings = from_dict(AutoencoderTraining, TINY | {"initial": "block_means"}, "test")
    with pytest.raises(UserError, match=r"initial: block_means: 8 channels in 2 groups are too few"):
        train_autoencoder(Batches(random_frames(), 4, 1), settings, Path("unused"))
    with pytest.raises(UserError, match="not latents of 4"):
        start_from_block_means(build_autoencoder((16, 16), 1, 8, latent_channels=4))


def test_an_orthogonal_matrix_has_even_singular_values_and_the_same_directions() -> None:
    matrix = torch.randn(24, 40, generator=torch.Generator().manual_seed(0))
    for x in (matrix, matrix.T):
        found = orthogonal(x)
        values = torch.linalg.svdvals(found)
        assert values.min() > 0.5 and values.max() < 1.3, "bf16 and five rounds bring them near 1, no nearer"
        u, _, v = torch.linalg.svd(x, full_matrices=False)
        assert functional.cosine_similarity(found.flatten(), (u @ v).flatten(), dim=0) > 0.95


def test_muon_steps_matrices_by_their_size_and_leaves_the_rest_to_adamw() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(16, 32, 3), torch.nn.Embedding(64, 16), torch.nn.Conv2d(3, 32, 3, bias=False)
    )
    before = [p.detach().clone() for p in model.parameters()]
    optimiser = Muon(model, 0.01, (0.9, 0.99))
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimiser.step()
    matrix, bias, embedding, narrow = (
        (a.detach() - b).square().mean().sqrt().item()
        for a, b in zip(model.parameters(), before, strict=True)
    )
    # Of 32 x 144 numbers with 32 singular values of 1, the mean square is 32 / (32 * 144).
    assert matrix == pytest.approx(0.01 * ADAMW_STEP * (144 * 32 / (32 * 144)) ** 0.5, rel=0.2)
    # 3 * 3 * 3 = 27 inputs and 32 outputs: a matrix all the same.
    assert narrow == pytest.approx(0.01 * ADAMW_STEP * (32 * 27 / (32 * 27)) ** 0.5, rel=0.2)
    assert bias == pytest.approx(0.01, rel=0.01) and embedding == pytest.approx(0.01, rel=0.01)


def test_an_interrupted_training_with_both_ends_with_the_same_weights(tmp_path: Path) -> None:
    settings = from_dict(AutoencoderTraining, TINY | RECIPE, "test")
    frames = random_frames()

    class Interrupted(Batches):
        def at(self, step: int) -> torch.Tensor:
            if step == 11:
                raise KeyboardInterrupt
            return super().at(step)

    whole = train_autoencoder(Batches(frames, 4, 1), settings, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train_autoencoder(Interrupted(frames, 4, 1), settings, tmp_path / "state")
    resumed = train_autoencoder(Batches(frames, 4, 1), settings, tmp_path / "state")
    expected, found = whole.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(expected[k], found[k]) for k in expected)


def test_it_begins_where_random_weights_have_yet_to_come(tmp_path: Path) -> None:
    frames = np.concatenate([random_frames(32), 255 - random_frames(32)])
    reached = {}
    for initial in ("random", "block_means"):
        settings = from_dict(
            AutoencoderTraining,
            TINY | {"channels": [16, 16, 16], "initial": initial, "steps": 30, "learning_rate": 3e-4},
            "test",
        )
        trained = train_autoencoder(Batches(frames, 4, 1), settings, tmp_path / initial)
        reached[initial] = trained.report["train_psnr_db"]
    assert reached["block_means"] > reached["random"] + 3
