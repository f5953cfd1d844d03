"""The backend `face_alignment`: the library's own points in batches; one face through a film.

The trained weights cannot be had in a test. Against the library, the networks have random weights, the same
on both sides. To follow something, two small ones stand for them, to which a dot is a face with its landmarks
on the dot.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import present
from face_alignment import FaceAlignment, LandmarksType
from face_alignment.detection.sfd.net_s3fd import s3fd
from face_alignment.models import FAN
from safetensors.torch import save_file

from difftalk.config.landmarks import LandmarksSettings
from difftalk.face import face_alignment_backend
from difftalk.face.face_alignment_backend import Networks, follow_by
from difftalk.pretrained.table import WEIGHTS
from difftalk.runtime.errors import UserError
from difftalk.stages import landmarks

CELL = 32  # the detector's grid, where dots are put
HEIGHT, WIDTH = 192, 320


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of random weights, in our format and, below `hub`, in the library's own cache."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    cache = folder / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    for name, net in {"s3fd": s3fd(), "2dfan4": FAN(4)}.items():
        save_file(net.state_dict(), folder / WEIGHTS[name].kept_as)
        (folder / f"{name}.json").write_text(json.dumps({"sha256": "0" * 64}))
        torch.save(net.state_dict(), cache / WEIGHTS[name].url.rpartition("/")[2])
    return folder


@pytest.fixture
def library(weights: Path, monkeypatch: pytest.MonkeyPatch) -> FaceAlignment:
    """The library, as it constructs itself."""
    monkeypatch.setenv("TORCH_HOME", str(weights))
    return FaceAlignment(LandmarksType.TWO_D, device="cpu", flip_input=False, compile=False)


@pytest.fixture
def ours(weights: Path, monkeypatch: pytest.MonkeyPatch) -> Networks:
    monkeypatch.setenv("DIFFTALK_WEIGHTS", str(weights))
    return face_alignment_backend.networks.__wrapped__()


def library_points(library: FaceAlignment, frame: np.ndarray, box: np.ndarray) -> np.ndarray:
    return library.get_landmarks_from_image(frame, detected_faces=[box])[0]


def noise(seed: int, count: int, height: int = 240, width: int = 320) -> list[np.ndarray]:
    """Frames with something at every scale."""
    rng = np.random.default_rng(seed)
    layers = []
    for step in (1, 4, 16, 48):
        coarse = rng.uniform(0, 64, (count, -(-height // step), -(-width // step), 3))
        layers.append(coarse.repeat(step, axis=1).repeat(step, axis=2)[:, :height, :width])
    return list(np.sum(layers, axis=0).astype(np.uint8))


def boxes_in(seed: int, count: int, height: int = 240, width: int = 320) -> list[np.ndarray]:
    """Boxes of 60 to 200 pixels, whose landmark crops may leave the frame on any side."""
    rng = np.random.default_rng(seed)
    centres, sizes = rng.uniform([0, 0], [width, height], (count, 2)), rng.uniform(60, 200, (count, 2))
    return [np.concatenate([c - s / 2, c + s / 2]) for c, s in zip(centres, sizes, strict=True)]


# Against the library


def test_points_are_those_of_the_library_for_the_same_boxes(ours: Networks, library: FaceAlignment) -> None:
    frames, boxes = noise(1, 3), boxes_in(2, 3)
    found, scores = ours.landmarks(frames, boxes)
    assert scores.shape == (3, 68)
    for frame, box, points in zip(frames, boxes, found, strict=True):
        np.testing.assert_allclose(points, library_points(library, frame, box), atol=0.05)


def test_a_batch_of_many_boxes_gives_the_points_of_one_at_a_time(library: FaceAlignment) -> None:
    torch.manual_seed(0)
    net = FAN(1).eval()  # a quarter of the network, for the time it takes
    library.face_alignment_net = net
    frames, boxes = noise(3, 10), boxes_in(4, 10)
    found, _ = Networks(DotDetector(), net, "cpu").landmarks(frames, boxes)
    expected = [library_points(library, f, b) for f, b in zip(frames, boxes, strict=True)]
    np.testing.assert_allclose(found, expected, atol=0.05)


def test_a_batch_of_frames_gives_the_boxes_of_the_library(ours: Networks, library: FaceAlignment) -> None:
    film_frames = noise(5, 2, 128, 160)
    for frame, boxes in zip(film_frames, ours.detect(film_frames, 24), strict=True):
        expected = np.stack(library.face_detector.detect_from_image(frame))[:, :4]
        expected = expected[expected[:, 2] - expected[:, 0] >= 24]
        assert len(expected) > 5
        # Boxes are ordered by score, and scores of random networks lie close: compare them as sets.
        order, theirs = (np.lexsort(np.round(b, 1).T) for b in (boxes, expected))
        np.testing.assert_allclose(boxes[order], expected[theirs], atol=0.02)


def test_peaks_move_a_quarter_of_a_cell_except_at_the_border() -> None:
    maps = torch.zeros(1, 68, 64, 64)
    maps[0, 0, 20, 10], maps[0, 0, 20, 11], maps[0, 0, 19, 10] = 1.0, 0.5, 0.5
    maps[0, 1, 0, 30], maps[0, 1, 0, 31] = 0.7, 0.5
    at, scores = face_alignment_backend.peaks(maps)
    assert at[0, 0].tolist() == [10.75, 20.25]
    assert at[0, 1].tolist() == [30.5, 0.5]
    assert scores[0, :2].tolist() == pytest.approx([1.0, 0.7])


# Following dots


class DotDetector(torch.nn.Module):
    """As S3FD, with cells of 32 pixels: a blue dot is a face 128 pixels wide, a red one of 256."""

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        outputs = []
        for stride in (4, 8, 16, 32, 64, 128):
            blue, _, red = (x > 0).float().split(1, dim=1)
            blue, red = (F.max_pool2d(c, stride, ceil_mode=True) for c in (blue, red))
            face = torch.maximum(blue, red) if stride == CELL else torch.zeros_like(blue)
            # Logits, and the code of a box: twice the width of the prior is log(2) over the variance 0.2.
            sizes = torch.log(torch.tensor(2.0)) / 0.2 * red
            outputs += [
                torch.cat([5 - 5 * face, 10 * face], 1),
                torch.cat([0 * sizes, 0 * sizes, sizes, sizes], 1),
            ]
        return outputs


class BrightestPlace(torch.nn.Module):
    """As FAN: all 68 heat maps of a 256 pixel crop are its brightness."""

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [F.avg_pool2d(x.amax(dim=1, keepdim=True), 4).expand(-1, 68, -1, -1)]


@pytest.fixture
def nets() -> Networks:
    return Networks(DotDetector(), BrightestPlace(), "cpu")


BLUE, RED = (0, 0, 255), (255, 0, 0)


def frame_with(*dots: tuple[float, float, tuple[int, int, int]]) -> np.ndarray:
    """A black frame with dots 12 pixels wide at (x, y), in cells from the centre of the first."""
    canvas = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for column, row, colour in dots:
        x, y = round((column + 0.5) * CELL), round((row + 0.5) * CELL)
        canvas[y - 6 : y + 6, x - 6 : x + 6] = colour
    return canvas


def centre(box: np.ndarray) -> np.ndarray:
    """In cells, as `frame_with` counts them."""
    return (box[:2] + box[2:]) / 2 / CELL - 0.5


def test_boxes_between_two_detections_lie_on_a_line_and_points_on_the_face(nets: Networks) -> None:
    frames = [frame_with((3 + k / 5, 2, BLUE)) for k in range(11)]
    faces = present(follow_by(nets, frames, 5, 48))
    for k, face in enumerate(faces):
        np.testing.assert_allclose(centre(face.box), [3 + k / 5, 2], atol=1e-3)
        # Within a cell of the heat map, 4 pixels.
        np.testing.assert_allclose(face.points.mean(axis=0), [(3.5 + k / 5) * CELL, 2.5 * CELL], atol=4)
        np.testing.assert_array_equal(face.points, nets.landmarks([frames[k]], [face.box])[0][0])
    assert [f.others for f in faces] == [0 if k % 5 == 0 else None for k in range(11)]


def test_where_a_face_goes_jumps_or_hides_between_detections_the_detector_looks_again(nets: Networks) -> None:
    def column(k: int) -> int | None:
        if k == 2:
            return 8  # away from the line between 0 and 5, for a moment
        if k == 3:
            return None
        return None if 8 <= k < 13 else 3 if k < 8 else 7

    columns = [column(k) for k in range(16)]
    frames = [frame_with() if c is None else frame_with((c, 2, BLUE)) for c in columns]
    faces = list(follow_by(nets, frames, 5, 48))
    assert [None if f is None else round(centre(f.box)[0]) for f in faces] == columns


def test_the_larger_face_is_followed_and_the_others_counted(nets: Networks) -> None:
    frames = [frame_with((4, 2, RED), (8, 4, BLUE)), frame_with((2, 3, BLUE), (8, 3, BLUE))]
    faces = present(follow_by(nets, frames, 1, 48))
    assert [round(f.box[2] - f.box[0]) for f in faces] == [256, 128]
    assert [f.others for f in faces] == [1, 1]
    (large,) = present(follow_by(nets, frames[:1], 1, 200))
    assert large.others == 0, "a face that is too small does not count"


def test_windows_leave_no_seam(nets: Networks, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [frame_with((3 + k / 8, 2, BLUE)) for k in range(14)]
    whole = present(follow_by(nets, frames, 4, 48))
    for window in (4, 8):
        monkeypatch.setattr(face_alignment_backend, "WINDOW", window)
        parts = present(follow_by(nets, iter(frames), 4, 48))
        assert len(parts) == len(frames)
        for a, b in zip(whole, parts, strict=True):
            np.testing.assert_allclose(a.box, b.box)
            np.testing.assert_array_equal(a.points, b.points)
            assert a.others == b.others
    assert list(follow_by(nets, [], 4, 48)) == []


# Weights


def test_missing_weights_are_said_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFTALK_WEIGHTS", str(tmp_path))
    with pytest.raises(UserError, match=r"landmarks.backend: face_alignment needs the weights s3fd"):
        landmarks.run(
            plan=Path("absent.parquet"),
            shard="train-000",
            sources=tmp_path,
            settings=LandmarksSettings(backend="face_alignment"),
            out=tmp_path / "landmarks.parquet",
            quality=tmp_path / "quality.csv",
            scores=tmp_path / "scores.parquet",
            workers=2,
        )


def test_as_many_processes_share_a_gpu_as_it_has_memory_for(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIFFTALK_WEIGHTS", str(weights))
    settings = LandmarksSettings(backend="face_alignment")
    assert face_alignment_backend.processes(settings, 16) == 16
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "a GPU")
    for free_gb, expected in ((140, 16), (7.9, 3), (1, 1)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda free=free_gb: (int(free * 1e9), 10**12))
        assert face_alignment_backend.processes(settings, 16) == expected
