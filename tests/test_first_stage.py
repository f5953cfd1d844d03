"""The first stage: the terms of its loss, its figures and frames, exact resumption, copies."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from drawn_clips import speaker, write_crops
from safetensors.torch import load_file, save_file

from difftalk.config.autoencoder import AutoencoderTraining
from difftalk.config.section import from_dict
from difftalk.media.video import read_video
from difftalk.models.autoencoder import (
    build_autoencoder,
    decode_latents,
    encode_frames,
    frames_at_once,
    load_autoencoder,
    to_pixels,
)
from difftalk.models.discriminator import PatchDiscriminator, adaptive_weight, hinge_loss
from difftalk.models.perceptual import Perceptual
from difftalk.models.quantiser import quantise
from difftalk.runtime.errors import UserError
from difftalk.stages.autoencoder import EMBEDDED, run
from difftalk.training.first_stage import FirstStageTrainer, Trained, train_autoencoder
from difftalk.training.frames import (
    STRETCH,
    Batches,
    PooledBatches,
    find_videos,
    held_out_frames,
    hold_out,
    load_batches,
    prepared,
)
from difftalk.training.reconstruction import codebook_use

TINY: dict[str, Any] = {
    "channels": [8, 16, 16],
    "codes": 32,
    "steps": 12,
    "batch_size": 4,
    "log_every": 3,
    "checkpoint_every": 5,
    "discriminator_channels": 8,
    "discriminator_layers": 2,
}


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two crops shards of five clips of 60 frames of 64 px."""
    folder = tmp_path_factory.mktemp("crops")
    clips = {f"c{i}": speaker(900 + i) for i in range(5)}
    first, second = list(clips)[:3], list(clips)[3:]
    return [
        write_crops(folder / "train-000.tar", {c: clips[c] for c in first}),
        write_crops(folder / "train-001.tar", {c: clips[c] for c in second}),
    ]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights folder with a VGG16 backbone of random weights: names and shapes are right."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(3)
    features = torchvision.models.vgg16(weights=None).features.state_dict()
    save_file({f"features.{k}": v.contiguous() for k, v in features.items()}, folder / "vgg16.safetensors")
    (folder / "vgg16.json").write_text(json.dumps({"sha256": "0"}))
    return folder


def random_frames(count: int = 32) -> np.ndarray:
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 255, (count, 1, 1, 3), dtype=np.uint8)
    return np.broadcast_to(colours, (count, 32, 32, 3)).copy()


def train(state: Path, **changes: object) -> Trained:
    settings = from_dict(AutoencoderTraining, TINY | changes, "test")
    frames = random_frames()
    return train_autoencoder(Batches(frames[8:], 4, seed=1), settings, state, held_out=frames[:8])


def test_it_learns_to_reconstruct_and_uses_its_codes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 255, (64, 1, 1, 3), dtype=np.uint8)
    frames = np.broadcast_to(colours, (64, 16, 16, 3)).copy()
    settings = AutoencoderTraining(channels=(16, 16, 16), codes=64, steps=120, batch_size=8)
    trained = train_autoencoder(Batches(frames, 8, seed=1), settings, tmp_path)
    assert trained.report["train_psnr_db"] > 12  # grey alone gives about 9
    model, x = trained.model, Batches(frames, 8, seed=1).at(0)
    latents = model.encode(x).latents * model.config.scaling_factor
    assert 0.5 < latents.std() < 2.0
    assert len(model.quantize(latents / model.config.scaling_factor)[2][2].unique()) >= 4


def test_f4_and_f8_give_latents_of_64() -> None:
    with torch.device("meta"):
        four, eight = (
            build_autoencoder((128, 256, 512), 2, 8192),
            build_autoencoder((128, 256, 256, 512), 2, 8192),
        )
        assert four.encode(torch.empty(1, 3, 256, 256)).latents.shape == (1, 3, 64, 64)
        latents = eight.encode(torch.empty(1, 3, 512, 512)).latents
        assert latents.shape == (1, 3, 64, 64)
        assert eight.decode(latents, force_not_quantize=True).sample.shape == (1, 3, 512, 512)
        assert eight.quantize.embedding.weight.shape == (8192, 3)


