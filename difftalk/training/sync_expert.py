"""The training of the small sync expert: InfoNCE over the windows of degraded crops."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from difftalk.config.syncnet import SyncnetTraining
from difftalk.models.sync_inputs import LIP_FRAMES, MFCC_COEFFICIENTS, cut_box, lip_box, mfcc_windows
from difftalk.models.syncnet import SmallSyncNet, SyncnetConfig, load_syncnet
from difftalk.runtime.device import default_device
from difftalk.runtime.errors import UserError
from difftalk.runtime.progress import Progress
from difftalk.training.checkpoint import provenance, resume, save_checkpoint
from difftalk.training.schedule import warmup_cosine
from difftalk.training.signals import deferred_signals, end_after
from difftalk.training.warm_start import start_network

ZOOM = (
    1.25  # training crops are this much wider than what the network sees, so that they can shift and rotate
)


@dataclass(frozen=True)
class SyncClip:
    """The part of a clip that training needs.

    Args:
        lips: (T, S, S, 3) uint8 RGB, wider than the network's crop by `ZOOM`.
        audio: windows (T - 4, 13, 20) float32, one for each video window.
    """

    lips: np.ndarray
    audio: np.ndarray

    @classmethod
    def of(cls, frames: np.ndarray, landmarks: np.ndarray, samples: np.ndarray, lip_size: int) -> "SyncClip":
        """Cut the lips and the audio windows of a clip.

        Args:
            frames: (T, H, W, 3) uint8 RGB, the face crop.
            landmarks: (T, 68, 2) in pixels of the crop.
            samples: (N,) int16 at 16 kHz.
            lip_size: side of the network's crop in pixels.
        """
        lips = cut_box(frames, lip_box(landmarks, ZOOM), round(lip_size * ZOOM))
        audio = mfcc_windows(samples)
        count = min(len(lips) - LIP_FRAMES + 1, len(audio))
        return cls(lips[: count + LIP_FRAMES - 1], audio[:count])

    def __len__(self) -> int:
        return len(self.audio)


def syncnet_config(settings: SyncnetTraining, about: dict[str, Any]) -> SyncnetConfig:
    """Return the config of a small expert that is trained with these settings, which it records."""
    return SyncnetConfig("small", lip_size=settings.lip_size, about={**about, "settings": settings.as_dict()})


def train_syncnet(
    clips: Sequence[SyncClip],
    settings: SyncnetTraining,
    state: Path,
    base: Path | None = None,
    origin: str | None = None,
) -> tuple[SmallSyncNet, dict[str, Any]]:
    """Train the expert to match video and audio of the same moment of a stretch.

    The loss is InfoNCE in both directions over the windows of one stretch of one clip (as in Chung et al.,
    Perfect Match, 2019): all negatives show the same speaker in the same light, so only timing tells them
    apart. Batches are functions of seed and step, so that a resumed training equals an uninterrupted one.

    Args:
        clips: to train on.
        settings: of the training.
        state: folder for checkpoints.
        base: folder of a small expert to start from; its mean and spread of the MFCC are kept.
        origin: of `origin_of`, where it is known: it takes a look at all clips.

    Returns:
        The network on the CPU, in eval mode, and its figures.

    Raises:
        UserError: if no clip is as long as a stretch, or `base` is not of the same sizes.
        SystemExit: after SIGTERM or SIGUSR1, with a checkpoint written.
    """
    clips = long_enough(clips, settings)
    if not clips:
        raise UserError(
            f"syncnet: no clip of the train crops has the {settings.stretch} windows of a stretch"
        )
    network = _untrained(clips, settings)
    if base is not None:
        start_network(network, load_syncnet(base).network, "syncnet_training", base)
    device, noise_scale = default_device(), network.mfcc_std.numpy().copy()
    network.to(device)
    optimiser = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=0.01)
    start, history = 0, {"loss": math.nan, "within_1": math.nan}
    origin = origin or origin_of(clips, settings, base)
    if (checkpoint := resume(state, origin)) is not None:
        start, history = checkpoint["step"], checkpoint["history"]
        network.load_state_dict(checkpoint["network"])
        optimiser.load_state_dict(checkpoint["optimiser"])

    network.train()
    with deferred_signals() as stop, Progress(settings.steps - start, "syncnet", "steps") as progress:
        for step in range(start, settings.steps):
            for group in optimiser.param_groups:
                group["lr"] = settings.learning_rate * warmup_cosine(step, settings.steps)
            lips, audio = training_batch(clips, settings, step, noise_scale)
            loss, within_1 = info_nce(network, lips.to(device), audio.to(device), settings.temperature)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            measured = torch.stack([loss.detach(), within_1]).tolist()
            for key, value in zip(("loss", "within_1"), measured, strict=True):
                history[key] = value if math.isnan(history[key]) else 0.98 * history[key] + 0.02 * value
            progress.advance(note=f"loss {history['loss']:.3f}, within a frame {history['within_1']:.1%}")
            if stop.signal or (step + 1) % settings.checkpoint_every == 0:
                tensors = {"network": network.state_dict(), "optimiser": optimiser.state_dict()}
                saved = save_checkpoint(state, step + 1, origin, {**tensors, "history": history})
                if stop.signal:
                    end_after(stop.signal, "syncnet", step + 1, saved)
    report = {"train_loss": round(history["loss"], 4), "train_right_moment": round(history["within_1"], 4)}
    return network.cpu().eval(), {**report, "clips": len(clips)}


def long_enough(clips: Sequence[SyncClip], settings: SyncnetTraining) -> list[SyncClip]:
    """Return the clips that are trained on: those that have the windows of a stretch."""
    return [clip for clip in clips if len(clip) >= settings.stretch]


def origin_of(clips: Sequence[SyncClip], settings: SyncnetTraining, base: Path | None) -> str:
    """Return what the result of a training depends on, as `provenance` does."""
    arrays = (part for clip in long_enough(clips, settings) for part in (clip.lips, clip.audio))
    return provenance(settings, arrays, __name__, base)


def _untrained(clips: Sequence[SyncClip], settings: SyncnetTraining) -> SmallSyncNet:
    """Build the network, with the mean and spread of the MFCC of these clips."""
    torch.manual_seed(settings.seed)
    network = SmallSyncNet(syncnet_config(settings, {}))
    cepstra = np.concatenate(
        [clip.audio[::5].transpose(0, 2, 1).reshape(-1, MFCC_COEFFICIENTS) for clip in clips]
    )
    network.mfcc_mean.copy_(torch.from_numpy(cepstra.mean(axis=0)))
    network.mfcc_std.copy_(torch.from_numpy(cepstra.std(axis=0) + 1e-3))
    return network


def info_nce(network: SmallSyncNet, lips: Tensor, audio: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the loss of one batch, and its accuracy, on the device of the network.

    The accuracy is the part of the video windows whose nearest audio window is at most one frame off.

    Args:
        network: in training mode.
        lips: (B, 3, L + 4, S, S), 0..255.
        audio: (B, L, 13, 20).
        temperature: of the similarities, which are cosines.
    """
    video_embeddings = network.video(lips) / network.scale
    audio_embeddings = network.audio(audio.flatten(0, 1)).unflatten(0, audio.shape[:2]) / network.scale
    similarity = video_embeddings @ audio_embeddings.transpose(1, 2) / temperature  # (B, L, L)
    moments = torch.arange(similarity.shape[1], device=similarity.device)
    target = moments.expand(len(similarity), -1)
    loss = (F.cross_entropy(similarity.mT, target) + F.cross_entropy(similarity, target)) / 2
    within_1 = (similarity.argmax(dim=2) - moments).abs() <= 1
    return loss, within_1.float().mean()


