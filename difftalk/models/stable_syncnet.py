"""A second sync expert: StableSyncNet of LatentSync 1.6 (arXiv 2412.09262), 16 frames against 0.65 s of mel.

It judges by other inputs than SyncNet v2: the lower half of a face that was aligned by brows and nose. Its
figures have a name and a scale of their own; they are no LSE-C and LSE-D, and it is no independent judge of
LatentSync. Tensors are named as in `stable_syncnet.pt` (code Apache-2.0, bytedance/LatentSync).
"""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from difftalk.media.clock import FPS
from difftalk.models.networks import gather, load_network, not_computed, weights_of
from difftalk.speech.mel import MELS, STEPS_PER_SECOND, mel_spectrogram

WEIGHTS = "stable-syncnet"
NOT_COMPUTED = not_computed(WEIGHTS)
FRAMES, SIDE, AUDIO_STEPS, HEADS, GROUPS = 16, 256, 52, 8, 32
# The aligned face before it is squeezed to a square, and where its brows and its nose lie, in pixels.
FACE_SIZE = (210, 280)
TEMPLATE = 2.8 * np.array([(17.0, 20.0), (58.0, 20.0), (37.5, 40.0)])
FILL = 127  # outside of the frame
EVERY = 5  # frames from one video window to the next: each takes a core 0.4 s


@dataclass(frozen=True)
class Tower:
    """The layout of one of the two encoders (`configs/syncnet/syncnet_16_pixel_attn.yaml`).

    Args:
        inputs: its input's channels.
        channels: of each stage.
        strides: of each stage, down and across.
        attends: the stages that attention follows.
    """

    inputs: int
    channels: tuple[int, ...]
    strides: tuple[tuple[int, int], ...]
    attends: tuple[int, ...]


AUDIO = Tower(
    1,
    (32, 64, 128, 256, 512, 1024, 2048),
    ((2, 1), (2, 2), (2, 2), (1, 1), (2, 2), (2, 2), (2, 3)),
    (3, 4),
)
VISUAL = Tower(3 * FRAMES, (64, 128, 256, 256, 512, 1024, 2048, 2048), ((1, 2), *[(2, 2)] * 7), (4, 5))


