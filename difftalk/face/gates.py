"""The quality gates on what was measured of a clip: each says what it measured and what it asks for."""

import numpy as np

from difftalk.config.gates import GatesSettings
from difftalk.face.clip_scores import ClipScores, cuts_of
from difftalk.media.clock import FPS
from difftalk.runtime.errors import ClipError

# Cuts whose times are in the detail of a reject.
CUTS_LISTED = 5


def verdict(scores: ClipScores, gates: GatesSettings) -> ClipError | None:
    """Return why a clip cannot be used; None if it can.

    The reason that explains the others comes first: after a cut the face is often gone or elsewhere. But
    where hardly any frame before it had a face, that is the reason. Once too many frames lack the face, the
    rest of the clip has no say.
    """
    if scores.reason:
        return ClipError(scores.reason, scores.detail)
    rate = gates.min_detection_rate or 0.0
    seen = np.zeros(scores.inspected_frames, bool)
    seen[[k for track in scores.tracks for k in track]] = True
    too_many = np.flatnonzero(np.cumsum(~seen) > scores.frames - rate * scores.frames)
    lost = len(too_many) > 0
    count = int(too_many[0]) + 1 if lost else scores.inspected_frames
    detected = int(seen[:count].sum())
    longest = max((sum(k < count for k in track) for track in scores.tracks), default=0)
    hardly_any = ClipError(
        "no_face",
        f"a face in {detected} of the first {count} of {scores.frames} frames, min_detection_rate={rate:g}",
    )
    if detected == 0 or (lost and longest < count / 2):
        return hardly_any
    if (cut := scene_cut(scores, count, gates)) is not None:
        return cut
    if lost:
        return hardly_any
    if longest < rate * count:
        detail = f"the longest track has {longest} of {count} frames, min_detection_rate={rate:g}"
        return ClipError("unstable_face" if detected >= rate * count else "no_face", detail)
    for gate in (small_face, several_faces, frozen, mouth_outside, turned_head, blurred, occluded):
        if (error := gate(scores, gates)) is not None:
            return error
    return None


def cuts(scores: ClipScores, ratio: float) -> list[int]:
    """Return the frames with which a scene begins: their change is `ratio` times those around, or more."""
    return cuts_of(zip(scores.change_frames, scores.change_ratios, strict=True), ratio)


def scene_cut(scores: ClipScores, count: int, gates: GatesSettings) -> ClipError | None:
    """Return the error `scene_cut` with the times of the first cuts in `count` frames; None without any."""
    if gates.scene_cut_ratio is None:
        return None
    found = [k for k in cuts(scores, gates.scene_cut_ratio) if k < count]
    if not found:
        return None
    times = ", ".join(f"{k / FPS:.2f} s" for k in found[:CUTS_LISTED])
    more = f" and {len(found) - CUTS_LISTED} more" if len(found) > CUTS_LISTED else ""
    return ClipError("scene_cut", f"at {times}{more} of the clip")


def small_face(scores: ClipScores, gates: GatesSettings) -> ClipError | None:
    """Return the error `small_face` where the face is too narrow; else None."""
    limit, width = gates.min_face_px, scores.face_px
    if limit is None or width is None or width >= limit:
        return None
    return ClipError("small_face", f"median width {width:.0f} pixels, min_face_px={limit}")


def several_faces(scores: ClipScores, gates: GatesSettings) -> ClipError | None:
    """Return the error `several_faces` where too many of the inspected frames show another; else None."""
    limit, seen, inspected = gates.several_faces_share, scores.others_seen, scores.others_inspected
    if limit is None or seen <= limit * inspected:
        return None
    detail = f"another face at least half as wide in {seen} of {inspected} inspected frames"
    return ClipError("several_faces", f"{detail}, several_faces_share={limit:g}")


def frozen(scores: ClipScores, gates: GatesSettings) -> ClipError | None:
    """Return the error `frozen` where the video freezes for too long; else None."""
    limit, start, length = gates.frozen_seconds, scores.freeze_start, scores.freeze_frames
    if limit is None or length <= limit * FPS:
        return None
    detail = f"the video freezes for {length / FPS:.2f} s from {start / FPS:.2f} s of the clip on"
    return ClipError("frozen", f"{detail}, frozen_seconds={limit:g}")


def mouth_outside(scores: ClipScores, gates: GatesSettings) -> ClipError | None:
    """Return the error `out_of_frame` where chin or mouth leave the frame for too long; else None."""
    limit, outside = gates.mouth_outside_frames, scores.mouth_outside_frames
    if limit is None or outside is None or outside <= limit:
        return None
    detail = f"chin or mouth outside the frame in {outside} frames"
    return ClipError("out_of_frame", f"{detail}, mouth_outside_frames={limit}")


def turned_head(scores: ClipScores, gates: GatesSettings) -> ClipError | None:
    """Return the error `turned_head` where the head is turned too far; else None."""
    for angle, limit in (("yaw", gates.max_yaw_degrees), ("pitch", gates.max_pitch_degrees)):
        low, high = getattr(scores, f"{angle}_min"), getattr(scores, f"{angle}_max")
        if limit is not None and low is not None and high is not None and max(-low, high) > limit:
            detail = f"{angle} from {low:.0f} to {high:.0f} degrees, max_{angle}_degrees={limit:g}"
            return ClipError("turned_head", detail)
    return None


def blurred(scores: ClipScores, gates: GatesSettings) -> ClipError | None:
    """Return the error `blurred` where the face is not sharp enough; else None."""
    limit, found = gates.min_sharpness, scores.face_sharpness
    if limit is None or found is None or found >= limit:
        return None
    return ClipError("blurred", f"sharpness {found:.3g}, min_sharpness={limit:g}")


def occluded(scores: ClipScores, gates: GatesSettings) -> ClipError | None:
    """Return the error `occluded` where the points of the mouth are too uncertain; else None."""
    limit, found = gates.min_mouth_score, scores.mouth_score
    if limit is None or found is None or found >= limit:
        return None
    return ClipError("occluded", f"mouth score {found:.2f}, min_mouth_score={limit:g}")
