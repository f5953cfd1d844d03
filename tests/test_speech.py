"""Speech features: in time with the frames, two per frame, and the windows that are cut from them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from drawn_clips import write_crops
from python_speech_features import delta

from difftalk.config.speech import Speech
from difftalk.runtime.errors import UserError
from difftalk.runtime.rejects import read_rejects
from difftalk.speech import mfcc
from difftalk.speech.features import level_db
from difftalk.speech.mfcc import mfcc_features
from difftalk.speech.table import SCHEMA, read_speech
from difftalk.speech.windows import neighbour_windows, windows
from difftalk.stages import speech


def noise(seconds: float, level: float = 3000.0, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, level, round(seconds * 16_000)).astype(np.int16)


def test_there_are_two_steps_per_frame_whatever_the_length_of_the_audio() -> None:
    for samples in [15_000, 16_000, 17_000]:
        assert mfcc_features(noise(samples / 16_000), 50).shape == (50, 39)
    assert mfcc_features(noise(1), 50).dtype == np.float32


@pytest.mark.parametrize("step", [10, 25, 40])
def test_a_click_is_loudest_at_the_step_centred_on_it(step: int) -> None:
    audio = noise(1, level=3)
    at = round((step + 0.5) / 50 * 16_000)
    audio[at - 2 : at + 2] += 20_000
    energy = mfcc_features(audio, 50)[:, 0]
    assert energy.argmax() == step
    # Steps are 20 ms apart and windows 25 ms long: the neighbours do not hear it.
    assert energy[step] - max(energy[step - 1], energy[step + 1]) > 3


def test_features_are_standardised_and_finite_even_where_the_audio_is_digital_silence() -> None:
    audio = noise(2)
    audio[8_000:20_000] = 0
    values = mfcc_features(audio, 100)
    np.testing.assert_allclose(values.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(values.std(axis=0), 1, atol=1e-3)
    assert np.abs(values).max() < 10


def test_loudness_hardly_matters() -> None:
    quiet, loud = mfcc_features(noise(2, 500), 100), mfcc_features(noise(2, 5000), 100)
    assert np.corrcoef(quiet[:, 1:13].ravel(), loud[:, 1:13].ravel())[0, 1] > 0.99


def test_differences_follow_the_reference() -> None:
    rows = np.random.default_rng(0).normal(size=(30, 13))
    np.testing.assert_allclose(mfcc._differences(rows), delta(rows, 2), atol=1e-12)


def test_level_is_in_decibels_below_full_scale() -> None:
    assert level_db(np.full(100, 32767, np.int16)) == pytest.approx(0, abs=0.01)
    assert level_db(np.full(100, 328, np.int16)) == pytest.approx(-40, abs=0.1)
    assert level_db(np.zeros(100, np.int16)) == -120


def test_windows_are_sixteen_steps_around_a_frame() -> None:
    steps = np.arange(1, 101.0)[:, None].repeat(3, axis=1)
    cut = windows(steps, np.array([20, 0, 49]))
    assert cut.shape == (3, 16, 3)
    np.testing.assert_array_equal(cut[0, :, 0], np.arange(2 * 20 - 8, 2 * 20 + 8) + 1)
    np.testing.assert_array_equal(cut[1, :, 0], [0] * 8 + list(range(1, 9)))
    np.testing.assert_array_equal(cut[2, :, 0], [*range(91, 101), 0, 0, 0, 0, 0, 0])
    assert steps[0, 0] == 1, "the features are left as they were"


def test_neighbours_are_the_frames_before_and_after() -> None:
    steps = np.random.default_rng(0).normal(size=(100, 5))
    stack = neighbour_windows(steps, np.array([30, 1]))
    assert stack.shape == (2, 8, 16, 5)
    np.testing.assert_array_equal(stack[0], windows(steps, np.arange(26, 34)))
    assert not stack[1, :3].any(), "frames -3 to -1 are zeros, though their windows would reach into the clip"
    np.testing.assert_array_equal(stack[1, 3], windows(steps, np.array([0]))[0])
    assert not neighbour_windows(steps, np.array([49]))[0, 5:].any()
    assert neighbour_windows(steps, np.array([30]), neighbours=17).shape == (1, 17, 16, 5)


def make_crops(tmp_path: Path, clips_audio: dict[str, np.ndarray]) -> None:
    """A crops shard of black frames with this audio, each a whole number of 40 ms frames long."""
    clips = {}
    for name, audio in clips_audio.items():
        frames = len(audio) // 640
        clips[name] = np.zeros((frames, 32, 32, 3), np.uint8), np.zeros((frames, 68, 2), np.float32), audio
    write_crops(tmp_path / "crops.tar", clips)


def run(tmp_path: Path, max_reject_fraction: float = 1.0) -> None:
    speech.run(
        crops=tmp_path / "crops.tar",
        settings=Speech(),
        out=tmp_path / "speech.parquet",
        rejects=tmp_path / "speech.csv",
        max_reject_fraction=max_reject_fraction,
    )


def test_a_shard_has_a_row_per_step_and_silent_clips_are_rejected(tmp_path: Path) -> None:
    make_crops(tmp_path, {"a": noise(1), "b": np.zeros(16_000, np.int16), "c": noise(1.2, seed=1)})
    run(tmp_path)
    found = read_speech(tmp_path / "speech.parquet")
    assert {k: v.shape for k, v in found.items()} == {"a": (50, 39), "c": (60, 39)}
    rows = pq.read_table(tmp_path / "speech.parquet").to_pylist()
    assert [r["step"] for r in rows if r["clip_id"] == "c"] == list(range(60))
    (reject,) = read_rejects(tmp_path / "speech.csv")
    assert (reject.clip_id, reject.stage, reject.reason) == ("b", "speech", "silent")
    assert "-50" in reject.detail


def test_the_features_are_those_of_the_crops_audio(tmp_path: Path) -> None:
    make_crops(tmp_path, {"a": noise(1)})
    run(tmp_path)
    np.testing.assert_array_equal(
        read_speech(tmp_path / "speech.parquet")["a"], mfcc_features(noise(1), 50), strict=True
    )


def test_an_empty_shard_is_an_empty_table(tmp_path: Path) -> None:
    make_crops(tmp_path, {})
    run(tmp_path)
    assert read_speech(tmp_path / "speech.parquet") == {}
    assert pq.read_schema(tmp_path / "speech.parquet").equals(SCHEMA)


def test_a_shard_that_is_silent_as_a_whole_is_an_error(tmp_path: Path) -> None:
    make_crops(tmp_path, {"a": np.zeros(32_000, np.int16)})
    with pytest.raises(UserError, match="most often silent"):
        run(tmp_path, max_reject_fraction=0.5)
    assert not (tmp_path / "speech.parquet").exists()


def test_mfcc_imports_no_torch() -> None:
    script = (
        "import sys; from difftalk.speech.features import load_backend; load_backend('mfcc');"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
