"""The metrics files: a row per frame and a row per clip, with the protocol that they were measured by."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from difftalk.evaluation.columns import LEAK_CONFIDENCE, LEAKAGE, METRICS
from difftalk.evaluation.frechet import frechet_distance, halves_floor
from difftalk.runtime.errors import UserError
from difftalk.runtime.parquet import read_parquet, types_of, write_parquet

IMAGE_METRICS = ("psnr", "ssim", "lpips", "psnr_mouth", "ssim_mouth", "lpips_mouth")

_FIELDS = [
    ("clip_id", pa.string()),
    ("method", pa.string()),
    ("frame", pa.int32()),  # null: the row of the clip
    *((name, pa.float64()) for name in IMAGE_METRICS),
    ("sync_offset", pa.float64()),
    ("sync_confidence", pa.float64()),
    ("sync_distance", pa.float64()),
    ("mouth_corr", pa.float64()),
    ("mouth_open", pa.float64()),
    ("frames", pa.int32()),
    ("problem", pa.string()),  # of the clip row: why there is no score; null: there is one
]
_NAMES = {name for name, _ in _FIELDS}
# Figures that were added later come last.
_ADDED = [(c.name, pa.float64()) for c in METRICS.values() if not c.of_set and c.name not in _NAMES]

TRUTH = "ground_truth"
FLOOR_SEED = 1
# Columns of features, and how many numbers one sample of each has.
FEATURES = {"fid_features": 2048, "fvd_features": 400}

SCHEMA = pa.schema(
    [
        *_FIELDS,
        *_ADDED,
        (LEAKAGE.name, pa.float64()),  # of clips that another sound drives, as is the next
        (LEAK_CONFIDENCE.name, pa.float64()),
        ("file", pa.string()),  # of the clip row: codec, pixel format, size and rate of what was scored
        # of the clip row: what is measured on all clips together, float32 features one after another
        *((features, pa.binary()) for features in FEATURES),
    ]
)


@dataclass(frozen=True)
class SetFigure:
    """A figure of all clips of a method together, such as its FID.

    Args:
        value: None where it was not measured.
        interval: lower and upper end, if known.
        about: what it came with, such as `{"frames": "2048", "floor": "3.2"}`, for the foot of the tables.
    """

    value: float | None = None
    interval: tuple[float, float] | None = None
    about: dict[str, str] = field(default_factory=dict)


@dataclass
class Scores:
    """All scores of a run.

    Args:
        clips: of each method, the clip row of each clip: `clips[method][clip_id]`.
        protocol: what they were measured by; one for all of them.
        of_set: of each method, the columns that are measured on all clips together.
    """

    clips: dict[str, dict[str, dict[str, Any]]]
    protocol: dict[str, str]
    of_set: dict[str, dict[str, SetFigure]] = field(default_factory=dict)

    @property
    def asked(self) -> list[str]:
        """Every clip that any method was asked for, sorted."""
        return sorted({clip for of_method in self.clips.values() for clip in of_method})


def set_figures(clips: dict[str, dict[str, dict[str, Any]]]) -> dict[str, dict[str, SetFigure]]:
    """Return FID and FVD of each method against the row ground_truth, and take their features off the rows.

    Both sides are of the clips that both have. What the figure comes with: the number of samples, and the
    distance of one half of the true clips to the other, below which nothing can be told.

    Args:
        clips: `clips[method][clip_id]` with the clip rows.
    """
    found: dict[str, dict[str, SetFigure]] = {}
    for name, length in FEATURES.items():
        column = name.removesuffix("_features")
        of_method = {
            method: {
                clip: values
                for clip, row in sorted(of.items())
                if (packed := row.pop(name, None))
                # One figure that is none would make none of all clips together.
                and np.isfinite(values := np.frombuffer(packed, np.float32).reshape(-1, length)).all()
            }
            for method, of in clips.items()
        }
        truth = of_method.pop(TRUTH, {})
        floor = halves_floor(list(truth.values()), FLOOR_SEED)
        for method, features in of_method.items():
            both = [clip for clip in features if clip in truth]
            if not both:
                continue
            made, true = (np.concatenate([of[clip] for clip in both]) for of in (features, truth))
            about = {"samples": f"{len(made):,}", "clips": str(len(both))}
            if floor is not None:
                about["half of the truth against the other"] = f"{floor:.{METRICS[column].digits}f}"
            if min(len(made), len(true)) > 1:
                figure = SetFigure(frechet_distance(made, true), about=about)
                found.setdefault(method, {})[column] = figure
    return found


def write_scores(path: Path, method: str, rows: list[dict[str, Any]], protocol: dict[str, str]) -> None:
    """Write the rows of one method on one shard, and the protocol in the file's metadata."""
    metadata = {"protocol": json.dumps(protocol, sort_keys=True), "method": method}
    write_parquet(path, pa.Table.from_pylist(rows, SCHEMA).replace_schema_metadata(metadata))


def by_voice(paths: Sequence[Path]) -> dict[str, list[Path]]:
    """Return metrics files by the voice that drove the method, which their protocol names: `own` if none.

    A file that cannot be read is among those of `own`: `read_scores` says what is wrong with it.
    """
    found: dict[str, list[Path]] = {"own": []}
    for path in sorted(paths):
        try:
            protocol = json.loads((pq.read_schema(path).metadata or {})[b"protocol"])
        except (OSError, KeyError, ValueError):  # pyarrow's ArrowInvalid is a ValueError
            protocol = {}
        found.setdefault(protocol.get("voice", "own"), []).append(path)
    return found


def read_scores(paths: Sequence[Path], *, of_set: bool = True) -> Scores:
    """Read the clip rows of all metrics files.

    Args:
        paths: metrics/METHOD/SHARD.parquet.
        of_set: whether to compute what is measured on all clips together, too.

    Raises:
        UserError: if a file is missing or damaged; naming the first point in which two files' protocols
            differ.
    """
    clips: dict[str, dict[str, dict[str, Any]]] = {}
    protocol: dict[str, str] | None = None
    for path in sorted(paths):
        table = read_parquet(path, "score", types_of(SCHEMA))
        try:
            found = json.loads((table.schema.metadata or {})[b"protocol"])
        except (KeyError, ValueError):
            raise UserError(f"{path} is no table of `difftalk score`: it has no protocol") from None
        protocol = protocol or found
        protocol["crop_pixels"] = protocol.get("crop_pixels") or found.get("crop_pixels", "")
        # An empty shard has no crops to be of a size, and versions are recorded, not compared.
        for key in sorted((protocol.keys() | found.keys()) - {"versions"}):
            if key == "crop_pixels" and not (protocol.get(key) and found.get(key)):
                continue
            if protocol.get(key) != found.get(key):
                raise UserError(
                    f"{path}: scored by another protocol than {min(paths)}: {key} is {found.get(key)!r}, not "
                    f"{protocol.get(key)!r}; score all methods again (snakemake -R score)"
                )
        for row in table.to_pylist():
            if row["frame"] is None:
                clips.setdefault(row["method"], {})[row["clip_id"]] = row
    return Scores(clips, protocol or {}, set_figures(clips) if of_set else {})
