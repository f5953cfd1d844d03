"""Animate one face by one sound, in three passes: find the face, sample the mouth, write the video.

No pass holds more than a stretch of frames. What a pass has made is kept in a folder until the video is
written, so that a killed command goes on from there, with the same result.
"""

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from difftalk.animation.compose import frames_of, latents_file, parts_of
from difftalk.animation.faces import CropRule, Faces, cut, find_faces
from difftalk.animation.paste import mark
from difftalk.animation.silence import silences
from difftalk.animation.source import Source, Stretch, stretches
from difftalk.config.sampling import Sampling
from difftalk.media.audio import read_audio
from difftalk.media.clock import FPS, SAMPLE_RATE
from difftalk.media.encode import SYNTHETIC, with_audio, write_video
from difftalk.models.conditioning import SPEECH_WINDOW
from difftalk.runtime.checksums import is_whole, read_sums
from difftalk.runtime.errors import UserError
from difftalk.runtime.files import atomic_file
from difftalk.runtime.fingerprint import fingerprint
from difftalk.runtime.progress import Progress
from difftalk.sampling.unfinished import claim
from difftalk.speech.features import load_backend
from difftalk.speech.windows import STEPS_PER_FRAME, neighbour_windows

if TYPE_CHECKING:
    import torch

    from difftalk.sampling.pipeline import DiffTalkPipeline

# Frames of the source that are in memory at once.
STRETCH = 32
# Features of a 20-ms step by which a model tells what made them.
BACKENDS: dict[int, Literal["deepspeech", "mfcc"]] = {29: "deepspeech", 39: "mfcc"}


@dataclass
class Report:
    """What came out.

    Attributes:
        frames: of the output.
        without_face: of these, those that show the source unchanged.
        tracks: stretches of the source with one face.
        seconds: time that each pass took, of this command.
    """

    frames: int
    without_face: int
    tracks: int
    seconds: dict[str, float] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """Return it as a table of text."""
        said = [f"{name:<12}{took:8.1f} s" for name, took in self.seconds.items()]
        total = sum(self.seconds.values())
        rate = self.frames / total if total else 0.0
        said.append(f"{'together':<12}{total:8.1f} s for {self.frames} frames: {rate:.1f} frames/s")
        if self.without_face:
            said.append(f"{self.without_face} frames have no face, and are the source's")
        if self.tracks > 1:
            said.append(f"the face was lost and found again: {self.tracks} stretches, each with its own crop")
        return said


