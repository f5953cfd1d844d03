"""Score one clip of one method by the fixed protocol: what the instruments find, and its columns."""

import hashlib
import json
import platform
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from difftalk.config.evaluation import Evaluation
from difftalk.evaluation import instruments, metrics
from difftalk.evaluation.figures import landmark_figures, mean, motion_figures, none_for_nan
from difftalk.evaluation.instruments import Instrument
from difftalk.evaluation.kept import Arrays, Kept
from difftalk.evaluation.landmark_metrics import MIN_SILENCE_S
from difftalk.evaluation.mouth import opening
from difftalk.evaluation.pair import Pair
from difftalk.evaluation.samples import describe_file
from difftalk.evaluation.scores import IMAGE_METRICS
from difftalk.media.clock import SAMPLES_PER_FRAME
from difftalk.media.shards import Crop
from difftalk.models.syncnet import SyncExpert, load_syncnet
from difftalk.runtime.checksums import checksum, digest_of_model
from difftalk.runtime.device import require_cuda, tell
from difftalk.runtime.errors import ClipError
from difftalk.runtime.fingerprint import fingerprint
from difftalk.speech.vad import SPEECH_PROBABILITY

PACKAGES = ("torch", "scikit-image", "lpips", "dlib-bin", "opencv-python", "difftalk")
TRUTH = "ground_truth"


