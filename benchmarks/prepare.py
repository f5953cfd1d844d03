"""Time the stages of preparing against a per-frame baseline, and against the bare decode.

python benchmarks/prepare.py FOLDER [FOLDER ...] [--demo 6]

Each folder of videos is a set; `--demo N` is one more, of N speakers rendered as the demo does. The stages
run as the workflow runs them, one command each. The per-frame baseline, on the same files with the same
detector and predictor: every frame to a JPEG on disk; each read back, searched for faces whole, at the full
resolution, upsampled only where the detector needs that to find the face; landmarks to a text file and a crop
to a JPEG; each frame's 40 ms of audio to a WAV file, features computed from that; one process. It runs on a
sample of each clip's frames, and its time per frame counts for all of the clip's frames. Two variants: frames
upsampled once more, as in dlib's own example; and a seek in the file for each frame and its audio, as
DiffTalk's community scripts (yxdydgithub/difftalk_preprocess) do, here without the two processes that they
start for that.

Rounds alternate between the ways, so that a machine which is busy for a while is so for all.
"""

import argparse
import dataclasses
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import av
import cv2
import numpy as np
import soundfile
from python_speech_features import mfcc

from difftalk.config.dataset import LocalSettings, Shards
from difftalk.datasets.clips import Clip, read_plan, write_plan
from difftalk.datasets.demo.render import DemoSource, render_source
from difftalk.media.audio import read_audio
from difftalk.media.clock import FPS, SAMPLE_RATE
from difftalk.media.probe import open_media, video_stream
from difftalk.media.video import read_frames
from difftalk.pretrained.dlib_models import face_detector, landmark_predictor
from difftalk.runtime.parallel import map_clips
from difftalk.runtime.rejects import Reject, read_rejects
from difftalk.stages import plan

