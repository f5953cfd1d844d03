"""Stage `landmarks`: the face of each clip and its 68 points in every frame, in pixels of the source."""

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from difftalk.datasets.clips import Clip, clips_with_sources
from difftalk.face.gates import PictureGates, Watch, frozen, scene_cut, several_faces
from difftalk.face.table import SCHEMA
from difftalk.face.tracks import Face, fill_gaps, smooth, split_tracks
from difftalk.media.clock import FPS
from difftalk.media.video import LazyFrame, read_lazy_frames
from difftalk.runtime.errors import ClipError
from difftalk.runtime.files import atomic_file
from difftalk.runtime.parallel import map_clips
from difftalk.runtime.rejects import Reject, check_fraction, write_rejects

# Width in pixels down to which faces are looked for where no smallest one is asked for.
SMALLEST_FACE_PX = 40
QUALITY_COLUMNS = ("clip_id", "frames", "detected", "nme")


@dataclass(frozen=True)
class Settings:
    """The config's `landmarks` section, with the gates on pictures.

    Args:
        backend: `dlib`, whose weights come from the package index, or `face_alignment`.
        detect_every: frames from one run of the face detector to the next; in between the box follows the points.
        min_detection_rate: part of a clip's frames in which the face must be found; None takes every clip that has
            one in any frame.
        min_face_px: median width of the face box, in pixels of the source, below which a clip is rejected; None takes
            every face that is found.
        gates: of the config's `gates` section, those on pictures.
    """

    backend: Literal["dlib", "face_alignment"] = "dlib"
    detect_every: int = 5
    min_detection_rate: float | None = 0.95
    min_face_px: int | None = 48
    gates: PictureGates = field(default_factory=PictureGates)


@dataclass(frozen=True)
class Track:
    """The face of one clip: frames `(n,)`, boxes `(n, 4)`, points `(n, 68, 2)`, scores `(n,)` of the frames that have it.

    count: frames of the clip. nme: mean distance to the true points over the distance of the outer eye corners; None
    without truth. reject: why the clip is not used.
    """

    frames: np.ndarray
    boxes: np.ndarray
    points: np.ndarray
    scores: np.ndarray
    count: int
    nme: float | None = None
    reject: ClipError | None = None


@dataclass(frozen=True)
class _Job:
    clip: Clip
    source: Path
    settings: Settings


def run(
    *,
    plan: Path,
    shard: str,
    sources: Path,
    settings: Settings,
    out: Path,
    quality: Path,
    rejects: Path,
    max_reject_fraction: float,
    workers: int,
) -> None:
    """Write the landmarks of a shard, and how many frames of each clip have a face.

    Args:
        plan: the clip table. shard: such as `train-003`. sources: `sources/{shard}`.
        out: `landmarks/{shard}.parquet`, the clips kept, frames with a face only: clip_id, frame (25 per second, from
            the start of the clip), box, points (x y interleaved, smoothed by `tracks.smooth`), score.
        quality: `landmarks/{shard}.quality.csv`, every clip that could be decoded: clip_id, frames, detected, nme (empty
            without truth). Of a clip without a face, the frames up to where this was clear.
        rejects: `rejects/landmarks/{shard}.csv`.
        max_reject_fraction: fail where more than this part of the clips is lost.
        workers: processes, each with one clip at a time; `face_alignment` uses no more than two on a GPU.

    Raises:
        UserError: as `check_fraction`, and where the backend's weights are missing.
    """
    if settings.backend == "face_alignment":
        from difftalk.face.face_alignment_backend import processes

        workers = processes(workers)
    pairs = clips_with_sources(plan, shard, sources)
    jobs = [(clip.clip_id, _Job(clip, source, settings)) for clip, source in pairs]
    lost: list[Reject] = []
    rows: list[tuple[str, int, int, str]] = []
    with atomic_file(out) as beside, pq.ParquetWriter(beside, SCHEMA) as writer:
        lengths = [clip.frames for clip, _ in pairs]
        tracks = map_clips(clip_landmarks, jobs, stage="landmarks", workers=workers, lengths=lengths)
        for clip_id, track in tracks:
            if isinstance(track, Reject):
                lost.append(track)
                continue
            nme = "" if track.nme is None else f"{track.nme:.5f}"
            rows.append((clip_id, track.count, len(track.frames), nme))
            if track.reject is not None:
                lost.append(Reject.of(clip_id, "landmarks", track.reject))
            else:
                writer.write_table(_table(clip_id, track))
        check_fraction("landmarks", len(pairs), lost, max_reject_fraction)
    with atomic_file(quality) as beside, beside.open("w", newline="", encoding="utf-8") as csv_file:
        table = csv.writer(csv_file, lineterminator="\n")
        table.writerow(QUALITY_COLUMNS)
        table.writerows(sorted(rows))
    write_rejects(rejects, lost)


