"""Face crops of drawn speakers, to train, measure and test networks on."""

import tempfile
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from difftalk.datasets.demo.faces import TRAINING_SEEDS
from difftalk.datasets.demo.render import DemoSource, render_source
from difftalk.media.audio import read_audio
from difftalk.media.video import read_frames

SOURCE_SIZE = 160  # pixels of the video, which a face crop is cut from
CROP_SIZE = 64  # pixels


class DrawnCrop(NamedTuple):
    """A clip of a drawn speaker.

    Args:
        frames: (T, 64, 64, 3) uint8 RGB, the face crop.
        landmarks: (T, 68, 2) float32, the true points in pixels of the crop.
        samples: (N,) int16 at 16 kHz.
    """

    frames: np.ndarray
    landmarks: np.ndarray
    samples: np.ndarray


def draw_crop(seed: int, seconds: float) -> DrawnCrop:
    """Draw a speaker who is not of the demo, as the pipeline would see one.

    The video is encoded to H.264 and AAC and decoded again. The crop is cut as tightly or loosely as any crop
    setting would.
    """
    source = DemoSource("speaker", TRAINING_SEEDS + seed, seed, 1, seconds, SOURCE_SIZE)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speaker.mp4"
        render_source(source, path)
        points = np.load(path.with_suffix(".landmarks.npy"))
        samples = read_audio(path, 0.0, seconds)
        frames = np.stack(list(read_frames(path)))
    rng = np.random.default_rng((seed, 5))
    middle = np.median(points, axis=0)
    low, high = middle.min(axis=0), middle.max(axis=0)
    side = round((high - low).max() * rng.uniform(1.15, 1.75))
    x0, y0 = np.rint((low + high) / 2 - side / 2 + rng.uniform(-0.06, 0.06, 2) * side).astype(int)
    crop = np.empty((len(frames), CROP_SIZE, CROP_SIZE, 3), np.uint8)
    interpolation = cv2.INTER_AREA if side > CROP_SIZE else cv2.INTER_LINEAR
    for i, frame in enumerate(frames):
        # The crop may reach beyond the frame, whose border is repeated there.
        wide = cv2.copyMakeBorder(frame, side, side, side, side, cv2.BORDER_REPLICATE)
        part = wide[y0 + side : y0 + 2 * side, x0 + side : x0 + 2 * side]
        crop[i] = cv2.resize(part, (CROP_SIZE, CROP_SIZE), interpolation=interpolation)
    scale = CROP_SIZE / side
    return DrawnCrop(crop, ((points - (x0, y0) + 0.5) * scale - 0.5).astype(np.float32), samples)
