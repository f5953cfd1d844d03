"""The gallery of the report: which clips come first, and what the pictures of a clip show."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn_clips import speaker, write_crops

from difftalk.evaluation.scores import Scores
from difftalk.reporting.gallery import chosen_clips
from difftalk.reporting.panels import LABEL_HEIGHT, Panel, columns_for, grid, label_bar
from difftalk.reporting.pictures import ERROR_LEVELS, error_map, error_maps, kymograph
from difftalk.reporting.spread import spreads


def scores(column: str, **methods: dict[str, float]) -> Scores:
    rows: dict[str, Any] = {
        method: {clip: {"problem": None, column: value} for clip, value in clips.items()}
        for method, clips in methods.items()
    }
    return Scores(rows, {})


FAR_AT_B = scores(
    "psnr_mouth", ground_truth={"b": 99.0}, one={"a": 20.0, "b": 20.0}, two={"a": 21.0, "b": 29.0}
)


def test_the_spread_of_a_clip_is_over_methods_and_not_references() -> None:
    found = spreads(FAR_AT_B)
    assert found["b"].size == 9.0 and str(found["b"]) == "PSNR mouth 20.00 (one) to 29.00 (two)"


def test_without_errors_of_the_mouth_the_spread_is_of_the_confidence() -> None:
    assert spreads(scores("sync_confidence", one={"a": 1.0}, two={"a": 3.0}))["a"].size == 2.0
    assert spreads(scores("psnr", one={"a": 1.0}, two={"a": 3.0})) == {}


def test_a_single_method_is_compared_with_references() -> None:
    found = spreads(scores("psnr_mouth", reference_copy={"a": 18.0}, difftalk={"a": 22.0}))
    assert found["a"].size == 4.0


@pytest.mark.parametrize(
    ("identities", "count", "expected"),
    [
        ({}, 3, ["b", "a", "c"]),  # c has no figures
        ({"a": "x", "b": "x"}, 2, ["b", "c"]),  # one of each speaker first
        ({"a": "x", "b": "x", "c": "x"}, 1, ["b"]),
    ],
)
def test_clips_at_which_methods_differ_most_come_first(
    identities: dict[str, str], count: int, expected: list[str], tmp_path: Path
) -> None:
    clips = {name: speaker(1, 1.2) for name in ("a", "b", "c")}
    path = write_crops(tmp_path / "t.tar", clips, identities=identities)
    chosen = chosen_clips([path], count, spread=spreads(FAR_AT_B))
    assert [clip.clip_id for clip in chosen] == expected


@pytest.mark.parametrize("count", range(1, 15))
def test_no_third_of_a_grid_is_empty(count: int) -> None:
    columns = columns_for(count, 192)
    assert -count % columns < columns / 3
    frame = np.full((8, 8, 3), 200, np.uint8)
    shown = grid([("", frame)] * count, 2)
    assert (shown == 200).any(axis=2).sum() >= count * 16 * 16


def test_the_mouth_over_time_shows_a_mouth_that_moves_and_one_that_does_not() -> None:
    frames, landmarks, _ = speaker(1, 1.2)
    still = np.repeat(frames[:1], len(frames), axis=0)
    # The column follows the mouth of a head that moves, so that a still frame is not quite even.
    shown = kymograph([Panel("truth", frames), Panel("still", still)], landmarks).astype(float)
    rows = np.split(shown, 2)
    truth, copied = (row[LABEL_HEIGHT:].std(axis=1).mean() for row in rows)
    assert truth > 3 * copied
    assert shown.shape[1] % len(frames) == 0, "each frame has its column"


def test_an_error_map_is_the_mean_absolute_difference() -> None:
    truth = np.zeros((3, 4, 4, 3), np.uint8)
    frames = truth.copy()
    frames[:, 1, 2] = (10, 20, 30)
    frames[0, 3, 3] = 90
    found = error_map(frames, truth)
    assert found[1, 2] == pytest.approx(20) and found[3, 3] == pytest.approx(30)
    assert np.count_nonzero(found) == 2


def test_error_maps_share_one_scale() -> None:
    truth = np.zeros((2, 64, 64, 3), np.uint8)
    panels = [Panel(name, truth + level) for name, level in (("a", 0), ("b", ERROR_LEVELS), ("c", 200))]
    shown = error_maps(panels, truth)
    none, top, beyond = (shown[LABEL_HEIGHT + 5, 64 * 3 * k + 5] for k in range(3))
    assert (top == beyond).all() and top.sum() > none.sum()
    assert (shown[-LABEL_HEIGHT - 2, -1] == top).all(), "the bar ends in the colour of the largest error"


def test_a_long_label_is_set_smaller() -> None:
    wide, narrow = (label_bar("a_method_with_a_long_name", width) for width in (400, 192))
    assert (narrow[:, -4:] == narrow[0, 0]).all() and (narrow != narrow[0, 0]).any() and wide.shape[1] == 400
