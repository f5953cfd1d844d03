"""The instruments of `score`: which there are, what each depends on, and what the tables say of it."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from difftalk.config.evaluation import Evaluation
from difftalk.config.training import OWN_AUDIO
from difftalk.evaluation import arcface, i3d, identity, inception, measures, metrics, st_lpips
from difftalk.evaluation.landmark_metrics import MIN_SILENCE_S
from difftalk.evaluation.pair import Pair
from difftalk.models import stable_syncnet
from difftalk.models.syncnet import load_syncnet
from difftalk.pretrained import table as pretrained
from difftalk.runtime.cache import Arrays
from difftalk.runtime.checksums import checksum, digest_of_model
from difftalk.runtime.fingerprint import fingerprint
from difftalk.speech.vad import SPEECH_PROBABILITY

HERE = "difftalk.evaluation"
NO_LPIPS = (
    "not computed: no AlexNet backbone (`difftalk weights fetch alexnet`, "
    f"evaluation.lpips_backbone, or {metrics.LPIPS_BACKBONE} in torch.hub's checkpoints folder)"
)

SYNC = f"{HERE}.sync"
SYNC_EXPERTS = frozenset({"difftalk.models.syncnet", "difftalk.models.stable_syncnet"})
# Modules of single instruments. `metrics` is none of them: several look at its box of the mouth.
OF_ONE = (
    SYNC_EXPERTS
    | {
        f"{HERE}.{name}"
        for name in ("arcface", "i3d", "identity", "inception", "motion", "mouth", "st_lpips", "sync")
    }
    | {"difftalk.speech.vad"}
)


@dataclass(frozen=True)
class Instrument:
    """One instrument.

    Args:
        name: of its entries.
        module: whose code, with all that it imports, decides what it measures; how it is used, too.
        measure: measures a pair; None where its weights are missing, and its protocol says so.
        protocol: what the foot of the tables says of it, by key.
        depends_on: further facts that its results depend on: settings, weights.
        of_truth: whether it looks at the true clip alone, so that all methods share what it finds.
        of_methods: whether it compares with the truth, which the truth itself has no part in.
    """

    name: str
    module: str
    measure: Callable[[Pair], Arrays] | None
    protocol: dict[str, str]
    depends_on: dict[str, Any] = field(default_factory=dict)
    of_truth: bool = False
    of_methods: bool = False

    @property
    def code(self) -> str:
        """A hash over the code that decides what it measures: its module's, and how videos are read for it.

        What other instruments alone use is left out: an edit of one measures nothing of another again.
        """
        own = {self.module} | ({SYNC} if self.module in SYNC_EXPERTS else set())
        return f"{fingerprint(self.module)} {fingerprint(measures.__name__, without=OF_ONE - own)}"


def load_instruments(syncnet: Path, settings: Evaluation) -> list[Instrument]:
    """Return the instruments, in the order in which they measure.

    Args:
        syncnet: folder of the sync expert.
        settings: the evaluation protocol.

    Raises:
        UserError: if the expert cannot be loaded, or weights are damaged.
    """
    return [
        *_of_images(settings),
        *of_landmarks(settings),
        *_of_faces(settings),
        _of_set("fid", inception, inception.Inception.load(settings.device)),
        _of_set("fvd", i3d, i3d.I3d.load(settings.device)),
        _of_sync(syncnet, settings),
        _of_second_expert(settings),
    ]


def _of_images(settings: Evaluation) -> list[Instrument]:
    box = {"mouth_margin": settings.mouth_margin}
    lines = {
        "psnr": "dB, range 255, per frame, identical frames left out",
        "ssim": "Gaussian window, sigma 1.5, mean of the RGB channels (as scikit-image)",
    }
    similarity = Instrument("similarity", f"{HERE}.metrics", measures.similarity, lines, box, of_methods=True)
    lpips = Instrument("lpips", f"{HERE}.metrics", None, {"lpips": NO_LPIPS})
    if backbone := metrics.find_lpips_backbone(settings.lpips_backbone):
        measure = measures.perceptual(metrics.Lpips(backbone, settings.device))
        weights = box | {"backbone": checksum(backbone)}
        lines = {"lpips": "0.1, AlexNet"}
        lpips = Instrument("lpips", f"{HERE}.metrics", measure, lines, weights, of_methods=True)
    measure = measures.shift_tolerant(st_lpips.StLpips(settings.device), settings.every)
    lines = {"st_lpips": f"{st_lpips.PROTOCOL}, every {settings.every} frames"}
    every = {"every": settings.every}
    tolerant = Instrument("st_lpips", f"{HERE}.st_lpips", measure, lines, every, of_methods=True)
    return [similarity, lpips, tolerant]


def of_landmarks(settings: Evaluation) -> list[Instrument]:
    """Return those that look at landmarks, audio and faces: packages bring all of their weights."""
    points = {
        "landmarks": "dlib's 68 points in the true and in the scored frames alike, faces of 300 px, placed "
        "by the true brows, eyes and nose",
        "mouth_corr": "Pearson correlation over a clip of the inner lip opening (pairs 61-67, 62-66, 63-65) "
        "with that of the crop's landmarks, which are the source's",
        "lmd": "mean distance of points (mouth 48-67; face: all 68), each set about its own centre, in "
        "pixels of a 256-px crop",
        "jitter": "mean acceleration of points 48-67 over the truth's",
    }
    speech = {
        "theval": "lip dynamics, silent lip, lip to loudness, brows and head after THEval on 68 points; "
        "brows and head are the truth's own where a method keeps them; speech by Silero VAD 6 at "
        f"{SPEECH_PROBABILITY:g}, pauses of {MIN_SILENCE_S:g} s or more",
    }
    motion = {
        "tof_mouth": "mean difference of Farneback flow (tOF) in the mouth's box, pixels at 256",
        "mouth_sharpness": "variance of the Laplacian in the mouth's box over the truth's",
    }
    box = {"mouth_margin": settings.mouth_margin}
    every = {"every": settings.every}
    descriptors = {"id_distance": f"{identity.PROTOCOL}, every {settings.every} frames"}
    described = measures.identity(settings.every)
    return [
        Instrument("identity", f"{HERE}.identity", described, descriptors, every),
        Instrument("true_identity", f"{HERE}.identity", measures.true_identity, {}, of_truth=True),
        Instrument("points", f"{HERE}.mouth", measures.points, points),
        Instrument("true_points", f"{HERE}.mouth", measures.true_points, {}, of_truth=True),
        Instrument("speech", "difftalk.speech.vad", measures.speech, speech, of_truth=True),
        Instrument("motion", f"{HERE}.motion", measures.mouth_motion, motion, box),
    ]


def _of_faces(settings: Evaluation) -> list[Instrument]:
    network = arcface.ArcFace.load(settings.device)
    module = f"{HERE}.arcface"
    if network is None:
        return [Instrument("csim", module, None, {"csim": arcface.NOT_COMPUTED})]
    weights: dict[str, Any] = {"weights": pretrained.recorded(arcface.WEIGHTS)}
    line = f"{network.protocol}; cosine to the first true frame, every {settings.every} frames"
    every = weights | {"every": settings.every}
    reference = measures.true_embedding(network)
    return [
        Instrument("csim", module, measures.embeddings(network, settings.every), {"csim": line}, every),
        Instrument("true_csim", module, reference, {}, weights, of_truth=True),
    ]


def _of_set(column: str, module: ModuleType, network: "inception.Inception | i3d.I3d | None") -> Instrument:
    """Features of which a column is made in the tables; `network` is None without its weights."""
    name = f"{column}_features"
    if network is None:
        return Instrument(name, module.__name__, None, {column: module.NOT_COMPUTED})
    weights = {"weights": pretrained.recorded(module.WEIGHTS)}
    measure = measures.features_of(network.features)
    return Instrument(name, module.__name__, measure, {column: network.protocol}, weights)


SYNC_FRAMES = {
    "jpeg": "of 224 px as JPEG files of ffmpeg's default quality (200 kbit/s), as in the released code",
    "plain": "of 224 px without the JPEG files of the released code",
}


def _of_sync(syncnet: Path, settings: Evaluation) -> Instrument:
    expert = load_syncnet(syncnet, settings.device, jpeg=settings.sync_frames == "jpeg")
    about = {k: v for k, v in expert.config.about.items() if k in ("source", "command", "held_out")}
    ends = "ends zero-padded as released" if expert.zero_padded else "mean over the pairs that exist"
    lines = {
        "sync": f"{expert.config.architecture}, shifts of {settings.max_shift} frames either way, {ends}, "
        f"with the audio of the true clip ({', '.join(sorted(OWN_AUDIO))}: of its own files), region from "
        "the true landmarks",
        "sync_expert": json.dumps(about, sort_keys=True),
    }
    depends_on = {"expert": digest_of_model(syncnet), "max_shift": settings.max_shift}
    if expert.config.architecture == "syncnet_v2":
        lines["sync"] += f", frames {SYNC_FRAMES[settings.sync_frames]}"
        depends_on["frames"] = settings.sync_frames
    return Instrument("sync", "difftalk.models.syncnet", measures.sync(expert, settings), lines, depends_on)


def _of_second_expert(settings: Evaluation) -> Instrument:
    module = stable_syncnet.__name__
    expert = stable_syncnet.StableSyncExpert.load(settings.device)
    if expert is None:
        return Instrument("sync2", module, None, {"sync2": stable_syncnet.NOT_COMPUTED})
    weights = pretrained.recorded(stable_syncnet.WEIGHTS)
    depends_on = {"weights": weights, "max_shift": settings.max_shift}
    lines = {"sync2": f"{expert.protocol}; shifts of {settings.max_shift} frames either way"}
    return Instrument("sync2", module, measures.sync(expert, settings, "sync2"), lines, depends_on)