SHARD = "train-000"
STAGES = ("fetch", "landmarks", "gates", "crops", "speech")
BASELINES = ("per-frame baseline", "the same, upsampled once more", "the same, seeking each frame")
SEEKS = 4  # frames per clip and round
UPSAMPLED_FRAMES = 3
# Wall and processor seconds `(2,)` of each way.
Seconds = dict[str, np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("videos", type=Path, nargs="*", help="folders of videos")
    parser.add_argument(
        "--demo", type=int, default=6, help="speakers of the demo's set, 6 s each; 0 leaves it out"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes of a stage")
    parser.add_argument("--size", type=int, default=256, help="pixels of the crops")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--sample", type=int, default=15, help="frames per clip and round for the baseline")
    args = parser.parse_args()
    print("| set | | s | CPU s | frames/s | clips/h | all stages are x times as fast |")
    print("|---|---|---:|---:|---:|---:|---:|", flush=True)
    notes = []
    with tempfile.TemporaryDirectory() as folder:
        sets = {videos.name: videos for videos in args.videos}
        if args.demo:
            sets["demo"] = render_demo(Path(folder) / "demo", args.demo)
        for name, videos in sets.items():
            work = Path(folder) / f"work-{name}"
            work.mkdir()
            notes.append(compare(name, videos, work, args))
    print(f"\n{args.workers} processes per stage, crops of {args.size} pixels, {args.rounds} rounds.", *notes)


def render_demo(folder: Path, speakers: int) -> Path:
    folder.mkdir()
    for k in range(speakers):
        render_source(DemoSource(f"speaker-{k}", k, k, 1, 6.0, 256), folder / f"speaker-{k}.mp4")
    return folder


def compare(name: str, videos: Path, work: Path, args: argparse.Namespace) -> str:
    """Print the rows of one set; returns what is to be said below the table."""
    prepare = Preparation(videos, work / "first", args)
    prepare.run()
    # Files that are rejected cost little on our side and much on the other: leave them out.
    kept = [c for c in prepare.clips if c.clip_id not in prepare.rejected()]
    (work / "kept").mkdir()
    for clip in kept:
        (work / "kept" / clip.uri).symlink_to((videos / clip.uri).resolve())
    files = {c.clip_id: work / "kept" / c.uri for c in kept}
    scales = {c.clip_id: upsampling(files[c.clip_id], c) for c in kept}
    rows: Seconds = {}
    found = searched = 0
    for number in range(args.rounds):
        of_round = {
            "bare decode": timed(lambda: decode(decode_raw, files, kept, args.workers)),
            "decode to RGB at 25/s": timed(lambda: decode(decode_rgb, files, kept, args.workers)),
        }
        of_round |= Preparation(work / "kept", work / f"round-{number}", args).run()
        of_round |= {way: np.zeros(2) for way in BASELINES}
        for clip in kept:
            sample = Sample(files[clip.clip_id], clip, number, args.sample, work / f"{clip.clip_id}-{number}")
            decoded, seeking = timed(sample.decode) / sample.count, sample.seek()
            analysed = sample.analyse(sample.count, scales[clip.clip_id], args.size)
            found, searched = found + sample.found, searched + sample.count
            upsampled = sample.analyse(
                min(UPSAMPLED_FRAMES, sample.count), scales[clip.clip_id] + 1, args.size
            )
            per_frame = (decoded + analysed, decoded + upsampled, seeking + analysed)
            for way, seconds in zip(BASELINES, per_frame, strict=True):
                of_round[way] += seconds * clip.frames
        for label, seconds in of_round.items():
            rows[label] = rows.get(label, 0) + seconds / args.rounds
    report(name, rows, kept)
    return (
        f"{name}: {len(kept)} of {len(prepare.clips)} clips kept, {sum(c.frames for c in kept)} frames; the "
        f"per-frame baseline found a face in {found} of {searched} at {max(scales.values())} upsamplings."
    )


def report(name: str, rows: Seconds, clips: list[Clip]) -> None:
    frames, whole = sum(c.frames for c in clips), np.sum([rows[stage] for stage in STAGES], axis=0)
    ours = {stage: rows[stage] for stage in STAGES} | {"**all stages**": whole}
    for label, (seconds, cpu_s) in (ours | rows).items():
        speeds = f"{seconds:.1f} | {cpu_s:.1f} | {frames / seconds:.0f} | {len(clips) / seconds * 3600:.0f}"
        ratio = "" if label in ours else f"{seconds / whole[0]:.2g}"
        print(f"| {name} | {label} | {speeds} | {ratio} |", flush=True)


class Preparation:
    """The stages, run on a folder of videos as one shard."""

    def __init__(self, videos: Path, folder: Path, args: argparse.Namespace) -> None:
        self.folder, self.args = folder, args
        self.dataset = LocalSettings(videos=str(videos))
        folder.mkdir()
        plan.run(dataset=self.dataset, shards=Shards(train=1, test=1), out=folder / "clips.parquet")
        self.clips = [dataclasses.replace(c, shard=SHARD) for c in read_plan(folder / "clips.parquet")]
        write_plan(folder / "clips.parquet", self.clips)

    def run(self) -> Seconds:
        """Run the stages on the set, and return the seconds of each."""
        at = {name: str(self.folder / name) for name in ("sources", "landmarks.parquet", "crops.tar")}
        planned = ["--plan", str(self.folder / "clips.parquet"), "--shard", SHARD]
        sources = [*planned, "--sources", at["sources"]]
        dataset = [
            "--dataset",
            json.dumps(self.dataset.as_dict()),
            "--download",
            "{}",
            "--store",
            str(self.folder / "store"),
        ]
        manifest = ["--manifest", str(self.folder / "sources.csv")]
        size = ["--settings", json.dumps({"size": self.args.size})]
        early = ["--crops", size[1], "--gates", "{}"]
        scores = ["--scores", str(self.folder / "scores.parquet")]
        measured = ["--quality", str(self.folder / "quality.csv"), *scores]
        speech = str(self.folder / "speech.parquet")
        workers = ["--workers", str(self.args.workers)]
        commands = {
            "fetch": [*planned, *dataset, "--out", at["sources"], *manifest],
            "landmarks": [
                *sources,
                "--settings",
                "{}",
                "--out",
                at["landmarks.parquet"],
                *measured,
                *early,
                *workers,
            ],
            "gates": [*scores, "--settings", "{}"],
            "crops": [
                *sources,
                "--landmarks",
                at["landmarks.parquet"],
                "--rejected",
                str(self.folder / "gates.csv"),
                *size,
                "--out",
                at["crops.tar"],
                *workers,
            ],
            "speech": ["--crops", at["crops.tar"], "--settings", "{}", "--out", speech],
        }
        return {stage: timed(partial(self._command, stage, commands[stage])) for stage in STAGES}

    def rejected(self) -> set[str]:
        """Return the ids of the clips that a stage has rejected."""
        return {
            r.clip_id
            for stage in STAGES
            if stage != "landmarks"
            for r in read_rejects(self.folder / f"{stage}.csv")
        }

    def _command(self, stage: str, arguments: list[str]) -> None:
        common: list[str] = []
        if stage != "landmarks":  # which measures, and rejects nothing
            common = ["--rejects", str(self.folder / f"{stage}.csv"), "--max-reject-fraction", "1"]
        command = [sys.executable, "-m", "difftalk", stage, *arguments, *common]
        subprocess.run(
            [*command, "--log", str(self.folder / f"{stage}.log")], check=True, capture_output=True
        )


class Sample:
    """Some frames of a clip, prepared as by the per-frame baseline."""

    def __init__(self, video: Path, clip: Clip, number: int, count: int, folder: Path) -> None:
        self.video, self.clip, self.folder = video, clip, folder
        last = max(clip.frames - count, 0)
        self.first = min(number * count, last)
        self.count = min(count, clip.frames)
        self.found = 0
        folder.mkdir()

    def decode(self) -> None:
        """Write each frame to a JPEG, each frame's audio to a WAV."""
        start_s, end_s = self.first / FPS, (self.first + self.count) / FPS
        for k, frame in enumerate(read_frames(self.video, start_s, end_s)):
            cv2.imwrite(str(self.folder / f"{k}.jpg"), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        audio = read_audio(self.video, start_s, end_s)
        for k, snippet in enumerate(audio.reshape(self.count, -1)):
            soundfile.write(self.folder / f"{k}.wav", snippet, SAMPLE_RATE)

    def seek(self) -> np.ndarray:
        """Return the seconds `(2,)` per frame where the file is seeked for each frame and its audio."""
        numbers = np.linspace(0, self.clip.frames - 1, SEEKS).astype(int)

        def all_of_them() -> None:
            for k in numbers:
                frame = frame_at(self.video, k / FPS)
                cv2.imwrite(str(self.folder / f"seek-{k}.jpg"), frame)
                snippet = read_audio(self.video, k / FPS, (k + 1) / FPS)
                soundfile.write(self.folder / f"seek-{k}.wav", snippet, SAMPLE_RATE)

        return timed(all_of_them) / len(numbers)

    def analyse(self, count: int, upsampled: int, size: int) -> np.ndarray:
        """Seconds `(2,)` per frame for each JPEG to landmarks and a crop, each WAV to features."""
        self.found = 0
        return timed(lambda: self._analyse(count, upsampled, size)) / count

    def _analyse(self, count: int, upsampled: int, size: int) -> None:
        for k in range(count):
            frame = cv2.imread(str(self.folder / f"{k}.jpg"))
            assert frame is not None, f"{k}.jpg cannot be read"
            grey = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
            faces = face_detector()(grey, upsampled)
            if faces:
                self.found += 1
                face = max(faces, key=lambda f: f.width())
                points = np.array([(p.x, p.y) for p in landmark_predictor()(grey, face).parts()])
                np.savetxt(self.folder / f"{k}.lms", points, fmt="%.2f")
                low, high = np.maximum(points.min(axis=0) - face.width() // 5, 0), points.max(axis=0)
                crop = frame[low[1] : high[1], low[0] : high[0]]
                cv2.imwrite(str(self.folder / f"{k}-crop.jpg"), cv2.resize(crop, (size, size)))
            audio, rate = soundfile.read(self.folder / f"{k}.wav", dtype="int16")
            np.save(self.folder / f"{k}.npy", mfcc(audio, rate))


def frame_at(video: Path, at_s: float) -> np.ndarray:
    """Return the frame shown at a time, `(H, W, 3)` BGR, decoded from the key frame before."""
    with open_media(video) as container:
        stream = video_stream(container, video)
        stream.codec_context.thread_count = 1
        start = stream.start_time or 0
        container.seek(start + round(at_s / stream.time_base), stream=stream, backward=True)
        for frame in container.decode(stream):
            if frame.pts is not None and (frame.pts - start) * stream.time_base >= at_s - 0.5 / FPS:
                break
        return frame.to_ndarray(format="bgr24", threads=1)


def upsampling(video: Path, clip: Clip) -> int:
    """Return how often frames must be doubled for the detector to find the face in three; 2 at most."""
    frames = [next(read_frames(video, t, t + 1 / FPS)) for t in np.linspace(0, clip.end_s - 0.2, 3)]
    greys = [cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in frames]
    return next((n for n in (0, 1) if all(len(face_detector()(g, n)) for g in greys)), 2)


def decode_raw(job: tuple[Path, float]) -> int:
    """Decode a file and do nothing with the frames."""
    with av.open(str(job[0])) as container:
        stream = video_stream(container, job[0])
        stream.codec_context.thread_count = 1
        return sum(1 for _ in container.decode(stream))


def decode_rgb(job: tuple[Path, float]) -> int:
    return sum(1 for _ in read_frames(job[0], 0.0, job[1]))


def decode(
    work: Callable[[tuple[Path, float]], int], files: dict[str, Path], clips: list[Clip], workers: int
) -> None:
    """Decode files in as many processes as a stage has."""
    jobs = [(c.clip_id, (files[c.clip_id], c.end_s)) for c in clips]
    lengths = [c.frames for c in clips]
    results = map_clips(work, jobs, stage="decode", workers=workers, lengths=lengths)
    failed = [r.detail for _, r in results if isinstance(r, Reject)]
    if failed:
        raise RuntimeError(failed[0])


def timed(work: Callable[[], object]) -> np.ndarray:
    """Wall and processor seconds, `(2,)`, of this process and those that it started and that have ended."""
    wall, cpu = time.monotonic(), cpu_s()
    work()
    return np.array([time.monotonic() - wall, cpu_s() - cpu])


def cpu_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


if __name__ == "__main__":
    main()
