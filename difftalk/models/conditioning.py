"""The condition encoders: from audio and landmarks to the denoiser's context token.

The networks and their sizes are the paper's (D_A = D_L = 64): audio encoder 32,800, temporal filter 2,149 and
landmark encoder 22,528 parameters, for 29 speech features and 39 landmarks.
"""

from itertools import pairwise

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn

EMBEDDING = 64  # D_A and D_L of the paper
SPEECH_WINDOW = 16  # 20-ms steps that one embedding sees
FILTER_CHANNELS = 32  # of the 64, those the temporal filter weighs by
# No mouth (48-67) and no lower jaw (4-12): they would leak the answer.
LANDMARKS_SEEN = (*range(4), *range(13, 48))


def _leaky() -> nn.LeakyReLU:
    return nn.LeakyReLU(0.02)


class AudioEncoder(nn.Module):
    """Encode a window of 16 speech steps: (N, 16, features) to an embedding (N, 64)."""

    def __init__(self, features: int = 29) -> None:
        super().__init__()
        widths = (features, 32, 32, 64, 64)
        layers: list[nn.Module] = []
        for a, b in pairwise(widths):
            layers += [nn.Conv1d(a, b, 3, stride=2, padding=1), _leaky()]
        self.convolutions = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Linear(64, 64), _leaky(), nn.Linear(64, EMBEDDING))

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """Encode windows of speech features (N, 16, features) to embeddings (N, 64)."""
        return self.head(self.convolutions(windows.transpose(1, 2)).squeeze(2))


class TemporalFilter(nn.Module):
    """Smooth the audio by a weighted mean of embeddings: (B, neighbours, 64) to (B, 64).

    The weights come from the first 32 channels and sum to one (Eq. 5 of the paper; AD-NeRF's audio
    attention).
    """

    def __init__(self, neighbours: int = 8) -> None:
        super().__init__()
        widths = (FILTER_CHANNELS, 16, 8, 4, 2, 1)
        layers: list[nn.Module] = []
        for a, b in pairwise(widths):
            layers += [nn.Conv1d(a, b, 3, padding=1), _leaky()]
        self.convolutions = nn.Sequential(*layers)
        self.weigh = nn.Sequential(nn.Linear(neighbours, neighbours), nn.Softmax(dim=1))

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Average embeddings (B, neighbours, 64) over the neighbours: (B, 64)."""
        weights = self.weigh(self.convolutions(embeddings[..., :FILTER_CHANNELS].transpose(1, 2)).squeeze(1))
        return torch.einsum("bn,bnd->bd", weights, embeddings)


class LandmarkEncoder(nn.Sequential):
    """Encode 39 points of the upper face: (B, 39, 2) in [0, 1] of the crop to (B, 64)."""

    def __init__(self) -> None:
        points = len(LANDMARKS_SEEN)
        layers = nn.Linear(2 * points, 128), _leaky(), nn.Linear(128, 64), _leaky(), nn.Linear(64, EMBEDDING)
        super().__init__(nn.Flatten(), *layers)


class Conditioner(ModelMixin, ConfigMixin):
    """The context token of a frame: (B, 1, 64 for each of audio and landmarks that is used).

    Args:
        audio: condition on audio.
        landmarks: condition on the upper face's landmarks.
        speech_features: numbers per speech step: 29 for DeepSpeech.
        neighbours: frames the temporal filter smooths over; 1 is no smoothing.
    """

    @register_to_config
    def __init__(
        self, audio: bool = True, landmarks: bool = True, speech_features: int = 29, neighbours: int = 8
    ) -> None:
        super().__init__()
        if not (audio or landmarks):
            raise ValueError("the denoiser's cross-attention needs audio, landmarks or both")
        self.audio_encoder = AudioEncoder(speech_features) if audio else None
        self.temporal_filter = TemporalFilter(neighbours) if audio and neighbours > 1 else None
        self.landmark_encoder = LandmarkEncoder() if landmarks else None

    @property
    def neighbours(self) -> int:
        """Frames of speech per example."""
        return int(self.config.neighbours)

    @property
    def width(self) -> int:
        """Size of the context token."""
        return EMBEDDING * ((self.audio_encoder is not None) + (self.landmark_encoder is not None))

    def forward(self, speech: torch.Tensor, landmarks: torch.Tensor) -> torch.Tensor:
        """Encode `speech` (B, neighbours, 16, features) and `landmarks` (B, 39, 2)."""
        parts = []
        if self.audio_encoder is not None:
            embeddings = self.audio_encoder(speech.flatten(0, 1)).unflatten(0, speech.shape[:2])
            parts.append(
                embeddings[:, 0] if self.temporal_filter is None else self.temporal_filter(embeddings)
            )
        if self.landmark_encoder is not None:
            parts.append(self.landmark_encoder(landmarks))
        return torch.cat(parts, dim=1).unsqueeze(1)
