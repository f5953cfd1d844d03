"""Landmark backend `face_alignment`: S3FD detector and FAN-4 landmarks, with torch.

FAN is that of Bulat and Tzimiropoulos (2017). The networks are the library's, their weights those of
`difftalk weights`; the library's own loop, which looks at one frame at a time, is not used. Here a window of
frames is read, the detector runs on every k-th of them at once, boxes in between are interpolated, and the
landmark network runs on the whole window at once. The detector runs again on frames for which the
interpolation may be wrong: where a face appears, disappears or jumps, and where the landmarks score so low
that there is none in the box. With a GPU, the next window is decoded meanwhile, in a thread.
"""

import multiprocessing
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import torch
from face_alignment.detection.sfd.bbox import nms
from face_alignment.detection.sfd.net_s3fd import s3fd
from face_alignment.models import FAN
from face_alignment.utils import crop
from safetensors.torch import load_file

from difftalk.config.landmarks import LandmarksSettings
from difftalk.face.tracks import SAME_FACE_IOU, Face
from difftalk.media import torchcodec_reader
from difftalk.media.boxes import iou
from difftalk.media.lazy_frame import LazyFrame
from difftalk.media.points68 import MOUTH
from difftalk.media.read_ahead import read_ahead
from difftalk.media.video import read_lazy_frames
from difftalk.pretrained.table import locate
from difftalk.runtime.device import default_device, tell

ASKED_BY = "landmarks.backend: face_alignment"
# Frames in memory: 300 MB at 1080p.
WINDOW = 48
# Batch sizes of the detector and the landmark network. On a CPU larger ones gain nothing and cost memory; on
# a GPU the detector's largest tensor has 0.5 GB for 8 images of half of 1080p, the landmark network's 0.2 GB,
# in bfloat16.
BATCH_SIZES = {"cpu": (1, 8), "cuda": (8, WINDOW + 1)}
# On a GPU, of each process that follows clips: context 0.5 GB, networks and their largest pass 1.3 GB.
GPU_BYTES_PER_PROCESS = 2 * 10**9

# Width of a face that the detector reliably finds, and longer side of a frame that is not scaled down for it.
DETECTOR_PX, SEARCHED_PX = 24, 640
MIN_SCORE, MAX_OVERLAP = 0.5, 0.3  # of the library's detector
# Boxes of two detections that overlap less are not interpolated.
STEADY_IOU = 0.5
# Mean height of the landmark heat maps below which there is no face in the box.
MIN_LANDMARK_SCORE = 0.2

# Of the library (`face_alignment.utils`, `face_alignment.api`): how a landmark crop lies around a box.
REFERENCE_PX, CENTRE_UP, CROP_PX = 195.0, 0.12, 200.0
# S3FD's mean colour, BGR, and the variances of its box code.
MEAN_BGR, VARIANCES = (104.0, 117.0, 123.0), (0.1, 0.2)


@dataclass(frozen=True)
class Detection:
    """The face chosen in one frame.

    Args:
        box: `(4,)` in pixels.
        others: number of further faces that are at least half as wide; None where the box was interpolated.
    """

    box: np.ndarray
    others: int | None = None