def training_batch(
    clips: Sequence[SyncClip], settings: SyncnetTraining, step: int, mfcc_std: np.ndarray
) -> tuple[Tensor, Tensor]:
    """Draw batch `step` of an endless seeded order.

    Lips are augmented with what generation and compression do to them, one stretch at a time: rotated,
    scaled, shifted (with some jitter), recoloured, blurred, noisy, compressed. Audio changes in level and
    gets noise, of up to 0.15 of the spread `mfcc_std`, (13,), of each coefficient.

    Returns:
        Lips (B, 3, L + 4, S, S) in 0..255 and audio (B, L, 13, 20), both float32.
    """
    rng = np.random.default_rng((settings.seed, step))
    lips, audio = [], []
    for i in rng.integers(len(clips), size=settings.batch_size):
        first = int(rng.integers(len(clips[i]) - settings.stretch + 1))
        crops = clips[i].lips[first : first + settings.stretch + LIP_FRAMES - 1]
        lips.append(degrade(crops, settings.lip_size, rng))
        windows = clips[i].audio[first : first + settings.stretch].copy()
        windows[:, 0] += rng.uniform(-2, 2)  # coefficient 0 is the log energy
        noise = rng.uniform(0, 0.15) * mfcc_std[:, None]
        audio.append(windows + noise * rng.standard_normal(windows.shape, np.float32))
    return (
        torch.from_numpy(np.stack(lips)).permute(0, 4, 1, 2, 3).float(),
        torch.from_numpy(np.stack(audio)).float(),
    )


def degrade(lips: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Cut lip crops (T, S, S, 3) uint8 to (T, size, size, 3), degraded alike in all frames."""
    mirrored, angle, scale = rng.random() < 0.5, rng.normal(0, 4), rng.uniform(0.85, 1.15)
    shift = rng.uniform(-0.07, 0.07, 2) * size
    jitter = rng.uniform(0, 0.4) if rng.random() < 0.3 else 0.0  # pixels
    blur = rng.uniform(0, 1.3) if rng.random() < 0.7 else 0.0
    noise = rng.uniform(0, 6) if rng.random() < 0.5 else 0.0
    quality = int(rng.integers(40, 95)) if rng.random() < 0.4 else 0
    gain, brightness = rng.uniform(0.75, 1.25, 3) * rng.uniform(0.8, 1.2), rng.uniform(-20, 20)
    centre = (lips.shape[1] - 1) / 2
    out = np.empty((len(lips), size, size, 3), np.uint8)
    for i, lip in enumerate(lips):
        transform = cv2.getRotationMatrix2D((centre, centre), angle, scale)
        transform[:, 2] += (size - 1) / 2 - centre + shift + rng.normal(0, jitter, 2)
        x = cv2.warpAffine(
            lip, transform, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        if blur:
            x = cv2.GaussianBlur(x, (0, 0), blur)
        x = x * gain + brightness
        if noise:
            x = x + rng.normal(0, noise, x.shape)
        x = np.clip(x, 0, 255).astype(np.uint8)
        if quality:
            encoded = cv2.imencode(".jpg", x, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
            x = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))
        out[i] = x[:, ::-1] if mirrored else x
    return out