def test_each_term_of_the_loss_is_enabled_at_its_step(tmp_path: Path) -> None:
    log = train(
        tmp_path, log_every=1, quantise_from=0.25, discriminator_weight=0.75, discriminator_from=0.5
    ).log
    assert [line["step"] for line in log] == list(range(1, 13))
    assert [line["codebook"] > 0 for line in log] == [False] * 3 + [True] * 9
    for name in ("adversarial", "adaptive_weight", "discriminator"):
        assert [name in line for line in log] == [False] * 6 + [True] * 6
    for line in log[6:]:
        loss = line["absolute"] + line["squared"] + 0.5 * line["codebook"]
        loss += 0.75 * line["adaptive_weight"] * line["adversarial"]
        # The same float32 sum in another order.
        assert line["loss"] == pytest.approx(loss, rel=1e-5)


def test_without_its_weight_the_discriminator_changes_nothing(tmp_path: Path) -> None:
    plain, other = (
        train(tmp_path / "a"),
        train(tmp_path / "b", discriminator_from=0.0, discriminator_channels=4),
    )
    assert all(torch.equal(v, other.model.state_dict()[k]) for k, v in plain.model.state_dict().items())


def test_adaptive_weight_is_the_ratio_of_gradients_at_the_last_layer() -> None:
    """Against gradients by hand: the layer is y = w * x, so dL/dw = mean(dL/dy * x)."""
    x = torch.tensor([1.0, -2.0, 3.0])
    w = torch.tensor([0.5], requires_grad=True)
    y = w * x
    found = adaptive_weight((y - 1).square().mean(), -(4 * y).mean(), w)
    by_hand = (2 * (0.5 * x - 1) * x).mean().abs() / ((-4 * x).mean().abs() + 1e-6)
    assert found.item() == pytest.approx(by_hand.item(), rel=1e-6)
    assert not found.requires_grad
    assert adaptive_weight((w * x).sum(), (0 * w * x).sum(), w).item() == 1e4, "bounded where nothing is seen"


def test_hinge_loss_stops_pulling_beyond_the_margin() -> None:
    assert hinge_loss(torch.tensor([2.0]), torch.tensor([-3.0])).item() == 0
    assert hinge_loss(torch.zeros(4), torch.zeros(4)).item() == 1
    assert hinge_loss(torch.tensor([0.5]), torch.tensor([1.0])).item() == pytest.approx(0.5 * (0.5 + 2.0))


