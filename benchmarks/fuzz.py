"""Damage videos byte by byte, in eleven containers, and count how reading them ends.

python benchmarks/fuzz.py --files 2000 [--seed 0] [--workers 2] [--keep FOLDER]

Every file must end as data, or as the reject of that file, with its name. What else happens is printed:
another exception, a crash of the process, more than `--limit` seconds. The exit status is then 1. `--keep`
keeps the files.
"""

import argparse
import faulthandler
import re
import sys
import tempfile
import time
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from difftalk.media.audio import read_audio
from difftalk.media.probe import probe
from difftalk.media.video import read_frames
from difftalk.runtime.errors import ClipError
from difftalk.runtime.parallel import map_clips
from difftalk.runtime.rejects import Reject

# Suffix of the file: format, video codec, audio codec.
CONTAINERS = {
    "mp4": ("mp4", "libx264", "aac"),
    "mov": ("mov", "mpeg4", "aac"),
    "mkv": ("matroska", "libx264", "aac"),
    "webm": ("webm", "libvpx", "libopus"),
    "avi": ("avi", "libx264", "libmp3lame"),
    "flv": ("flv", "libx264", "aac"),
    "ts": ("mpegts", "libx264", "ac3"),
    "mpg": ("vob", "mpeg2video", "ac3"),
    "ogv": ("ogg", "libvpx", "libopus"),
    "wmv": ("asf", "msmpeg4v3", "mp2"),
    "mxf": ("mxf", "mpeg2video", "pcm_s16le"),
}
WITHOUT_B_FRAMES = ("libvpx", "msmpeg4v3")
SIDE, FPS, RATE = 32, 25, 48_000
# How much of a file is damaged: single bytes, a block, or its end is missing.
KINDS = ("bytes", "header", "block", "cut")


def write_source(path: Path, seconds: float = 1.0) -> None:
    """Write a small video with audio, in the container of its suffix."""
    container_format, video_codec, audio_codec = CONTAINERS[path.suffix[1:]]
    rng = np.random.default_rng(0)
    with av.open(str(path), "w", format=container_format) as container:
        options = {"g": "12"} | ({} if video_codec in WITHOUT_B_FRAMES else {"bf": "2"})
        video: Any = container.add_stream(video_codec, rate=FPS, options=options)
        video.width = video.height = SIDE
        video.pix_fmt, video.bit_rate, video.codec_context.thread_count = "yuv420p", 500_000, 1
        audio: Any = container.add_stream(audio_codec, rate=RATE, layout="stereo")
        step = RATE // FPS
        for k in range(round(seconds * FPS)):
            pixels = rng.integers(0, 256, (4, 4, 3), np.uint8).repeat(8, 0).repeat(8, 1)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = k, Fraction(1, FPS)
            container.mux(video.encode(frame))
            samples = rng.normal(0, 3000, (1, 2 * step)).astype(np.int16)
            sound = av.AudioFrame.from_ndarray(samples, format="s16", layout="stereo")
            sound.sample_rate, sound.pts, sound.time_base = RATE, k * step, Fraction(1, RATE)
            container.mux(audio.encode(sound))
        container.mux(video.encode())
        container.mux(audio.encode())


def damaged(data: bytes, kind: str, rng: np.random.Generator) -> bytes:
    """Return a copy of a file's bytes with damage of one of `KINDS`."""
    if kind == "cut":
        return data[: int(rng.integers(1, len(data)))]
    out = np.frombuffer(data, np.uint8).copy()
    if kind == "block":
        at, size = int(rng.integers(len(out))), int(rng.integers(1, 200))
        out[at : at + size] = rng.integers(0, 256, len(out[at : at + size]))
    else:
        within = len(out) if kind == "bytes" else min(len(out), 1500)
        at_each = rng.integers(0, within, int(rng.integers(1, 30)))
        out[at_each] = rng.integers(0, 256, len(at_each))
    return out.tobytes()


def read_file(job: tuple[Path, float]) -> str:
    """Read a file as the stages do: whole, and a part after a jump; how that ended.

    A process that hangs ends itself after the given number of seconds.
    """
    path, limit_s = job
    faulthandler.dump_traceback_later(limit_s, exit=True)
    try:
        info = probe(path)
        for start_s, end_s in ((0.0, min(info.duration_s, 30.0)), (1.2, 1.6)):
            for _ in read_frames(path, start_s, end_s):
                pass
            read_audio(path, start_s, end_s)
        return "data"
    except ClipError as e:
        if path.name not in e.detail:
            raise AssertionError(f"the reject does not name the file: {e}") from e
        unexpected = re.search(r": (\w+Error): ", e.detail)
        return f"{e.reason} by {unexpected[1]}" if unexpected else e.reason
    finally:
        faulthandler.cancel_dump_traceback_later()


def write_files(folder: Path, files: int, seed: int) -> list[Path]:
    """Write damaged copies, the containers in turn; the same numbers give the same damage."""
    sources = {}
    for suffix in CONTAINERS:
        write_source(folder / f"whole.{suffix}", 2.0)
        sources[suffix] = (folder / f"whole.{suffix}").read_bytes()
    written = []
    for number in range(files):
        suffix = list(CONTAINERS)[number % len(CONTAINERS)]
        kind = KINDS[number // len(CONTAINERS) % len(KINDS)]
        path = folder / f"{number:05d}-{kind}.{suffix}"
        path.write_bytes(damaged(sources[suffix], kind, np.random.default_rng((seed, number))))
        written.append(path)
    return written


def main() -> int:
    """Print the counts by container, and what should not have happened."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--limit", type=float, default=60.0, help="seconds for one file")
    parser.add_argument("--keep", type=Path)
    chosen = parser.parse_args()
    av.logging.set_level(None)
    wrong: list[str] = []
    counts: dict[str, Counter[str]] = {suffix: Counter() for suffix in CONTAINERS}
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as tmp:
        folder = chosen.keep or Path(tmp)
        folder.mkdir(exist_ok=True)
        paths = write_files(folder, chosen.files, chosen.seed)
        whole = [folder / f"whole.{suffix}" for suffix in CONTAINERS]
        jobs = [(path.name, (path, chosen.limit)) for path in whole + paths]
        for name, ended in map_clips(read_file, jobs, stage="fuzz", workers=chosen.workers, unit="files"):
            suffix = name.rpartition(".")[2]
            how = ended.reason if isinstance(ended, Reject) else ended
            if isinstance(ended, Reject) or " by " in how or (name.startswith("whole") and how != "data"):
                wrong.append(f"{name}: {ended.detail if isinstance(ended, Reject) else how}")
            if not name.startswith("whole"):
                counts[suffix][how] += 1
    for suffix, ends in counts.items():
        print(f"{suffix}: {', '.join(f'{n} {how}' for how, n in ends.most_common())}")
    total = sum(counts.values(), Counter())
    print(
        f"{chosen.files} files: {total['data']} data, {total['failed']} failed, {len(wrong)} wrong, ", end=""
    )
    print(f"{time.monotonic() - began:.0f} s")
    for line in wrong:
        print(f"WRONG {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
