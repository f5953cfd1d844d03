"""Sync experts: does this mouth say this sound? SyncNet v2, and a small one of the same kind for small crops.

Both have two streams, one for five consecutive frames (0.2 s) and one for 20 MFCC steps (0.2 s), whose
embeddings lie close together where picture and sound belong to the same moment (Chung and Zisserman, Out of
Time, 2016). `load_syncnet(folder)` gives either behind one class; `config.json` in the folder says which it
is.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from python_speech_features import mfcc
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from difftalk.media.clock import SAMPLE_RATE
from difftalk.runtime.errors import UserError

LIP_FRAMES = 5  # frames in one video window
AUDIO_STEPS = 20  # MFCC steps of 10 ms in one audio window
STEPS_PER_FRAME = 4
MFCC_COEFFICIENTS = 13

CONFIG_NAME, WEIGHTS_NAME = "config.json", "model.safetensors"


@dataclass(frozen=True)
class Config:
    """What a sync expert is made of; stored as config.json beside its weights.

    architecture: `small`, or `syncnet_v2` whose sizes are fixed and which ignores the rest.
    lip_size: side of the square lip crop in pixels. channels: of the four convolutions of each stream.
    embedding: length of an embedding. scale: norm of an embedding of the small expert, hence distances lie in
    0..2*scale. about: how it was made, for people.
    """

    architecture: Literal["small", "syncnet_v2"] = "small"
    lip_size: int = 32
    channels: tuple[int, ...] = (24, 48, 80, 128)
    embedding: int = 128
    scale: float = 10.0
    about: dict[str, Any] = field(default_factory=dict)


class SyncNetV2(nn.Module):
    """SyncNet v2 of joonson/syncnet_python (MIT), tensor by tensor, so that `syncnet_v2.model` loads."""

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
        """Embeddings (N, T - 4, 1024) of lip crops (N, 3, T, 224, 224), BGR, 0..255.

        Only the first convolution reaches over time and it pads nothing there, so a whole clip gives exactly
        the embeddings of its five-frame windows.
        """
        features = self.netcnnlip(lips)[..., 0, 0].transpose(1, 2)  # (N, T - 4, 512)
        return self.netfclip(features.flatten(0, 1)).unflatten(0, features.shape[:2])

    def audio(self, windows: Tensor) -> Tensor:
        """Embeddings (M, 1024) of MFCC windows (M, 13, 20)."""
        return self.netfcaud(self.netcnnaud(windows[:, None]).flatten(1))


class SmallSyncNet(nn.Module):
    """The two streams at the size of the demo: lip crops of 32 pixels, embeddings of one length (`scale`)."""

    mfcc_mean: Tensor
    mfcc_std: Tensor

    def __init__(self, config: Config) -> None:
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
        """Embeddings (N, T - 4, E) of lip crops (N, 3, T, S, S), RGB, 0..255."""
        features = self.lip(lips / 127.5 - 1)[..., 0, 0].transpose(1, 2)
        out = self.lip_head(features.flatten(0, 1)).unflatten(0, features.shape[:2])
        return self.scale * nn.functional.normalize(out, dim=-1)

    def audio(self, windows: Tensor) -> Tensor:
        """Embeddings (M, E) of MFCC windows (M, 13, 20)."""
        windows = (windows - self.mfcc_mean[:, None]) / self.mfcc_std[:, None]
        out = self.sound_head(self.sound(windows[:, None]).flatten(1))
        return self.scale * nn.functional.normalize(out, dim=-1)


class SyncExpert:
    """A sync expert ready to measure: crops, features and chunking around one of the two networks.

    `network` is in eval mode on `device`; embeddings come back as float32 arrays.
    """

    def __init__(self, config: Config, network: SyncNetV2 | SmallSyncNet, device: str = "cpu") -> None:
        self.config = config
        self.network = network.to(device).eval()
        self.device = device

    @property
    def zero_padded(self) -> bool:
        """Whether the ends of a clip are compared with zero vectors, as the released protocol of v2 does."""
        return self.config.architecture == "syncnet_v2"

    @torch.no_grad()
    def video_embeddings(
        self, frames: np.ndarray, landmarks: np.ndarray, chunk_frames: int = 100
    ) -> np.ndarray:
        """Embeddings (T - 4, E) of the five-frame windows of one clip.

        Args:
            frames: (T, H, W, 3) uint8 RGB, the face crop.
            landmarks: (T, 68, 2) points of the *true* clip in pixels of the crop. They say where the mouth
                is, once for the whole clip, so that a generated clip is judged on the very region of the real
                one.
            chunk_frames: how many windows go through the network at a time.
        """
        if len(frames) < LIP_FRAMES:
            return np.zeros((0, _embedding(self.config)), np.float32)
        lips = self.lips(frames, landmarks)
        parts = []
        for start in range(0, len(lips) - LIP_FRAMES + 1, chunk_frames):
            part = torch.from_numpy(lips[start : start + chunk_frames + LIP_FRAMES - 1]).to(self.device)
            parts.append(self.network.video(part.permute(3, 0, 1, 2)[None].float())[0])
        return torch.cat(parts).float().cpu().numpy()

    @torch.no_grad()
    def audio_embeddings(self, samples: np.ndarray, chunk: int = 256) -> np.ndarray:
        """Embeddings (M, E) of the 0.2 s windows that start at each video frame; M = complete windows.

        Args:
            samples: (N,) int16 at 16 kHz: the networks know sound on that scale only.
        """
        windows = audio_windows(mfcc(samples, SAMPLE_RATE, numcep=MFCC_COEFFICIENTS))
        parts = [
            self.network.audio(torch.from_numpy(windows[i : i + chunk]).to(self.device))
            for i in range(0, len(windows), chunk)
        ]
        if not parts:
            return np.zeros((0, _embedding(self.config)), np.float32)
        return torch.cat(parts).float().cpu().numpy()

    def lips(self, frames: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        """What the network looks at, (T, S, S, 3) uint8, in its channel order."""
        if self.config.architecture == "syncnet_v2":
            return cut_box(frames, face_box(landmarks), 224, fill=110)[..., ::-1].copy()
        return cut_box(frames, lip_box(landmarks), self.config.lip_size)


def audio_windows(cepstra: np.ndarray) -> np.ndarray:
    """Windows (M, 13, 20) float32 of MFCC (steps, 13): window i starts at frame i, with steps 4i to 4i+19."""
    count = max((len(cepstra) - AUDIO_STEPS) // STEPS_PER_FRAME + 1, 0)
    if count == 0:
        return np.zeros((0, MFCC_COEFFICIENTS, AUDIO_STEPS), np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(cepstra, AUDIO_STEPS, axis=0)[::STEPS_PER_FRAME][
        :count
    ]
    return np.ascontiguousarray(windows, np.float32)


def lip_box(landmarks: np.ndarray, zoom: float = 1.0) -> tuple[int, int, int, int]:
    """Square around mouth and chin, fixed for a clip: x0, y0, x1, y1 in pixels of the crop.

    Its side is 1.2 outer eye distances (`zoom` times as long for training, which shifts and turns inside),
    its centre lies 0.15 below that of the mouth: nose tip to the chin of an open mouth. Medians over the
    clip, so that the box carries nothing of the movement.

    Args:
        landmarks: (T, 68, 2).
    """
    middle = np.median(landmarks, axis=0)
    eyes = float(np.hypot(*(middle[45] - middle[36])))
    x, y = middle[48:68].mean(axis=0) + (0.0, 0.15 * eyes)
    return _square(x, y, 0.6 * eyes * zoom)


def face_box(landmarks: np.ndarray) -> tuple[int, int, int, int]:
    """The square that SyncNet's own pipeline cuts around a detected face, fixed for a clip.

    A detector's box (S3FD) is estimated from the median points: as wide as the jaw, from a quarter of the
    distance brow to chin above the brows down to the chin. With s half its longer side and (x, y) its centre
    the crop is x -+ 1.4 s, y - s to y + 1.8 s (`run_pipeline.py`, crop_scale 0.4).
    """
    middle = np.median(landmarks, axis=0)
    x0, x1 = middle[:17, 0].min(), middle[:17, 0].max()
    brow, y1 = middle[17:27, 1].min(), middle[:17, 1].max()
    y0 = brow - 0.25 * (y1 - brow)
    s = max(x1 - x0, y1 - y0) / 2
    return _square((x0 + x1) / 2, (y0 + y1) / 2 + 0.4 * s, 1.4 * s)


def _square(x: float, y: float, half: float) -> tuple[int, int, int, int]:
    side = max(2 * round(half), 2)
    x0, y0 = round(x - side / 2), round(y - side / 2)
    return x0, y0, x0 + side, y0 + side


def cut_box(
    frames: np.ndarray, box: tuple[int, int, int, int], size: int, fill: int | None = None
) -> np.ndarray:
    """The box of every frame at `size` pixels, (T, size, size, 3) uint8.

    What lies outside the frame repeats its border, or is `fill`.
    """
    x0, y0, x1, y1 = box
    height, width = frames.shape[1:3]
    top, left = max(-y0, 0), max(-x0, 0)
    bottom, right = max(y1 - height, 0), max(x1 - width, 0)
    border = cv2.BORDER_REPLICATE if fill is None else cv2.BORDER_CONSTANT
    shrink = x1 - x0 > size
    out = np.empty((len(frames), size, size, 3), np.uint8)
    for i, frame in enumerate(frames):
        if top or left or bottom or right:
            frame = cv2.copyMakeBorder(frame, top, bottom, left, right, border, value=(fill or 0,) * 3)
        part = frame[y0 + top : y1 + top, x0 + left : x1 + left]
        out[i] = cv2.resize(part, (size, size), interpolation=cv2.INTER_AREA if shrink else cv2.INTER_LINEAR)
    return out


def build(config: Config) -> SyncNetV2 | SmallSyncNet:
    return SyncNetV2() if config.architecture == "syncnet_v2" else SmallSyncNet(config)


def save_syncnet(
    folder: Path, config: Config, network: nn.Module, dtype: torch.dtype = torch.float32
) -> None:
    """Write config.json and model.safetensors into `folder`, which exists."""
    tensors = {
        k: (v.to(dtype) if v.is_floating_point() else v).contiguous().cpu()
        for k, v in network.state_dict().items()
    }
    save_file(tensors, folder / WEIGHTS_NAME)
    (folder / WEIGHTS_NAME).chmod(0o644)  # safetensors writes for the owner alone
    text = json.dumps(asdict(config), indent=2, sort_keys=True)
    (folder / CONFIG_NAME).write_text(text + "\n", encoding="utf-8")


def load_syncnet(folder: str | Path, device: str = "cpu") -> SyncExpert:
    """The sync expert of a folder as `save_syncnet` writes it.

    Raises:
        UserError: if the folder is none, or its weights do not fit its config.
    """
    folder = Path(folder)
    if not (folder / CONFIG_NAME).is_file() or not (folder / WEIGHTS_NAME).is_file():
        raise UserError(f"{folder} is no sync expert: {CONFIG_NAME} and {WEIGHTS_NAME} are needed")
    values = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
    try:
        config = Config(**{**values, "channels": tuple(values["channels"])})
        network = build(config)
        tensors = load_file(folder / WEIGHTS_NAME)
        network.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in tensors.items()})
    except (KeyError, TypeError, RuntimeError) as e:
        raise UserError(
            f"{folder}: the sync expert cannot be read: {' '.join(str(e).split())[:200]}"
        ) from None
    return SyncExpert(config, network, device)


def import_syncnet_v2(path: str | Path) -> SyncNetV2:
    """SyncNet v2 from the released `syncnet_v2.model`, a plain state dict; nothing but tensors is unpickled.

    Raises:
        UserError: if the file does not hold exactly these tensors.
    """
    network = SyncNetV2()
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        network.load_state_dict(state)
    except Exception as e:  # noqa: BLE001 - torch.load raises many kinds for what is no state dict
        raise UserError(f"{path} is not syncnet_v2.model: {' '.join(str(e).split())[:200]}") from None
    return network


def _embedding(config: Config) -> int:
    return 1024 if config.architecture == "syncnet_v2" else config.embedding


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
