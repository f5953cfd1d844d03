"""The three crop modes: around the track, the dataset's box, aligned with a template."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import Stage, present

from difftalk.config.crops import CropsSettings
from difftalk.config.gates import GatesSettings
from difftalk.face import align, dlib_backend, early_crops, geometry, tracks
from difftalk.media.encode import encode_video
from difftalk.media.points68 import RIGID
from difftalk.media.shards import Crop, read_crops, read_shard

NOISE = np.random.default_rng(0).normal(0, 3000, 32_000).astype(np.int16)


def only_crop(stage: Stage) -> Crop:
    (crop,) = read_crops(stage.folder / "crops.tar")
    return crop


# The dataset's box


def test_a_box_given_for_720_lines_is_scaled_to_those_of_the_source(
    stage: Stage, film: Path, film_frames: np.ndarray
) -> None:
    # The film is 256 pixels high.
    stage.add("a", film, box=(180, 180, 576, 576), box_height=720)
    stage.landmarks()
    assert stage.crops(size=140, mode="box") == {}
    crop = only_crop(stage)
    assert (crop.info["crop"], crop.info["box"]) == ("box", [64, 64, 205, 205])
    want = cv2.resize(film_frames[10, 64:205, 64:205], (140, 140), interpolation=cv2.INTER_AREA)
    assert np.abs(crop.frames()[10].astype(int) - want).mean() < 3


@pytest.mark.parametrize(
    ("box", "box_height", "height", "expected"),
    [
        ((306, 41, 786, 521), 720, 1080, (459, 62, 1179, 782)),
        ((306, 41, 786, 521), None, 1080, (306, 41, 786, 521)),
        ((10, 10, 21, 21), 720, 360, (5, 5, 11, 11)),
        ((0, 0, 100, 60), None, 100, (0, -20, 100, 80)),  # made a square around the same middle
    ],
)
def test_boxes_are_squares_of_whole_pixels(
    box: tuple[int, ...], box_height: int | None, height: int, expected: tuple[int, ...]
) -> None:
    assert geometry.scaled_box(box, box_height, height) == expected


def test_a_box_that_leaves_the_frame_repeats_its_border(
    stage: Stage, film: Path, film_frames: np.ndarray
) -> None:
    stage.add("a", film, box=(0, -30, 256, 226))
    stage.landmarks()
    assert stage.crops(size=256, mode="box") == {}
    frame = only_crop(stage).frames()[0].astype(int)
    assert np.abs(frame[:30] - film_frames[0, :1]).mean() < 3
    assert np.abs(frame[30:] - film_frames[0, :226]).mean() < 3


def test_a_box_without_the_face_or_far_outside_the_frame_is_rejected(stage: Stage, film: Path) -> None:
    stage.add("elsewhere", film, box=(0, 0, 60, 60))
    stage.add("beyond", film, box=(0, -120, 256, 136))
    stage.landmarks()
    assert stage.crops(mode="box") == {"elsewhere": "out_of_frame", "beyond": "out_of_frame"}
    assert stage.lost["elsewhere"].detail == "the dataset's box holds 0% of the face's points"


def test_a_clip_without_a_box_gets_the_square_of_its_track_enlarged_by_its_ratio(
    stage: Stage, film: Path
) -> None:
    stage.add("plain", film)
    stage.add("wider", film, crop_ratio=1.1)
    stage.landmarks()
    stage.crops(mode="track")
    track = [c.info for c in read_crops(stage.folder / "crops.tar")]
    stage.crops(mode="box")
    box = [c.info for c in read_crops(stage.folder / "crops.tar")]
    assert [i["crop"] for i in [*track, *box]] == ["track"] * 4
    sides = [i["box"][2] - i["box"][0] for i in [*track, *box]]
    assert sides[0] == sides[1] == sides[2]
    assert sides[3] == pytest.approx(1.1 * sides[2], abs=2)


def test_no_ratio_enlarges_a_square_beyond_the_frame() -> None:
    points = np.tile(np.linspace(100, 300, 68)[None, :, None], (1, 1, 2))
    x0, y0, x1, y1 = geometry.square(points, (640, 360), 0.1, 2.0)
    assert (y0, y1, x1 - x0) == (0, 360, 360)


# Aligned


@pytest.fixture(scope="module")
def rolling(film_frames: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The speaker in a larger frame, whose head rolls by 20 degrees to each side, wanders and comes nearer.

    Frames (50, 320, 400, 3) and true landmarks (50, 68, 2).
    """
    frames, points = [], []
    for k, (frame, true) in enumerate(zip(film_frames, truth, strict=True)):
        phase = 2 * np.pi * k / 50
        turn = cv2.getRotationMatrix2D((128, 128), 20 * np.sin(phase), 1.0 + 0.15 * np.sin(phase / 2))
        turn[:, 2] += (72 + 30 * np.cos(phase), 40)
        frames.append(cv2.warpAffine(frame, turn, (400, 320), borderValue=(128, 128, 128)))
        points.append(true @ turn[:, :2].T + turn[:, 2])
    return np.stack(frames), np.stack(points)


