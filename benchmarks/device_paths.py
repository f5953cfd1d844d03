"""Every path that can run on a GPU, once at a small size: what it computes, to be compared between devices.

Each function of `PATHS` runs on `default_device()` with weights and data of fixed seeds and returns arrays by
name. `CUDA_VISIBLE_DEVICES= python benchmarks/device_paths.py OUT.npz [PATH ...]` writes the CPU's to a file.
"""

import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.state import AcceleratorState
from face_alignment.detection.sfd.net_s3fd import s3fd
from face_alignment.models import FAN
from random_shards import write_random_shard, write_small_autoencoder

from difftalk.config.autoencoder import AutoencoderTraining
from difftalk.config.sampling import Sampling
from difftalk.config.section import from_dict
from difftalk.config.syncnet import SyncnetTraining
from difftalk.config.training import TrainingSettings
from difftalk.evaluation.arcface import ArcFace, IResNet
from difftalk.evaluation.i3d import I3d, I3dNetwork
from difftalk.evaluation.inception import Inception, InceptionV3
from difftalk.evaluation.st_lpips import StLpips
from difftalk.face.face_alignment_backend import Networks
from difftalk.models.autoencoder import build_autoencoder, decode_latents, encode_frames
from difftalk.models.conditioning import Conditioner
from difftalk.models.denoiser import build_unet, noise_schedule
from difftalk.models.stable_syncnet import AUDIO, VISUAL, StableSyncExpert, StableSyncNet
from difftalk.models.syncnet import SyncnetConfig, build_syncnet, load_syncnet, save_syncnet
from difftalk.runtime.device import default_device
from difftalk.sampling.clip_sampler import ClipSampler
from difftalk.sampling.frame_sampler import FrameSampler
from difftalk.sampling.inputs import FrameInputs
from difftalk.sampling.pipeline import DiffTalkPipeline
from difftalk.speech.deepspeech import DeepSpeech
from difftalk.stages import train
from difftalk.training.first_stage import train_autoencoder
from difftalk.training.frames import Batches
from difftalk.training.sync_expert import SyncClip, train_syncnet

Arrays = dict[str, np.ndarray]
SIZE = 64  # of the frames, pixels
STEPS = 8  # of the trainings


def denoiser(folder: Path, **options: object) -> Arrays:
    """Losses and gradient norms of the stage `train`."""
    AcceleratorState._reset_state(reset_partial_state=True)  # it holds the precision of the last training
    write_random_shard(folder / "train-000.tar", clips=4, frames=130, size=16)
    write_small_autoencoder(folder / "autoencoder")
    sizes = {"channels": [32, 64], "layers": 1, "head_channels": 16, "batch_size": 8, "steps": STEPS}
    common = {**sizes, "log_every": 1, "learning_rate": 1e-4, "samples_every": STEPS}
    train.run(
        shards=[folder / "train-000.tar"],
        autoencoder=folder / "autoencoder",
        settings=from_dict(TrainingSettings, common | options, "benchmark"),
        state=folder / "state",
        out=folder / "run/models/denoiser",
    )
    lines = (folder / "run/models/denoiser/log.jsonl").read_text().splitlines()
    log = [json.loads(line) for line in lines]
    return {name: np.array([line[name] for line in log]) for name in ("loss", "gradient_norm")}


def denoiser_float32(folder: Path) -> Arrays:
    """As `denoiser`, in float32 and without compilation."""
    return denoiser(folder, precision="no", compile=False)


def denoiser_bf16(folder: Path) -> Arrays:
    """As `denoiser`, in bf16, two parts a step."""
    return denoiser(folder, precision="bf16", compile=False, gradient_accumulation_steps=2)


def first_stage(folder: Path, **options: object) -> Arrays:
    """Log of a training of the first stage, with its discriminator, from quantised step 2 on."""
    frames = np.random.default_rng(0).integers(0, 256, (32, SIZE, SIZE, 3), dtype=np.uint8)
    common = {"channels": [16, 32], "layers": 1, "codes": 64, "steps": STEPS, "batch_size": 4, "log_every": 1}
    settings = from_dict(
        AutoencoderTraining,
        {**common, "discriminator_weight": 0.75, "discriminator_layers": 2, **options},
        "benchmark",
    )
    trained = train_autoencoder(Batches(frames, 4, 1), settings, folder / "state", frames[:4])
    losses = [entry["absolute"] for entry in trained.log]
    return {"losses": np.array(losses), "latents": encode_frames(trained.model, frames[:4]).numpy()}


def first_stage_bf16(folder: Path) -> Arrays:
    """As `first_stage`, with its convolutions in bf16."""
    return first_stage(folder, bf16=True)


