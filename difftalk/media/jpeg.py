"""Frames as they are after ffmpeg has written them to JPEG files, at the quality it takes by itself."""

from fractions import Fraction
from typing import Any

import av
import cv2
import numpy as np

from difftalk.media.clock import FPS

# What ffmpeg aims at where no quality is given: at 224 px it soon ends at its coarsest quantiser but a few.
BITS_PER_SECOND = 200_000


def as_jpeg(frames: np.ndarray) -> np.ndarray:
    """Return frames that went through `ffmpeg -i VIDEO %06d.jpg`: `(T, H, W, 3)` uint8 RGB.

    ffmpeg's encoder gives a sequence 200 kbit/s, not each frame a quality: what becomes of a frame depends on
    those before it. The encoder is the same one.

    Args:
        frames: `(T, H, W, 3)` uint8 RGB, of even sides.
    """
    encoder: Any = av.CodecContext.create("mjpeg", "w")
    encoder.height, encoder.width = frames.shape[1:3]
    encoder.pix_fmt, encoder.bit_rate = "yuvj420p", BITS_PER_SECOND
    encoder.time_base, encoder.framerate = Fraction(1, FPS), Fraction(FPS)
    out = []
    for k, frame in enumerate([*frames, None]):
        shown = None
        if frame is not None:
            shown = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            shown = shown.reformat(format="yuvj420p")
            shown.pts = k
        for packet in encoder.encode(shown):
            image = cv2.imdecode(np.frombuffer(bytes(packet), np.uint8), cv2.IMREAD_COLOR)
            assert image is not None
            out.append(image[..., ::-1])
    return np.array(out, np.uint8).reshape(frames.shape)
