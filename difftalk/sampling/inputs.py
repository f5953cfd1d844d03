"""What the sampler is given of frames: from pixels, or from an encoded shard."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import VQModel

from difftalk.config.sampling import Sampling
from difftalk.models.autoencoder import downsampling, encode_frames
from difftalk.models.conditioning import LANDMARKS_SEEN, SPEECH_WINDOW
from difftalk.models.examples import LatentClips
from difftalk.models.masks import NOSE_BASE, NOSE_TIP, generated_mask, mask_image, released_mask
from difftalk.speech.windows import neighbour_windows

MASK_LINES = {"nose_tip": NOSE_TIP, "nose_base": NOSE_BASE}


@dataclass
class FrameInputs:
    """What the denoiser is given of B frames, but for their reference; float32.

    Attributes:
        known: (B, C, h, w) latents of the real frames, used where `generated` is False.
        masked: (B, C, h, w) latents of the frames with the mouth masked.
        generated: inpainting mask, (B, 1, h, w) bool, True where the latent cell is generated.
        speech: (B, neighbours, 16, features).
        landmarks: (B, 39, 2) in [0, 1] of the crop.
    """

    known: torch.Tensor
    masked: torch.Tensor
    generated: torch.Tensor
    speech: torch.Tensor
    landmarks: torch.Tensor

    def __len__(self) -> int:
        """Return B."""
        return len(self.known)

    def to(self, device: torch.device | str) -> "FrameInputs":
        """Copy to a device."""
        return FrameInputs(**{name: value.to(device) for name, value in vars(self).items()})

    def take(self, numbers: Sequence[int]) -> "FrameInputs":
        """Return some of the frames, by their place here; one may be taken several times."""
        chosen = torch.as_tensor(numbers)
        return FrameInputs(**{name: value[chosen] for name, value in vars(self).items()})

    @staticmethod
    def join(parts: Sequence["FrameInputs"]) -> "FrameInputs":
        """Return the frames of several, in order."""
        names = vars(parts[0])
        return FrameInputs(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})


def encode_inputs(
    vqvae: VQModel, frames: np.ndarray, landmarks: np.ndarray, windows: np.ndarray, settings: Sampling
) -> FrameInputs:
    """Encode frames, masked and not, as the stage `encode` does.

    Args:
        vqvae: the first stage.
        frames: (T, H, H, 3) uint8, a face crop.
        landmarks: (T, 68, 2) in pixels of the crop.
        windows: (T, neighbours, 16, features) speech around each frame.
        settings: of the sampling.
    """
    size = frames.shape[1]
    passed = settings.frames_per_pass or settings.batch_size
    return FrameInputs(
        known=encode_frames(vqvae, frames, passed),
        masked=encode_masked(vqvae, frames, landmarks, settings),
        generated=inpainting_mask(landmarks, size, size // downsampling(vqvae), settings),
        speech=torch.from_numpy(windows.astype(np.float32)),
        landmarks=torch.from_numpy((landmarks[:, LANDMARKS_SEEN] / size).astype(np.float32)),
    )


def encode_masked(
    vqvae: VQModel, frames: np.ndarray, landmarks: np.ndarray, settings: Sampling
) -> torch.Tensor:
    """Return the latents (T, C, h, w) of masked frames; the arguments are those of `encode_inputs`."""
    masked = mask_image(frames, landmarks, MASK_LINES[settings.mask_line])
    return encode_frames(vqvae, masked, settings.frames_per_pass or settings.batch_size)


def inpainting_mask(landmarks: np.ndarray, size: int, latent_size: int, settings: Sampling) -> torch.Tensor:
    """Return `settings.mask` of frames: (T, 1, latent_size, latent_size) bool, True where generated.

    Args:
        landmarks: (T, 68, 2) in pixels of the crop.
        size: of the crop, pixels.
        latent_size: cells.
        settings: `mask` is read.
    """
    make = released_mask if settings.mask == "released" else generated_mask
    return torch.from_numpy(make(landmarks, size, latent_size)).unsqueeze(1)


class ShardClip:
    """One clip of an encoded shard: inputs of any of its frames.

    Args:
        clips: the shard.
        number: of the clip in it.
        size: of the crop in pixels.
        settings: of the sampling.
        masked: returns the latents (T, C, h, w) of the masked frames where `settings.mask_line` is not that
            of the shard; it is called once.
        frames: at its beginning that are all of the clip; None: as many as the shard has.
        speech: (2 T, features) of the sound that drives it; None: its own.
    """

    def __init__(
        self,
        clips: LatentClips,
        number: int,
        size: int,
        settings: Sampling,
        masked: Callable[[], torch.Tensor] | None = None,
        *,
        frames: int | None = None,
        speech: np.ndarray | None = None,
    ) -> None:
        arrays = clips.clips[number]
        self.clip_id, self.frames = clips.clip_ids[number], len(arrays["latents"][:frames])
        self._speech = arrays["speech"] if speech is None else speech
        self._clips, self._number, self._size, self._settings = clips, number, size, settings
        self._mask_again = masked
        self._masked: torch.Tensor | None = None

    def latent(self, frame: int) -> torch.Tensor:
        """Return the latents (C, h, w) of a real frame."""
        return torch.from_numpy(self._clips.clips[self._number]["latents"][frame].astype(np.float32))

    def inputs(self, numbers: Sequence[int]) -> FrameInputs:
        """Return the inputs of some frames."""
        arrays = self._clips.clips[self._number]
        frames = np.asarray(numbers)
        landmarks, latents = arrays["landmarks"][frames], arrays["latents"][frames]
        generated = torch.from_numpy(arrays["generated"][frames]).bool().unsqueeze(1)
        if self._settings.mask != "hull":
            generated = inpainting_mask(landmarks * self._size, self._size, latents.shape[-1], self._settings)
        if self._mask_again is not None and self._masked is None:
            self._masked = self._mask_again()
        masked = torch.from_numpy(arrays["masked"][frames].astype(np.float32))
        windows = neighbour_windows(self._speech, frames, self._clips.neighbours, SPEECH_WINDOW)
        return FrameInputs(
            known=torch.from_numpy(latents.astype(np.float32)),
            masked=masked if self._masked is None else self._masked[torch.from_numpy(frames)],
            generated=generated,
            speech=torch.from_numpy(windows.astype(np.float32)),
            landmarks=torch.from_numpy(landmarks[:, LANDMARKS_SEEN].astype(np.float32)),
        )