def eyes(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance and roll (degrees) of the line between the eyes in each frame."""
    line = points[:, [42, 45]].mean(axis=1) - points[:, [36, 39]].mean(axis=1)
    return np.linalg.norm(line, axis=1), np.degrees(np.arctan2(line[:, 1], line[:, 0]))


def test_an_aligned_face_is_upright_and_steady_while_the_head_moves(
    rolling: tuple[np.ndarray, np.ndarray],
) -> None:
    _, points = rolling
    maps = align.similarities(points, 256, 0.1)
    seen = align.align(points, maps)
    size, roll = eyes(seen)
    assert np.abs(eyes(points)[1]).max() > 15, "as filmed, the head rolls"
    assert np.abs(roll).max() < 4
    assert np.ptp(size) < 0.05 * size.mean()
    middle = seen[:, RIGID].mean(axis=1)
    assert np.ptp(middle, axis=0).max() < 0.02 * 256
    # From frame to frame nothing trembles: a fifth of a pixel at most from the middle of the neighbours.
    assert np.abs(middle[2:] - 2 * middle[1:-1] + middle[:-2]).max() / 2 < 0.2
    assert seen.min() > 0
    assert seen.max() < 256


def test_the_template_puts_every_size_of_face_at_the_same_place(truth: np.ndarray) -> None:
    places = []
    for scale, shift in [(1.0, 0.0), (3.0, 250.0)]:
        points = truth * scale + shift
        places.append(align.align(points, align.similarities(points, 128, 0.1)))
    np.testing.assert_allclose(places[0], places[1], atol=1e-2)


def test_noise_of_the_landmarks_hardly_moves_the_crop(truth: np.ndarray) -> None:
    still = np.repeat(truth[:1], 100, axis=0)
    noisy = still + np.random.default_rng(0).normal(0, 0.5, still.shape)
    calm = align.align(still, align.similarities(tracks.smooth(noisy), 256, 0.1))
    steps = np.linalg.norm(np.diff(calm[:, RIGID].mean(axis=1), axis=0), axis=1)
    # 0.5 pixels of noise in each of 31 points is 0.1 in their mean; what is left of it must not be visible.
    assert steps.max() < 0.1


def test_aligned_crops_show_the_face_where_their_landmarks_say(
    stage: Stage, rolling: tuple[np.ndarray, np.ndarray]
) -> None:
    frames, points = rolling
    stage.add("a", encode_video(frames, audio=NOISE))
    assert stage.landmarks() == {}
    assert stage.crops(size=128, mode="aligned") == {}
    crop = only_crop(stage)
    assert crop.info["crop"] == "aligned"
    assert crop.frames().shape == (50, 128, 128, 3)
    assert np.abs(eyes(crop.landmarks)[1]).max() < 5
    x0, y0, x1, y1 = crop.info["box"]
    assert x1 - x0 == y1 - y0
    middle = points[:, RIGID].mean(axis=(0, 1))
    assert x0 < middle[0] < x1
    assert y0 < middle[1] < y1
    # Detected again in the crops, the face is where the landmarks say.
    again = present(dlib_backend.follow(crop.frames().repeat(2, axis=1).repeat(2, axis=2), 5, 48))
    found = (np.stack([f.points for f in again]) + 0.5) / 2 - 0.5
    apart = np.linalg.norm(found - crop.landmarks, axis=-1).mean(axis=-1)
    assert np.median(apart) < 0.06 * eyes(crop.landmarks)[0].mean()


@pytest.mark.parametrize("finer", [1, 4])
def test_pixels_of_aligned_crops_land_where_the_map_says(finer: int) -> None:
    frame = np.zeros((200, 200, 3), np.uint8)
    frame[100:108, 60:68] = 255
    turn = np.array([[0.2, -0.1, 5.0], [0.1, 0.2, -4.0]]) * (1 if finer > 1 else 4)
    cut = align.cut_aligned(frame, turn, 64 if finer > 1 else 256, finer).astype(float)[..., 0]
    y, x = (float((axis * cut).sum() / cut.sum()) for axis in np.indices(cut.shape))
    want = align.align(np.array([[[63.5, 103.5]]]), turn[None])[0, 0]
    np.testing.assert_allclose([x, y], want, atol=0.1)


# Crops that are cut while the face is followed


def test_a_crop_cut_early_is_the_one_that_would_be_cut_later(stage: Stage, film: Path) -> None:
    stage.add("a", film)
    stage.add("b", film, start_s=0.4)
    early = {"crops": CropsSettings(size=96, min_frames=10), "gates": GatesSettings()}
    stage.landmarks(early=early)
    waiting = stage.folder / "landmarks.crops.tar"
    assert set(dict(read_shard(waiting))) == {"a-0", "b-0"}
    stage.crops(size=96)
    assert not waiting.exists()
    taken_over = (stage.folder / "crops.tar").read_bytes()
    stage.crops(size=96)
    assert (stage.folder / "crops.tar").read_bytes() == taken_over


@pytest.mark.parametrize("change", ["settings", "source", "landmarks", "damage"])
def test_a_crop_cut_early_from_anything_else_is_cut_again(stage: Stage, film: Path, change: str) -> None:
    video = stage.folder / "film.mp4"
    video.write_bytes(film.read_bytes())
    stage.add("a", video)
    other = CropsSettings(size=96, min_frames=10, crf=20 if change == "settings" else 10)
    stage.landmarks(early={"crops": other, "gates": GatesSettings()})
    waiting = (stage.folder / "landmarks.crops.tar").read_bytes()
    if change == "source":
        os.utime(video, ns=(0, 0))
    elif change == "landmarks":
        stage.landmarks(detect_every=1)
    stage.crops(size=96)
    expected = (stage.folder / "crops.tar").read_bytes()
    if change == "damage":
        waiting = waiting[:2000] + b"damage" + waiting[2006:]
    (stage.folder / "landmarks.crops.tar").write_bytes(waiting)
    stage.crops(size=96)
    assert (stage.folder / "crops.tar").read_bytes() == expected


def test_a_clip_that_the_gates_reject_is_not_cropped(stage: Stage, film: Path) -> None:
    stage.add("a", film)
    stage.landmarks(
        early={"crops": CropsSettings(size=96, min_frames=10), "gates": GatesSettings(min_face_px=400)}
    )
    assert not (stage.folder / "landmarks.crops.tar").exists()


def test_a_clip_whose_frames_need_too_much_memory_is_cut_later(
    stage: Stage, film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(early_crops, "MAX_BYTES", 1_000_000)
    stage.add("a", film)
    stage.landmarks(early={"crops": CropsSettings(size=96, min_frames=10), "gates": GatesSettings()})
    assert not (stage.folder / "landmarks.crops.tar").exists()