@pytest.mark.parametrize(("layers", "pixels"), [(2, 34), (3, 70)])
def test_the_discriminator_judges_patches(layers: int, pixels: int) -> None:
    model = PatchDiscriminator(4, layers).eval()
    x = torch.randn(1, 3, 160, 160, requires_grad=True)
    scores = model(x)
    scores[0, 0, scores.shape[2] // 2, scores.shape[3] // 2].backward()
    seen = x.grad.abs().sum((0, 1)).nonzero()  # type: ignore[union-attr]
    assert (seen.max(0).values - seen.min(0).values + 1).tolist() == [pixels, pixels]


def test_a_perceptual_loss_without_its_weights_is_an_error(
    crops: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIFFTALK_WEIGHTS", str(tmp_path))
    settings = from_dict(AutoencoderTraining, TINY | {"perceptual_weight": 1.0}, "test")
    with pytest.raises(UserError, match=r"autoencoder_training.perceptual_weight needs the weights vgg16"):
        run(crops=crops, settings=settings, source="train", state=tmp_path / "state", out=tmp_path / "out")


def test_the_perceptual_term_is_lpips_of_the_backbone_in_the_weights_folder(
    crops: list[Path], backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wiring only: the backbone is random, so that the values mean nothing."""
    monkeypatch.setenv("DIFFTALK_WEIGHTS", str(backbone))
    settings = from_dict(
        AutoencoderTraining, TINY | {"steps": 2, "perceptual_weight": 0.5, "log_every": 1}, "test"
    )
    run(crops=crops, settings=settings, source="train", state=tmp_path / "state", out=tmp_path / "out")
    for line in map(json.loads, (tmp_path / "out" / "log.jsonl").read_text().splitlines()):
        loss = line["absolute"] + line["squared"] + 0.5 * line["perceptual"] + 0.5 * line["codebook"]
        assert line["perceptual"] > 0 and line["loss"] == pytest.approx(loss, rel=1e-5)
    assert line["lpips_vgg"] > 0

    # Every tensor of the backbone comes from the file, and the heads from the package.
    net = Perceptual(backbone / "vgg16.safetensors")
    stored = load_file(backbone / "vgg16.safetensors")
    held = net.net.net.backbone.state_dict()
    loaded = {f"features.{'.'.join(k.split('.')[1:])}": v for k, v in held.items()}
    assert loaded.keys() == stored.keys() and all(torch.equal(loaded[k], stored[k]) for k in stored)
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    assert net(x, x).abs().max() == 0 and net(x, -x).shape == (2,)
    save_file({"features.0.weight": torch.zeros(1)}, tmp_path / "wrong.safetensors")
    with pytest.raises(UserError, match="not the VGG16 backbone"):
        Perceptual(tmp_path / "wrong.safetensors")


def test_an_interrupted_training_ends_with_the_same_weights(tmp_path: Path) -> None:
    """Interrupted in step 12, after the adversarial loss is enabled; resumed from step 10."""
    adversarial = {"discriminator_weight": 0.75, "discriminator_from": 0.25}
    whole = train(tmp_path / "whole", **adversarial)

    class Interrupted(Batches):
        def at(self, step: int) -> torch.Tensor:
            if step == 11:
                raise KeyboardInterrupt
            return super().at(step)

    settings, frames = from_dict(AutoencoderTraining, TINY | adversarial, "test"), random_frames()
    state = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        train_autoencoder(Interrupted(frames[8:], 4, 1), settings, state, held_out=frames[:8])
    assert [p.name for p in sorted(state.glob("*.pt"))] == ["step-00000005.pt", "step-00000010.pt"]
    resumed = train_autoencoder(Batches(frames[8:], 4, 1), settings, state, held_out=frames[:8])
    expected, found = whole.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(expected[k], found[k]) for k in expected)
    assert resumed.log == whole.log and resumed.report == whole.report


def test_a_loss_that_is_no_number_stops_it_before_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"autoencoder: the loss became nan.*learning_rate \(1e\+30\)"):
        train(tmp_path, learning_rate=1.0e30, log_every=100)
    assert not list(tmp_path.glob("*.pt"))


def test_use_of_the_codebook_is_its_part_and_its_perplexity() -> None:
    even = codebook_use(torch.tensor([5.0, 5.0, 5.0, 5.0, 0, 0, 0, 0]))
    assert even == {"codes_used": 0.5, "perplexity": pytest.approx(4)}
    one = codebook_use(torch.tensor([7.0, 0, 0, 0]))
    assert one == {"codes_used": 0.25, "perplexity": pytest.approx(1)}


def test_held_out_clips_measure_it_and_the_figures_are_kept(crops: list[Path], tmp_path: Path) -> None:
    settings = from_dict(AutoencoderTraining, TINY, "test")
    run(crops=crops, settings=settings, source="train", state=tmp_path / "state", out=tmp_path / "out")
    lines = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 6, 9, 12]
    assert 0 < lines[-1]["ssim"] < 1 and 5 < lines[-1]["psnr"] < 40
    assert 0 < lines[-1]["codes_used"] <= 1 and 1 <= lines[-1]["perplexity"] <= 32
    facts = json.loads((tmp_path / "out" / "training.json").read_text())
    assert (facts["clips"], facts["held_out_clips"]) == (4, 1)
    assert facts["held_out_psnr"] == round(lines[-1]["psnr"], 4)
    assert [p.name for p in (tmp_path / "state").iterdir() if p.is_dir()] == ["finished"]
    assert not list((tmp_path / "state").glob("step-*"))
    assert load_autoencoder(tmp_path / "out").config.scaling_factor == pytest.approx(1 / facts["latent_std"])


def copy(source: str, out: Path) -> Path:
    settings = AutoencoderTraining()
    run(crops=[], settings=settings, source=source, state=out.with_name("state"), out=out)
    return out


def test_the_embedded_first_stage_is_copied_and_encodes_in_float32(tmp_path: Path) -> None:
    out = copy("embedded", tmp_path / "out")
    assert sorted(p.name for p in out.iterdir()) == [
        "SHA256SUMS", "config.json", "diffusion_pytorch_model.safetensors", "training.json"
    ]  # fmt: skip
    for name in ("config.json", "diffusion_pytorch_model.safetensors"):
        assert (out / name).read_bytes() == (EMBEDDED / name).read_bytes()
    facts = json.loads((EMBEDDED / "training.json").read_text())
    assert json.loads((out / "training.json").read_text()) == {"imported_from": "embedded"} | facts

    # The same as with weights widened in the file.
    model = load_autoencoder(out)
    model.save_pretrained(tmp_path / "wide", safe_serialization=True)
    wide = load_file(tmp_path / "wide" / "diffusion_pytorch_model.safetensors")
    assert all(v.dtype == torch.float32 for v in model.state_dict().values())
    assert all(torch.equal(v, wide[k]) for k, v in model.state_dict().items())
    frames = random_frames(4)
    assert torch.equal(
        encode_frames(model, frames), encode_frames(load_autoencoder(tmp_path / "wide"), frames)
    )


def test_a_copy_has_nothing_of_the_machine_and_no_stray_file(tmp_path: Path) -> None:
    source = tmp_path / "source"
    load_autoencoder(EMBEDDED).save_pretrained(source, safe_serialization=True)
    assert "_name_or_path" in (source / "config.json").read_text()
    (source / "README.md").write_text("A first stage.")
    (source / "diffusion_pytorch_model.bin").write_bytes(b"a pickle")
    out = copy(str(source), tmp_path / "out")
    assert sorted(p.name for p in out.iterdir()) == [
        "README.md", "SHA256SUMS", "config.json", "diffusion_pytorch_model.safetensors", "training.json"
    ]  # fmt: skip
    assert (out / "config.json").read_bytes() == (EMBEDDED / "config.json").read_bytes()
    assert json.loads((out / "training.json").read_text()) == {"imported_from": str(source)}


def test_a_folder_that_cannot_be_copied_is_named(tmp_path: Path) -> None:
    source = copy("embedded", tmp_path / "source")
    weights = source / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"diffusion_pytorch_model\.safetensors is damaged or was edited"):
        copy(str(source), tmp_path / "out")
    (source / "SHA256SUMS").unlink()  # as in a folder of other software
    with pytest.raises(UserError, match=r"is not that of a first stage in diffusers' format \(VQModel\): "):
        copy(str(source), tmp_path / "out")
    weights.unlink()
    with pytest.raises(UserError, match=r"it has no diffusion_pytorch_model\.safetensors"):
        copy(str(source), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("stage", ["autoencoder", "syncnet"])
def test_copying_imports_no_torch(stage: str, tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from difftalk.cli import main
arguments = "--settings {{}} --source embedded --state {tmp_path}/state --out {tmp_path}/out"
assert main(["{stage}", *arguments.split()]) == 0
print(*(m for m in ("torch", "diffusers", "cv2", "skimage") if m in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "" and (tmp_path / "out" / "config.json").is_file()


def test_no_clip_is_on_both_sides(crops: list[Path]) -> None:
    videos = find_videos(crops)
    assert [v.clip_id for v in videos] == ["c0", "c1", "c2", "c3", "c4"]
    train, held_out = hold_out(videos, 0.4)
    assert len(held_out) == 2 and {*train, *held_out} == {*videos}
    assert hold_out(videos[:1], 0.4) == (videos[:1], [])
    assert hold_out(videos, 0.0) == (videos, [])
    assert held_out_frames(held_out).shape == (2 * 60, 64, 64, 3)  # type: ignore[union-attr]


def test_crops_that_fit_are_held_whole(crops: list[Path]) -> None:
    batches = load_batches(find_videos(crops), 4, 1, memory_mb=100)
    assert isinstance(batches, Batches) and batches.frames.shape == (300, 64, 64, 3)
    tight = load_batches(find_videos(crops), 4, 1, memory_mb=300 * 64 * 64 * 3 / 1e6 - 0.01)
    assert isinstance(tight, PooledBatches)


def test_the_pool_is_bounded_and_a_function_of_the_step(crops: list[Path]) -> None:
    videos = find_videos(crops)
    pool = PooledBatches(videos, 16, seed=1, stretches=2)
    seen = [pool.at(step) for step in range(40)]
    assert len(pool._pool) <= 2 + 2  # the window and what is decoded ahead of it
    again = PooledBatches(videos, 16, seed=1, stretches=2)
    for step in (33, 5, 39):  # as a training that begins there would, in any order
        assert torch.equal(again.at(step), seen[step])
    assert not torch.equal(PooledBatches(videos, 16, seed=2, stretches=2).at(5), seen[5])


def test_every_clip_has_one_turn_per_epoch_and_gives_its_own_frames(crops: list[Path]) -> None:
    videos = find_videos(crops)
    whole = {v.clip_id: read_video(v.read()) for v in videos}
    assert all(len(frames) == v.frames == 60 for v, frames in zip(videos, whole.values(), strict=True))
    pool = PooledBatches(videos, 16, seed=1, stretches=2)

    def clip_of(stretch: np.ndarray) -> str:
        (found,) = [c for c, p in whole.items() if len(p) >= len(stretch) and np.array_equal(p, stretch)]
        return found

    turns = [clip_of(pool.stretch(position)) for position in range(10)]
    assert sorted(turns[:5]) == sorted(turns[5:]) == sorted(whole)
    assert turns[:5] != turns[5:]
    assert pool.frames_per_epoch == 5 * min(STRETCH, 60)


def test_chosen_frames_are_those_of_the_whole_video(crops: list[Path]) -> None:
    video = find_videos(crops)[0]
    chosen = np.array([0, 7, 8, 30, 59])
    assert np.array_equal(video.read_frames(chosen), read_video(video.read())[chosen])


def test_a_pass_takes_no_more_memory_at_the_papers_sizes_than_at_small_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with torch.device("meta"):
        paper, at_512 = (build_autoencoder(c, 2, 8) for c in ((128, 256, 512), (128, 256, 256, 512)))
    assert [frames_at_once(paper, 256, 64), frames_at_once(at_512, 512, 64)] == [8, 2]
    small = build_autoencoder((8, 16), 1, 32).eval()
    assert frames_at_once(small, 64, 64) == 64, "of small crops as many as are asked for"
    frames = np.random.default_rng(0).integers(0, 255, (7, 32, 32, 3), dtype=np.uint8)
    latents = encode_frames(small, frames)
    decoded = decode_latents(small, latents)
    monkeypatch.setattr("difftalk.models.autoencoder.LARGEST_ARRAY_BYTES", 3 * 4 * 16 * 32 * 32)
    assert frames_at_once(small, 32, 64) == 3
    # Kernels for another number of frames round otherwise.
    torch.testing.assert_close(encode_frames(small, frames), latents, atol=1e-5, rtol=1e-5)
    assert np.abs(decode_latents(small, latents).astype(int) - decoded).max() <= 1


def test_a_first_stage_in_bf16_encodes_and_decodes() -> None:
    torch.manual_seed(0)
    model = build_autoencoder((16, 32), 1, 16).eval()
    frames = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    exact = encode_frames(model, frames)
    found = encode_frames(model.to(torch.bfloat16), frames)
    assert found.dtype == torch.float32
    assert float((found - exact).norm() / exact.norm()) < 0.05
    assert decode_latents(model, found).shape == frames.shape


def embedded_latents() -> tuple[Any, torch.Tensor]:
    """The embedded first stage, and its latents of eight frames before quantisation."""
    model = load_autoencoder(EMBEDDED)
    latents = encode_frames(model, speaker(901).frames[:8]) / model.config.scaling_factor
    return model, latents


def test_codes_are_those_of_diffusers_and_of_float32_in_half_precision() -> None:
    model, latents = embedded_latents()
    model.quantize.legacy = False
    theirs, loss, (_, _, numbers) = model.quantize(latents)
    ours = quantise(model, latents)
    assert torch.equal(ours[0], theirs) and torch.equal(ours[1], loss) and torch.equal(ours[2], numbers)
    assert torch.equal(quantise(model, latents[3:4])[2], numbers.view(8, -1)[3])
    scaled = latents * model.config.scaling_factor
    frames = decode_latents(model, scaled)
    rounded = decode_latents(model.to(torch.bfloat16), scaled)
    assert np.abs(frames.astype(int) - rounded).mean() < 1, "the same codes, decoded in bf16"
    weight = model.quantize.embedding.weight.float()
    nearest = torch.cdist(latents.permute(0, 2, 3, 1).flatten(0, 2), weight).argmin(dim=1)
    assert torch.equal(quantise(model, latents)[2], nearest)
    assert (model.quantize(latents.bfloat16())[2][2] != nearest).float().mean() > 0.01, "why it is done"


def test_batches_prepared_beside_the_step_are_those_of_their_steps() -> None:
    batches = Batches(random_frames(), 4, seed=1)
    made = list(prepared(batches, 3, 8))
    assert len(made) == 5
    assert all(torch.equal(batch, batches.at(step)) for step, batch in enumerate(made, start=3))


def trained_steps(**changes: object) -> tuple[FirstStageTrainer, list[dict[str, float]]]:
    """Four steps with the discriminator, quantised from the second one on."""
    common = {**TINY, "steps": 4, "discriminator_weight": 0.75, "discriminator_from": 0.25}
    settings = from_dict(AutoencoderTraining, {**common, **changes}, "")
    trainer = FirstStageTrainer(settings, "cpu", None)
    frames = to_pixels(speaker(902).frames[: 4 * 4])
    sums = []
    for step in range(4):
        trainer.step(step, frames[4 * step : 4 * step + 4])
        sums.append({name: float(total[0]) for name, total in trainer.sums.items()})
    return trainer, sums


def largest_difference(a: FirstStageTrainer, b: FirstStageTrainer) -> float:
    pairs = zip(a.model.parameters(), b.model.parameters(), strict=True)
    return max(float((x - y).detach().abs().max()) for x, y in pairs)


def test_checkpointed_activations_change_no_weight() -> None:
    trainer, sums = trained_steps()
    checkpointed, the_same = trained_steps(gradient_checkpointing=True)
    assert largest_difference(trainer, checkpointed) == 0
    assert sums == the_same
    assert sums[-1]["adversarial"] != 0


def test_a_batch_in_parts_gives_the_same_step() -> None:
    plain, terms = trained_steps(steps=4, discriminator_weight=0.0)
    parts, in_parts = trained_steps(steps=4, discriminator_weight=0.0, gradient_accumulation_steps=2)
    for whole, halved in zip(terms, in_parts, strict=True):
        assert halved == pytest.approx(whole, rel=2e-3)
    assert largest_difference(plain, parts) < 1e-4
    assert int(parts.code_counts.sum()) == int(plain.code_counts.sum()), "codes are counted once a frame"
    adversarial, _ = trained_steps(gradient_accumulation_steps=2)
    assert math.isfinite(float(adversarial.sums["discriminator"][0]))
    with pytest.raises(UserError, match="batch_size 4 is not a multiple of gradient_accumulation_steps 3"):
        trained_steps(gradient_accumulation_steps=3)


def test_lpips_in_bf16_is_that_of_float32_to_rounding(backbone: Path) -> None:
    perceptual = Perceptual(next(backbone.rglob("*.safetensors")))
    frames = to_pixels(speaker(903).frames[:4])
    other = (frames + 0.3 * torch.randn(frames.shape, generator=torch.Generator().manual_seed(1))).clamp(
        -1, 1
    )
    exact, rounded = perceptual(frames, other), perceptual(frames, other, bf16=True)
    assert rounded.dtype == torch.float32
    assert torch.allclose(rounded, exact, rtol=2e-2) and not torch.equal(rounded, exact)
    assert torch.equal(perceptual(frames, other), exact), "bf16 is of one call"
