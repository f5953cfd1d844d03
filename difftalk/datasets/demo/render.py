"""Render drawn speakers: video files with audio, and the true landmarks of every frame."""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from difftalk.datasets.demo.faces import draw_face
from difftalk.datasets.demo.identity import DEMO_SEEDS, Identity, Mouth, Pose
from difftalk.datasets.demo.mouth import mouth_track
from difftalk.datasets.demo.voice import Phoneme, sentence, speak
from difftalk.media.encode import x264_params
from difftalk.runtime.files import atomic_file

_SAMPLE_RATE = 22_050  # what espeak-ng speaks at
_SEEDS_PER_RUN = 10_000  # a config seed owns this many identities
_ROOM_NOISE = 6.0  # standard deviation of the silence between sentences, in int16 steps


@dataclass(frozen=True)
class DemoSource:
    """One video file: a speaker who says another text in each of its clips, which follow one another.

    Args:
        source_id: name of the source.
        identity_seed: of the face and the voice (`Identity.draw`).
        text_seed: of the text, and of the motion of the head.
        clips: number of clips.
        clip_seconds: length of each clip.
        size: width and height in pixels, even.
        fps: frames per second.
    """

    source_id: str
    identity_seed: int
    text_seed: int
    clips: int
    clip_seconds: float
    size: int = 256
    fps: int = 25

    def __post_init__(self) -> None:
        if self.size % 2 or self.size < 32:
            raise ValueError(f"{self.source_id}: size must be even and at least 32, not {self.size}")
        if self.clips < 1 or self.frames_per_clip < 1:
            raise ValueError(
                f"{self.source_id}: nothing to render in {self.clips} clips of {self.clip_seconds} s"
            )

    @property
    def frames_per_clip(self) -> int:
        """Frames of one clip."""
        return round(self.clip_seconds * self.fps)

    @property
    def frames(self) -> int:
        """Frames of the whole source."""
        return self.clips * self.frames_per_clip


@dataclass(frozen=True)
class DemoSpeaker:
    """A source of the demo dataset, with its split and the name of its speaker."""

    source_id: str
    split: str
    identity: str
    source: DemoSource


def demo_sources(
    identities: Mapping[str, int], clips_per_identity: int, clip_seconds: float, size: int, seed: int
) -> list[DemoSpeaker]:
    """Return the speakers of the demo: each has one source, and belongs to one split.

    Args:
        identities: number of speakers of each split, such as `{"train": 24, "test": 4}`.
        clips_per_identity: clips in each source.
        clip_seconds: length of each clip.
        size: width and height in pixels, even.
        seed: of speakers and texts, 0 or more.

    Raises:
        ValueError: for settings that no demo can have.
    """
    splits = [split for split, count in identities.items() for _ in range(count)]
    if len(splits) > _SEEDS_PER_RUN:
        raise ValueError(f"the demo has at most {_SEEDS_PER_RUN} speakers, {len(splits)} were asked for")
    if seed < 0:
        raise ValueError(f"the seed of the demo must not be negative, it is {seed}")
    speakers = []
    for index, split in enumerate(splits):
        identity_seed = (seed * _SEEDS_PER_RUN + index) % DEMO_SEEDS
        source_id = f"speaker-{index:03d}"
        source = DemoSource(source_id, identity_seed, identity_seed, clips_per_identity, clip_seconds, size)
        speakers.append(DemoSpeaker(source_id, split, f"identity-{identity_seed:06d}", source))
    return speakers


def render_source(source: DemoSource, path: Path) -> None:
    """Render a source to a video, with the true landmarks of its frames.

    Writes `path` (mp4: H.264 4:2:0 and AAC mono) and `path.with_suffix(".landmarks.npy")`: the landmarks of
    all frames, (T, 68, 2) float32, in pixels. Each appears complete or not at all. The same source gives the
    same bytes with the same versions of the encoders.
    """
    path = Path(path)
    identity = Identity.draw(source.identity_seed)
    samples, mouths = perform(source)
    poses = head_motion(source)

    video_file = io.BytesIO()
    landmarks = np.empty((source.frames, 68, 2), np.float32)
    with av.open(video_file, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        video, audio = _streams(container, source)
        for index, (pose, mouth) in enumerate(zip(poses, mouths, strict=True)):
            image, landmarks[index] = draw_face(identity, pose, mouth, source.size)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, source.fps)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        for start in range(0, len(samples), 1024):
            block = av.AudioFrame.from_ndarray(
                samples[None, start : start + 1024], format="s16", layout="mono"
            )
            block.sample_rate, block.pts, block.time_base = _SAMPLE_RATE, start, Fraction(1, _SAMPLE_RATE)
            container.mux(audio.encode(block))
        container.mux(audio.encode(None))

    array = io.BytesIO()
    np.save(array, landmarks)
    # The video comes last: where it exists, its landmarks do.
    _write(path.with_suffix(".landmarks.npy"), array.getvalue())
    _write(path, video_file.getvalue())


