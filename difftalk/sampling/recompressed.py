"""The truth through a usual codec once more: what that alone does to every figure."""

from pathlib import Path

import numpy as np

from difftalk.media.clock import SAMPLE_RATE
from difftalk.media.encode import with_audio, write_video
from difftalk.media.flac import encode_flac
from difftalk.runtime.files import atomic_file

# What a video site, or ffmpeg by its defaults, makes of a clip.
CRF, PIXEL_FORMAT, AUDIO_BITS_PER_S = 23, "yuv420p", 128_000


def write_recompressed(path: Path, frames: np.ndarray, samples: np.ndarray) -> None:
    """Write frames as H.264 at crf 23 with colour of half resolution, and audio as AAC at 128 kbit/s.

    The audio is brought to 48 kHz, since AAC has no 128 kbit/s for one channel at 16 kHz.

    Args:
        path: the mp4.
        frames: (T, H, W, 3) uint8 RGB.
        samples: (N,) int16, mono, 16 kHz.
    """
    silent, sound = (path.with_name(f".{path.stem}{suffix}") for suffix in (".silent.mp4", ".flac"))
    try:
        write_video(silent, frames, crf=CRF, pix_fmt=PIXEL_FORMAT)
        sound.write_bytes(encode_flac(samples))
        with atomic_file(path) as tmp:
            seconds = len(samples) / SAMPLE_RATE
            with_audio(silent, sound, samples, tmp, seconds, bits_per_s=AUDIO_BITS_PER_S)
    finally:
        silent.unlink(missing_ok=True)
        sound.unlink(missing_ok=True)
