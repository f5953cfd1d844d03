"""What each instrument measures of a clip of a method beside the truth, as arrays that can be kept.

What columns are made of these is in `difftalk.evaluation.figures`, so that a further column of what is kept
measures nothing again.
"""

from collections.abc import Callable

import numpy as np

from difftalk.config.evaluation import Evaluation
from difftalk.evaluation import metrics, motion
from difftalk.evaluation.arcface import ArcFace
from difftalk.evaluation.identity import descriptors
from difftalk.evaluation.mouth import face_points
from difftalk.evaluation.pair import Pair
from difftalk.evaluation.st_lpips import StLpips
from difftalk.evaluation.sync import measure_sync
from difftalk.models.stable_syncnet import StableSyncExpert
from difftalk.models.syncnet import SyncExpert
from difftalk.runtime.cache import Arrays
from difftalk.speech.vad import speech_probabilities

Expert = SyncExpert | StableSyncExpert


def similarity(pair: Pair) -> Arrays:
    """Measure PSNR and SSIM of frames and mouths: four arrays (T,), NaN where they are identical."""
    box = pair.box
    found: dict[str, list[float]] = {name: [] for name in ("psnr", "psnr_mouth", "ssim", "ssim_mouth")}
    for a, b in zip(pair.truth, pair.frames, strict=True):
        alike = metrics.ssim_map(a, b)
        found["psnr"].append(_number(metrics.psnr(a, b)))
        found["psnr_mouth"].append(_number(metrics.psnr(metrics.region(a, box), metrics.region(b, box))))
        found["ssim"].append(float(metrics.inner(alike).mean()))
        found["ssim_mouth"].append(float(metrics.region(alike, box).mean()))
    return {name: np.array(values) for name, values in found.items()}


def perceptual(lpips: metrics.Lpips) -> Callable[[Pair], Arrays]:
    """Measure LPIPS of each frame and of its mouth: two arrays (T,)."""

    def measure(pair: Pair) -> Arrays:
        whole, mouth = lpips(pair.truth, pair.frames, pair.box)
        return {"lpips": whole, "lpips_mouth": mouth}

    return measure


def shift_tolerant(network: StLpips, every: int) -> Callable[[Pair], Arrays]:
    """Measure ST-LPIPS of every so many frames: an array (n,)."""

    def measure(pair: Pair) -> Arrays:
        truth, frames = pair.truth[::every], pair.frames[::every]
        return {"st_lpips": network(truth, frames, pair.box)[0]}

    return measure


def features_of(network: Callable[[np.ndarray], np.ndarray]) -> Callable[[Pair], Arrays]:
    """Keep the features of the method's frames, from which distances of sets are made: (n, D) float32."""

    def measure(pair: Pair) -> Arrays:
        return {"features": network(pair.frames)}

    return measure


def embeddings(network: ArcFace, every: int) -> Callable[[Pair], Arrays]:
    """Embed the face in every so many frames of the method: (n, 512)."""

    def measure(pair: Pair) -> Arrays:
        return {"embeddings": network.embeddings(pair.frames[::every], pair.landmarks[::every])}

    return measure


def true_embedding(network: ArcFace) -> Callable[[Pair], Arrays]:
    """Embed the face in the first true frame, the reference: (1, 512)."""

    def measure(pair: Pair) -> Arrays:
        return {"embeddings": network.embeddings(pair.whole_truth[:1], pair.clip.landmarks[:1])}

    return measure


def identity(every: int) -> Callable[[Pair], Arrays]:
    """Describe the face in every so many frames of the method: (n, 128)."""

    def measure(pair: Pair) -> Arrays:
        return {"descriptors": descriptors(pair.frames, pair.landmarks, every)}

    return measure


def true_identity(pair: Pair) -> Arrays:
    """Describe the face in the first true frame, the reference: (1, 128)."""
    return {"descriptors": descriptors(pair.whole_truth[:1], pair.clip.landmarks[:1])}


def points(pair: Pair) -> Arrays:
    """Find the landmarks of the method's frames: (T, 68, 2), and the side of the crop."""
    return {"points": face_points(pair.frames, pair.landmarks), "size": np.array(pair.size)}


def true_points(pair: Pair) -> Arrays:
    """Find the landmarks of all true frames with the same predictor: (T, 68, 2)."""
    truth = pair.whole_truth
    return {"points": face_points(truth, pair.clip.landmarks[: len(truth)])}


def speech(pair: Pair) -> Arrays:
    """Measure how likely each 32 ms of the true audio are speech: (N,)."""
    return {"probabilities": speech_probabilities(pair.clip.audio)}


def mouth_motion(pair: Pair) -> Arrays:
    """Measure tOF at the mouth and the sharpness of both sides: a scalar and two arrays (T,)."""
    box = pair.box
    flow = motion.tof(motion.flows(pair.truth, box), motion.flows(pair.frames, box))
    return {
        "tof_mouth": np.array(_number(flow)),
        "sharpness": motion.sharpness(pair.frames, box),
        "true_sharpness": motion.sharpness(pair.truth, box),
    }


def sync(expert: Expert, settings: Evaluation, prefix: str = "sync") -> Callable[[Pair], Arrays]:
    """Measure offset, confidence and distance by a sync expert: three scalars, NaN for a clip too short."""

    def measure(pair: Pair) -> Arrays:
        video = expert.video_embeddings(pair.frames, pair.landmarks)
        return in_sync(expert, video, pair.audio, settings, prefix)

    return measure


def in_sync(
    expert: Expert, video: np.ndarray, audio: np.ndarray, settings: Evaluation, prefix: str = "sync"
) -> Arrays:
    """Measure what `sync` does, of frames whose embeddings `(N, E)` are known and any 16 kHz audio."""
    embedded = expert.audio_embeddings(audio)
    found = measure_sync(video, embedded, settings.max_shift, expert.zero_padded, expert.every)
    values = (np.nan,) * 3 if found is None else (found.offset, found.confidence, found.distance)
    names = (f"{prefix}_offset", f"{prefix}_confidence", f"{prefix}_distance")
    return {name: np.array(float(value)) for name, value in zip(names, values, strict=True)}


def _number(value: float | None) -> float:
    return np.nan if value is None else value
