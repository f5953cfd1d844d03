"""What a command that makes videos is given of a clip: files, laid out in a folder of its own."""

import wave
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from difftalk.config.methods import MethodSettings
from difftalk.config.sampling import Sampling
from difftalk.media.clock import SAMPLE_RATE
from difftalk.media.encode import write_video
from difftalk.media.shards import Crop
from difftalk.models.masks import NOSE_TIP, first_masked_row, mask_image
from difftalk.runtime.files import write_csv
from difftalk.sampling.full_frames import FullFrames
from difftalk.sampling.references import reference_frame

# H.264 quality of what is written for the command; the crop's own file is given as it is.
CRF = 10


def lay_out(folder: Path, crop: Crop, whole: FullFrames | None, settings: MethodSettings) -> dict[str, Path]:
    """Write the files that the words of a command name; returns all, by placeholder.

    Args:
        folder: an empty one.
        crop: the clip.
        whole: its whole frames, where the command is given these.
        settings: the method's entry.

    Raises:
        ClipError: if the clip cannot be decoded.
    """
    files = {
        "image": folder / "image.png",
        "video": folder / "video.mp4",
        "audio": folder / "audio.wav",
        "landmarks": folder / f"landmarks.{settings.landmarks}",
        "folder": folder / "out",
        "out": folder / "out" / f"{crop.clip_id}.mp4",
    }
    files["folder"].mkdir()
    points = crop.landmarks if whole is None else whole.points
    if settings.uses("image"):
        _write_image(files["image"], crop, whole, settings)
    if settings.uses("video"):
        _write_video(files["video"], crop, whole, settings)
    if settings.uses("audio"):
        _write_audio(files["audio"], crop.audio)
    if settings.uses("landmarks"):
        _write_landmarks(files["landmarks"], points)
    return {name: path.absolute() for name, path in files.items()}


def _write_image(path: Path, crop: Crop, whole: FullFrames | None, settings: MethodSettings) -> None:
    chosen = Sampling(reference="random" if settings.reference == "random" else "first", seed=settings.seed)
    number = reference_frame(crop.clip_id, len(crop.landmarks), chosen)
    frames = crop.frames() if whole is None else whole.frames()
    image = next(frame for k, frame in enumerate(frames) if k == number)
    cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))


def _write_video(path: Path, crop: Crop, whole: FullFrames | None, settings: MethodSettings) -> None:
    masked = settings.mask == "lower_face"
    if whole is None and not masked and crop.limit is None:
        path.write_bytes(crop.video)
        return
    if whole is None:
        frames: Iterator[np.ndarray] = iter(crop.frames())
        if masked:
            frames = iter(mask_image(crop.frames(), crop.landmarks))
        write_video(path, frames, crf=CRF, pix_fmt="yuv444p")
        return
    frames = _masked(whole) if masked else whole.frames()
    even = whole.size[0] % 2 == whole.size[1] % 2 == 0
    write_video(path, frames, crf=CRF, pix_fmt="yuv420p" if even else "yuv444p")


def _masked(whole: FullFrames) -> Iterator[np.ndarray]:
    """Yield whole frames that are black inside the crop, from the row of the nose tip down."""
    x0, y0, x1, y1 = whole.placement.box
    for frame, row in zip(whole.frames(), first_masked_row(whole.points, NOSE_TIP), strict=False):
        black = frame.copy()
        black[max(row, y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)] = 0
        yield black


def _write_audio(path: Path, samples: np.ndarray) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(samples.astype("<i2").tobytes())


def _write_landmarks(path: Path, points: np.ndarray) -> None:
    if path.suffix == ".npy":
        np.save(path, points.astype(np.float32), allow_pickle=False)
        return
    columns = ["frame", *(f"{axis}{k}" for k in range(points.shape[1]) for axis in "xy")]
    rows = ([k, *(f"{v:.3f}" for v in frame.ravel())] for k, frame in enumerate(points))
    write_csv(path, columns, rows, recorded=False)