def processes(settings: LandmarksSettings, workers: int) -> int:
    """Return how many of `workers` processes shall follow clips: all, or as many as fit into a GPU's memory.

    By far the most of a frame's time is decoding, cutting and measuring on a CPU core.

    Raises:
        UserError: if weights or the reader are missing, or a GPU that is reserved, before any process is
            started.
    """
    for name in ("s3fd", "2dfan4"):
        locate(name, asked_by=ASKED_BY)
    if settings.reader == "torchcodec":
        torchcodec_reader.check_installed("landmarks.reader: torchcodec")
    device = default_device()
    tell("landmarks", device, "bf16" if device == "cuda" else "float32")
    if device != "cuda":
        return workers
    free, _ = torch.cuda.mem_get_info()
    return max(1, min(workers, free // GPU_BYTES_PER_PROCESS))


def read(
    source: Path, start_s: float, end_s: float, settings: LandmarksSettings
) -> Iterator[np.ndarray | LazyFrame]:
    """Yield the frames of a clip; with a GPU, up to a window of them is decoded in advance.

    On CPUs nothing is: each has its process, and the networks take far longer than the decoder.

    Raises:
        ClipError: where the source cannot be decoded.
    """
    device = default_device()
    frames: Iterator[np.ndarray | LazyFrame]
    if settings.reader == "torchcodec":
        frames = torchcodec_reader.read_frames(source, start_s, end_s, device)
    else:
        frames = read_lazy_frames(source, start_s, end_s)
    return read_ahead(frames, WINDOW) if device == "cuda" else frames


def follow(
    frames: Iterable[np.ndarray | LazyFrame], detect_every: int, min_face_px: float
) -> Iterator[Face | None]:
    """Yield one face, or None, for each frame: the largest, for as long as it is there.

    Boxes are the detector's, the score is the mean height of the landmarks' heat maps, and points are those
    that the library gives for these boxes: whole pixels.

    Args:
        frames: `(H, W, 3)` uint8 RGB.
        detect_every: the detector runs on every so many frames, and where a face appears, disappears or
            jumps.
        min_face_px: smaller faces are ignored.

    Raises:
        UserError: if the networks' weights are missing.
    """
    return follow_by(networks(), (frame[:, :] for frame in frames), detect_every, min_face_px)


def follow_by(
    nets: "Networks", frames: Iterable[np.ndarray], detect_every: int, min_face_px: float
) -> Iterator[Face | None]:
    """Do as `follow`, with the given networks."""
    start: Detection | None = None  # in the first frame of the window
    last: np.ndarray | None = None
    for number, (window, ended) in enumerate(_windows(frames, max(WINDOW // detect_every, 1) * detect_every)):
        # Both ends of every interval; the first frame of a later window is the last of the one before.
        at = list(range(0, len(window), detect_every))
        at += [len(window) - 1] if at[-1] != len(window) - 1 else []
        seen: dict[int, Detection | None] = {0: start} if number else {}
        new = [k for k in at if k not in seen]
        for k, boxes in zip(new, nets.detect([window[k] for k in new], min_face_px), strict=True):
            seen[k] = choose(boxes, last)
            last = last if (chosen := seen[k]) is None else chosen.box
        start = seen[at[-1]]
        faces = _faces(nets, window, _every_frame(nets, window, seen, min_face_px), min_face_px)
        yield from faces if ended else faces[:-1]


def choose(boxes: np.ndarray, last: np.ndarray | None) -> Detection | None:
    """Return the box that overlaps `last` best, if any does; else the largest; None of none.

    Args:
        boxes: `(n, 4)`, all faces of one frame.
        last: `(4,)`, the latest known box.
    """
    if len(boxes) == 0:
        return None
    widths = boxes[:, 2] - boxes[:, 0]
    overlaps = [iou(b, last) for b in boxes] if last is not None else [0.0]
    k = int(np.argmax(overlaps if max(overlaps) >= SAME_FACE_IOU else widths))
    return Detection(boxes[k], int((widths >= widths[k] / 2).sum()) - 1)


def _windows(frames: Iterable[np.ndarray], size: int) -> Iterator[tuple[list[np.ndarray], bool]]:
    """Yield lists of `size + 1` frames, and whether it is the last one.

    The last frame of a list is the first of the next.
    """
    window: list[np.ndarray] = []
    for frame in frames:
        if len(window) == size + 1:
            yield window, False
            window = window[-1:]
        window.append(frame)
    if window:
        yield window, True


def _every_frame(
    nets: "Networks",
    window: Sequence[np.ndarray],
    seen: dict[int, Detection | None],
    min_face_px: float,
) -> list[Detection | None]:
    """Extend the detections in some frames, the first and the last among them, to all frames of a window."""
    every: list[Detection | None] = [seen.get(k) for k in range(len(window))]
    at = sorted(seen)
    uncertain: list[int] = []
    for a, b in pairwise(at):
        first, second = seen[a], seen[b]
        if first is None and second is None:
            continue
        if first is None or second is None or iou(first.box, second.box) < STEADY_IOU:
            uncertain.extend(range(a + 1, b))
            continue
        for k in range(a + 1, b):
            every[k] = Detection(first.box + (second.box - first.box) * ((k - a) / (b - a)))
    for k, boxes in zip(uncertain, nets.detect([window[k] for k in uncertain], min_face_px), strict=True):
        near = next((s for s in (every[k - 1], every[k + 1]) if s is not None), None)
        every[k] = choose(boxes, near.box if near is not None else None)
    return every


def _faces(
    nets: "Networks", window: Sequence[np.ndarray], every: list[Detection | None], min_face_px: float
) -> list[Face | None]:
    """Return the faces of a window.

    Where one scores too low in an interpolated box, the detector runs on that frame too.
    """
    faces = _landmarks(nets, window, every)
    again = [k for k, s in enumerate(every) if s is not None and s.others is None and faces[k] is None]
    detected: list[Detection | None] = [None] * len(window)
    for k, boxes in zip(again, nets.detect([window[k] for k in again], min_face_px), strict=True):
        known = every[k]
        detected[k] = choose(boxes, known.box if known is not None else None)
    return [f or g for f, g in zip(faces, _landmarks(nets, window, detected), strict=True)]


def _landmarks(
    nets: "Networks", window: Sequence[np.ndarray], every: list[Detection | None]
) -> list[Face | None]:
    faces: list[Face | None] = [None] * len(window)
    there = [(k, s) for k, s in enumerate(every) if s is not None]
    points, scores = nets.landmarks([window[k] for k, _ in there], [s.box for _, s in there])
    means = scores.mean(axis=1)
    for (k, s), own, score, each in zip(there, points, means, scores, strict=True):
        if score >= MIN_LANDMARK_SCORE:
            faces[k] = Face(s.box, own, float(score), s.others, float(np.clip(each[MOUTH].mean(), 0, 1)))
    return faces


class Networks:
    """Both networks on one device: bfloat16 on a GPU, float32 on CPUs.

    Args:
        detector: S3FD.
        landmark_net: FAN.
        device: such as `cuda`.
    """

    def __init__(self, detector: torch.nn.Module, landmark_net: torch.nn.Module, device: str) -> None:
        self.device = torch.device(device)
        self.batch_sizes = BATCH_SIZES[self.device.type]
        self.detector = detector.eval().to(self.device).to(memory_format=torch.channels_last)
        self.landmark_net = landmark_net.eval().to(self.device).to(memory_format=torch.channels_last)

    def detect(self, frames: Sequence[np.ndarray], min_face_px: float) -> list[np.ndarray]:
        """Return the boxes of the faces in each frame that are large enough.

        They are `(n, 4)` float64, the best score first. Large frames are scaled down as far as `min_face_px`
        allows.
        """
        found: list[np.ndarray] = []
        for k in range(0, len(frames), self.batch_sizes[0]):
            found += self._detect(frames[k : k + self.batch_sizes[0]], min_face_px)
        return found

    def landmarks(
        self, frames: Sequence[np.ndarray], boxes: Sequence[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return points `(n, 68, 2)` float32 in pixels, and their scores `(n, 68)`, of one box in each frame.

        They are those of `face_alignment.FaceAlignment.get_landmarks_from_image(frame, [box])`.
        """
        if not frames:
            return np.zeros((0, 68, 2), np.float32), np.zeros((0, 68), np.float32)
        corners = np.asarray(boxes, np.float64).reshape(-1, 2, 2)
        sides = corners[:, 1] - corners[:, 0]
        centres = corners[:, 1] - sides / 2
        centres[:, 1] -= CENTRE_UP * sides[:, 1]
        scales = sides.sum(axis=1) / REFERENCE_PX
        cut = np.stack([crop(f, c, s) for f, c, s in zip(frames, centres, scales, strict=True)])
        size = self.batch_sizes[1]
        parts = [self._peaks(cut[k : k + size]) for k in range(0, len(cut), size)]
        cells, scores = (torch.cat(part).cpu().numpy() for part in zip(*parts, strict=True))
        within = cells.astype(np.float64) / 64 - 0.5
        points = within * (CROP_PX * scales)[:, None, None] + centres[:, None]
        return np.trunc(points).astype(np.float32), scores

    def _peaks(self, crops: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.inference_mode(), self._precision():
            batch = torch.from_numpy(crops).to(self.device).permute(0, 3, 1, 2)
            return peaks(self.landmark_net(batch.float() / 255)[-1].float())

    def _detect(self, frames: Sequence[np.ndarray], min_face_px: float) -> list[np.ndarray]:
        scale = min(max(SEARCHED_PX / max(frames[0].shape[:2]), DETECTOR_PX / min_face_px), 1.0)
        if scale < 1:
            frames = [cv2.resize(f, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) for f in frames]
        with torch.inference_mode(), self._precision():
            batch = torch.from_numpy(np.stack(frames)).to(self.device).permute(0, 3, 1, 2)
            mean = torch.tensor(MEAN_BGR, device=self.device).view(1, 3, 1, 1)
            outputs = self.detector(batch.flip(1).float() - mean)
            owner, found = _boxes(outputs)
        owners, rows = owner.cpu().numpy(), found.cpu().numpy().astype(np.float64)
        of_each = [rows[owners == k] for k in range(len(frames))]
        kept = [own[nms(own, MAX_OVERLAP)][:, :4] / scale for own in of_each]
        return [own[own[:, 2] - own[:, 0] >= min_face_px] for own in kept]

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")


@cache
def networks() -> Networks:
    """Return the networks of this process.

    Raises:
        UserError: if the weights are missing.
    """
    if multiprocessing.parent_process() is not None:
        # One of a pool, which has as many processes as threads.
        torch.set_num_threads(1)
    detector, landmark_net = s3fd(), FAN(4)
    detector.load_state_dict(load_file(locate("s3fd", asked_by=ASKED_BY)))
    landmark_net.load_state_dict(load_file(locate("2dfan4", asked_by=ASKED_BY)))
    return Networks(detector, landmark_net, default_device())


def peaks(maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the positions of the maxima of heat maps, and their values `(B, 68)`.

    Positions are `(B, 68, 2)`, x and y in cells from the map's edge. Each is a quarter of a cell towards the
    higher neighbour on each axis, except at the border (`face_alignment.utils.get_preds_fromhm`).

    Args:
        maps: `(B, 68, h, w)`.
    """
    height, width = maps.shape[2:]
    flat = maps.flatten(2)
    scores, at = flat.max(dim=2)
    x, y = at % width, at // width
    inner = (x > 0) & (x < width - 1) & (y > 0) & (y < height - 1)
    # At the border the peak itself stands for its neighbours: no step.
    sides = [torch.where(inner, at + step, at) for step in (1, -1, width, -width)]
    right, left, below, above = (flat.gather(2, side[..., None])[..., 0] for side in sides)
    steps = 0.25 * torch.sign(torch.stack([right - left, below - above], dim=-1))
    return torch.stack([x, y], dim=-1) + 0.5 + steps, scores


def _boxes(outputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Turn S3FD's outputs of six scales into the frame `(n,)` and the box and score `(n, 5)` of each face."""
    owners, rows = [], []
    for level, (classes, code) in enumerate(zip(outputs[::2], outputs[1::2], strict=True)):
        stride = 2 ** (level + 2)
        scores = classes.float().softmax(dim=1)[:, 1]
        owner, y, x = torch.nonzero(scores > MIN_SCORE, as_tuple=True)
        own = code.float()[owner, :, y, x]
        prior = 4.0 * stride
        centre = (torch.stack([x, y], dim=1) + 0.5) * stride + own[:, :2] * VARIANCES[0] * prior
        half = prior * torch.exp(own[:, 2:] * VARIANCES[1]) / 2
        owners.append(owner)
        rows.append(torch.cat([centre - half, centre + half, scores[owner, y, x, None]], dim=1))
    return torch.cat(owners), torch.cat(rows)
