"""The table of clip scores of a run, one row a planned clip, and its page of histograms and thumbnails."""

import base64
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from difftalk.config.gates import FrameGates, GatesSettings
from difftalk.datasets.clips import Clip
from difftalk.face.clip_scores import ClipScores
from difftalk.face.gates import cuts
from difftalk.media.clock import FPS
from difftalk.reporting.funnel import first_rejects
from difftalk.reporting.render import render
from difftalk.runtime.parquet import write_parquet
from difftalk.runtime.rejects import Reject

ANGLES = ("yaw", "pitch", "roll")
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("clip_id", "source_id", "identity", "split", "shard", "subset")),
        ("start_s", pa.float64()),
        ("duration_s", pa.float64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("fps", pa.float32()),
        ("codec", pa.string()),
        ("inspected_frames", pa.int32()),
        ("detection_rate", pa.float32()),
        ("face_px", pa.float32()),
        *((f"{angle}_{end}", pa.float32()) for angle in ANGLES for end in ("min", "max", "range")),
        ("mouth_spread", pa.float32()),
        ("mouth_speed", pa.float32()),
        ("mouth_outside_frames", pa.int32()),
        ("mouth_score", pa.float32()),
        ("face_sharpness", pa.float32()),
        ("face_brightness", pa.float32()),
        ("brightness", pa.float32()),
        ("motion", pa.float32()),
        ("loudness_db", pa.float32()),
        ("speech_share", pa.float32()),
        ("sync_offset", pa.int32()),
        ("sync_confidence", pa.float32()),
        ("several_faces_share", pa.float32()),
        ("longest_freeze_s", pa.float32()),
        ("scene_cuts", pa.int32()),
        ("scene_cut_ratio", pa.float32()),
        ("duplicate", pa.string()),
        ("verdict", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)  # fmt: skip

# Of both tables, under the same name.
_AS_MEASURED = [name for name in SCHEMA.names if name in ClipScores.__dataclass_fields__]
_AS_MEASURED = [name for name in _AS_MEASURED if name not in ("clip_id", "reason", "detail")]


@dataclass(frozen=True)
class Measure:
    """A column that the page shows.

    Args:
        column: of the table.
        heading: what it is, with its unit.
        gate: key of the gate on it, if there is one.
    """

    column: str
    heading: str
    gate: str = ""


MEASURES = (
    Measure("duration_s", "length, s"),
    Measure("height", "height of the video, pixels"),
    Measure("fps", "frames per second"),
    Measure("face_px", "median width of the face, pixels", "min_face_px"),
    Measure("detection_rate", "part of the frames with a face", "min_detection_rate"),
    Measure("yaw_range", "range of the head's yaw, degrees"),
    Measure("pitch_range", "range of the head's pitch, degrees"),
    Measure("roll_range", "range of the head's roll, degrees"),
    Measure("mouth_spread", "deviation of the mouth's opening, eye distances"),
    Measure("mouth_speed", "speed of the mouth's opening, eye distances per second"),
    Measure("mouth_outside_frames", "frames with chin or mouth outside", "mouth_outside_frames"),
    Measure("mouth_score", "confidence in the points of the mouth", "min_mouth_score"),
    Measure(
        "face_sharpness", "sharpness of the face, variance of the Laplacian at 128 pixels", "min_sharpness"
    ),
    Measure("face_brightness", "brightness of the face, grey level"),
    Measure("brightness", "brightness of the frames, grey level"),
    Measure("motion", "change from frame to frame, grey levels"),
    Measure("loudness_db", "loudness, dB of full scale"),
    Measure("speech_share", "part of the audio that is speech"),
    Measure("sync_offset", "sync offset, frames"),
    Measure("sync_confidence", "sync confidence"),
    Measure("several_faces_share", "part of the inspected frames with another face", "several_faces_share"),
    Measure("longest_freeze_s", "longest freeze, s", "frozen_seconds"),
    Measure("scene_cut_ratio", "largest change, as a multiple of those around", "scene_cut_ratio"),
)
BINS = 24
# Clips shown at either end of a measure.
SHOWN = 6
WIDTH, HEIGHT = 720, 120  # of a histogram, in pixels


def score_rows(
    planned: Iterable[Clip],
    measured: Mapping[str, ClipScores],
    sync: Mapping[str, tuple[int, float]],
    rejects: Iterable[Reject],
    gates: GatesSettings,
) -> list[dict[str, Any]]:
    """Return the rows of the table; None stands for what was not measured.

    Args:
        planned: the clip table.
        measured: scores by clip.
        sync: offset and confidence by clip.
        rejects: of all stages; a clip's verdict is the first of them.
        gates: of the run; the count of scene cuts is by their ratio.
    """
    lost = first_rejects(rejects)
    return [
        _row(clip, measured.get(clip.clip_id), sync.get(clip.clip_id), lost.get(clip.clip_id), gates)
        for clip in planned
    ]


def _row(
    clip: Clip,
    scores: ClipScores | None,
    sync: tuple[int, float] | None,
    reject: Reject | None,
    gates: GatesSettings,
) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(SCHEMA.names)
    row |= {name: getattr(clip, name) for name in SCHEMA.names[:7]}
    row["duration_s"] = clip.end_s - clip.start_s or None
    if scores is not None and not scores.reason:
        row |= {name: getattr(scores, name) for name in _AS_MEASURED}
        for angle in ANGLES:
            low, high = row[f"{angle}_min"], row[f"{angle}_max"]
            row[f"{angle}_range"] = None if low is None or high is None else high - low
        row["detection_rate"] = _ratio(scores.detected_frames, scores.inspected_frames)
        row["several_faces_share"] = _ratio(scores.others_seen, scores.others_inspected)
        row["longest_freeze_s"] = scores.freeze_frames / FPS
        usual: float = FrameGates.model_fields["scene_cut_ratio"].default
        row["scene_cuts"] = len(cuts(scores, gates.scene_cut_ratio or usual))
        row["scene_cut_ratio"] = max(scores.change_ratios, default=1.0)
    row["sync_offset"], row["sync_confidence"] = sync or (None, None)
    row["verdict"] = "kept" if reject is None else f"{reject.stage}: {reject.reason}"
    if reject is not None:
        row |= {"reason": reject.reason, "detail": reject.detail}
        row["duplicate"] = reject.detail if reject.reason == "duplicate" else None
    return row


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write clip_scores.parquet, whole or not at all."""
    write_parquet(path, pa.Table.from_pylist(rows, schema=SCHEMA))


def page(rows: list[dict[str, Any]], thumbnails: Mapping[str, bytes], gates: GatesSettings) -> str:
    """Return the page: of each measure a histogram, kept clips below rejected ones, and both of its ends.

    Args:
        rows: of the table.
        thumbnails: JPEG by clip.
        gates: of the run, whose thresholds are lines in the histograms.
    """
    panels = [_panel(measure, rows, gates) for measure in MEASURES]
    shown = {clip["clip_id"] for panel in panels for end in panel["ends"] for clip in end["clips"]}
    images = {
        clip_id: (f"p{number}", base64.b64encode(thumbnails[clip_id]).decode())
        for number, clip_id in enumerate(sorted(shown & set(thumbnails)))
    }
    verdicts = Counter(row["verdict"] for row in rows)
    codecs = Counter(row["codec"] or "not measured" for row in rows)
    return render(
        "clip_scores.html.j2",
        panels=panels,
        images=images,
        counts={"verdict": verdicts.most_common(), "codec": codecs.most_common()},
        clips=len(rows),
        width=WIDTH,
        height=HEIGHT,
    )


def _panel(measure: Measure, rows: list[dict[str, Any]], gates: GatesSettings) -> dict[str, Any]:
    known = sorted(
        (r for r in rows if r[measure.column] is not None), key=lambda r: (r[measure.column], r["clip_id"])
    )
    limit = getattr(gates, measure.gate) if measure.gate else None
    panel: dict[str, Any] = {
        "measure": measure,
        "known": len(known),
        "missing": len(rows) - len(known),
        "limit": limit,
    }
    panel |= {"bars": [], "line": None, "ends": []}
    if not known:
        return panel
    values = [float(row[measure.column]) for row in known]
    low, high = min(values), max(values)
    if low == high:
        return panel | {"low": _text(low), "high": _text(high)}
    counts = [[0, 0] for _ in range(BINS)]
    for row, value in zip(known, values, strict=True):
        counts[min(int((value - low) / (high - low) * BINS), BINS - 1)][row["verdict"] != "kept"] += 1
    tallest = max(map(sum, counts))
    step = WIDTH / BINS
    for number, (kept, lost) in enumerate(counts):
        tall, grey = HEIGHT * kept / tallest, HEIGHT * lost / tallest
        edges = low + (high - low) * number / BINS, low + (high - low) * (number + 1) / BINS
        panel["bars"].append(
            {"x": step * number, "width": step - 1, "kept": tall, "lost": grey}
            | {"says": f"{_text(edges[0])} to {_text(edges[1])}: {kept} kept, {lost} rejected"}
        )
    if limit is not None and low <= limit <= high:
        panel["line"] = WIDTH * (limit - low) / (high - low)
    ends = {"lowest": known[:SHOWN], "highest": known[::-1][:SHOWN]}
    panel["ends"] = [
        {"name": name, "clips": [{**row, "value": _text(row[measure.column])} for row in of_end]}
        for name, of_end in ends.items()
    ]
    return panel | {"low": _text(low), "high": _text(high)}


def _text(value: float) -> str:
    return f"{value:.4g}"