def animate(
    video: Path,
    audio: Path,
    model: Path,
    out: Path,
    *,
    settings: Sampling | None = None,
    length: Literal["audio", "video"] = "audio",
    face: str = "largest",
    silence: Literal["audio", "closed"] = "audio",
    crf: int = 16,
    marked: bool = False,
    state: Path | None = None,
) -> Report:
    """Write a video in which a face of `video` says `audio`.

    Args:
        video: a video, or a picture.
        audio: any file with sound.
        model: folder of a trained model.
        out: the mp4, of the size of the source, 25 fps, H.264 and AAC.
        settings: of the sampling; None: as many steps as suit the model's training.
        length: whether the sound decides the length (a shorter video goes back and forth) or the video.
        face: `largest`, `left`, `right`, or which from the left, beginning with `1`.
        silence: `closed`: where nobody speaks in the sound, the mouth settles; `audio`: nothing is done.
        crf: H.264 quality; 0 is lossless.
        marked: write a visible note into each frame.
        state: folder for what is done; None: beside `out`. It is removed at the end.

    Raises:
        UserError: if there is no face, no model, or the model cannot be used for this.
        ClipError: if the video or the sound cannot be read.
    """
    from difftalk.runtime.device import default_device
    from difftalk.sampling.frame_sampler import tell_sampling
    from difftalk.sampling.pipeline import DiffTalkPipeline

    for given in (video, audio):
        if out.exists() and given.exists() and out.samefile(given):
            raise UserError(f"animate: {out} is an input, and would be overwritten")
    source = Source.open(video)
    samples = read_audio(audio)
    heard = max(len(samples) * FPS // SAMPLE_RATE, 1)

    pipeline = DiffTalkPipeline.from_pretrained(model, default_device())
    rule = crop_rule(pipeline)
    settings = settings or suggested_settings(pipeline)
    if settings.interpolation == "between":
        raise UserError("animate: interpolation: between is for `sample`: take `smooth`")
    tell_sampling("animate", settings, pipeline.device)
    kept = state or out.with_name(f".{out.stem}.animate")
    claim(kept, {
        "inputs": [[str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns] for p in (video, audio)],
        "model": read_sums(model) or str(model.resolve()), "settings": settings.as_dict(),
        "length": length, "face": face, "silence": silence, "code": fingerprint(__name__),
    })  # fmt: skip

    started = time.monotonic()
    seconds: dict[str, float] = {}

    def clocked(name: str) -> None:
        nonlocal started
        now = time.monotonic()
        seconds[name], started = now - started, now

    faces = _kept_faces(kept, source, source.frames if length == "video" else heard, face)
    count = heard if length == "audio" else len(faces)
    if not (faces.track >= 0).any():
        which = "no face" if face == "largest" else f"no face for --face {face}"
        raise UserError(
            f"{video}: {which} of at least 48 pixels in {len(faces)} frames: turned aside, or covered?"
        )
    clocked("faces")
    plan = stretches(len(faces), count, STRETCH)
    generate = Speaker(pipeline, settings, samples, count, closed=silence == "closed")
    _sample(kept, source, faces, rule, plan, generate)
    clocked("sampling")
    shown = frames_of(kept, source, faces, rule, plan, generate.sampler)
    if marked:
        shown = map(mark, shown)
    even = source.size[0] % 2 == source.size[1] % 2 == 0
    with Progress(count, "writing", "frames") as bar, atomic_file(out) as tmp:
        silent = kept / "silent.mp4"  # where what a killed command leaves of it is found, and removed
        try:
            write_video(silent, _told(shown, bar), crf=crf, pix_fmt="yuv420p" if even else "yuv444p")
            with_audio(silent, audio, samples, tmp, count / FPS, SYNTHETIC)
        finally:
            silent.unlink(missing_ok=True)
    clocked("writing")
    shutil.rmtree(kept, ignore_errors=True)
    unchanged = sum(int((faces.track[list(stretch.shown)] < 0).sum()) for stretch in plan)
    return Report(count, unchanged, int(faces.track.max()) + 1, seconds)


def crop_rule(pipeline: "DiffTalkPipeline") -> CropRule:
    """Return how the crops of a model's training were cut: from its facts, or the workflow's defaults."""
    from difftalk.models.autoencoder import downsampling

    facts: dict[str, Any] = pipeline.config.facts or {}
    size = int(pipeline.unet.config.sample_size * downsampling(pipeline.vqvae))
    return CropRule(size, float(facts.get("crop_margin", 0.1)), facts.get("crop_mode") == "aligned")


def suggested_settings(pipeline: "DiffTalkPipeline") -> Sampling:
    """Return settings for a model: few steps where the velocity is predicted, as on its card."""
    few = pipeline.scheduler.config.prediction_type == "v_prediction"
    return Sampling(steps=5 if few else 50)


class Speaker:
    """Samples the mouth of frames, driven by the sound.

    Args:
        pipeline: the model.
        settings: of the sampling.
        samples: the sound, (N,) int16 mono 16 kHz.
        count: frames of the output.
        closed: in silences hear the mean of each, and let one noise serve for all of its frames; the first
            reference of a track is then the frame in which the mouth is most closed.

    Raises:
        UserError: where the model's speech features are of no backend that is known.
    """

    def __init__(
        self,
        pipeline: "DiffTalkPipeline",
        settings: Sampling,
        samples: np.ndarray,
        count: int,
        *,
        closed: bool = False,
    ) -> None:
        from difftalk.sampling.frame_sampler import FrameSampler

        self.sampler = FrameSampler(pipeline, settings)
        wanted = int(pipeline.conditioner.config.speech_features)
        if wanted not in BACKENDS:
            raise UserError(f"animate: the model hears {wanted} features a step, which no backend makes")
        self._features = load_backend(BACKENDS[wanted])(samples, STEPS_PER_FRAME * count).astype(np.float32)
        self.closed = closed
        self._noise = np.arange(count)
        for first, stop in silences(samples, count) if closed else ():
            steps = slice(STEPS_PER_FRAME * first, STEPS_PER_FRAME * stop)
            self._features[steps] = self._features[steps].mean(axis=0)
            self._noise[first:stop] = first
        self._reference: torch.Tensor | None = None
        self._previous: torch.Tensor | None = None

    def begin(self, reference: np.ndarray, previous: "torch.Tensor | None") -> None:
        """Take a crop (size, size, 3) as the first reference, and go on after the latents `previous`."""
        from difftalk.models.autoencoder import encode_frames

        self._reference = encode_frames(self.sampler.pipeline.vqvae, reference[None])[0]
        self._previous = previous

    def generate(self, crops: np.ndarray, landmarks: np.ndarray, numbers: list[int]) -> "torch.Tensor":
        """Sample the latents (T, C, h, w) of crops (T, size, size, 3), the frames `numbers` of the output."""
        from difftalk.sampling.clip_sampler import ClipSampler
        from difftalk.sampling.inputs import encode_inputs

        assert self._reference is not None
        pipeline = self.sampler.pipeline
        windows = neighbour_windows(
            self._features, np.asarray(numbers), pipeline.conditioner.neighbours, SPEECH_WINDOW
        )
        inputs = encode_inputs(pipeline.vqvae, crops, landmarks, windows, self.sampler.settings)
        of_clip = ClipSampler(self.sampler, "animate", self._reference, self._previous)
        latents = of_clip.sample(inputs, numbers, self._noise[numbers].tolist())
        self._previous = latents[-1]
        return latents


def _sample(
    kept: Path, source: Source, faces: Faces, rule: CropRule, plan: list[Stretch], speaker: Speaker
) -> None:
    """Sample all that has a face and is not kept yet."""
    placements = faces.placements(rule, source.size)
    before: tuple[int, Path] | None = None  # the track of the frame before, and where its latents are
    current = -1
    with Progress(sum(len(s.shown) for s in plan), "sampling", "frames") as shown:
        for stretch in plan:
            parts = parts_of(stretch, faces)
            file = {first: latents_file(kept, stretch.first + first) for first, _, _ in parts}
            if not all(is_whole(path) for path in file.values()):
                frames = stretch.read(source)
            for first, stop, track in parts:
                follows = before is not None and before[0] == track and (first > 0 or stretch.first > 0)
                if not is_whole(file[first]):
                    if current != track or not follows:
                        start = faces.most_closed(track) if speaker.closed else faces.first_of(track)
                        (shown_first,) = source.read(start, start + 1)
                        reference, *_ = cut([shown_first], [start], faces, placements[track], rule)
                        previous = _tensor(np.load(before[1]))[-1] if follows and before else None
                        speaker.begin(reference[0], previous)
                        current = track
                    numbers = stretch.shown[first:stop]
                    crops, landmarks, _ = cut(frames[first:stop], numbers, faces, placements[track], rule)
                    output = [stretch.first + k for k in range(first, stop)]
                    latents = speaker.generate(crops, landmarks, output)
                    with atomic_file(file[first], recorded=True) as tmp, tmp.open("wb") as writing:
                        np.save(writing, latents.numpy())
                before = (track, file[first])
            if not parts or parts[-1][1] < len(stretch.shown):
                before = None
            shown.advance(len(stretch.shown))


def _kept_faces(kept: Path, source: Source, most: int, face: str) -> Faces:
    """The faces of a source, as an earlier command found them, or found now."""
    file = kept / "faces.npy"
    if is_whole(file):
        both = np.load(file, allow_pickle=False)
    else:
        found = find_faces(source, most, face)
        both = np.concatenate(
            [found.track[:, None].astype(np.float32), found.points.reshape(-1, 136)], axis=1
        )
        with atomic_file(file, recorded=True) as tmp, tmp.open("wb") as writing:
            np.save(writing, both)
    return Faces(both[:, 0].astype(np.int32), both[:, 1:].reshape(-1, 68, 2))


def _tensor(array: np.ndarray) -> "torch.Tensor":
    import torch

    return torch.from_numpy(np.ascontiguousarray(array))


def _told(frames: Iterator[np.ndarray], bar: Progress) -> Iterator[np.ndarray]:
    for frame in frames:
        yield frame
        bar.advance()