def _streams(
    container: av.container.OutputContainer, source: DemoSource
) -> tuple[av.VideoStream, av.AudioStream]:
    """Add one H.264 and one AAC stream whose bytes depend on nothing but what is encoded."""
    video = container.add_stream("libx264", rate=source.fps)
    video.width = video.height = source.size
    video.pix_fmt = "yuv420p"
    video.time_base = Fraction(1, source.fps)
    # Without B-frames the first frame is at time 0 for every reader, whatever it makes of edit lists.
    video.options = {
        "crf": "16",
        "preset": "fast",
        "bf": "0",
        "g": str(2 * source.fps),
        **x264_params("threads=1", "lookahead-threads=1", "sliced-threads=0"),
        "flags": "+bitexact",
    }
    video.codec_context.thread_count = 1
    audio = container.add_stream("aac", rate=_SAMPLE_RATE, layout="mono")
    audio.bit_rate = 96_000
    audio.options = {"flags": "+bitexact", "threads": "1"}
    return video, audio


def perform(source: DemoSource) -> tuple[np.ndarray, list[Mouth]]:
    """Return the audio of a whole source, (N,) int16, and the mouth of each of its frames."""
    person = np.random.default_rng([source.identity_seed, 1])
    pitch, rate = int(person.integers(32, 68)), int(person.integers(150, 186))
    total = round(source.frames / source.fps * _SAMPLE_RATE)
    noise = np.random.default_rng([source.text_seed, 2])
    audio = noise.normal(0, _ROOM_NOISE, total)
    spoken: list[Phoneme] = []
    length = source.frames_per_clip / source.fps
    for clip in range(source.clips):
        rng = np.random.default_rng([source.text_seed, 3, clip])
        start = clip * length
        for at, samples, phonemes in _utterances(rng, length, pitch, rate):
            first = round((start + at) * _SAMPLE_RATE)
            heard = samples[: total - first]
            audio[first : first + len(heard)] += heard
            offset = first / _SAMPLE_RATE
            spoken += [Phoneme(p.start_s + offset, p.end_s + offset, p.name) for p in phonemes]
    mouths = mouth_track(spoken, np.arange(source.frames) / source.fps)
    return np.clip(np.rint(audio), -32768, 32767).astype(np.int16), mouths


def _utterances(
    rng: np.random.Generator, length_s: float, pitch: int, rate: int
) -> Iterator[tuple[float, np.ndarray, list[Phoneme]]]:
    """Yield sentences that fill a clip: when each starts (seconds), its samples and its phonemes."""
    at = float(rng.uniform(0.06, 0.16))
    while (left := length_s - at) > 0.4:
        # 3.4 words a second is more than fits with these words; the loop below takes off what is too much.
        fit = max(2, int(left * 3.4 * rate / 170))
        words = min(int(rng.integers(5, 12)), fit)
        if fit - words < 4 and fit <= 12:
            words = fit
        while True:
            speech = speak(sentence(rng, words), pitch=pitch, rate=rate)
            duration = len(speech.samples) / speech.sample_rate
            if duration <= left - 0.04 or words == 2:
                break
            words -= 1
        if duration > left - 0.04 and at > 0.2:
            return
        # Only a clip too short for two words is cut in mid-speech, with the mouth closing at its end.
        cut = min(len(speech.samples), int(left * speech.sample_rate))
        phonemes = [p for p in speech.phonemes if p.end_s <= cut / speech.sample_rate]
        yield at, speech.samples[:cut].astype(np.float64), phonemes
        at += duration + float(rng.uniform(0.12, 0.30))


def head_motion(source: DemoSource) -> list[Pose]:
    """Return the poses of a head that sways gently, looks about and blinks every 2 to 4 seconds."""
    rng = np.random.default_rng([source.text_seed, 4])
    times = np.arange(source.frames) / source.fps

    def sway(amount: float, slowest_hz: float = 0.10, fastest_hz: float = 0.55) -> np.ndarray:
        frequencies = rng.uniform(slowest_hz, fastest_hz, 3)
        phases = rng.uniform(0, 2 * np.pi, 3)
        return amount * np.sin(2 * np.pi * np.outer(times, frequencies) + phases) @ np.array([0.5, 0.3, 0.2])

    motion = {
        "shift_x": sway(0.030),
        "shift_y": sway(0.018),
        "scale": 1 + sway(0.02),
        "roll": sway(0.07),
        "yaw": sway(0.18),
        "pitch": sway(0.08),
        "brow_raise": 0.25 + sway(0.6, 0.2, 0.9),
        "gaze_x": sway(0.7, 0.1, 0.4),
        "gaze_y": sway(0.35, 0.1, 0.4),
    }
    blink = np.zeros(len(times))
    at = float(rng.uniform(0.5, 2.5))
    while at < times[-1]:
        blink = np.maximum(blink, np.clip(1.3 - np.abs(times - at) / 0.11, 0, 1))
        at += float(rng.uniform(2, 4))
    motion["blink"] = blink
    return [
        Pose(**{name: float(values[index]) for name, values in motion.items()}) for index in range(len(times))
    ]


def _write(path: Path, content: bytes) -> None:
    with atomic_file(path, recorded=True) as tmp:
        tmp.write_bytes(content)
