"""Frame interpolation and drift, on drawn speakers whose true frames are known."""

from collections.abc import Iterator

import cv2
import numpy as np
import pytest
from interpolation import (
    averaged,
    copied,
    disturb,
    draw,
    jitter,
    lower_faces,
    mouth_psnr,
    sharpness,
)

from difftalk.evaluation.drift import drift
from difftalk.evaluation.metrics import mouth_box
from difftalk.evaluation.mouth import correlation
from difftalk.sampling.interpolation import between, composite, dis_flow, flow_middle, sampled_frames, smooth

SIZE = 128


@pytest.fixture(scope="module")
def speaker() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frames, landmarks and regions of a speaker, one second."""
    frames, landmarks = draw(0, 1.0, SIZE)
    return frames, landmarks, lower_faces(landmarks, SIZE)


def texture(size: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return cv2.GaussianBlur(rng.integers(0, 256, (size, size, 3), np.uint8), (0, 0), 3)


@pytest.mark.parametrize("count", [1, 2, 3, 6, 7])
def test_between_yields_every_frame_and_sampled_ones_untouched(count: int) -> None:
    sampled = [np.full((16, 16, 3), n, np.uint8) for n in sampled_frames(count)]
    known = [np.full((16, 16, 3), 200, np.uint8)] * count
    made = list(between(sampled, known, [np.ones((16, 16))] * count))
    assert len(made) == count
    for n, frame in zip(sampled_frames(count), sampled, strict=True):
        assert np.array_equal(made[n], frame)
    for n in set(range(count)) - set(sampled_frames(count)):
        assert np.abs(made[n].astype(int) - n).max() <= 1  # the mean of n - 1 and n + 1, rounded


@pytest.mark.parametrize("given", [2, 4])
def test_between_refuses_another_number_of_sampled_frames(given: int) -> None:
    frames = [np.zeros((16, 16, 3), np.uint8)] * 5
    with pytest.raises(ValueError, match="sampled frames than the known"):
        list(between(frames[:given], frames, [np.ones((16, 16))] * 5))


def test_outside_the_region_known_pixels_stay_exact(
    speaker: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    frames, _, regions = speaker
    soft = np.stack([cv2.GaussianBlur(r, (0, 0), 3) * r for r in regions])  # the soft edge lies inside
    noisy = disturb(frames, regions, 0)
    for made, known in (
        (np.stack(list(smooth(noisy, soft))), noisy),
        (np.stack(list(between(noisy[sampled_frames(25)], frames, soft))), frames),
    ):
        assert np.array_equal(made[soft == 0], known[soft == 0])


def test_both_ways_stream_with_one_frame_of_look_ahead() -> None:
    read = []

    def frames() -> Iterator[np.ndarray]:
        for n in range(6):
            read.append(n)
            yield np.zeros((16, 16, 3), np.uint8)

    made = smooth(frames(), iter([np.ones((16, 16))] * 6))
    for n in range(4):
        next(made)
        assert read[-1] == n + 1
    assert len(list(made)) == 2


def test_flow_finds_a_known_motion() -> None:
    image = texture(160)
    before, after = image[16:144, 16:144], image[13:141, 10:138]  # moved by (6, 3)
    flow = dis_flow(before, after)[16:-16, 16:-16]
    assert np.abs(flow - (6, 3)).mean() < 0.1


def test_middle_of_a_moved_texture_is_moved_by_half() -> None:
    image = texture(160)
    before, after, middle = (image[20:148, x : x + 128] for x in (20, 12, 16))
    inner = np.s_[12:-12, 12:-12]

    def error(made: np.ndarray) -> float:
        return float(np.abs(made[inner].astype(int) - middle[inner]).mean())

    assert error(flow_middle(before, after)) < 0.5 * error(averaged(before, after))


def test_middle_takes_what_is_hidden_from_the_other_frame() -> None:
    ground, square = texture(128), texture(128, 1)[:40, :40] // 2 + 120

    def scene(x: int) -> np.ndarray:
        frame = ground.copy()
        frame[44:84, x : x + 40] = square
        return frame

    made = flow_middle(scene(36), scene(48))
    error = np.abs(made.astype(int) - scene(42)).mean()
    assert error < 0.5 * np.abs(averaged(scene(36), scene(48)).astype(int) - scene(42)).mean()


@pytest.mark.parametrize("size", [64, 128, 256])
def test_interpolated_mouths_are_closer_than_copies_and_averages(size: int) -> None:
    frames, landmarks = draw(0, 1.0, size)
    regions, box = lower_faces(landmarks, size), mouth_box(landmarks, (size, size), 0.2)
    kept, middle = frames[sampled_frames(25)], range(1, 24, 2)
    by_way = [
        mouth_psnr(frames, np.stack(list(between(kept, frames, regions, way))), box, middle)
        for way in (flow_middle, averaged, copied)
    ]
    # Against the average the gain is small: what cannot be foreseen of a drawn mouth outweighs the rest.
    assert by_way[0] > by_way[1] - 0.1 and by_way[0] > by_way[2] + 1


def test_smooth_takes_jitter_off_and_keeps_the_mouth(
    speaker: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    frames, landmarks, regions = speaker
    box = mouth_box(landmarks, (SIZE, SIZE), 0.2)
    noisy = disturb(frames, regions, 0)
    made = np.stack(list(smooth(noisy, regions)))
    true = jitter(frames, box)
    assert jitter(made, box) - true < 0.6 * (jitter(noisy, box) - true)
    assert mouth_psnr(frames, made, box, range(25)) > mouth_psnr(frames, noisy, box, range(25))
    clean = np.stack(list(smooth(frames, regions)))
    assert mouth_psnr(frames, clean, box, range(25)) > 38
    assert sharpness(clean, box) > 0.8 * sharpness(frames, box)


def test_smooth_keeps_how_far_the_mouth_opens(speaker: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    pytest.importorskip("dlib")
    from difftalk.evaluation.mouth import measured_opening

    frames, landmarks, regions = speaker
    expected = measured_opening(frames, landmarks)
    found = measured_opening(np.stack(list(smooth(frames, regions))), landmarks)
    correlated = correlation(expected, found)
    assert correlated is not None and correlated > 0.97
    assert np.std(found) / np.std(expected) == pytest.approx(1, abs=0.1)


def test_composite_blends_in_the_soft_edge() -> None:
    known, made = np.full((1, 3, 3), 100, np.uint8), np.full((1, 3, 3), 200, np.uint8)
    assert composite(known, made, np.array([[0.0, 0.5, 1.0]]))[0, :, 0].tolist() == [100, 150, 200]


def test_truth_does_not_drift(speaker: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    frames, _, regions = speaker
    found = drift(frames, frames, regions)
    assert np.all(found.colour == 0) and np.all(found.sharpness == 1)
    assert found.colour_per_s == 0 and found.sharpness_per_s == 1


def test_drift_finds_a_known_change_of_colour_and_sharpness(
    speaker: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    frames, _, regions = speaker
    lab = np.stack([cv2.cvtColor(f.astype(np.float32) / 255, cv2.COLOR_RGB2LAB) for f in frames])
    lab[..., 0] -= 0.2 * np.arange(25)[:, None, None]  # 5 units of lightness in a second
    darker = np.stack([np.rint(255 * cv2.cvtColor(f, cv2.COLOR_LAB2RGB)) for f in lab]).astype(np.uint8)
    assert drift(frames, darker, regions).colour_per_s == pytest.approx(5, rel=0.1)
    blurred = [cv2.GaussianBlur(f, (0, 0), 0.01 + 0.04 * n) for n, f in enumerate(frames)]
    found = drift(frames, np.stack(blurred), regions)
    assert found.sharpness_per_s < 0.5 and found.sharpness[-1] < 0.5
    assert found.colour_per_s < 1


def test_drift_names_what_it_cannot_measure() -> None:
    clip, empty = np.zeros((3, 8, 8, 3), np.uint8), np.zeros((3, 8, 8))
    with pytest.raises(ValueError, match="a region in each"):
        drift(clip, clip, empty)
    with pytest.raises(ValueError, match="shapes differ"):
        drift(clip, clip[:2], empty)
