"""The videos of a method: found by clip id in a folder, and read to compare with the true frames."""

from pathlib import Path

import numpy as np

from difftalk.media.clock import FPS
from difftalk.runtime.checksums import verify_folder
from difftalk.runtime.errors import ClipError, UserError

SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm")


def find_video(folder: Path, clip_id: str) -> Path | None:
    """Return the video of a clip; None where there is none."""
    return next((p for s in SUFFIXES if (p := folder / f"{clip_id}{s}").is_file()), None)


def check_folder(samples: Path, clip_ids: list[str]) -> None:
    """Check that a folder can be one of samples of these clips; single clips may be missing.

    Raises:
        UserError: if it is no folder, or holds videos but none under the name of a clip; if a video that
            `sample` wrote is gone or damaged.
    """
    if not samples.is_dir():
        raise UserError(f"{samples} is no folder of videos")
    verify_folder(samples)
    videos = sorted(p.name for p in samples.iterdir() if p.suffix in SUFFIXES)
    if clip_ids and videos and not any(find_video(samples, clip_id) for clip_id in clip_ids):
        raise UserError(f"{samples}: videos are named by clip id, such as {clip_ids[0]}.mp4, not {videos[0]}")


def read_sample(path: Path | None, truth: np.ndarray, max_missing_frames: int) -> np.ndarray:
    """Read the frames of a sample at 25 fps and at the size of the truth, (T', H, W, 3) uint8.

    Args:
        path: the video; None where the method has none of this clip.
        truth: (T, H, W, 3) uint8.
        max_missing_frames: tolerated difference between T' and T.

    Raises:
        ClipError: if there is no video, it cannot be decoded, or it is of another length.
    """
    import cv2

    from difftalk.media.probe import probe
    from difftalk.media.video import read_frames, read_video

    if path is None:
        raise ClipError("cannot_fetch", "no video of this clip")
    info = probe(path)
    frames = read_video(path) if abs(info.fps - FPS) < 0.01 else np.stack(list(read_frames(path)))
    if abs(len(frames) - len(truth)) > max_missing_frames:
        raise ClipError("length_mismatch", f"{path.name} has {len(frames)} frames, the clip has {len(truth)}")
    height, width = truth.shape[1:3]
    if frames.shape[1:3] == (height, width):
        return frames
    shrink = frames.shape[1] > height
    how = cv2.INTER_AREA if shrink else cv2.INTER_CUBIC
    return np.stack([cv2.resize(f, (width, height), interpolation=how) for f in frames])
