"""Sync experts, which judge whether lips and audio are in sync.

There are SyncNet v2 and a small one of its kind for small crops. Both have two streams, one for five
consecutive frames (0.2 s) and one for 20 MFCC steps (0.2 s), whose embeddings are close where video and audio
belong to the same moment (Chung and Zisserman, Out of Time, 2016). `load_syncnet(folder)` gives either behind
one class; `config.json` in the folder says which it is.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from difftalk.media.jpeg import as_jpeg
from difftalk.models.sync_inputs import (
    LIP_FRAMES,
    MFCC_COEFFICIENTS,
    cut_box,
    face_box,
    lip_box,
    mfcc_windows,
)
from difftalk.pretrained.model_folder import CONFIG_NAME, SYNC_EXPERT
from difftalk.runtime.errors import UserError
from difftalk.runtime.files import read_json

V2_EMBEDDING = 1024  # length of an embedding of SyncNet v2
V2_SIZE, V2_FILL = 224, 110  # side of its face crop in pixels, and the grey outside of the frame


@dataclass(frozen=True)
class SyncnetConfig:
    """The architecture of a sync expert, stored as config.json with its weights.

    Args:
        architecture: `small`, or `syncnet_v2`, whose sizes are fixed and which ignores the rest.
        lip_size: side of the square lip crop in pixels.
        channels: of the four convolutions of each stream.
        embedding: length of an embedding.
        scale: norm of an embedding of the small expert, so that distances lie in 0..2*scale.
        about: how it was made, for people.
    """

    architecture: Literal["small", "syncnet_v2"] = "small"
    lip_size: int = 32
    channels: tuple[int, ...] = (24, 48, 80, 128)
    embedding: int = 128
    scale: float = 10.0
    about: dict[str, Any] = field(default_factory=dict)


class SyncNetV2(nn.Module):
    """SyncNet v2 of joonson/syncnet_python (MIT), with the tensor names of `syncnet_v2.model`."""

    def __init__(self) -> None:
        super().__init__()
        self.netcnnaud = nn.Sequential(
            *_conv2d(1, 64, 3, 1), nn.MaxPool2d(1, 1),
            *_conv2d(64, 192, 3, 1), nn.MaxPool2d(3, (1, 2)),
            *_conv2d(192, 384, 3, 1),
            *_conv2d(384, 256, 3, 1),
            *_conv2d(256, 256, 3, 1), nn.MaxPool2d(3, (2, 2)),
            *_conv2d(256, 512, (5, 4), 0),
        )  # fmt: skip
        self.netfcaud = _head(512, 512, 1024)
        self.netfclip = _head(512, 512, 1024)
        self.netcnnlip = nn.Sequential(
            *_conv3d(3, 96, (5, 7, 7), (1, 2, 2), 0), nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
            *_conv3d(96, 256, (1, 5, 5), (1, 2, 2), (0, 1, 1)), nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
            *_conv3d(256, 256, (1, 3, 3), 1, (0, 1, 1)),
            *_conv3d(256, 256, (1, 3, 3), 1, (0, 1, 1)),
            *_conv3d(256, 256, (1, 3, 3), 1, (0, 1, 1)), nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
            *_conv3d(256, 512, (1, 6, 6), 1, 0),
        )  # fmt: skip

    def video(self, lips: Tensor) -> Tensor:
        """Embed crops (N, 3, T, 224, 224), BGR, 0..255: (N, T - 4, 1024).

        Only the first convolution reaches over time, without padding: a whole clip gives exactly the
        embeddings of its five-frame windows.
        """
        features = self.netcnnlip(lips)[..., 0, 0].transpose(1, 2)  # (N, T - 4, 512)
        return self.netfclip(features.flatten(0, 1)).unflatten(0, features.shape[:2])

    def audio(self, windows: Tensor) -> Tensor:
        """Embed MFCC windows (M, 13, 20): (M, 1024)."""
        return self.netfcaud(self.netcnnaud(windows[:, None]).flatten(1))


class SmallSyncNet(nn.Module):
    """The two streams at the size of the demo: lip crops of 32 pixels.

    All embeddings have the norm `scale`.
    """

    mfcc_mean: Tensor
    mfcc_std: Tensor

    def __init__(self, config: SyncnetConfig) -> None:
        super().__init__()
        a, b, c, d = config.channels
        self.scale = config.scale
        self.lip = nn.Sequential(
            *_conv3d(3, a, (5, 5, 5), (1, 2, 2), (0, 2, 2)),
            *_conv3d(a, b, (1, 3, 3), 1, (0, 1, 1)), nn.MaxPool3d((1, 2, 2)),
            *_conv3d(b, c, (1, 3, 3), 1, (0, 1, 1)), nn.MaxPool3d((1, 2, 2)),
            *_conv3d(c, d, (1, config.lip_size // 8, config.lip_size // 8), 1, 0),
        )  # fmt: skip
        self.sound = nn.Sequential(
            *_conv2d(1, a, 3, 1), nn.MaxPool2d((1, 2)),
            *_conv2d(a, b, 3, 1), nn.MaxPool2d((2, 2)),
            *_conv2d(b, c, 3, 1),
            *_conv2d(c, d, (6, 5), 0),
        )  # fmt: skip
        self.lip_head = _head(d, config.embedding, config.embedding)
        self.sound_head = _head(d, config.embedding, config.embedding)
        self.register_buffer("mfcc_mean", torch.zeros(MFCC_COEFFICIENTS))
        self.register_buffer("mfcc_std", torch.ones(MFCC_COEFFICIENTS))

    def video(self, lips: Tensor) -> Tensor:
        """Embed lip crops (N, 3, T, S, S), RGB, 0..255: (N, T - 4, E)."""
        features = self.lip(lips / 127.5 - 1)[..., 0, 0].transpose(1, 2)
        out = self.lip_head(features.flatten(0, 1)).unflatten(0, features.shape[:2])
        return self.scale * nn.functional.normalize(out, dim=-1)

    def audio(self, windows: Tensor) -> Tensor:
        """Embed MFCC windows (M, 13, 20): (M, E)."""
        windows = (windows - self.mfcc_mean[:, None]) / self.mfcc_std[:, None]
        out = self.sound_head(self.sound(windows[:, None]).flatten(1))
        return self.scale * nn.functional.normalize(out, dim=-1)


class SyncExpert:
    """A sync expert ready to measure: input windows and chunks around one of the two networks.

    Args:
        config: of the network.
        network: is put in eval mode, on `device`; embeddings come back as float32 arrays.
        device: of the network.
        jpeg: whether SyncNet v2 sees its crops as its authors' code shows them to it: resized bilinearly and
            written to JPEG files. Others never do.
    """

    def __init__(
        self,
        config: SyncnetConfig,
        network: SyncNetV2 | SmallSyncNet,
        device: str | torch.device = "cpu",
        jpeg: bool = False,
    ) -> None:
        self.config, self.jpeg = config, jpeg
        self.network = network.to(device).eval()
        self.device = device

    every = 1  # frames from one video window to the next

    @property
    def zero_padded(self) -> bool:
        """Whether the ends of a clip are compared with zero vectors, as in the protocol of v2."""
        return self.config.architecture == "syncnet_v2"

    @torch.no_grad()
    def video_embeddings(
        self, frames: np.ndarray, landmarks: np.ndarray, chunk_frames: int = 100
    ) -> np.ndarray:
        """Embed the five-frame windows of one clip: (T - 4, E).

        Args:
            frames: (T, H, W, 3) uint8 RGB, the face crop.
            landmarks: (T, 68, 2) points of the *true* clip in pixels of the crop. They place the mouth, once
                for the whole clip, so that a generated clip is judged on the same region as the real one.
            chunk_frames: how many windows go through the network at a time.
        """
        if len(frames) < LIP_FRAMES:
            return self._no_embeddings()
        lips = self.lips(frames, landmarks)
        parts = []
        for start in range(0, len(lips) - LIP_FRAMES + 1, chunk_frames):
            part = torch.from_numpy(lips[start : start + chunk_frames + LIP_FRAMES - 1]).to(self.device)
            parts.append(self.network.video(part.permute(3, 0, 1, 2)[None].float())[0])
        return torch.cat(parts).float().cpu().numpy()

    @torch.no_grad()
    def audio_embeddings(self, samples: np.ndarray, chunk: int = 256) -> np.ndarray:
        """Embed the 0.2 s windows that start at each video frame: (M, E), M = complete windows.

        Args:
            samples: (N,) int16 at 16 kHz: the networks expect that scale.
            chunk: how many windows go through the network at a time.
        """
        windows = mfcc_windows(samples)
        if not len(windows):
            return self._no_embeddings()
        parts = [
            self.network.audio(torch.from_numpy(windows[i : i + chunk]).to(self.device))
            for i in range(0, len(windows), chunk)
        ]
        return torch.cat(parts).float().cpu().numpy()

    def lips(self, frames: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        """Return the crops that the network sees, (T, S, S, 3) uint8, in its channel order."""
        if self.config.architecture == "syncnet_v2":
            crops = cut_box(frames, face_box(landmarks), V2_SIZE, fill=V2_FILL, average=not self.jpeg)
            return (as_jpeg(crops) if self.jpeg else crops)[..., ::-1].copy()
        return cut_box(frames, lip_box(landmarks), self.config.lip_size)

    def _no_embeddings(self) -> np.ndarray:
        length = V2_EMBEDDING if self.config.architecture == "syncnet_v2" else self.config.embedding
        return np.zeros((0, length), np.float32)


def build_syncnet(config: SyncnetConfig) -> SyncNetV2 | SmallSyncNet:
    """Build the untrained network of a config."""
    return SyncNetV2() if config.architecture == "syncnet_v2" else SmallSyncNet(config)


def save_syncnet(
    folder: Path, config: SyncnetConfig, network: nn.Module, dtype: torch.dtype = torch.float32
) -> None:
    """Write config.json and model.safetensors into `folder`, which exists."""
    tensors = {
        k: (v.to(dtype) if v.is_floating_point() else v).contiguous().cpu()
        for k, v in network.state_dict().items()
    }
    weights = folder / SYNC_EXPERT.weights_name
    save_file(tensors, weights)
    weights.chmod(0o644)  # safetensors writes for the owner alone
    text = json.dumps(asdict(config), indent=2, sort_keys=True)
    (folder / CONFIG_NAME).write_text(text + "\n", encoding="utf-8")


def load_syncnet(folder: str | Path, device: str | torch.device = "cpu", jpeg: bool = False) -> SyncExpert:
    """Load the sync expert of a folder that `save_syncnet` wrote; `jpeg` as of `SyncExpert`.

    Weights stored in half precision are widened to float32, which is exact.

    Raises:
        UserError: if the folder is none, its weights do not fit its config, or they are not what was written.
    """
    folder = Path(folder)
    SYNC_EXPERT.check(folder)
    reading = folder / CONFIG_NAME
    values = read_json(reading)
    try:
        config = SyncnetConfig(**{**values, "channels": tuple(values["channels"])})
        network = build_syncnet(config)
        reading = folder / SYNC_EXPERT.weights_name
        tensors = load_file(reading)
        network.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in tensors.items()})
    except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as e:
        why = " ".join(str(e).split())[:200]
        raise UserError(f"{reading}: the sync expert cannot be read: {why}") from None
    return SyncExpert(config, network, device, jpeg)


def _conv2d(inputs: int, outputs: int, kernel: Any, padding: Any) -> Iterator[nn.Module]:
    yield from (
        nn.Conv2d(inputs, outputs, kernel, padding=padding),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def _conv3d(inputs: int, outputs: int, kernel: Any, stride: Any, padding: Any) -> Iterator[nn.Module]:
    yield nn.Conv3d(inputs, outputs, kernel, stride, padding)
    yield nn.BatchNorm3d(outputs)
    yield nn.ReLU(inplace=True)


def _head(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True), nn.Linear(hidden, outputs)
    )