@dataclass
class Scorer:
    """The instruments that score a clip.

    Args:
        settings: the evaluation protocol.
        expert: the sync expert.
        instruments: in the order in which they measure.
        state: folder in which measurements are kept; None keeps nothing.
    """

    settings: Evaluation
    expert: SyncExpert
    instruments: list[Instrument]
    state: Path | None = None

    @classmethod
    def load(cls, syncnet: Path, settings: Evaluation, state: Path | None = None) -> "Scorer":
        """Load the networks; `syncnet` is the folder of the sync expert.

        Raises:
            UserError: if the settings ask for a GPU and there is none, or the expert cannot be loaded.
        """
        if settings.device == "cuda":
            require_cuda("score: evaluation.device is cuda", "set evaluation.device: cpu")
        tell("score", settings.device, "float32")
        expert = load_syncnet(syncnet, settings.device)
        box = {"mouth_margin": settings.mouth_margin}
        here = "difftalk.evaluation"
        found = [
            Instrument("similarity", f"{here}.metrics", instruments.similarity, box, of_methods=True),
            Instrument("points", f"{here}.mouth", instruments.points),
            Instrument("true_points", f"{here}.mouth", instruments.true_points, of_truth=True),
            Instrument("speech", "difftalk.speech.vad", instruments.speech, of_truth=True),
            Instrument("motion", f"{here}.motion", instruments.mouth_motion, box),
            Instrument(
                "sync",
                "difftalk.models.syncnet",
                instruments.sync(expert, settings),
                {"expert": digest_of_model(syncnet), "max_shift": settings.max_shift},
            ),
        ]
        if backbone := metrics.find_lpips_backbone(settings.lpips_backbone):
            measure = instruments.perceptual(metrics.Lpips(backbone, settings.device))
            weights = box | {"backbone": checksum(backbone)}
            found.append(Instrument("lpips", f"{here}.metrics", measure, weights, of_methods=True))
        return cls(settings, expert, found, state)

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
            "lpips": "0.1, AlexNet" if self._has("lpips") else no_lpips,
            "mouth": f"box around points 48-67 of the true clip, enlarged by {s.mouth_margin:g} of its "
            "longer side, fixed for a clip; SSIM and LPIPS are means of the full frame's map",
            "sync": f"{self.expert.config.architecture}, shifts of {s.max_shift} frames either way, {ends}, "
            "with the audio of the true clip, region from the true landmarks",
            "sync_expert": json.dumps(expert, sort_keys=True),
            "landmarks": "dlib's 68 points in the true and in the scored frames alike, faces of 300 px, "
            "placed by the true brows, eyes and nose",
            "mouth_corr": "Pearson correlation over a clip of the inner lip opening (pairs 61-67, 62-66, "
            "63-65) with that of the crop's landmarks, which are the source's",
            "lmd": "mean distance of points (mouth 48-67; face: all 68), each set about its own centre, in "
            "pixels of a 256-px crop",
            "jitter": "mean acceleration of points 48-67 over the truth's",
            "tof_mouth": "mean difference of Farneback flow (tOF) in the mouth's box, pixels at 256",
            "mouth_sharpness": "variance of the Laplacian in the mouth's box over the truth's",
            "theval": "lip dynamics, silent lip, lip to loudness, brows and head after THEval on 68 points; "
            "brows and head are the truth's own where a method keeps them; speech by Silero VAD 6 at "
            f"{SPEECH_PROBABILITY:g}, pauses of {MIN_SILENCE_S:g} s or more",
            "means": "per frame, then over the frames of a clip, then over clips",
            "max_missing_frames": str(s.max_missing_frames),
            "versions": f"{_versions()}, python {platform.python_version()}",
        }

    def _has(self, name: str) -> bool:
        return any(instrument.name == name for instrument in self.instruments)

    def score(self, method: str, clip: Crop, path: Path | None) -> list[dict[str, Any]]:
        """Return the rows of the frames, then the row of the clip.

        Args:
            method: name of the method. `ground_truth` gets no image metrics, as these compare with it.
            clip: the true clip.
            path: the method's video of it. Where it is missing or damaged, there is the row of the clip
                alone, without figures and with a `problem`.
        """
        if path is None:
            return [self.problem(method, clip, ClipError("cannot_fetch", "no video of this clip"))]
        try:
            found = self._measured(method, Pair(clip, path, self.settings))
            about_file = describe_file(path)
        except ClipError as e:
            return [self.problem(method, clip, e)]
        points = found["points"]["points"]
        count = len(points)
        landmarks = clip.landmarks[:count]
        openings = opening(points, landmarks)
        per_frame = {
            name: values
            for arrays in found.values()
            for name, values in arrays.items()
            if name in IMAGE_METRICS
        }
        clip_row = {"clip_id": clip.clip_id, "method": method, "frames": count, "problem": None}
        clip_row |= {"file": about_file}
        clip_row |= {name: mean(values) for name, values in per_frame.items()}
        clip_row |= landmark_figures(
            points,
            found["true_points"]["points"][:count],
            landmarks,
            int(found["points"]["size"]),
            clip.audio[: count * SAMPLES_PER_FRAME],
            found["speech"]["probabilities"],
        )
        clip_row |= motion_figures(found["motion"])
        clip_row |= {name: mean(value) for name, value in found["sync"].items()}
        frame_rows = [
            {"clip_id": clip.clip_id, "method": method, "frame": i, "mouth_open": float(openings[i])}
            | {name: none_for_nan(values[i]) for name, values in per_frame.items()}
            for i in range(count)
        ]
        return [*frame_rows, clip_row]

    def _measured(self, method: str, pair: Pair) -> dict[str, Arrays]:
        """What each instrument found, by its name: measured now, or before under the same conditions."""
        clip_id = pair.clip.clip_id
        truth = {"truth": _digest_of(pair.clip)}
        both = truth | {
            "max_missing_frames": self.settings.max_missing_frames,
            "video": checksum(pair.path),
        }
        found = {}
        for instrument in self.instruments:
            if instrument.of_methods and method == TRUTH:
                continue
            folder = None
            if self.state is not None:
                folder = self.state / ("truth" if instrument.of_truth else f"methods/{method}")
            depends_on = (truth if instrument.of_truth else both) | instrument.depends_on
            depends_on["code"] = fingerprint(instrument.module)
            measure = partial(instrument.measure, pair)
            found[instrument.name] = Kept(folder).measured(clip_id, instrument.name, depends_on, measure)
        return found

    @staticmethod
    def problem(method: str, clip: Crop, error: ClipError) -> dict[str, Any]:
        """Return the row of a clip that has no score, and says why."""
        try:
            frames = len(clip.landmarks)
        except ClipError:
            frames = 0
        return {"clip_id": clip.clip_id, "method": method, "frames": frames, "problem": str(error)}


def crop_size(clip: Crop) -> int | None:
    """Return the pixels of a crop's side; None where it cannot be told."""
    try:
        return int(clip.info["size"])
    except (ClipError, KeyError, ValueError, TypeError):
        return None


def _digest_of(clip: Crop) -> str:
    """A sha256 over the files of a clip that are measured."""
    whole = hashlib.sha256()
    for extension in ("mp4", "flac", "landmarks.npy"):
        whole.update(hashlib.sha256(clip.files.get(extension, b"")).digest())
    return whole.hexdigest()


def _versions() -> str:
    """The packages that figures depend on, of those installed."""
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)
