"""Landmark backend `face_alignment`: S3FD detector and FAN-4 landmarks (Bulat and Tzimiropoulos, 2017), with torch."""

from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import numpy as np

from difftalk.errors import UserError
from difftalk.face.tracks import SAME_FACE_IOU, Face, FaceBox, iou

# Mean height of the landmark heat maps below which there is no face in the box any more.
MIN_LANDMARK_SCORE = 0.2


def follow(frames: Iterable[np.ndarray], detect_every: int, min_face_px: float) -> Iterator[Face | None]:
    """One face, or None, for each `(H, W, 3)` uint8 RGB picture: the largest, for as long as it is there.

    Args:
        detect_every: the detector runs at every so many pictures, and whenever there is no face.
        min_face_px: smaller faces are passed over.

    Raises:
        UserError: if the networks' weights are not there and cannot be downloaded.
    """
    net = _networks()
    known: FaceBox | None = None
    for k, frame in enumerate(frames):
        if known is None or k % detect_every == 0:
            boxes = [np.asarray(b[:4], float) for b in net.face_detector.detect_from_image(frame.copy())]
            boxes = [b for b in boxes if b[2] - b[0] >= min_face_px]
            box = _choose(boxes, known.box if known is not None else None)
            if box is None:
                known = None
            elif known is None or iou(box, known.box) < SAME_FACE_IOU:
                known = FaceBox(box)
            else:
                known.correct(box)
        if known is None:
            yield None
            continue
        points, scores, _ = net.get_landmarks_from_image(
            frame, detected_faces=[known.box], return_bboxes=True, return_landmark_score=True
        )
        score = float(np.mean(scores[0]))
        if score < MIN_LANDMARK_SCORE:
            known = None
            yield None
            continue
        yield Face(known.box, points[0].astype(np.float32), score)
        known.follow(points[0])


def _choose(boxes: list[np.ndarray], last: np.ndarray | None) -> np.ndarray | None:
    """The box that overlaps `last` best, if any does; else the largest."""
    if last is not None:
        nearest = max(boxes, key=lambda b: iou(b, last), default=None)
        if nearest is not None and iou(nearest, last) >= SAME_FACE_IOU:
            return nearest
    return max(boxes, key=lambda b: (b[2] - b[0]) * (b[3] - b[1]), default=None)


@cache
def _networks() -> Any:
    import torch
    from face_alignment import FaceAlignment, LandmarksType

    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return FaceAlignment(
            LandmarksType.TWO_D, device=device, flip_input=False, face_detector="sfd", compile=False
        )
    except OSError as e:  # urllib's errors are among them
        folder = f"{torch.hub.get_dir()}/checkpoints"
        raise UserError(
            f"landmarks: face_alignment's weights (2DFAN4-11f355bf06.pth.tar, s3fd-619a316812.pth) are not in {folder} "
            f"and cannot be downloaded ({e}): put them there, or set landmarks.backend: dlib"
        ) from e
