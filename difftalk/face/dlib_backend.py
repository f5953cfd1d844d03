"""Landmark backend `dlib`: HOG face detector and 68-point shape predictor, on the CPU.

The predictor's file comes with the package `face_recognition_models`, which is located and never imported.

The detector finds faces of 80 pixels and more, and its boxes jump by a tenth of a face between scales; the
predictor's points are whole pixels and follow the box. So the detector searches scaled-down frames first; it
only finds and confirms a face, whose box then follows its landmarks; and landmarks are the mean over several
boxes, predicted on an image in which the face is large.
"""

from collections.abc import Iterable, Iterator

import cv2
import numpy as np

from difftalk.face.choice import FaceChoice
from difftalk.face.tracks import SAME_FACE_IOU, Face, FaceBox
from difftalk.media.boxes import iou
from difftalk.media.lazy_frame import LazyFrame
from difftalk.media.points68 import MOUTH
from difftalk.pretrained.dlib_models import face_detector, predict_landmarks

DETECTOR_PX = 80  # width of the smallest face that the detector finds
SEARCHED_PX = (640, 1280)  # longer side of the images searched before the full frame
CLOSE_UP_PX = 84  # width of a known face when the detector confirms it
CLOSE_UP_AROUND = 0.4  # what is searched around it, on each side, parts of the width
OTHERS_EVERY = 25  # frames from one search for other faces to the next
OTHERS_PX = 960  # longer side, at most, of the image that is searched for them
FACE_PX = 300  # width of the face when its landmarks are predicted
MIN_SCORE, MIN_SCORE_KNOWN = 0.0, -0.3  # of a new face; of one that was there before
MIN_SCORE_OTHER = 0.2  # of one that counts against a clip
# Shifts (parts of the side) and sizes of the boxes over which landmarks are averaged: on drawn speakers,
# whose landmarks are known, one box jitters a third more than these two, and three are hardly better.
BOXES = ((0.03, -0.02, 0.98), (-0.03, 0.02, 1.02))
# Deviation of the predictions over these boxes, in face widths, from which on nothing is known of a mouth.
NO_AGREEMENT = 0.02


def follow(
    frames: Iterable[np.ndarray | LazyFrame],
    detect_every: int,
    min_face_px: float,
    choice: FaceChoice | None = None,
) -> Iterator[Face | None]:
    """Yield one face, or None, for each frame: the largest or a chosen one, for as long as it is there.

    Args:
        frames: `(H, W, 3)` uint8 RGB.
        detect_every: the detector confirms a known face in every so many frames.
        min_face_px: faces that are smaller than this, and than 80 pixels, are not searched for.
        choice: which of several faces; None: the largest that the coarsest search shows.

    Raises:
        UserError: if the predictor's file is not installed.
    """
    known: FaceBox | None = None
    last: np.ndarray | None = None
    score = 0.0
    for k, frame in enumerate(frames):
        due = k % detect_every == 0
        if known is None or due:
            found = _confirm(frame, known.box) if known is not None else None
            if found is None:
                thorough = due or known is not None
                if choice is None:
                    found = _search(frame, min_face_px if thorough else None, last)
                elif thorough:
                    found = choice.among(_search_all(frame, min_face_px), last)
            if found is None:
                known = None
                yield None
                continue
            box, score = found
            if known is None or iou(box, known.box) < SAME_FACE_IOU:
                # At the scale at which it will be confirmed from now on: boxes differ by scale.
                box, score = _confirm(frame, box) or found
                known = FaceBox(box)
                known.follow(_points(frame, box)[0])
            else:
                known.correct(box)
        points, mouth_score = _points(frame, known.box)
        last = known.box
        others = _others(frame, last) if k % OTHERS_EVERY == 0 else None
        yield Face(last, points, score, others, mouth_score)
        known.follow(points)


def _search(
    frame: np.ndarray | LazyFrame, min_face_px: float | None, last: np.ndarray | None
) -> tuple[np.ndarray, float] | None:
    """Return box and score of the face that was at `last`, else of the largest in the frame.

    Scales are searched from the coarsest to the first that shows a face; with `min_face_px` None only the
    coarsest.
    """
    side = max(frame.shape[:2])
    scales = {min(px / side, 1.0) for px in SEARCHED_PX}
    scales = scales | {1.0, max(DETECTOR_PX / min_face_px, 1.0)} if min_face_px is not None else {min(scales)}
    grey = _grey(frame, (slice(None), slice(None)))
    for scale in sorted(scales):
        found = _detect(grey, (0, 0), scale, MIN_SCORE)
        if found:
            if last is not None:
                nearest = max(found, key=lambda f: iou(f[0], last))
                if iou(nearest[0], last) >= SAME_FACE_IOU:
                    return nearest
            return max(found, key=lambda f: (f[0][2] - f[0][0]) * max(f[1], 0.1))
    return None


def _search_all(frame: np.ndarray | LazyFrame, min_face_px: float) -> list[tuple[np.ndarray, float]]:
    """Return box and score of every face in the frame."""
    grey = _grey(frame, (slice(None), slice(None)))
    return _detect(grey, (0, 0), max(DETECTOR_PX / min_face_px, 1.0), MIN_SCORE_OTHER)


