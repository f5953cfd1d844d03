"""Noise of which each frame has a stream of its own, so that nothing else decides what is sampled for it."""

import hashlib
from collections.abc import Sequence

import torch


def stream_seed(*parts: str | int) -> int:
    """Return the seed of a random stream, from what names it.

    >>> stream_seed(1, "clip", 0) == stream_seed(1, "clip", 0) != stream_seed(1, "clip", 1)
    True
    """
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:6])


class FrameNoise:
    """Draw noise for some frames together, each from the stream of its (seed, clip, frame).

    Args:
        seed: of the sampling.
        frames: clip id and number of each of the B frames.
        shape: (C, h, w) of a latent.
        device: that the noise is moved to. It is drawn on the CPU: every device has the same.
    """

    def __init__(
        self,
        seed: int,
        frames: Sequence[tuple[str, int]],
        shape: torch.Size | tuple[int, ...],
        device: torch.device | str = "cpu",
    ) -> None:
        self._streams = [
            torch.Generator().manual_seed(stream_seed(seed, clip_id, frame)) for clip_id, frame in frames
        ]
        self._shape, self._device = tuple(shape), torch.device(device)

    def draw(self) -> torch.Tensor:
        """Return the next noise of every frame, (B, C, h, w) float32."""
        # From pinned memory it is copied beside what the device computes, which is not waited for.
        drawn = torch.empty(len(self._streams), *self._shape, pin_memory=self._device.type == "cuda")
        for noise, stream in zip(drawn, self._streams, strict=True):
            noise.normal_(generator=stream)
        return drawn.to(self._device, non_blocking=True)
