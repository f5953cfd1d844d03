"""Train the small sync expert, or take one that is already trained."""

import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from python_speech_features import mfcc
from torch import Tensor, nn
from torch.nn import functional as F

from difftalk.media.clock import SAMPLE_RATE
from difftalk.models.syncnet import (
    LIP_FRAMES,
    MFCC_COEFFICIENTS,
    Config,
    SmallSyncNet,
    audio_windows,
    cut_box,
    import_syncnet_v2,
    lip_box,
    load_syncnet,
    save_syncnet,
)
from difftalk.pretrained import table as weights
from difftalk.runtime.errors import UserError
from difftalk.runtime.files import atomic_folder
from difftalk.runtime.progress import Progress
from difftalk.training.checkpoints import load_newest, made_of, save_checkpoint

EMBEDDED = Path(str(files("difftalk") / "assets" / "syncnet"))
ZOOM = 1.25  # training crops are this much wider than what the network sees, so that they can shift and turn


@dataclass(frozen=True)
class Settings:
    """How a sync expert is trained; the defaults suit 64-px crops on a CPU."""

    lip_size: int = 32  # pixels, side of the crop around the mouth
    steps: int = 3000
    batch_size: int = 4  # clips in a step, one stretch of each
    stretch: int = 48  # consecutive windows of a clip that are told apart: 1.9 s
    learning_rate: float = 2.0e-3  # peak; warm-up over 5 % of the steps, then cosine to zero
    temperature: float = 0.07  # of the similarities, cosines
    checkpoint_every: int = 250  # steps
    seed: int = 1


@dataclass(frozen=True)
class Clip:
    """What training needs of a clip: lips (T, S, S, 3) uint8 RGB, wider than the network's crop by `ZOOM`,
    and audio windows (T - 4, 13, 20) float32, one for each video window."""

    lips: np.ndarray
    sound: np.ndarray

    @classmethod
    def of(cls, frames: np.ndarray, landmarks: np.ndarray, samples: np.ndarray, lip_size: int) -> "Clip":
        lips = cut_box(frames, lip_box(landmarks, ZOOM), round(lip_size * ZOOM))
        sound = audio_windows(mfcc(samples, SAMPLE_RATE, numcep=MFCC_COEFFICIENTS))
        count = min(len(lips) - LIP_FRAMES + 1, len(sound))
        return cls(lips[: count + LIP_FRAMES - 1], sound[:count])

    def __len__(self) -> int:
        return len(self.sound)


def run(*, crops: list[Path], settings: Settings, source: str, state: Path, out: Path) -> None:
    """Write the sync expert to the folder `out`.

    Args:
        crops: crop shards to train on; read only where `source` is `train`.
        source: `embedded` (the one in the package), `train`, a name of the table of weights (`syncnet-v2`), or a
            path: a folder that this stage wrote, or the released `syncnet_v2.model`.
        state: where checkpoints of an unfinished training are kept.

    Raises:
        UserError: if the weights that `source` names are not there.
    """
    if source == "train":
        network: nn.Module
        network, report = train_syncnet(_clips_of(crops, settings.lip_size), settings, state)
        config = config_of(settings, {**report, "source": "trained on the train split of this run"})
    else:
        path = EMBEDDED if source == "embedded" else Path(source)
        if weights.stands_for("syncnet", source):
            path = weights.locate(source, asked_by=f"syncnet: {source}")
        if path.is_file():
            config, network = Config("syncnet_v2", about={"source": path.name}), import_syncnet_v2(path)
        else:
            expert = load_syncnet(path)
            config, network = expert.config, expert.network
    with atomic_folder(out) as beside:
        save_syncnet(beside, config, network)
    shutil.rmtree(state, ignore_errors=True)


def config_of(settings: Settings, about: dict[str, Any]) -> Config:
    return Config("small", lip_size=settings.lip_size, about={**about, "settings": asdict(settings)})


def _clips_of(crops: list[Path], lip_size: int) -> list[Clip]:
    from difftalk.media.shards import read_crops

    return [
        Clip.of(crop.frames(), crop.landmarks, crop.audio, lip_size)
        for path in crops
        for crop in read_crops(path)
    ]


