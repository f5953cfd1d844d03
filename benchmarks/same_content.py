"""Which copies of files are found, what is taken for a copy and is none, and how far faces are apart.

python benchmarks/same_content.py FOLDER [FOLDER ...] [--pairs] [--index N]

Makes copies of each file that has audio: rescaled, brighter, beginning later, cropped, mirrored, all of
these. Prints the seconds of CPU that each file takes; of each kind how many copies are found, with the
largest distances of audio, frames and face; then the least distances of unrelated files, at any shift. With
--pairs, each two files. docs/videos.md has the limits.
"""

import argparse
import itertools
import resource
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np

from difftalk.datasets.copies import COPY_FRAMES, aligned, audio_distance, frame_distance
from difftalk.datasets.file_features import FeaturesJob, FileFeatures, file_features
from difftalk.datasets.fingerprints import HEARD, LOOKED_AT_S, STEP_S
from difftalk.datasets.groups import near_duplicates
from difftalk.media.audio import read_audio
from difftalk.media.encode import write_video
from difftalk.media.video import read_lazy_frames
from difftalk.runtime.video_folder import list_videos, to_uri

LATER_S = 2.53
Frames = list[np.ndarray]


def cropped(frames: Frames) -> Frames:
    """70 % of width and height, from the middle."""
    height, width = frames[0].shape[:2]
    return [f[int(0.15 * height) : int(0.85 * height), int(0.15 * width) : int(0.85 * width)] for f in frames]


def rescaled(frames: Frames) -> Frames:
    return [cv2.resize(f, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) for f in frames]


def brighter(frames: Frames) -> Frames:
    return [cv2.convertScaleAbs(f, alpha=1.1, beta=15) for f in frames]


def mirrored(frames: Frames) -> Frames:
    return [np.ascontiguousarray(f[:, ::-1]) for f in frames]


# Of each kind: what it does to the frames, seconds that are left out, factor of the volume, CRF.
KINDS: dict[str, tuple[Callable[[Frames], Frames], float, float, int]] = {
    "half the size, CRF 36": (rescaled, 0.0, 1.0, 36),
    "brighter, half the volume": (brighter, 0.0, 0.5, 23),
    f"begins {LATER_S} s later": (list, LATER_S, 1.0, 23),
    "cropped to 70 %": (cropped, 0.0, 1.0, 23),
    "mirrored": (mirrored, 0.0, 1.0, 23),
    "all of these": (lambda f: brighter(mirrored(cropped(rescaled(f)))), LATER_S, 0.5, 30),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--pairs", action="store_true")
    parser.add_argument("--index", type=int, metavar="N", help="compare N random fingerprints of a minute")
    asked = parser.parse_args()
    if asked.index:
        index(asked.index)
    files = {to_uri(name): d / name for d in asked.folders for name in list_videos(d).videos}
    looks: dict[str, FileFeatures] = {}
    for name, file in files.items():
        start = time.process_time()
        looks[name] = file_features(FeaturesJob(file, faces=True, compare=True))
        said = looks[name].unusable or ("face" if looks[name].face is not None else "no face")
        print(f"{name}: {time.process_time() - start:.1f} s of CPU, {said}", flush=True)
    looks = {name: look for name, look in looks.items() if look.audio is not None and not look.silent}
    with TemporaryDirectory() as folder:
        for kind in KINDS:
            print(found(kind, files, looks, Path(folder)), flush=True)
    unrelated(looks, asked.pairs)


def index(count: int) -> None:
    """Compare random fingerprints, and say what that takes."""
    rng = np.random.default_rng(0)
    steps = round(60 / STEP_S)
    audio = [rng.integers(0, int(HEARD), steps).astype(np.uint32) | HEARD for _ in range(count)]
    start = time.process_time()
    pairs = sum(1 for _ in aligned(audio))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    took = time.process_time() - start
    print(
        f"{count} fingerprints of a minute: {took:.1f} s of CPU, {memory:.0f} MB, {pairs} pairs", flush=True
    )


def found(kind: str, files: dict[str, Path], looks: dict[str, FileFeatures], folder: Path) -> str:
    """Make the copies of one kind and say how many are found, and what is taken for one besides."""
    change, later_s, volume, crf = KINDS[kind]
    copies: dict[str, FileFeatures] = {}
    for name, file in files.items():
        if name not in looks or looks[name].length_s < later_s + 2:
            continue
        length = min(looks[name].length_s, LOOKED_AT_S + later_s)
        frames = change([f[:, :] for f in read_lazy_frames(file, later_s, length)])
        even = [f[: len(f) // 2 * 2, : f.shape[1] // 2 * 2] for f in frames]
        audio = (read_audio(file, later_s, length) * volume).astype(np.int16)
        write_video(folder / "copy.mp4", even, audio=audio, crf=crf)
        copies[name] = file_features(FeaturesJob(folder / "copy.mp4", faces=True, compare=True))
    hits, wrong, worst = 0, 0, np.zeros(3)
    for name, copy in copies.items():
        original = looks[name]
        hits += bool(near_duplicates({"original": original, "copy": copy}))
        others = {other: look for other, look in looks.items() if other != name}
        wrong += "copy" in near_duplicates(others | {"copy": copy})
        worst = np.maximum(worst, distances(original, copy, round(later_s / STEP_S)))
    return (
        f"{kind}: {hits} of {len(copies)} found, {wrong} taken for one of another file; at most: "
        f"audio {worst[0]:.2f}, frames {worst[1]:.2f}, faces {worst[2]:.2f}"
    )


def distances(a: FileFeatures, b: FileFeatures, shift: int) -> tuple[float, float, float]:
    """Return those of audio, frames and faces; 0 for what is not there."""
    assert a.audio is not None and b.audio is not None
    audio = min(audio_distance(a.audio, b.audio, s) for s in range(shift - 2, shift + 3))
    frames = faces = 0.0
    if a.hashes is not None and b.hashes is not None:
        frames = frame_distance(a.hashes, b.hashes, shift * STEP_S)
    if a.face is not None and b.face is not None:
        faces = float(np.linalg.norm(a.face - b.face))
    return audio, frames, faces


def unrelated(looks: dict[str, FileFeatures], pairs: bool) -> None:
    """Print the least distances of two files, at any shift."""
    least = np.ones(3)
    for (a, one), (b, other) in itertools.combinations(looks.items(), 2):
        assert one.audio is not None and other.audio is not None
        every = [distances(one, other, shift) for shift in range(-len(other.audio), len(one.audio), 5)]
        audio, frames = min(d[0] for d in every), min(d[1] for d in every)
        faces = every[0][2] or 1.0
        least = np.minimum(least, (audio, frames, faces))
        if pairs:
            print(f"{a} {b}: audio {audio:.2f} frames {frames:.2f} faces {faces:.2f}")
    alone = sum(1 for _ in aligned([look.audio for look in looks.values() if look.audio is not None]))
    print(
        f"unrelated: at least: audio {least[0]:.2f}, frames {least[1]:.2f}, faces {least[2]:.2f}; "
        f"{alone} pairs by audio alone, {len(near_duplicates(looks))} taken for copies "
        f"(frames within {COPY_FRAMES:g} count with audio only)"
    )


if __name__ == "__main__":
    main()
