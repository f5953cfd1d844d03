"""The scores of a clip: what the stage `landmarks` measured of it, whatever the gates will say.

A value that could not be measured is None, never a number.
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from difftalk.runtime.errors import UserError
from difftalk.runtime.parquet import read_parquet, types_of, write_parquet

SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("frames", pa.int32()),
        ("inspected_frames", pa.int32()),
        ("tracks", pa.list_(pa.list_(pa.int32()))),
        ("others_inspected", pa.int32()),
        ("others_seen", pa.int32()),
        ("change_frames", pa.list_(pa.int32())),
        ("change_ratios", pa.list_(pa.float32())),
        ("freeze_start", pa.int32()),
        ("freeze_frames", pa.int32()),
        ("mouth_outside_frames", pa.int32()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("fps", pa.float32()),
        ("codec", pa.string()),
        ("face_px", pa.float32()),
        ("yaw_min", pa.float32()),
        ("yaw_max", pa.float32()),
        ("pitch_min", pa.float32()),
        ("pitch_max", pa.float32()),
        ("roll_min", pa.float32()),
        ("roll_max", pa.float32()),
        ("mouth_spread", pa.float32()),
        ("mouth_speed", pa.float32()),
        ("mouth_score", pa.float32()),
        ("face_sharpness", pa.float32()),
        ("face_brightness", pa.float32()),
        ("brightness", pa.float32()),
        ("motion", pa.float32()),
        ("loudness_db", pa.float32()),
        ("speech_share", pa.float32()),
        ("thumbnail", pa.binary()),
    ]
)


@dataclass(frozen=True)
class ClipScores:
    """What was measured of one clip.

    Args:
        clip_id: of the plan.
        reason, detail: why nothing could be measured, as of a reject; empty where it could.
        frames: that the plan gives the clip.
        inspected_frames: in which a face was looked for: all, or fewer where the first ones show none.
        tracks: the frames of each face track, in the order of time; together all frames with a face.
        others_inspected, others_seen: frames in which other faces were counted; those with one at least half
            as wide.
        change_frames, change_ratios: of each candidate for a scene cut, its frame and the ratio of its change
            to those around.
        freeze_start, freeze_frames: of the longest freeze.
        mouth_outside_frames: frames in which a point of chin or mouth lies outside the frame.
        width, height, fps, codec: of the source.
        face_px: median width of the face box.
        yaw_min, yaw_max, pitch_min, pitch_max, roll_min, roll_max: degrees, 2nd and 98th percentile.
        mouth_spread: standard deviation of the inner lips' opening, in distances of the outer eye corners.
        mouth_speed: mean speed at which it changes, the same unit per second.
        mouth_score: confidence of the backend in the points of the mouth, 0..1, 10th percentile.
        face_sharpness: variance of the Laplacian of the face at 128 pixels, median.
        face_brightness, brightness: mean grey level of the face and of the frames, 0..255.
        motion: mean change of a pixel from one frame to the next, in grey levels of a copy of 160 pixels.
        loudness_db: root mean square, dB of full scale.
        speech_share: part of the audio that is speech, 0..1.
        thumbnail: JPEG of the face in the middle of the clip, or of a frame where there is none.
    """

    clip_id: str
    reason: str = ""
    detail: str = ""
    frames: int = 0
    inspected_frames: int = 0
    tracks: tuple[tuple[int, ...], ...] = ()
    others_inspected: int = 0
    others_seen: int = 0
    change_frames: tuple[int, ...] = ()
    change_ratios: tuple[float, ...] = ()
    freeze_start: int = 0
    freeze_frames: int = 0
    mouth_outside_frames: int | None = None
    width: int | None = None
    height: int | None = None
    fps: float | None = None
    codec: str | None = None
    face_px: float | None = None
    yaw_min: float | None = None
    yaw_max: float | None = None
    pitch_min: float | None = None
    pitch_max: float | None = None
    roll_min: float | None = None
    roll_max: float | None = None
    mouth_spread: float | None = None
    mouth_speed: float | None = None
    mouth_score: float | None = None
    face_sharpness: float | None = None
    face_brightness: float | None = None
    brightness: float | None = None
    motion: float | None = None
    loudness_db: float | None = None
    speech_share: float | None = None
    thumbnail: bytes | None = None

    @property
    def detected_frames(self) -> int:
        """Number of frames with a face."""
        return sum(map(len, self.tracks))


def cuts_of(changes: Iterable[tuple[int, float]], ratio: float) -> list[int]:
    """Return the frames whose change is at least `ratio` times the mean of those around.

    >>> cuts_of([(12, 1.5), (40, 9.0)], 4.5)
    [40]
    """
    return [k for k, of_change in changes if of_change >= ratio]


def write_scores(path: Path, scores: Iterable[ClipScores]) -> None:
    """Write the scores of a shard, whole or not at all."""
    rows = [dataclasses.asdict(of_clip) for of_clip in scores]
    write_parquet(path, pa.Table.from_pylist(rows, schema=SCHEMA))


def read_scores(path: Path) -> list[ClipScores]:
    """Return the scores of a shard, in the order of its clips.

    Raises:
        UserError: if the file is missing, damaged, or has other columns.
    """
    try:
        return [_scores(row) for row in read_parquet(path, "landmarks", types_of(SCHEMA)).to_pylist()]
    except (KeyError, TypeError) as e:
        raise UserError(f"{path} is no table of scores of `difftalk landmarks` ({e})") from e


def _scores(row: dict[str, Any]) -> ClipScores:
    lists = {key: tuple(row[key]) for key in ("change_frames", "change_ratios")}
    return ClipScores(**{**row, **lists, "tracks": tuple(map(tuple, row["tracks"]))})
