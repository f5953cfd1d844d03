"""Metrics of landmarks and motion, and what is kept of them, against what they are defined by."""

import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
from drawn_clips import speaker, write_crops, write_sample

import difftalk
from difftalk.config.evaluation import Evaluation
from difftalk.evaluation import instruments, motion
from difftalk.evaluation import landmark_metrics as lm
from difftalk.evaluation.metrics import mouth_box
from difftalk.evaluation.mouth import face_points, opening
from difftalk.evaluation.samples import describe_file, read_sample
from difftalk.evaluation.scorer import Scorer
from difftalk.evaluation.scores import read_scores, write_scores
from difftalk.media.points68 import MOUTH
from difftalk.media.shards import read_crops
from difftalk.runtime import fingerprint as fingerprint_module
from difftalk.runtime.errors import ClipError

EMBEDDED = Path(difftalk.__file__).parent / "assets" / "syncnet"
FPS, RATE = 25, 16_000


def test_opening_is_signed_and_does_not_change_with_the_roll_of_the_head() -> None:
    points = speaker(1)[1].astype(float)
    angle = np.radians(20)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    np.testing.assert_allclose(opening(points @ turn.T), opening(points), atol=1e-9)
    swapped = points.copy()
    swapped[:, (61, 62, 63, 67, 66, 65)] = points[:, (67, 66, 65, 61, 62, 63)]
    np.testing.assert_allclose(opening(swapped), -opening(points), atol=1e-9)


def test_lmd_is_in_pixels_of_256_and_blind_to_a_shift() -> None:
    points = speaker(1)[1].astype(float)
    assert lm.landmark_distance(points, points + (3.0, -2.0), 64, MOUTH) == pytest.approx(0, abs=1e-9)
    wide = points.copy()
    # Every second point of the mouth one pixel to the right, the others one to the left: the centre stays.
    wide[:, 48:68:2, 0] += 1
    wide[:, 49:68:2, 0] -= 1
    assert lm.landmark_distance(points, wide, 64, MOUTH) == pytest.approx(256 / 64)


def raised_cosine(frames: np.ndarray) -> np.ndarray:
    return 0.5 - 0.5 * np.cos(2 * np.pi * frames / FPS)