def clip_landmarks(job: _Job) -> Track:
    """Follow the face of one clip.

    Raises:
        ClipError: where the source cannot be decoded; other reasons are in the track.
    """
    clip, settings = job.clip, job.settings
    frames = read_lazy_frames(job.source, clip.start_s, clip.end_s)
    asked = clip.frames
    may_lack = asked - (settings.min_detection_rate or 0.0) * asked
    watch = Watch(settings.gates)
    faces: list[Face | None] = []
    lacking = 0
    for face in _follow(watch.through(frames), settings):
        faces.append(face)
        lacking += face is None
        if lacking > may_lack:
            break
    tracks = sorted(split_tracks(faces), key=len, reverse=True)
    track = _track(faces, tracks[0] if tracks else [])
    truth = job.source.with_name(f"{clip.source_id}.landmarks.npy")
    nme = _nme(track, truth, round(clip.start_s * FPS)) if truth.is_file() else None
    reject = _verdict(faces, track, watch, settings, stopped=lacking > may_lack, asked=asked)
    return Track(
        track.frames,
        track.boxes,
        track.points,
        track.scores,
        len(faces),
        nme,
        reject,
    )


def _follow(frames: Iterable[LazyFrame], settings: Settings) -> Iterator[Face | None]:
    smallest = settings.min_face_px or SMALLEST_FACE_PX
    if settings.backend == "dlib":
        from difftalk.face import dlib_backend as dlib_faces

        return dlib_faces.follow(frames, settings.detect_every, smallest)
    from difftalk.face import face_alignment_backend as fan_faces

    return fan_faces.follow((f[:, :] for f in frames), settings.detect_every, smallest)


def _track(faces: list[Face | None], frames: list[int]) -> Track:
    """The faces of one track, their points smoothed in time as if its gaps were filled."""
    own = [f for k in frames if (f := faces[k]) is not None]
    if not own:
        none = np.zeros((0, 68, 2), np.float32)
        return Track(
            np.zeros(0, np.int32), np.zeros((0, 4), np.float32), none, np.zeros(0, np.float32), len(faces)
        )
    numbers = np.asarray(frames, np.int32)
    first = numbers[0]
    points = np.stack([f.points for f in own]).astype(np.float32)
    every = fill_gaps(numbers - first, points, int(numbers[-1] - first) + 1)
    calm = smooth(every)[numbers - first]
    boxes = np.stack([f.box for f in own]).astype(np.float32)
    return Track(numbers, boxes, calm, np.array([f.score for f in own], np.float32), len(faces))


def _verdict(
    faces: list[Face | None],
    track: Track,
    watch: Watch,
    settings: Settings,
    *,
    stopped: bool,
    asked: int,
) -> ClipError | None:
    """Why a clip cannot be used; None if it can.

    What explains the others comes first: after a cut the face is often gone or elsewhere. But where there was hardly a
    face to begin with, that is what its owner should know.
    """
    rate = settings.min_detection_rate or 0.0
    anywhere = sum(f is not None for f in faces)
    hardly_any = ClipError(
        "no_face",
        f"a face in {anywhere} of the first {len(faces)} of {asked} frames, min_detection_rate={rate:g}",
    )
    if anywhere == 0 or (stopped and len(track.frames) < len(faces) / 2):
        return hardly_any
    if (cut := scene_cut(watch.cuts(), settings.gates)) is not None:
        return cut
    if stopped:
        return hardly_any
    if len(track.frames) < rate * len(faces):
        detail = (
            f"the longest track has {len(track.frames)} of {len(faces)} frames, min_detection_rate={rate:g}"
        )
        return ClipError("unstable_face" if anywhere >= rate * len(faces) else "no_face", detail)
    width = float(np.median(track.boxes[:, 2] - track.boxes[:, 0]))
    if settings.min_face_px is not None and width < settings.min_face_px:
        return ClipError("small_face", f"median width {width:.0f} pixels, min_face_px={settings.min_face_px}")
    several = several_faces(faces, settings.gates)
    return several if several is not None else frozen(watch.standstill(), settings.gates)


def _nme(track: Track, truth: Path, first: int) -> float | None:
    """Normalised mean error of a track's points against the truth of its source, whose frame `first` is the clip's 0."""
    true = np.load(truth, mmap_mode="r")
    numbers = track.frames + first
    there = numbers < len(true)
    if not there.any():
        return None
    expected, found = np.asarray(true[numbers[there]]), track.points[there]
    eyes = np.linalg.norm(expected[:, 36] - expected[:, 45], axis=1)
    return float((np.linalg.norm(found - expected, axis=2).mean(axis=1) / eyes).mean())


def _table(clip_id: str, track: Track) -> pa.Table:
    columns = {
        "clip_id": [clip_id] * len(track.frames),
        "frame": track.frames,
        "box": list(track.boxes),
        "points": list(track.points.reshape(-1, 136)),
        "score": track.scores,
    }
    return pa.table(columns, schema=SCHEMA)