def _confirm(frame: np.ndarray | LazyFrame, box: np.ndarray) -> tuple[np.ndarray, float] | None:
    """Return box and score of the face at `box`, searched for in its surroundings."""
    grey, corner = _surroundings(frame, box, CLOSE_UP_AROUND)
    found = _detect(grey, corner, CLOSE_UP_PX / (box[2] - box[0]), MIN_SCORE_KNOWN)
    found = [f for f in found if iou(f[0], box) >= SAME_FACE_IOU]
    return max(found, key=lambda f: iou(f[0], box)) if found else None


def _others(frame: np.ndarray | LazyFrame, box: np.ndarray) -> int:
    """Count the faces at least half as wide as that at `box` elsewhere in the frame.

    The frame is scaled so that the smallest of these is just large enough for the detector, but to OTHERS_PX
    at most.
    """
    grey = _grey(frame, (slice(None), slice(None)))
    width = float(box[2] - box[0])
    scale = min(2 * DETECTOR_PX / width, OTHERS_PX / max(grey.shape))
    found = [f for f, _ in _detect(grey, (0, 0), scale, MIN_SCORE_OTHER)]
    centres = [((f[0] + f[2]) / 2, (f[1] + f[3]) / 2) for f in found]
    elsewhere = [not (box[0] <= x <= box[2] and box[1] <= y <= box[3]) for x, y in centres]
    return sum(e and 2 * (f[2] - f[0]) >= width for f, e in zip(found, elsewhere, strict=True))


def _detect(
    grey: np.ndarray, corner: tuple[int, int], scale: float, min_score: float
) -> list[tuple[np.ndarray, float]]:
    """Return boxes in pixels of the frame, with scores, of the faces in a part of it that is scaled first."""
    scaled = _resize(grey, scale)
    # The detector needs some border around a face.
    pad = DETECTOR_PX // 4
    scaled = cv2.copyMakeBorder(scaled, pad, pad, pad, pad, cv2.BORDER_REPLICATE)
    rectangles, scores, _ = face_detector().run(scaled, 0, min_score)
    offset = np.array([*corner, *corner], float)
    sides = [np.array([r.left(), r.top(), r.right() + 1, r.bottom() + 1], float) - pad for r in rectangles]
    return [(side / scale + offset, float(s)) for side, s in zip(sides, scores, strict=True)]


def _points(frame: np.ndarray | LazyFrame, box: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the landmarks of the face in `box`, `(68, 2)` float32 in pixels, and the score of its mouth."""
    grey, corner = _surroundings(frame, box, 0.3)
    scale = FACE_PX / (box[2] - box[0])
    large = _resize(grey, scale)
    predicted = predict_landmarks(large, (box - [*corner, *corner]) * scale, BOXES)
    points = ((predicted.mean(axis=0) + 0.5) / scale - 0.5 + corner).astype(np.float32)
    return points, agreement(predicted[:, MOUTH] / FACE_PX)


def agreement(predicted: np.ndarray) -> float:
    """Return how well several predictions of the same points agree, 0..1: 1 where they are equal.

    Where something hides a mouth, the predictor finds it elsewhere from each box.

    Args:
        predicted: `(predictions, points, 2)` in widths of the face.
    """
    spread = float(np.linalg.norm(predicted.std(axis=0, ddof=1), axis=1).mean())
    return max(1 - spread / NO_AGREEMENT, 0.0)


def _surroundings(
    frame: np.ndarray | LazyFrame, box: np.ndarray, around: float
) -> tuple[np.ndarray, tuple[int, int]]:
    """Return the grey part of a frame around a box, and its corner (x, y).

    It extends the box by `around` times its side on each side.
    """
    height, width = frame.shape[:2]
    more = around * (box[2] - box[0])
    x0, y0 = max(int(box[0] - more), 0), max(int(box[1] - more), 0)
    x1, y1 = min(int(box[2] + more) + 1, width), min(int(box[3] + more) + 1, height)
    x0, y0 = min(x0, width - 1), min(y0, height - 1)
    return _grey(frame, (slice(y0, max(y1, y0 + 1)), slice(x0, max(x1, x0 + 1)))), (x0, y0)


def _grey(frame: np.ndarray | LazyFrame, part: tuple[slice, slice]) -> np.ndarray:
    return frame.grey(part) if isinstance(frame, LazyFrame) else cv2.cvtColor(frame[part], cv2.COLOR_RGB2GRAY)


def _resize(grey: np.ndarray, scale: float) -> np.ndarray:
    width, height = (max(round(side * scale), 1) for side in grey.shape[::-1])
    # Averaging four pixels is fast, averaging over other areas is not; below it, linear is enough.
    while 2 * width <= grey.shape[1] and 2 * height <= grey.shape[0]:
        grey = cv2.resize(grey, (grey.shape[1] // 2, grey.shape[0] // 2), interpolation=cv2.INTER_AREA)
    return cv2.resize(grey, (width, height), interpolation=cv2.INTER_LINEAR)