@pytest.mark.parametrize(("late", "expected"), [(0, 0.019), (1, 0.079), (2, 0.155), (3, 0.229), (12, 0.626)])
def test_lip_to_loudness_has_thevals_values(late: int, expected: float) -> None:
    count = 100
    rng = np.random.default_rng(0)
    at = np.arange(count * RATE // FPS) / RATE * FPS
    audio = (raised_cosine(at) * rng.normal(0, 0.1, len(at)) * 32768).astype(np.int16)
    loudness = lm.loudness_of(audio, count, FPS, RATE)
    lips = raised_cosine(np.arange(count) - late)
    found = lm.lip_loudness(lips, loudness, np.ones(count, bool))
    assert found == pytest.approx(expected, abs=0.03), "the noise of the carrier is another one"


def test_lip_to_loudness_of_lips_that_do_not_move_is_finite_and_without_speech_there_is_none() -> None:
    loudness = raised_cosine(np.arange(100.0))
    speaking = np.ones(100, bool)
    assert lm.lip_loudness(np.zeros(100), loudness, speaking) == pytest.approx(0.5, abs=0.03)
    assert lm.lip_loudness(loudness, loudness, ~speaking) is None


def test_pauses_are_thirds_of_a_second_or_more() -> None:
    window_s = 512 / RATE
    speech = np.ones(125, bool)  # four seconds
    speech[20:26] = False  # 0.19 s
    speech[60:90] = False  # 0.96 s
    silent = lm.silent_frames(speech, 100, FPS, window_s)
    first, last = np.flatnonzero(silent)[[0, -1]]
    assert silent.sum() == last - first + 1, "one pause"
    assert first == pytest.approx(60 * window_s * FPS, abs=1) and last == pytest.approx(
        90 * window_s * FPS, abs=1
    )


def test_silent_lip_and_dynamics_grow_with_what_the_lips_do() -> None:
    rng = np.random.default_rng(0)
    silent = np.ones(50, bool)
    noise = rng.normal(0, 0.01, 50)
    # The median distance from the mean of a normal is 0.6745 of its deviation.
    assert lm.silent_lip(noise, silent) == pytest.approx(0.00675, rel=0.3)
    assert lm.silent_lip(noise, ~silent) is None
    points = speaker(1)[1].astype(float)
    assert lm.lip_dynamics(np.repeat(points[:1], 20, axis=0), 64) == pytest.approx(0, abs=1e-9)
    assert lm.lip_dynamics(points[:1], 64) is None
    assert lm.lip_dynamics(points, 64) == pytest.approx(lm.lip_dynamics(points * 2, 128))


def test_acceleration_and_head_motion_are_zero_in_a_still_face() -> None:
    still = np.repeat(speaker(1)[1][:1].astype(float), 10, axis=0)
    assert lm.acceleration(still) == 0 and lm.head_motion(still, 64) == pytest.approx(0, abs=1e-6)
    assert lm.brow_dynamics(still) == 0
    assert lm.acceleration(still[:2]) is None and lm.head_motion(still[:2], 64) is None
    shaken = still + np.random.default_rng(0).normal(0, 0.3, still.shape)
    assert (lm.acceleration(shaken) or 0) > 0 and (lm.head_motion(shaken, 64) or 0) > 0


def test_tof_is_zero_on_equal_motion_and_the_length_of_a_missing_one() -> None:
    rng = np.random.default_rng(0)
    texture = cv2.GaussianBlur(rng.integers(0, 256, (160, 160, 3), np.uint8), (0, 0), 2)
    moving = np.stack([texture[16:144, 16 + k : 144 + k] for k in range(5)])  # one pixel of 128 a frame
    box = (40, 60, 90, 100)
    flow = motion.flows(moving, box)
    assert flow.shape == (4, 40, 50, 2)
    assert motion.tof(flow, flow) == 0
    still = motion.flows(np.repeat(moving[:1], 5, axis=0), box)
    assert motion.tof(flow, still) == pytest.approx(2.0, rel=0.1), "in pixels of 256"
    assert motion.tof(flow[:0], flow[:0]) is None


def test_sharpness_falls_with_blur() -> None:
    frames, landmarks, _ = speaker(1)
    box = mouth_box(landmarks, (64, 64), 0.15)
    blurred = np.stack([cv2.GaussianBlur(f, (0, 0), 1.5) for f in frames[:5]])
    assert (motion.sharpness(blurred, box) < 0.5 * motion.sharpness(frames[:5], box)).all()


def test_points_are_those_of_the_frame_and_not_of_the_landmarks_given() -> None:
    frames, landmarks, _ = speaker(5)
    found = face_points(frames[:5], landmarks[:5])
    moved = landmarks[:5].copy()
    moved[:, MOUTH] += 20
    np.testing.assert_array_equal(face_points(frames[:5], moved), found)
    assert np.linalg.norm(found - landmarks[:5], axis=2).mean() < 2


def test_an_entry_is_outdated_by_an_edit_of_all_that_its_measurement_goes_through() -> None:
    """Videos are read, and regions and formulas chosen, outside the module of the instrument."""
    found = {i.name: i for i in instruments.load_instruments(EMBEDDED, Evaluation())}
    before = {name: instrument.code for name, instrument in found.items()}
    expected = {
        "difftalk.evaluation.measures": set(found),
        "difftalk.evaluation.samples": set(found),
        "difftalk.media.video": set(found),
        "difftalk.evaluation.metrics": set(found),
        "difftalk.evaluation.sync": {"sync", "sync2"},
        "difftalk.evaluation.mouth": {"points", "true_points"},
        "difftalk.evaluation.st_lpips": {"st_lpips"},
        "difftalk.speech.vad": {"speech"},
    }
    read = fingerprint_module._read
    for edited, names in expected.items():

        def of_edit(module: str, edited: str = edited) -> tuple[str, frozenset[str]]:
            code, imports = read(module)
            return (f"{code} edited" if module == edited else code, imports)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fingerprint_module, "_read", of_edit)
            changed = {name for name, instrument in found.items() if instrument.code != before[name]}
        assert changed == names, edited


