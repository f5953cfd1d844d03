"""The top of the page: the moving picture, and the sentences on what the run shows."""

from pathlib import Path
from typing import Any

import numpy as np
from drawn_clips import speaker
from PIL import Image, ImageSequence

from difftalk.media.clock import FPS
from difftalk.reporting.moving import (
    MOST_BYTES,
    WAVE_HEIGHT,
    chosen_panels,
    liveliest,
    waveform,
    write_moving_picture,
)
from difftalk.reporting.panels import LABEL_HEIGHT, Panel
from difftalk.reporting.summary import summary
from difftalk.reporting.tables import Table

LABELS = ("source", "masked", "reference", "recompressed", "reconstruction", "difftalk", "no_audio", "other")
PROTOCOL = {"clips": "12 of 12 planned test clips, 6 identities", "sync": "own", "crop_pixels": "64"}


def test_a_clip_becomes_a_looping_picture_of_the_frames_over_the_waveform(tmp_path: Path) -> None:
    frames, landmarks, audio = speaker(5, 1.6)
    panels = [Panel(label, frames) for label in LABELS]
    write_moving_picture(tmp_path / "a.webp", panels, landmarks, audio, 96)
    assert (tmp_path / "a.webp").stat().st_size <= MOST_BYTES
    with Image.open(tmp_path / "a.webp") as picture:
        side = frames.shape[1] * -(-96 // frames.shape[1])
        assert picture.size == (4 * side, LABEL_HEIGHT + side + WAVE_HEIGHT)
        assert picture.info["loop"] == 0 and len(list(ImageSequence.Iterator(picture))) == len(frames)
        picture.seek(10)
        picture.load()
        assert picture.info["duration"] == 1000 // FPS
        shown = np.asarray(picture.convert("RGB"))[LABEL_HEIGHT : LABEL_HEIGHT + side, :side]
    large = np.asarray(Image.fromarray(frames[10]).resize((side, side), Image.Resampling.BICUBIC))
    assert np.abs(shown.astype(float) - large).mean() < 6


def test_rows_made_from_the_true_frames_are_not_in_it() -> None:
    panels = [Panel(label, np.zeros((1, 2, 2, 3), np.uint8)) for label in LABELS]
    assert [panel.label for panel in chosen_panels(panels)] == ["source", "masked", "difftalk", "no_audio"]


def test_the_stretch_is_the_one_in_which_the_mouth_moves() -> None:
    landmarks = np.zeros((50, 68, 2))
    landmarks[:, [36, 45], 0] = [0, 40]  # the eyes, which give the unit
    assert liveliest(landmarks, 80) == slice(0, 50)
    landmarks[30:40:2, [65, 66, 67], 1] = 20
    found = liveliest(landmarks, 12)
    assert found.stop - found.start == 12 and found.start <= 30 and found.stop >= 40


def test_a_waveform_is_high_where_the_sound_is_loud_and_a_line_in_silence() -> None:
    samples = np.concatenate([np.zeros(800), 1000 * np.ones(800)])
    before, after = waveform(samples, 40)
    assert before.shape == after.shape == (WAVE_HEIGHT, 40, 3)
    drawn = (after != after[0, 0]).any(axis=2).sum(axis=0)
    assert drawn[5] <= 2 and drawn[35] >= WAVE_HEIGHT - 6
    assert waveform(np.zeros(0, np.int16), 8)[0].shape == (WAVE_HEIGHT, 8, 3)


def table(name: str, *rows: dict[str, Any]) -> Table:
    return Table(name, tuple(rows[0]) if rows else ("method",), list(rows), PROTOCOL)


def test_the_page_says_whether_the_mouth_follows_the_sound_and_whose() -> None:
    ours: dict[str, Any] = {
        "method": "difftalk",
        "offset_within_1": 1.0,
        "sync_confidence": 3.15,
        "psnr_mouth": 22.1,
    }
    ours |= {"sync_confidence_lo": 2.95, "sync_confidence_hi": 3.35}
    deaf: dict[str, Any] = {"method": "no_audio", "sync_confidence": 0.44, "sync_confidence_hi": 0.5}
    truth = {"method": "ground_truth", "sync_confidence": 9.15}
    copied = {"method": "reference_copy", "psnr_mouth": 19.1}
    other = {"method": "difftalk", "voice": "other", "offset_within_1": 0.75, "leakage": 0.032}
    said = " ".join(summary(table("comparison", ours, deaf, truth, copied), table("cross", other), PROTOCOL))
    assert said == (
        "12 of 12 planned test clips, 6 identities, 64 px. difftalk is in sync within a frame in 100% of the "
        "clips, with confidence 3.150 [2.950, 3.350] (the truth has 9.150; no_audio, which hears nothing, "
        "0.440 [0.500]). Its mouth has 22.10 dB PSNR, 3.0 dB above the reference frame repeated. Driven by "
        "another person's voice, difftalk is in sync with that voice in 75% of the clips; with what the "
        "speaker really said it correlates at 0.03."
    )
    deaf["sync_confidence_hi"] = 3.0
    assert "does not show" in " ".join(summary(table("comparison", ours, deaf), table("cross"), PROTOCOL))


def test_a_run_without_methods_or_figures_says_nothing_of_them() -> None:
    truth = {"method": "ground_truth", "sync_confidence": 9.15}
    assert summary(table("comparison", truth), table("cross"), PROTOCOL) == []
    published = {"method": "wav2lip", "published": "a paper", "sync_confidence": "7.1"}
    assert summary(table("comparison", published), table("cross"), PROTOCOL) == []
    assert summary(table("comparison", {"method": "mine"}), table("cross"), {}) == []
