"""Score one shard of one method's videos against the true crops: a row per frame and a row per clip.

The videos may come from anywhere: a folder of files named by clip id. What is compared, and how, is the same
for all and is recorded beside the rows (`protocol`).
"""

import json
import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from difftalk.evaluation import metrics
from difftalk.evaluation.sync import measure_sync
from difftalk.media.clock import FPS
from difftalk.media.probe import probe
from difftalk.media.shards import Crop, map_arrays, read_crops
from difftalk.media.video import read_frames, read_video
from difftalk.models.syncnet import SyncExpert, load_syncnet
from difftalk.runtime.errors import ClipError, UserError
from difftalk.runtime.files import atomic_file
from difftalk.runtime.progress import progress

GROUND_TRUTH = "ground_truth"
SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm")
PICTURE = ("psnr", "ssim", "lpips", "psnr_mouth", "ssim_mouth", "lpips_mouth")

SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("method", pa.string()),
        ("frame", pa.int32()),  # null: the row of the clip
        *((name, pa.float64()) for name in PICTURE),
        ("sync_offset", pa.float64()),
        ("sync_confidence", pa.float64()),
        ("sync_distance", pa.float64()),
        ("mouth_corr", pa.float64()),
        ("mouth_open", pa.float64()),
        ("frames", pa.int32()),
        ("problem", pa.string()),  # of the clip row: why there is no score; null: there is one
    ]
)


@dataclass(frozen=True)
class Settings:
    """The evaluation protocol."""

    mouth_margin: float = 0.15  # of the longer side of the box around the mouth's points, on each side
    max_shift: int = 15  # frames the sound is shifted either way
    max_missing_frames: int = 5  # frames a video may lack, or have too many of, and still be scored
    mouth_scale: int = 4  # how many times frames are enlarged before mouth opening is measured
    lpips_trunk: str | None = (
        None  # AlexNet's file; null: the weights `alexnet`, or torch.hub's cache, if there
    )
    device: str = "cpu"


def run(
    *,
    method: str,
    samples: Path,
    crops: Path,
    syncnet: Path,
    settings: Settings,
    out: Path,
    shard_file: Path | None = None,
) -> None:
    """Write the metrics of one method on one shard to `out` (parquet), one row per frame and one per clip.

    Args:
        method: the row's name in the tables; `ground_truth` gets no picture metrics, being what they compare
            with.
        samples: folder of `{clip_id}.mp4` (or .mov .avi .mkv .webm). A clip that is missing or damaged keeps
            its row, without figures and with a `problem`.
        crops: the shard that says what is true, and which clips are asked for.
        shard_file: the encoded shard, where only its clips are asked for: `speech` or `encode` may have rejected some.

    Raises:
        UserError: if `samples` is no folder, or holds videos but none under the name of a clip.
    """
    kept = None if shard_file is None else set(map_arrays(shard_file))
    clips = [clip for clip in read_crops(crops) if kept is None or clip.clip_id in kept]
    _check_folder(samples, [clip.clip_id for clip in clips])
    scorer = Scorer.of(syncnet, settings)
    rows: list[dict[str, Any]] = []
    for clip in progress(clips, len(clips), "score", "clips"):
        rows += scorer.rows(method, clip, find_video(samples, clip.clip_id))
    sizes = sorted({int(clip.info["size"]) for clip in clips})
    protocol = {**scorer.protocol(), "crop_pixels": ", ".join(map(str, sizes))}
    table = pa.Table.from_pylist(rows, SCHEMA).replace_schema_metadata(
        {"protocol": json.dumps(protocol, sort_keys=True), "method": method}
    )
    with atomic_file(out) as beside:
        pq.write_table(table, beside)


def find_video(folder: Path, clip_id: str) -> Path | None:
    return next((p for s in SUFFIXES if (p := folder / f"{clip_id}{s}").is_file()), None)


def _check_folder(samples: Path, clip_ids: list[str]) -> None:
    if not samples.is_dir():
        raise UserError(f"{samples} is no folder of videos")
    videos = sorted(p.name for p in samples.iterdir() if p.suffix in SUFFIXES)
    if clip_ids and videos and not any(find_video(samples, clip_id) for clip_id in clip_ids):
        raise UserError(f"{samples}: videos are named by clip id, such as {clip_ids[0]}.mp4, not {videos[0]}")