def test_a_large_and_far_too_long_video_is_not_held_in_memory(tmp_path: Path) -> None:
    truth = np.zeros((10, 64, 64, 3), np.uint8)
    write_sample(tmp_path / "a.mp4", np.zeros((40, 1024, 1024, 3), np.uint8))
    tracemalloc.start()
    with pytest.raises(ClipError, match="a.mp4 has 40 frames, the clip has 10"):
        read_sample(tmp_path / "a.mp4", truth, 5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 1024 * 1024 * 3, "of frames of 3 MB: a few, where all are 120 MB"


def test_a_method_is_measured_once_and_the_truth_once_for_all(tmp_path: Path) -> None:
    frames, landmarks, audio = speaker(1)
    crops = write_crops(tmp_path / "test-000.tar", {"a": (frames, landmarks, audio)})
    video = tmp_path / "a.mkv"
    write_sample(video, np.stack([cv2.GaussianBlur(f, (0, 0), 2) for f in frames]), audio)
    crop = next(read_crops(crops))
    scorer = Scorer.load(EMBEDDED, Evaluation(), tmp_path / "cache")

    def entries() -> dict[Path, int]:
        return {p: p.stat().st_mtime_ns for p in (tmp_path / "cache" / "score").glob("*/*")}

    first = scorer.score("m", crop, video)
    before = entries()
    assert scorer.score("m", crop, video) == first and entries() == before
    scorer.score("the same under another name", crop, video)
    assert entries() == before
    write_sample(tmp_path / "b.mkv", frames, audio)
    scorer.score("other", crop, tmp_path / "b.mkv")
    of_truth = {"true_points", "true_identity", "speech"}
    assert len(entries()) == 2 * len(before) - len(of_truth)
    without = Scorer.load(EMBEDDED, Evaluation())
    assert without.score("m", crop, video) == first, "what is kept is what is measured"
    row = first[-1]
    assert row["file"] == describe_file(video) and row["file"].startswith("h264 yuv420p 64x64 25 fps")
    assert row["mouth_sharpness"] < 0.6


def test_fid_is_measured_on_the_clips_that_both_have_and_comes_with_the_truths_own_floor(
    tmp_path: Path,
) -> None:
    rng = np.random.default_rng(0)
    clips = {name: rng.normal(size=(5, 2048)).astype("<f4") for name in "abcd"}

    def write(method: str, features: dict[str, np.ndarray]) -> Path:
        rows = [
            {"clip_id": clip, "method": method, "fid_features": values.tobytes()}
            for clip, values in features.items()
        ]
        path = tmp_path / f"{method}.parquet"
        write_scores(path, method, rows, {"mouth": "box"})
        return path

    truth = write("ground_truth", clips)
    same = write("same", {"a": clips["a"], "b": clips["b"]})
    moved = write("moved", {clip: values + 1 for clip, values in clips.items()} | {"e": clips["a"] * np.nan})
    found = read_scores([truth, same, moved])
    assert set(found.of_set) == {"same", "moved"}
    assert found.of_set["same"]["fid"].value == pytest.approx(0, abs=1e-3)
    assert found.of_set["moved"]["fid"].value == pytest.approx(2048, rel=1e-3)
    about = found.of_set["same"]["fid"].about
    assert (about["samples"], about["clips"]) == ("10", "2")
    assert float(about["half of the truth against the other"]) > 100, "random features are not one set"
    assert "fid_features" not in found.clips["same"]["a"]