def train_syncnet(
    clips: Sequence[Clip], settings: Settings, state: Path
) -> tuple[SmallSyncNet, dict[str, Any]]:
    """Train picture and sound of the same moment together, other moments of the same stretch apart.

    The loss is InfoNCE in both directions over the windows of one stretch of one clip (as in Chung et al.,
    Perfect Match, 2019): all negatives show the same speaker in the same light, so only timing tells them
    apart. Batches are functions of seed and step, so that a resumed training equals an uninterrupted one.

    Raises:
        UserError: if no clip is as long as a stretch.
    """
    clips = [clip for clip in clips if len(clip) >= settings.stretch]
    if not clips:
        raise UserError(
            f"syncnet: no clip of the train crops has the {settings.stretch} windows of a stretch"
        )
    torch.manual_seed(settings.seed)
    network = SmallSyncNet(config_of(settings, {}))
    cepstra = np.concatenate(
        [clip.sound[::5].transpose(0, 2, 1).reshape(-1, MFCC_COEFFICIENTS) for clip in clips]
    )
    network.mfcc_mean.copy_(torch.from_numpy(cepstra.mean(axis=0)))
    network.mfcc_std.copy_(torch.from_numpy(cepstra.std(axis=0) + 1e-3))
    optimiser = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=0.01)

    start, history = 0, {"loss": math.nan, "right": math.nan}
    origin = made_of(settings, (part for clip in clips for part in (clip.lips, clip.sound)), __name__)
    if (checkpoint := load_newest(state, origin)) is not None:
        start, history = checkpoint["step"], checkpoint["history"]
        network.load_state_dict(checkpoint["network"])
        optimiser.load_state_dict(checkpoint["optimiser"])

    network.train()
    with Progress(settings.steps - start, "syncnet", "steps") as shown:
        for step in range(start, settings.steps):
            for group in optimiser.param_groups:
                group["lr"] = settings.learning_rate * _rate(step, settings.steps)
            lips, sound = batch(clips, settings, step, network.mfcc_std)
            loss, right = contrast(network, lips, sound, settings.temperature)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            for key, value in (("loss", loss.item()), ("right", right)):
                history[key] = value if math.isnan(history[key]) else 0.98 * history[key] + 0.02 * value
            shown.advance(note=f"loss {history['loss']:.3f}, right moment {history['right']:.1%}")
            if (step + 1) % settings.checkpoint_every == 0:
                tensors = {"network": network.state_dict(), "optimiser": optimiser.state_dict()}
                save_checkpoint(state, step + 1, origin, {**tensors, "history": history})
    report = {"train_loss": round(history["loss"], 4), "train_right_moment": round(history["right"], 4)}
    return network.eval(), {**report, "clips": len(clips)}


def contrast(network: SmallSyncNet, lips: Tensor, sound: Tensor, temperature: float) -> tuple[Tensor, float]:
    """The loss of one batch, and how often the nearest sound of a window is within one frame of its own.

    Args:
        lips: (B, 3, L + 4, S, S), 0..255. sound: (B, L, 13, 20).
    """
    video = network.video(lips) / network.scale
    audio = network.audio(sound.flatten(0, 1)).unflatten(0, sound.shape[:2]) / network.scale
    similarity = video @ audio.transpose(1, 2) / temperature  # (B, L, L)
    moments = torch.arange(similarity.shape[1])
    target = moments.expand(len(similarity), -1)
    loss = (F.cross_entropy(similarity.mT, target) + F.cross_entropy(similarity, target)) / 2
    near = (similarity.argmax(dim=2) - moments).abs() <= 1
    return loss, near.float().mean().item()


def batch(clips: Sequence[Clip], settings: Settings, step: int, mfcc_std: Tensor) -> tuple[Tensor, Tensor]:
    """Lips (B, 3, L + 4, S, S) in 0..255 and their sound (B, L, 13, 20): batch `step` of an endless seeded
    order.

    Pictures are made worse as generation and compression make them worse, a stretch at a time: turned,
    scaled, shifted (and trembling a little), recoloured, blurred, noisy, compressed; sound is made louder,
    softer, noisy.
    """
    rng = np.random.default_rng((settings.seed, step))
    lips, sound = [], []
    for i in rng.integers(len(clips), size=settings.batch_size):
        first = int(rng.integers(len(clips[i]) - settings.stretch + 1))
        shown = clips[i].lips[first : first + settings.stretch + LIP_FRAMES - 1]
        lips.append(degrade(shown, settings.lip_size, rng))
        heard = clips[i].sound[first : first + settings.stretch].copy()
        heard[:, 0] += rng.uniform(-2, 2)  # coefficient 0 is the log energy
        noise = rng.uniform(0, 0.15) * mfcc_std.numpy()[:, None]
        sound.append(heard + noise * rng.standard_normal(heard.shape, np.float32))
    return (
        torch.from_numpy(np.stack(lips)).permute(0, 4, 1, 2, 3).float(),
        torch.from_numpy(np.stack(sound)).float(),
    )


def degrade(lips: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Lips (T, S, S, 3) uint8 cut to (T, size, size, 3) uint8 and made worse, the same way in all frames."""
    mirror, turn, scale = rng.random() < 0.5, rng.normal(0, 4), rng.uniform(0.85, 1.15)
    shift = rng.uniform(-0.07, 0.07, 2) * size
    tremble = rng.uniform(0, 0.4) if rng.random() < 0.3 else 0.0  # pixels
    blur = rng.uniform(0, 1.3) if rng.random() < 0.7 else 0.0
    grain = rng.uniform(0, 6) if rng.random() < 0.5 else 0.0
    quality = int(rng.integers(40, 95)) if rng.random() < 0.4 else 0
    gain, lift = rng.uniform(0.75, 1.25, 3) * rng.uniform(0.8, 1.2), rng.uniform(-20, 20)
    centre = (lips.shape[1] - 1) / 2
    out = np.empty((len(lips), size, size, 3), np.uint8)
    for i, lip in enumerate(lips):
        move = cv2.getRotationMatrix2D((centre, centre), turn, scale)
        move[:, 2] += (size - 1) / 2 - centre + shift + rng.normal(0, tremble, 2)
        x = cv2.warpAffine(lip, move, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        if blur:
            x = cv2.GaussianBlur(x, (0, 0), blur)
        x = x * gain + lift
        if grain:
            x = x + rng.normal(0, grain, x.shape)
        x = np.clip(x, 0, 255).astype(np.uint8)
        if quality:
            code = cv2.imencode(".jpg", x, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
            x = np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR))
        out[i] = x[:, ::-1] if mirror else x
    return out


def _rate(step: int, steps: int) -> float:
    warm_up = max(1, steps // 20)
    return min(1.0, (step + 1) / warm_up) * 0.5 * (1 + math.cos(math.pi * step / steps))