def sync_expert(folder: Path) -> Arrays:
    """Loss of a training of the small sync expert."""
    rng = np.random.default_rng(0)
    settings = from_dict(SyncnetTraining, {"steps": STEPS, "stretch": 16, "batch_size": 2}, "benchmark")
    side = round(settings.lip_size * 1.5)
    clips = [
        SyncClip(
            rng.integers(0, 256, (44, side, side, 3), dtype=np.uint8),
            rng.standard_normal((40, 13, 20)).astype(np.float32),
        )
        for _ in range(3)
    ]
    _, report = train_syncnet(clips, settings, folder / "state")
    return {"loss": np.array([report["train_loss"]])}


def latents(folder: Path) -> Arrays:
    """Latents of frames, and frames of latents."""
    torch.manual_seed(0)
    model = build_autoencoder((32, 64, 96), 1, 512).eval().requires_grad_(False).to(default_device())
    frames = np.random.default_rng(0).integers(0, 256, (10, SIZE, SIZE, 3), dtype=np.uint8)
    found = encode_frames(model, frames, 4, fill=True)
    return {"latents": found.numpy(), "frames": decode_latents(model, found, 4, fill=True).astype(np.float32)}


def sampler_and_inputs(**options: object) -> tuple[FrameSampler, FrameInputs]:
    """A small untrained model, and the inputs of ten frames."""
    torch.manual_seed(0)
    unet, schedule = build_unet((32, 64), 1, 16, 128, 2, 16), noise_schedule("v_prediction")
    pipeline = DiffTalkPipeline(unet, Conditioner(), schedule, vqvae=build_autoencoder((32, 64, 96), 1, 512))
    for part in (pipeline.unet, pipeline.conditioner, pipeline.vqvae):
        part.eval().requires_grad_(False)
    pipeline.to(default_device())
    generator = torch.Generator().manual_seed(1)
    known = torch.randn(10, 3, 16, 16, generator=generator)
    inputs = FrameInputs(
        known=known,
        masked=known * 0.5,
        generated=torch.rand(10, 1, 16, 16, generator=generator) > 0.5,
        speech=torch.randn(10, 8, 16, 29, generator=generator),
        landmarks=torch.rand(10, 39, 2, generator=generator),
    )
    settings = from_dict(Sampling, {"steps": 10, "batch_size": 8, "compile": False, **options}, "benchmark")
    return FrameSampler(pipeline, settings), inputs


def sampled(folder: Path, **options: object) -> Arrays:
    """Latents that a small untrained model samples for ten frames."""
    sampler, inputs = sampler_and_inputs(**options)
    frames = [("clip", number) for number in range(10)]
    return {"latents": sampler.sample(inputs, inputs.known[:1].expand(10, -1, -1, -1), frames).numpy()}


def sampled_progressively(folder: Path, progressive: str = "latent") -> Arrays:
    """As `sampled`, three frames, each with the one before as its reference."""
    sampler, inputs = sampler_and_inputs(progressive=progressive)
    clip = ClipSampler(sampler, "clip", inputs.known[0])
    return {"latents": clip.sample(inputs.take([0, 1, 2]), [0, 1, 2]).numpy()}


def sampled_through_pixels(folder: Path) -> Arrays:
    """As `sampled_progressively`, the frame before decoded and encoded again."""
    return sampled_progressively(folder, "pixels")


def sampled_dpm(folder: Path) -> Arrays:
    """As `sampled`, by DPM-Solver++."""
    return sampled(folder, sampler="dpm++")


def sampled_unipc(folder: Path) -> Arrays:
    """As `sampled`, by UniPC."""
    return sampled(folder, sampler="unipc")


def sampled_eta(folder: Path) -> Arrays:
    """As `sampled`, with noise in every step."""
    return sampled(folder, eta=1.0)


def sampled_bf16(folder: Path) -> Arrays:
    """As `sampled`, in bf16."""
    return sampled(folder, precision="bf16")


def sampled_compiled(folder: Path) -> Arrays:
    """As `sampled`, in bf16 under torch.compile where there is a GPU."""
    return sampled(folder, precision="bf16", compile="auto")


def landmark_networks(folder: Path) -> Arrays:
    """Heat maps' peaks and scores of face-alignment's networks at their full size, with random weights."""
    torch.manual_seed(0)
    nets = Networks(s3fd(), FAN(4), default_device())
    crops = np.random.default_rng(0).integers(0, 256, (10, 256, 256, 3), dtype=np.uint8)
    with torch.inference_mode(), nets._precision():
        batch = torch.from_numpy(crops[:2]).to(nets.device).permute(0, 3, 1, 2).float() / 255
        maps = nets.landmark_net(batch)[-1].float().cpu().numpy()
        found = nets.detector(batch * 255 - 117)
    nets.landmarks(list(crops), [np.array([60.0, 60, 200, 200])] * len(crops))
    nets.detect(list(crops), 40)
    return {"maps": maps, "boxes": found[1].float().cpu().numpy()}