@dataclass
class Scorer:
    """What scoring needs beside the clips."""

    settings: Settings
    expert: SyncExpert
    mouth: metrics.MouthOpening
    lpips: metrics.Lpips | None

    @classmethod
    def of(cls, syncnet: Path, settings: Settings) -> "Scorer":
        trunk = metrics.find_lpips_trunk(settings.lpips_trunk)
        return cls(
            settings,
            load_syncnet(syncnet, settings.device),
            metrics.MouthOpening(settings.mouth_scale),
            metrics.Lpips(trunk, settings.device) if trunk else None,
        )

    def protocol(self) -> dict[str, str]:
        """How the figures are made, for the foot of the tables. Tables refuse to mix rows that differ in
        it."""
        s = self.settings
        about = self.expert.config.about
        expert = {k: v for k, v in about.items() if k in ("source", "command", "held_out")}
        packages = {
            p: version(p) for p in ("torch", "scikit-image", "lpips", "dlib-bin", "difftalk") if _installed(p)
        }
        return {
            "pictures": "each frame of the video against the same frame of the crop; 25 fps, 8 bit RGB",
            "psnr": "dB, range 255, per frame, identical frames left out",
            "ssim": "Gaussian window, sigma 1.5, mean of the RGB channels (scikit-image)",
            "lpips": (
                "0.1, AlexNet"
                if self.lpips
                else "not computed: no AlexNet trunk (`difftalk weights fetch alexnet`, evaluation.lpips_trunk, or "
                f"{metrics.LPIPS_TRUNK} in torch.hub's checkpoints folder)"
            ),
            "mouth": f"box around points 48-67 of the true clip, enlarged by {s.mouth_margin:g} of its "
            "longer side, fixed for a clip; SSIM and LPIPS are means of the full frame's map",
            "sync": f"{self.expert.config.architecture}, shifts of {s.max_shift} frames either way, "
            + (
                "ends zero-padded as released"
                if self.expert.zero_padded
                else "mean over the pairs that exist"
            )
            + ", with the sound of the true clip, region from the true landmarks",
            "sync_expert": json.dumps(expert, sort_keys=True),
            "mouth_corr": "Pearson correlation over a clip of the inner lip opening (dlib, points 62-66) "
            "with that of the crop's landmarks",
            "means": "per frame, then over the frames of a clip, then over clips",
            "max_missing_frames": str(s.max_missing_frames),
            "versions": ", ".join(f"{k} {v}" for k, v in packages.items())
            + f", python {platform.python_version()}",
        }

    def rows(self, method: str, clip: Crop, path: Path | None) -> list[dict[str, Any]]:
        """Rows of the frames, then the row of the clip; the latter alone where there is nothing to score."""
        truth = clip.frames()
        empty = {"clip_id": clip.clip_id, "method": method, "frames": len(truth)}
        try:
            frames = self._read(path, truth)
        except ClipError as e:
            return [{**empty, "problem": str(e)}]
        count = min(len(truth), len(frames))
        truth, frames, landmarks = truth[:count], frames[:count], clip.landmarks[:count]

        pictures = self._pictures(truth, frames, landmarks) if method != GROUND_TRUTH else {}
        opening = self.mouth(frames, landmarks)
        row: dict[str, Any] = {**empty, "frames": count, "problem": None}
        row |= {name: _mean(values) for name, values in pictures.items()}
        row["mouth_corr"] = metrics.correlation(opening, metrics.opening(landmarks))
        row["mouth_open"] = float(opening.mean())
        sync = measure_sync(
            self.expert.video_embeddings(frames, landmarks),
            self.expert.audio_embeddings(clip.audio[: count * 640]),
            self.settings.max_shift,
            self.expert.zero_padded,
        )
        if sync is not None:
            row |= {"sync_offset": float(sync.offset), "sync_confidence": sync.confidence}
            row["sync_distance"] = sync.distance
        of_frames = [
            {"clip_id": clip.clip_id, "method": method, "frame": i, "mouth_open": float(opening[i])}
            | {name: values[i] for name, values in pictures.items()}
            for i in range(count)
        ]
        return [*of_frames, row]

    def _read(self, path: Path | None, truth: np.ndarray) -> np.ndarray:
        """The frames of a sample at the size of the truth.

        Raises:
            ClipError: if there is no such video, it cannot be decoded, or it is of another length.
        """
        if path is None:
            raise ClipError("cannot_fetch", "no video of this clip")
        info = probe(path)
        frames = read_video(path) if abs(info.fps - FPS) < 0.01 else np.stack(list(read_frames(path)))
        if abs(len(frames) - len(truth)) > self.settings.max_missing_frames:
            raise ClipError(
                "length_mismatch", f"{path.name} has {len(frames)} frames, the clip has {len(truth)}"
            )
        height, width = truth.shape[1:3]
        if frames.shape[1:3] == (height, width):
            return frames
        shrink = frames.shape[1] > height
        how = cv2.INTER_AREA if shrink else cv2.INTER_CUBIC
        return np.stack([cv2.resize(f, (width, height), interpolation=how) for f in frames])

    def _pictures(
        self, truth: np.ndarray, frames: np.ndarray, landmarks: np.ndarray
    ) -> dict[str, list[float | None]]:
        """Each picture metric of each frame."""
        box = metrics.mouth_box(landmarks, (truth.shape[2], truth.shape[1]), self.settings.mouth_margin)
        values: dict[str, list[float | None]] = {name: [] for name in PICTURE}
        for a, b in zip(truth, frames, strict=True):
            similarity = metrics.ssim_map(a, b)
            values["psnr"].append(metrics.psnr(a, b))
            values["psnr_mouth"].append(metrics.psnr(metrics.region(a, box), metrics.region(b, box)))
            values["ssim"].append(float(metrics.inner(similarity).mean()))
            values["ssim_mouth"].append(float(metrics.region(similarity, box).mean()))
        if self.lpips is None:
            values["lpips"] = values["lpips_mouth"] = [None] * len(frames)
        else:
            whole, inside = self.lpips(truth, frames, box)
            values["lpips"], values["lpips_mouth"] = whole.tolist(), inside.tolist()
        return values


def _mean(values: list[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None


def _installed(package: str) -> bool:
    from importlib.metadata import PackageNotFoundError

    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True
