"""Score one clip of one method by the fixed protocol: image metrics, mouth opening and sync."""

import json
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from difftalk.config.evaluation import Evaluation
from difftalk.evaluation import metrics
from difftalk.evaluation.mouth import MouthOpening, correlation, opening
from difftalk.evaluation.samples import read_sample
from difftalk.evaluation.scores import IMAGE_METRICS
from difftalk.evaluation.sync import measure_sync
from difftalk.media.clock import SAMPLES_PER_FRAME
from difftalk.media.shards import Crop
from difftalk.models.syncnet import SyncExpert, load_syncnet
from difftalk.runtime.device import require_cuda, tell
from difftalk.runtime.errors import ClipError

PACKAGES = ("torch", "scikit-image", "lpips", "dlib-bin", "difftalk")


@dataclass
class Scorer:
    """The settings and networks that score a clip.

    Args:
        settings: the evaluation protocol.
        expert: the sync expert.
        mouth: measures how far the mouth is open.
        lpips: None where its backbone is missing.
    """

    settings: Evaluation
    expert: SyncExpert
    mouth: MouthOpening
    lpips: metrics.Lpips | None

    @classmethod
    def load(cls, syncnet: Path, settings: Evaluation) -> "Scorer":
        """Load the networks; `syncnet` is the folder of the sync expert.

        Raises:
            UserError: if the settings ask for a GPU and there is none, or the expert cannot be loaded.
        """
        if settings.device == "cuda":
            require_cuda("score: evaluation.device is cuda", "set evaluation.device: cpu")
        tell("score", settings.device, "float32")
        backbone = metrics.find_lpips_backbone(settings.lpips_backbone)
        return cls(
            settings,
            load_syncnet(syncnet, settings.device),
            MouthOpening(settings.mouth_scale),
            metrics.Lpips(backbone, settings.device) if backbone else None,
        )

    def protocol(self) -> dict[str, str]:
        """Describe how the figures are made, for the foot of the tables.

        Tables refuse to mix rows that differ in it.
        """
        s = self.settings
        about = self.expert.config.about
        expert = {k: v for k, v in about.items() if k in ("source", "command", "held_out")}
        no_lpips = (
            "not computed: no AlexNet backbone (`difftalk weights fetch alexnet`, "
            f"evaluation.lpips_backbone, or {metrics.LPIPS_BACKBONE} in torch.hub's checkpoints folder)"
        )
        ends = "ends zero-padded as released" if self.expert.zero_padded else "mean over the pairs that exist"
        return {
            "pictures": "each frame of the video against the same frame of the crop; 25 fps, 8 bit RGB",
            "psnr": "dB, range 255, per frame, identical frames left out",
            "ssim": "Gaussian window, sigma 1.5, mean of the RGB channels (scikit-image)",
            "lpips": "0.1, AlexNet" if self.lpips else no_lpips,
            "mouth": f"box around points 48-67 of the true clip, enlarged by {s.mouth_margin:g} of its "
            "longer side, fixed for a clip; SSIM and LPIPS are means of the full frame's map",
            "sync": f"{self.expert.config.architecture}, shifts of {s.max_shift} frames either way, {ends}, "
            "with the audio of the true clip, region from the true landmarks",
            "sync_expert": json.dumps(expert, sort_keys=True),
            "mouth_corr": "Pearson correlation over a clip of the inner lip opening (dlib, points 62-66) "
            "with that of the crop's landmarks",
            "means": "per frame, then over the frames of a clip, then over clips",
            "max_missing_frames": str(s.max_missing_frames),
            "versions": f"{_versions()}, python {platform.python_version()}",
        }

    def score(self, method: str, clip: Crop, path: Path | None) -> list[dict[str, Any]]:
        """Return the rows of the frames, then the row of the clip.

        Args:
            method: name of the method. `ground_truth` gets no image metrics, as these compare with it.
            clip: the true clip.
            path: the method's video of it. Where it is missing or damaged, there is the row of the clip
                alone, without figures and with a `problem`.
        """
        truth = clip.frames()
        clip_row: dict[str, Any] = {"clip_id": clip.clip_id, "method": method, "frames": len(truth)}
        try:
            frames = read_sample(path, truth, self.settings.max_missing_frames)
        except ClipError as e:
            return [self.problem(method, clip, e)]
        count = min(len(truth), len(frames))
        truth, frames, landmarks = truth[:count], frames[:count], clip.landmarks[:count]

        images = self._image_metrics(truth, frames, landmarks) if method != "ground_truth" else {}
        openings = self.mouth(frames, landmarks)
        clip_row |= {"frames": count, "problem": None}
        clip_row |= {name: _mean(values) for name, values in images.items()}
        clip_row["mouth_corr"] = correlation(openings, opening(landmarks))
        clip_row["mouth_open"] = float(openings.mean())
        clip_row |= self._sync(frames, landmarks, clip.audio[: count * SAMPLES_PER_FRAME])
        frame_rows = [
            {"clip_id": clip.clip_id, "method": method, "frame": i, "mouth_open": float(openings[i])}
            | {name: values[i] for name, values in images.items()}
            for i in range(count)
        ]
        return [*frame_rows, clip_row]

    @staticmethod
    def problem(method: str, clip: Crop, error: ClipError) -> dict[str, Any]:
        """Return the row of a clip that has no score, and says why."""
        try:
            frames = len(clip.landmarks)
        except ClipError:
            frames = 0
        return {"clip_id": clip.clip_id, "method": method, "frames": frames, "problem": str(error)}

    def _sync(self, frames: np.ndarray, landmarks: np.ndarray, audio: np.ndarray) -> dict[str, float]:
        """The sync columns of a clip; none where it is too short."""
        video_embeddings = self.expert.video_embeddings(frames, landmarks)
        audio_embeddings = self.expert.audio_embeddings(audio)
        zero_padded = self.expert.zero_padded
        sync = measure_sync(video_embeddings, audio_embeddings, self.settings.max_shift, zero_padded)
        if sync is None:
            return {}
        return {
            "sync_offset": float(sync.offset),
            "sync_confidence": sync.confidence,
            "sync_distance": sync.distance,
        }

    def _image_metrics(
        self, truth: np.ndarray, frames: np.ndarray, landmarks: np.ndarray
    ) -> dict[str, list[float | None]]:
        """Each image metric of each frame."""
        box = metrics.mouth_box(landmarks, (truth.shape[2], truth.shape[1]), self.settings.mouth_margin)
        values: dict[str, list[float | None]] = {name: [] for name in IMAGE_METRICS}
        for a, b in zip(truth, frames, strict=True):
            similarity = metrics.ssim_map(a, b)
            values["psnr"].append(metrics.psnr(a, b))
            values["psnr_mouth"].append(metrics.psnr(metrics.region(a, box), metrics.region(b, box)))
            values["ssim"].append(float(metrics.inner(similarity).mean()))
            values["ssim_mouth"].append(float(metrics.region(similarity, box).mean()))
        if self.lpips is None:
            values["lpips"] = values["lpips_mouth"] = [None] * len(frames)
        else:
            whole, mouth = self.lpips(truth, frames, box)
            values["lpips"], values["lpips_mouth"] = whole.tolist(), mouth.tolist()
        return values


def crop_size(clip: Crop) -> int | None:
    """Return the pixels of a crop's side; None where it cannot be told."""
    try:
        return int(clip.info["size"])
    except (ClipError, KeyError, ValueError, TypeError):
        return None


def _mean(values: list[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None


def _versions() -> str:
    """The packages that figures depend on, of those installed."""
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)
