"""Write the videos of clips, each while the next is made."""

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from difftalk.media.encode import SYNTHETIC, write_video
from difftalk.runtime.errors import ClipError
from difftalk.runtime.parallel import guarded
from difftalk.runtime.progress import say
from difftalk.sampling.made import Made
from difftalk.sampling.recompressed import write_recompressed
from difftalk.sampling.unfinished import Unfinished

# Full colour resolution: halved, it would cap what is measured on small crops at 35 dB around the mouth.
PIXEL_FORMAT = "yuv444p"
# Clips that wait to be written while the next is sampled.
WAITING = 2

# Writes frames (T, H, W, 3) uint8 and audio (N,) int16 16 kHz to a file.
Writer = Callable[[Path, np.ndarray, np.ndarray], None]


def writer_of(method: str, crf: int) -> Writer:
    """Return what writes the videos of a method; `crf` is their H.264 quality."""
    if method == "recompressed":
        return write_recompressed
    return partial(_write_video, crf=crf, metadata={} if method == "ground_truth" else SYNTHETIC)


def write_clips(
    made: Iterable[Made], unfinished: Unfinished, write: Writer, stage: str
) -> dict[str, ClipError]:
    """Write clips as they are made; returns why clips have no video.

    Args:
        made: clips with their frames, or why they have none.
        unfinished: where their videos are kept.
        write: writes one.
        stage: for what is said of clips that fail.
    """
    failed: dict[str, ClipError] = {}
    waiting: list[tuple[str, Future[Path | ClipError]]] = []

    def settle(most: int) -> None:
        while len(waiting) > most:
            clip_id, written = waiting.pop(0)
            if isinstance(result := written.result(), ClipError):
                say(f"{stage}: {clip_id} has no video: {result}")
                failed[clip_id] = result

    with ThreadPoolExecutor(1) as writer:
        for clip in made:
            waiting.append((clip[0].clip_id, writer.submit(_write, clip, unfinished, write)))
            settle(WAITING)
        settle(0)
    return failed


def _write(made: Made, unfinished: Unfinished, write: Writer) -> Path | ClipError:
    """Write one clip as its video, and record it; a clip that failed, or does, gives its reason."""
    crop, frames = made
    if isinstance(frames, ClipError):
        unfinished.close_clip(crop.clip_id)
        return frames

    def written_to(target: Path) -> Path:
        write(target, frames, crop.audio)
        return target

    written = guarded(written_to, unfinished.video(crop.clip_id), crop.clip_id)
    unfinished.close_clip(crop.clip_id)
    return written


def _write_video(
    target: Path, frames: np.ndarray, audio: np.ndarray, *, crf: int, metadata: dict[str, str]
) -> None:
    write_video(target, frames, audio=audio, crf=crf, pix_fmt=PIXEL_FORMAT, metadata=metadata)
