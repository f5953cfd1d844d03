"""Convert and scale frames with scalers that are kept: to set one up costs as much as to scale a frame."""

import threading
from functools import lru_cache
from typing import Any

from av.video.reformatter import VideoReformatter

# A clip needs four: its crops, their encoder, the copies for scene cuts, single looks at the face.
SCALERS = 8


def reformatted(frame: Any, width: int, height: int, **how: Any) -> Any:
    """Return what `frame.reformat` does, in one thread of FFmpeg's.

    Args:
        frame: PyAV's.
        width: of the result, pixels.
        height: of the result, pixels.
        how: other arguments of `VideoFrame.reformat`.
    """
    source = frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range
    scaler = _scaler(threading.get_ident(), source, (width, height, *sorted(how.items())))
    return scaler.reformat(frame, width=width, height=height, threads=1, **how)


@lru_cache(maxsize=SCALERS)
def _scaler(_thread: int, _source: tuple[Any, ...], _target: tuple[Any, ...]) -> VideoReformatter:
    return VideoReformatter()