def deepspeech(folder: Path) -> Arrays:
    """Logits of DeepSpeech's network, narrower, with random weights."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * (2 / shape[-1]) ** 0.5

    dense = {1: (256, 494), 2: (256, 256), 3: (512, 256), 5: (256, 512), 6: (29, 256)}
    tensors = {f"dense{i}.weight": normal(*shape) for i, shape in dense.items()}
    tensors |= {f"dense{i}.bias": torch.zeros(shape[0]) for i, shape in dense.items()}
    for end in ("", "_reverse"):
        tensors |= {
            f"lstm.weight_ih_l0{end}": normal(1024, 512),
            f"lstm.weight_hh_l0{end}": normal(1024, 256),
        }
        tensors |= {f"lstm.bias_{kind}_l0{end}": torch.zeros(1024) for kind in ("ih", "hh")}
    torch.backends.cudnn.allow_tf32 = False
    network = DeepSpeech(tensors).eval().to(default_device())
    with torch.inference_mode():
        logits = network(torch.randn(300, 494, generator=generator).to(default_device())).cpu().numpy()
    torch.backends.cudnn.allow_tf32 = True
    return {"logits": logits}


def sync_network(folder: Path) -> Arrays:
    """Embeddings of SyncNet v2 at its full size, with random weights, as `score` computes them."""
    torch.manual_seed(0)
    config = SyncnetConfig("syncnet_v2")
    (folder / "syncnet").mkdir()
    save_syncnet(folder / "syncnet", config, build_syncnet(config))
    expert = load_syncnet(folder / "syncnet", default_device())
    rng = np.random.default_rng(0)
    samples = rng.integers(-3000, 3000, 16000, dtype=np.int16)
    frames = rng.integers(0, 256, (25, 256, 256, 3), dtype=np.uint8)
    landmarks = rng.uniform(80, 180, (25, 68, 2)).astype(np.float32)
    return {"audio": expert.audio_embeddings(samples), "video": expert.video_embeddings(frames, landmarks)}


def metric_networks(folder: Path) -> Arrays:
    """What the networks of the metrics find in a clip, ArcFace's and StableSyncNet narrow."""
    torch.manual_seed(0)
    device = str(default_device())
    towers = (replace(tower, channels=(64,) * len(tower.channels)) for tower in (AUDIO, VISUAL))
    fid, fvd = InceptionV3().to(device).eval(), I3dNetwork().to(device).eval()
    csim = IResNet((8, 8, 8, 8), (1, 1, 1, 1)).to(device).eval()
    sync = StableSyncNet(*towers).to(device).eval()
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (17, 64, 64, 3), dtype=np.uint8)
    landmarks = rng.uniform(16, 48, (17, 68, 2))
    second = StableSyncExpert(sync, device)
    whole, inside = StLpips(device)(frames[:3], frames[3:6], (20, 30, 40, 50))
    return {
        "st_lpips": whole,
        "st_lpips_mouth": inside,
        "fid": Inception(fid, device).features(frames[:2]),
        "fvd": I3d(fvd, device).features(frames),
        "csim": ArcFace(csim, device).embeddings(frames[:2], landmarks[:2]),
        "video": second.video_embeddings(frames, landmarks),
        "audio": second.audio_embeddings(rng.integers(-3000, 3000, 12000, dtype=np.int16)),
    }


PATHS: dict[str, Callable[[Path], Arrays]] = {
    function.__name__: function
    for function in (
        latents, sampled, sampled_dpm, sampled_unipc, sampled_eta, sampled_bf16, sampled_progressively,
        sampled_through_pixels, denoiser_float32, denoiser_bf16, first_stage, first_stage_bf16,
        sync_expert, landmark_networks, deepspeech, sync_network, metric_networks, sampled_compiled,
    )
}  # fmt: skip


def run_paths(
    names: Sequence[str] = tuple(PATHS),
) -> tuple[dict[str, Arrays], dict[str, str], dict[str, float]]:
    """Run these; return what each computed, the errors of those that failed, and the seconds of each."""
    found: dict[str, Arrays] = {}
    failed: dict[str, str] = {}
    seconds: dict[str, float] = {}
    for name in names:
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            try:
                found[name] = PATHS[name](Path(folder))
            except Exception as e:
                traceback.print_exc()
                failed[name] = f"{type(e).__name__}: {e}"
        seconds[name] = time.monotonic() - began
        print(f"{name}: {seconds[name]:.1f} s", file=sys.stderr, flush=True)
    return found, failed, seconds


if __name__ == "__main__":
    arrays, errors, _ = run_paths(sys.argv[2:] or tuple(PATHS))
    pairs = [(path, name, array) for path, of in arrays.items() for name, array in of.items()]
    named: dict[str, Any] = {f"{path}/{name}": array for path, name, array in pairs}
    np.savez(sys.argv[1], **named)
    for name, error in errors.items():
        print(f"{name}: {error}", file=sys.stderr)
