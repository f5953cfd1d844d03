"""Sample frames: in passes of one size, so that what comes out for a frame depends on no other frame."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from difftalk.config.sampling import Sampling
from difftalk.models.autoencoder import decode_latents, encode_frames
from difftalk.runtime.device import PRECISIONS, compiles, tell
from difftalk.sampling.inpaint import inpaint
from difftalk.sampling.inputs import FrameInputs
from difftalk.sampling.noise import FrameNoise
from difftalk.sampling.schedulers import build_scheduler

if TYPE_CHECKING:
    from difftalk.sampling.pipeline import DiffTalkPipeline

# By the type of the device. A pass of so many frames takes hardly longer a frame than one of many more, and
# one of fewer, such as the progressive reference of one clip, is filled up to no more than these.
FRAMES_PER_PASS = {"cpu": 8, "cuda": 16}


def tell_sampling(stage: str, settings: Sampling, device: torch.device | str) -> None:
    """Write into the log on which device a stage samples, in which precision, and whether compiled."""
    said = compiles(settings.compile, device, "sampling.compile")[1]
    tell(stage, device, PRECISIONS[settings.precision], said)


class FrameSampler:
    """Samples the latents of any frames together, by one model.

    The noise of a frame is drawn from the stream of its seed, clip and number. Networks run on
    `frames_per_pass` frames, filled up with copies where there are fewer: a kernel chosen for another number
    would round otherwise. So neither batch size, shard, order nor the number of processes change a bit; the
    number of threads, `frames_per_pass` and the device do, by rounding.

    Args:
        pipeline: the model, on its device; its denoiser is cast and laid out in place.
        settings: of the sampling.
    """

    def __init__(self, pipeline: "DiffTalkPipeline", settings: Sampling) -> None:
        self.pipeline, self.settings, self.device = pipeline, settings, pipeline.device
        # What sampling and decoding took so far, and how many frames were sampled in it.
        self.seconds, self.sampled = 0.0, 0
        on_gpu = self.device.type == "cuda"
        self.frames_per_pass = settings.frames_per_pass or FRAMES_PER_PASS[self.device.type]
        if settings.precision == "bf16":
            for part in (pipeline.unet, pipeline.conditioner):
                # diffusers' own `to` warns of layers that should stay in float32, though there are none.
                torch.nn.Module.to(part, torch.bfloat16)
        if on_gpu:
            pipeline.unet.to(memory_format=torch.channels_last)
        self._denoiser = pipeline.denoiser()
        if compiles(settings.compile, self.device, "sampling.compile")[0]:
            torch._dynamo.config.suppress_errors = settings.compile == "auto"
            self._denoiser.unet = torch.compile(self._denoiser.unet)  # type: ignore[assignment]

    @torch.no_grad()
    def sample(
        self, inputs: FrameInputs, reference: torch.Tensor, frames: Sequence[tuple[str, int]]
    ) -> torch.Tensor:
        """Sample the latents (B, C, h, w) of B frames, float32 on the CPU.

        Args:
            inputs: of the frames, on the CPU.
            reference: (B, C, h, w) latents of another frame for each.
            frames: clip id and number of each.
        """
        parts, began = [], time.perf_counter()
        for first in range(0, len(frames), self.frames_per_pass):
            chosen = list(range(first, min(first + self.frames_per_pass, len(frames))))
            filled = chosen + chosen[-1:] * (self.frames_per_pass - len(chosen))
            latents = self._pass(inputs.take(filled), reference[filled], [frames[i] for i in filled])
            parts.append(latents[: len(chosen)].float().cpu())
        self.seconds += time.perf_counter() - began
        self.sampled += len(frames)
        return torch.cat(parts)

    def _pass(
        self, inputs: FrameInputs, reference: torch.Tensor, frames: Sequence[tuple[str, int]]
    ) -> torch.Tensor:
        moved, reference = inputs.to(self.device), reference.to(self.device)
        context = self._denoiser.context(moved.speech, moved.landmarks)

        def predict(noisy: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
            return self._denoiser.predict(noisy, timestep, moved.masked, reference, context).float()

        return inpaint(
            predict,
            build_scheduler(self.pipeline.scheduler, self.settings),
            self.pipeline.scheduler,
            moved.known,
            moved.generated,
            FrameNoise(self.settings.seed, frames, moved.known.shape[1:], self.device).draw,
            eta=self.settings.eta,
            known_region=self.pipeline.known_region,
            keep_known=self.settings.keep_known,
        )

    def decode(self, latents: torch.Tensor) -> np.ndarray:
        """Decode latents (T, C, h, w), quantised on the way, to (T, H, W, 3) uint8 frames."""
        began = time.perf_counter()
        frames = decode_latents(self.pipeline.vqvae, latents, self.frames_per_pass, fill=True)
        self.seconds += time.perf_counter() - began
        return frames

    def through_pixels(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the latents (T, C, h, w) of what generated latents look like: decoded and encoded again."""
        return encode_frames(self.pipeline.vqvae, self.decode(latents), self.frames_per_pass, fill=True)
