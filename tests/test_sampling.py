"""Sampling: step sets, the released code's steps, and that nothing but the frame decides what is sampled."""

from collections.abc import Callable
from pathlib import Path

import cv2
import ldm_forward
import numpy as np
import pytest
import torch
from diffusers import VQModel
from small_training import sample_shard, train, write_made

from difftalk.config.sampling import Sampling
from difftalk.config.section import from_dict
from difftalk.models.autoencoder import build_autoencoder, encode_frames
from difftalk.models.conditioning import Conditioner
from difftalk.models.denoiser import build_unet, noise_schedule
from difftalk.models.examples import LatentClips
from difftalk.models.formats import ldm
from difftalk.models.formats.ldm_names import FIRST_STAGE, UNET
from difftalk.models.masks import generated_mask, released_mask
from difftalk.runtime.errors import UserError
from difftalk.sampling.clip_sampler import ClipJob, ClipSampler, sample_clips
from difftalk.sampling.frame_sampler import FrameSampler
from difftalk.sampling.inpaint import inpaint
from difftalk.sampling.inputs import ShardClip, encode_inputs
from difftalk.sampling.noise import FrameNoise
from difftalk.sampling.pipeline import DiffTalkPipeline
from difftalk.sampling.schedulers import build_scheduler

SAMPLERS = [("ddim", 20), ("dpm++", 15), ("unipc", 15)]


@pytest.mark.parametrize("steps", [1, 10, 50, 200, 500])
def test_ddim_of_a_noise_model_has_ldms_steps(steps: int) -> None:
    scheduler = build_scheduler(noise_schedule("epsilon"), Sampling(steps=steps))
    assert scheduler.timesteps.tolist() == list(range(1, 1000, 1000 // steps))[::-1]
    assert scheduler.final_alpha_cumprod == scheduler.alphas_cumprod[0], "the last step ends at the lowest"


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_a_thousand_steps_take_every_noise_level(prediction: str) -> None:
    scheduler = build_scheduler(noise_schedule(prediction), Sampling(steps=1000))
    assert scheduler.timesteps.tolist() == list(range(1000))[::-1]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"steps": 300}, "steps 300 does not divide 1000, as steps of DDIM have to: 250 and 500 do"),
        ({"sampler": "unipc", "eta": 0.5}, "eta 0.5 is for `sampler: ddim`; unipc adds no noise"),
        ({"anchor": "mean"}, "anchor: mean needs `progressive: latent` or `pixels`"),
        ({"steps": 1001}, "steps"),
    ],
)
def test_settings_that_contradict_are_refused(values: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says):
        from_dict(Sampling, values, "--settings")


