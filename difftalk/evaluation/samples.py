"""The videos of a method: found by clip id in a folder, and read to compare with the true frames."""

from pathlib import Path

import numpy as np

from difftalk.runtime.checksums import verify_folder
from difftalk.runtime.errors import ClipError, UserError
from difftalk.runtime.sample_folder import SUFFIXES, find_video


def check_folder(samples: Path, clip_ids: list[str]) -> None:
    """Check that a folder can be one of samples of these clips; single clips may be missing.

    Raises:
        UserError: if it is no folder, or holds videos but none under the name of a clip; if a video that
            `sample` wrote is gone or damaged.
    """
    if not samples.is_dir():
        raise UserError(f"{samples} is no folder of videos")
    verify_folder(samples)
    videos = sorted(p.name for p in samples.iterdir() if p.suffix.lower() in SUFFIXES)
    if clip_ids and videos and not any(find_video(samples, clip_id) for clip_id in clip_ids):
        raise UserError(f"{samples}: videos are named by clip id, such as {clip_ids[0]}.mp4, not {videos[0]}")


def read_sample(path: Path, truth: np.ndarray, max_missing_frames: int) -> np.ndarray:
    """Read the frames of a sample at 25 fps and at the size of the truth, (T', H, W, 3) uint8.

    One reader, by timestamps, whatever the container: the same stream gives the same frames.

    Args:
        path: the video.
        truth: (T, H, W, 3) uint8.
        max_missing_frames: tolerated difference between T' and T.

    Raises:
        ClipError: if it cannot be decoded, or is of another length.
    """
    import cv2

    from difftalk.media.video import read_lazy_frames

    height, width = truth.shape[1:3]
    frames, count = [], 0
    for lazy in read_lazy_frames(path):
        count += 1
        # One at a time, and none that is not wanted: memory holds frames of the truth's size alone.
        if count <= len(truth) + max_missing_frames:
            frame = lazy[:, :]
            if frame.shape[:2] != (height, width):
                how = cv2.INTER_AREA if frame.shape[0] > height else cv2.INTER_CUBIC
                frame = cv2.resize(frame, (width, height), interpolation=how)
            frames.append(frame)
    if abs(count - len(truth)) > max_missing_frames or not frames:
        raise ClipError("length_mismatch", f"{path.name} has {count} frames, the clip has {len(truth)}")
    return np.stack(frames)


def describe_file(path: Path) -> str:
    """Return what a video is: `h264 yuv420p 64x64 25 fps, aac`.

    Raises:
        ClipError: if it does not open.
    """
    from difftalk.media.damage import open_container, reading

    with reading(path), open_container(path) as container:
        video = container.streams.video[0]
        about = video.codec_context
        rate = float(video.average_rate or video.guessed_rate or 0)
        audio = [s.codec_context.name for s in container.streams.audio[:1]]
        shown = f"{about.name} {about.pix_fmt} {about.width}x{about.height} {rate:g} fps"
        return ", ".join([shown, *(audio or ["no audio"])])