class Stage(nn.Module):
    """A residual block, and a convolution that strides."""

    def __init__(self, inputs: int, outputs: int, stride: tuple[int, int]) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, inputs, eps=1e-6)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2 = nn.GroupNorm(GROUPS, outputs, eps=1e-6)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None
        self.downsample_conv = nn.Conv2d(outputs, outputs, 3, stride) if stride != (1, 1) else None
        # A side that strides is padded at its end alone; one that does not, at both.
        self.padding = (int(stride[1] == 1), 1, int(stride[0] == 1), 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of (B, C, H, W)."""
        y = self.conv1(functional.silu(self.norm1(x)))
        y = self.conv2(functional.silu(self.norm2(y)))
        x = y + (x if self.conv_shortcut is None else self.conv_shortcut(x))
        return x if self.downsample_conv is None else self.downsample_conv(functional.pad(x, self.padding))


class SelfAttention(nn.Module):
    """Attention of eight heads among places (B, N, C)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.to_q, self.to_k = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.to_v, self.to_out = nn.Linear(channels, channels), nn.Sequential(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return what each place gathers, (B, N, C)."""
        q, k, v = (f(x).unflatten(2, (HEADS, -1)).transpose(1, 2) for f in (self.to_q, self.to_k, self.to_v))
        return self.to_out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Gated(nn.Module):
    """Values times a GELU of their gates: (B, N, C) to (B, N, 4 C)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = nn.Linear(channels, 8 * channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the gated values."""
        value, gate = self.proj(x).chunk(2, dim=2)
        return value * functional.gelu(gate)


class Feed(nn.Module):
    """The two layers that each place goes through; the middle of their names is a dropout's."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.net = nn.Sequential(Gated(channels), nn.Identity(), nn.Linear(4 * channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, N, C) of (B, N, C)."""
        return self.net(x)


class Attention(nn.Module):
    """A transformer block over all places of the features."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, channels, eps=1e-6)
        self.norm2, self.norm3 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.conv_in, self.conv_out = nn.Conv2d(channels, channels, 1), nn.Conv2d(channels, channels, 1)
        self.attn, self.ff = SelfAttention(channels), Feed(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of (B, C, H, W)."""
        y = self.conv_in(self.norm1(x))
        places = y.flatten(2).transpose(1, 2)  # (B, H * W, C)
        places = places + self.attn(self.norm2(places))
        places = places + self.ff(self.norm3(places))
        return x + self.conv_out(places.transpose(1, 2).reshape(y.shape))


class Encoder(nn.Module):
    """One of the two encoders: (B, inputs, H, W) to (B, channels[-1]) of unit length."""

    def __init__(self, tower: Tower) -> None:
        super().__init__()
        inputs = tower.channels[0]
        self.conv_in = nn.Conv2d(tower.inputs, inputs, 3, padding=1)
        blocks: list[nn.Module] = []
        for k, (outputs, stride) in enumerate(zip(tower.channels, tower.strides, strict=True)):
            blocks.append(Stage(inputs, outputs, stride))
            blocks += [Attention(outputs)] if k in tower.attends else []
            inputs = outputs
        self.down_blocks = nn.ModuleList(blocks)
        self.norm_out = nn.GroupNorm(GROUPS, inputs, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Return the embeddings of (B, C, H, W)."""
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        return functional.normalize(functional.relu(self.norm_out(x)).flatten(1), dim=1)


class StableSyncNet(nn.Module):
    """Both encoders: frames (B, 48, 128, 256) in [-1, 1] and mel (B, 1, 80, 52) in [-4, 4], to (B, 2048)."""

    def __init__(self, audio: Tower = AUDIO, visual: Tower = VISUAL) -> None:
        super().__init__()
        self.audio_encoder, self.visual_encoder = Encoder(audio), Encoder(visual)


class StableSyncExpert:
    """StableSyncNet ready to measure, with the interface of `difftalk.models.syncnet.SyncExpert`.

    Args:
        network: in eval mode, on `device`.
        device: of the network.
    """

    zero_padded = False
    every = EVERY

    def __init__(self, network: StableSyncNet, device: str = "cpu") -> None:
        self._network, self._device = network, device
        self._batch = 4 if device == "cpu" else 32
        self._width = network.visual_encoder.norm_out.num_channels

    @classmethod
    def load(cls, device: str = "cpu") -> "StableSyncExpert | None":
        """Load the pretrained network; None where its weights are not there (`NOT_COMPUTED` says so).

        Raises:
            UserError: if they are damaged.
        """
        with torch.device("meta"):  # it has 0.4 billion weights, and each comes from the file
            network = StableSyncNet()
        loaded = load_network(WEIGHTS, network, device)
        return None if loaded is None else cls(loaded, device)

    @property
    def protocol(self) -> str:
        """How the embeddings are made, for the foot of the tables."""
        return (
            "StableSyncNet of LatentSync 1.6: 16 frames, the lower half of a face of 256 px that is aligned "
            "by the true brows and nose, against 0.65 s of mel; distance of unit vectors; windows at every "
            f"{EVERY}th frame, mean over the pairs that exist; {weights_of(WEIGHTS)}"
        )

    @torch.inference_mode()
    def video_embeddings(self, frames: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        """Embed every fifth 16-frame window of one clip, of unit length: (ceil((T - 15) / 5), 2048).

        Args:
            frames: (T, H, W, 3) uint8 RGB, the face crop.
            landmarks: (T, 68, 2) points of the *true* clip in pixels of the crop, which align the face.
        """
        if len(frames) < FRAMES:
            return gather([], self._width)
        halves = np.stack([lower_half(f, p) for f, p in zip(frames, landmarks, strict=True)])
        shown = torch.from_numpy(halves).permute(0, 3, 1, 2)
        windows = shown.unfold(0, FRAMES, EVERY).movedim(-1, 1)  # (n, 16, 3, 128, 256), a view
        parts = []
        for i in range(0, len(windows), self._batch):
            some = windows[i : i + self._batch].to(self._device).flatten(1, 2).float() / 127.5 - 1
            parts.append(self._network.visual_encoder(some))
        return gather(parts, self._width)

    @torch.inference_mode()
    def audio_embeddings(self, samples: np.ndarray) -> np.ndarray:
        """Embed the 0.65 s windows that start at each video frame: (M, 2048), M = complete windows.

        Args:
            samples: (N,) int16 at 16 kHz.
        """
        windows = torch.from_numpy(mel_windows(samples))
        parts = [
            self._network.audio_encoder(windows[i : i + 16, None].to(self._device))
            for i in range(0, len(windows), 16)
        ]
        return gather(parts, self._width)


def mel_windows(samples: np.ndarray) -> np.ndarray:
    """Return the mel windows (M, 80, 52) float32 that start at each video frame, as many as are complete.

    Args:
        samples: (N,) int16 at 16 kHz.
    """
    mel = mel_spectrogram(samples)
    count = max(int(np.ceil((mel.shape[1] - AUDIO_STEPS + 1) * FPS / STEPS_PER_SECOND)), 0)
    starts = [int(STEPS_PER_SECOND * (frame / FPS)) for frame in range(count)]
    windows = [mel[:, start : start + AUDIO_STEPS] for start in starts]
    return np.array(windows, np.float32).reshape(count, MELS, AUDIO_STEPS)


def lower_half(frame: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return the lower half of the aligned face: (128, 256, 3) uint8.

    It is turned and moved so that its brows and nose lie on the template, scaled by the spread of the three
    points, and squeezed to a square. The released code knows 106 points; these are the nearest of 68. Its
    shift by less than a pixel, which it smooths over time, is left out.

    Args:
        frame: (H, W, 3) uint8 RGB.
        points: (68, 2) in its pixels.
    """
    nose = points[[29, 30, 31, 35]].mean(axis=0)
    three = np.stack([points[17:22].mean(axis=0), points[22:27].mean(axis=0), nose]).astype(np.float64)
    z, w = (p[:, 0] + 1j * p[:, 1] for p in (three, TEMPLATE))
    z_middle, w_middle = z.mean(), w.mean()
    turn = np.vdot(z - z_middle, w - w_middle)
    scale = np.linalg.norm(w - w_middle) / np.linalg.norm(z - z_middle)
    a = scale * turn / abs(turn)
    b = w_middle - a * z_middle
    matrix = np.array([(a.real, -a.imag, b.real), (a.imag, a.real, b.imag)])
    face = cv2.warpAffine(frame, matrix, FACE_SIZE, borderValue=(FILL, FILL, FILL))
    return np.asarray(cv2.resize(face, (SIDE, SIDE), interpolation=cv2.INTER_LANCZOS4)[SIDE // 2 :])
