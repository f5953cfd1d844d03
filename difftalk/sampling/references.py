"""Which frame shows a clip's identity."""

from difftalk.config.sampling import Sampling
from difftalk.sampling.noise import stream_seed


def reference_frame(clip_id: str, frames: int, settings: Sampling) -> int:
    """Return the index of the reference frame: the first, or one drawn from seed and clip id."""
    return 0 if settings.reference == "first" else stream_seed(settings.seed, clip_id) % frames