def true_denoiser(prediction: str, target: torch.Tensor) -> Callable[..., torch.Tensor]:
    """Answers with the true noise, or velocity, of any latents."""
    schedule = noise_schedule(prediction)
    alphas = schedule.alphas_cumprod

    def predict(noisy: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        noise = (noisy - alphas[t].sqrt() * target) / (1 - alphas[t]).sqrt()
        return noise if prediction == "epsilon" else schedule.get_velocity(target, noise, t[None])

    return predict


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(("sampler", "steps"), SAMPLERS)
@pytest.mark.parametrize("known_region", ["noised", "clean"])
def test_with_a_perfect_denoiser_every_sampler_finds_the_target(
    prediction: str, sampler: str, steps: int, known_region: str
) -> None:
    schedule = noise_schedule(prediction)
    settings = from_dict(Sampling, {"sampler": sampler, "steps": steps}, "test")
    target = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    generated = torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    generated[:, :, 4:] = True
    known = torch.where(generated, torch.zeros(()), target)
    noise = FrameNoise(1, [("a", 0), ("a", 1)], target.shape[1:])
    found = inpaint(
        true_denoiser(prediction, target),
        build_scheduler(schedule, settings),
        schedule,
        known,
        generated,
        noise.draw,
        known_region="clean" if known_region == "clean" else "noised",
    )
    assert torch.equal(torch.where(generated, target, found), target), "the known region comes back exactly"
    # DDIM of a noise model ends at the lowest noise level, as LDM's does.
    left = (1 - schedule.alphas_cumprod[0]).sqrt() if (sampler, prediction) == ("ddim", "epsilon") else 0
    assert (found - target).abs().max() < 1e-3 + 5 * left
    assert left == 0 or (found - target)[:, :, 4:].std() < 1.1 * left


def test_noise_is_of_the_frame_and_of_nothing_else() -> None:
    together = FrameNoise(1, [("a", 0), ("a", 1), ("b", 0)], (3, 4, 4))
    alone = FrameNoise(1, [("a", 1)], (3, 4, 4))
    for _ in range(2):
        assert torch.equal(together.draw()[1:2], alone.draw())
    drawn = FrameNoise(1, [("a", 0), ("a", 1), ("b", 0)], (3, 64, 64)).draw()
    other = FrameNoise(2, [("a", 0)], (3, 64, 64)).draw()
    rows = torch.cat([drawn, other]).flatten(1)
    assert (torch.corrcoef(rows) - torch.eye(4)).abs().max() < 0.05, "streams are independent"
    assert abs(float(rows.mean())) < 0.02 and abs(float(rows.std()) - 1) < 0.02


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shard of two clips and a model that was trained for a moment."""
    folder = write_made(tmp_path_factory.mktemp("sampling"))
    train(folder, "model", steps=2)
    return folder


@pytest.mark.parametrize("progressive", ["none", "latent", "pixels"])
def test_batch_size_and_company_change_no_bit(made: Path, progressive: str) -> None:
    """Batch sizes 1, 7 and 64, both clips or one, in parts or at once: the same latents."""
    changed = {"steps": 2, "progressive": progressive}
    found = [
        sample_shard(
            made / "model",
            made / "train-000.tar",
            from_dict(Sampling, changed | {"batch_size": n}, ""),
            16,
        )
        for n in (1, 7, 64)
    ]
    for other in found[1:]:
        assert all(torch.equal(found[0][clip], other[clip]) for clip in ("a", "b"))

    pipeline = DiffTalkPipeline.from_pretrained(made / "model")
    settings = from_dict(Sampling, changed, "")
    clips = LatentClips([made / "train-000.tar"], pipeline.conditioner.neighbours)
    clip = ShardClip(clips, 1, 16, settings)
    alone = ClipSampler(FrameSampler(pipeline, settings), "b", clip.latent(0))
    parts = [alone.sample(clip.inputs(numbers), numbers) for numbers in (range(13), range(13, 70))]
    assert torch.equal(torch.cat(parts), found[0]["b"])


def test_progressive_frames_have_the_frame_before_as_their_reference(made: Path) -> None:
    pipeline = DiffTalkPipeline.from_pretrained(made / "model")
    clips = LatentClips([made / "train-000.tar"], pipeline.conditioner.neighbours)

    def sampled(**changes: object) -> torch.Tensor:
        settings = from_dict(Sampling, {"steps": 2, "progressive": "latent", **changes}, "")
        clip = ShardClip(clips, 0, 16, settings)
        return ClipSampler(FrameSampler(pipeline, settings), "a", clip.latent(0)).sample(
            clip.inputs(range(4)), range(4)
        )

    fixed = Sampling(steps=2)
    clip = ShardClip(clips, 0, 16, fixed)
    sampler, chain = FrameSampler(pipeline, fixed), sampled()
    for frame in range(1, 4):
        inputs = clip.inputs([frame])
        assert torch.equal(sampler.sample(inputs, chain[frame - 1 : frame], [("a", frame)])[0], chain[frame])
    anchored = sampled(anchor="every", anchor_every=2)
    again = sampler.sample(clip.inputs([2]), clip.latent(0)[None], [("a", 2)])[0]
    assert torch.equal(anchored[2], again), "every second frame has the first reference"
    mean = (clip.latent(0) + chain[0])[None] / 2
    assert torch.equal(sampled(anchor="mean")[1], sampler.sample(clip.inputs([1]), mean, [("a", 1)])[0])


def test_a_clip_that_ends_makes_room_for_the_next(made: Path) -> None:
    pipeline = DiffTalkPipeline.from_pretrained(made / "model")
    settings = Sampling(steps=1, progressive="latent", batch_size=2)
    clips = LatentClips([made / "train-000.tar"], pipeline.conditioner.neighbours)
    jobs = []
    for number, length in ((0, 2), (1, 5), (0, 3)):
        clip = ShardClip(clips, number, 16, settings)
        jobs.append(ClipJob(clip, range(length), clip.latent(0)))
    asked: list[int] = []
    sampler = FrameSampler(pipeline, settings)
    original = sampler.sample
    sampler.sample = lambda i, r, f: asked.append(len(f)) or original(i, r, f)  # type: ignore[method-assign,func-returns-value,assignment]
    assert sum(job.is_complete for job in sample_clips(sampler, jobs)) == 3
    assert asked == [2, 2, 2, 2, 2], "the batch stays full"


def test_the_released_mask_is_jaw_and_nose_base_in_bicubic_cells() -> None:
    angles = np.linspace(0, np.pi, 17)
    landmarks = np.full((1, 68, 2), 128.0)
    landmarks[0, :17] = np.stack([128 - 90 * np.cos(angles), 110 + 110 * np.sin(angles)], axis=1)
    landmarks[0, 27:36] = [128, 140]
    landmarks[0, 48:] = [128, 180]
    found = released_mask(landmarks, 256, 64)[0]
    polygon = np.concatenate([landmarks[0, 2:15], landmarks[0, 33:34]])
    centres = [(4 * x + 1.5, 4 * y + 1.5) for y in range(64) for x in range(64)]
    distance = np.array([cv2.pointPolygonTest(polygon.astype(np.float32), c, True) for c in centres])
    clear = np.abs(distance) > 4  # a cell's width from the outline
    assert np.array_equal(found.ravel()[clear], distance[clear] > 0)
    assert found.sum() < generated_mask(landmarks, 256, 64).sum(), "the hull is wider"


@pytest.fixture(scope="module")
def released() -> tuple[ldm.State, DiffTalkPipeline]:
    """A checkpoint in the released format, with narrow networks, and the pipeline that it becomes."""
    torch.manual_seed(0)
    narrow = build_autoencoder((32, 32), 1, 64)
    vqvae = VQModel.from_config({**narrow.config, "norm_num_groups": 32})
    networks = (build_unet((32, 64), 1, 32, 128, 2, 64), Conditioner(), vqvae)
    for network in networks:
        network.eval().requires_grad_(False)
        for tensor in network.state_dict().values():
            tensor.add_(0.03 * torch.randn(tensor.shape))
    state = ldm.to_ldm(*networks, "test")
    unet, conditioner, first_stage = ldm.from_ldm(state, "test")
    return state, DiffTalkPipeline(unet, conditioner, noise_schedule("epsilon"), vqvae=first_stage)


def released_latents(
    state: ldm.State,
    frames: np.ndarray,
    masked: np.ndarray,
    keep: torch.Tensor,
    speech: torch.Tensor,
    landmarks: torch.Tensor,
    noise: Callable[[], torch.Tensor],
    steps: int,
) -> torch.Tensor:
    """What the released inference does, from its description, with the networks of `ldm_forward`."""

    def pixels(images: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1

    first_stage = ldm_forward.Tensors(state, FIRST_STAGE)
    z, z_masked = (ldm_forward.vq_encode(first_stage, pixels(x)) for x in (frames, masked))
    reference = z[:1].expand_as(z)
    context = ldm_forward.context(ldm_forward.Tensors(state), speech, landmarks)
    betas = np.linspace(0.0015**0.5, 0.0195**0.5, 1000) ** 2
    alphas = np.cumprod(1 - betas)
    times = np.arange(0, 1000, 1000 // steps) + 1
    before = np.concatenate([alphas[:1], alphas[times[:-1]]])
    x = noise()
    for t, previous in zip(times[::-1], before[::-1], strict=True):
        alpha = alphas[t]
        x = (alpha**0.5 * z + (1 - alpha) ** 0.5 * noise()) * keep + x * (1 - keep)
        inputs, when = torch.cat([x, z_masked, reference], dim=1), torch.full((len(x),), int(t))
        e = ldm_forward.unet(ldm_forward.Tensors(state, UNET), inputs, when, context)
        z_0 = (x - (1 - alpha) ** 0.5 * e) / alpha**0.5
        x = previous**0.5 * z_0 + (1 - previous) ** 0.5 * e
    return x


def test_the_released_values_give_the_released_latents(
    released: tuple[ldm.State, DiffTalkPipeline],
) -> None:
    """From the same noise: 50 steps (200 differ by as little), the released masks, nothing put back."""
    state, pipeline = released
    rng = np.random.default_rng(0)
    size, cells = 128, 64
    frames = rng.integers(0, 256, (2, size, size, 3), dtype=np.uint8)
    frames = np.stack([cv2.GaussianBlur(frame, (0, 0), 5) for frame in frames])
    angles = np.linspace(0, np.pi, 17)
    landmarks = np.zeros((2, 68, 2)) + rng.uniform(30, 60, (2, 68, 2))
    landmarks[:, :17] = np.stack([64 - 45 * np.cos(angles), 55 + 55 * np.sin(angles)], axis=1)
    landmarks[:, 27:36] = [64.3, 70.2]
    landmarks[:, 33] = [64.1, 75.7]
    speech = torch.randn(2, 8, 16, 29, generator=torch.Generator().manual_seed(4))
    settings = Sampling(
        steps=50, mask="released", mask_line="nose_base", keep_known=False, seed=3, frames_per_pass=2
    )
    streams = [("clip", 0), ("clip", 1)]

    masked = frames.copy()
    masked[:, int(75.7) :] = 0
    keep = torch.from_numpy(~released_mask(landmarks, size, cells)).float().unsqueeze(1)
    seen = torch.from_numpy(landmarks[:, [*range(4), *range(13, 48)]]).float() * 256 / size
    expected = released_latents(
        state, frames, masked, keep, speech, seen, FrameNoise(3, streams, (3, cells, cells)).draw, 50
    )

    assert pipeline.vqvae is not None
    inputs = encode_inputs(pipeline.vqvae, frames, landmarks, speech.numpy(), settings)
    reference = encode_frames(pipeline.vqvae, frames[:1]).expand(2, -1, -1, -1)
    found = FrameSampler(pipeline, settings).sample(inputs, reference, streams)
    spread = float(expected.std())
    assert 0.05 < spread < 50, "latents that say something"
    assert float((found - expected).abs().max()) < 1e-4 * spread
