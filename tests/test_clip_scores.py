"""Clip scores: each planned clip keeps what was measured, and another threshold measures nothing again."""

import csv
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from conftest import TINY, Stage, snakemake

from difftalk.config.gates import GatesSettings
from difftalk.datasets.clips import Clip, write_plan
from difftalk.datasets.demo.faces import Identity, Mouth, Pose, draw_face
from difftalk.face.clip_scores import ClipScores, read_scores, write_scores
from difftalk.face.dlib_backend import agreement
from difftalk.face.gates import verdict
from difftalk.face.measures import mouth_opening, outside_frames
from difftalk.face.sync_table import read_sync, write_sync
from difftalk.media.audio import read_audio
from difftalk.media.encode import encode_video
from difftalk.media.points68 import RIGID
from difftalk.media.pose import FACE, head_angles
from difftalk.reporting.clip_scores import MEASURES, SCHEMA, page, score_rows
from difftalk.runtime.rejects import Reject, write_rejects
from difftalk.speech import vad
from difftalk.stages import clip_scores

GATES = GatesSettings()
NOISE = np.random.default_rng(0).normal(0, 3000, 32_000).astype(np.int16)


def measured(stage: Stage) -> dict[str, ClipScores]:
    return {s.clip_id[:-2]: s for s in read_scores(stage.folder / "scores.parquet")}


# Measuring


def number(measured: float | None) -> float:
    assert measured is not None
    return measured


def test_what_is_measured_of_a_drawn_speaker_is_what_was_drawn(
    stage: Stage, film: Path, film_frames: np.ndarray, truth: np.ndarray
) -> None:
    stage.add("a", film)
    assert stage.landmarks() == {}
    scores = measured(stage)["a"]
    assert (scores.width, scores.height, scores.fps, scores.codec) == (256, 256, 25.0, "h264")
    assert (scores.frames, scores.inspected_frames, scores.detected_frames) == (50, 50, 50)
    assert scores.face_px == pytest.approx(np.ptp(truth[:, :, 0], axis=1).mean(), rel=0.15)
    assert scores.mouth_spread == pytest.approx(mouth_opening(truth).std(), rel=0.3)
    assert scores.mouth_outside_frames == 0
    assert scores.brightness == pytest.approx(film_frames.mean(), rel=0.1)
    assert scores.thumbnail is not None
    thumbnail = cv2.imdecode(np.frombuffer(scores.thumbnail, np.uint8), cv2.IMREAD_COLOR)
    assert thumbnail is not None and thumbnail.shape == (96, 96, 3)
    assert scores.speech_share is not None and scores.speech_share > 0.5


def test_a_blurred_face_is_less_sharp_and_a_dark_one_darker(stage: Stage, film_frames: np.ndarray) -> None:
    stage.add("sharp", encode_video(film_frames, audio=NOISE))
    stage.add("blurred", encode_video([cv2.GaussianBlur(f, (0, 0), 3) for f in film_frames], audio=NOISE))
    stage.add("dark", encode_video(film_frames // 2, audio=NOISE // 10))
    stage.landmarks()
    sharp, blurred, dark = (measured(stage)[name] for name in ("sharp", "blurred", "dark"))
    assert number(blurred.face_sharpness) < number(sharp.face_sharpness) / 5
    assert number(dark.face_brightness) == pytest.approx(number(sharp.face_brightness) / 2, rel=0.1)
    assert number(sharp.loudness_db) - number(dark.loudness_db) == pytest.approx(20, abs=1)


def test_a_clip_that_a_gate_rejects_is_measured_to_its_end(stage: Stage, film_frames: np.ndarray) -> None:
    frames = film_frames.copy()
    frames[10:30] = 128
    stage.add("gap", encode_video(frames, audio=NOISE))
    assert set(stage.landmarks()) == {"gap"}
    scores = measured(stage)["gap"]
    assert scores.inspected_frames == 50
    assert scores.detected_frames == pytest.approx(30, abs=1)
    assert scores.face_px is not None


def test_the_cost_of_a_clip_without_a_face_is_bounded(stage: Stage, film_frames: np.ndarray) -> None:
    stage.add("none", encode_video([np.full((64, 64, 3), 128, np.uint8)] * 150, audio=NOISE), 0.0, 6.0)
    assert stage.landmarks() == {"none": "no_face"}
    assert stage.lost["none"].detail.startswith("a face in 0 of the first ")
    scores = measured(stage)["none"]
    assert scores.inspected_frames == 100
    assert (scores.face_px, scores.yaw_min, scores.mouth_speed, scores.face_sharpness) == (None,) * 4
    assert scores.brightness == pytest.approx(128, abs=2)


def test_of_a_clip_that_cannot_be_decoded_nothing_is_known(stage: Stage) -> None:
    stage.add("damaged", b"no video at all")
    assert stage.landmarks() == {"damaged": "cannot_decode"}
    scores = measured(stage)["damaged"]
    assert scores.reason == "cannot_decode"
    assert (scores.width, scores.brightness, scores.loudness_db, scores.thumbnail) == (None,) * 4


def test_scores_come_back_as_they_were_written(tmp_path: Path) -> None:
    scores = ClipScores(
        "a", tracks=((0, 1), (5,)), change_frames=(3,), change_ratios=(2.5,), thumbnail=b"jpeg"
    )
    write_scores(tmp_path / "s.parquet", [scores, ClipScores("b", "no_video", "b.mp4: no video stream")])
    assert read_scores(tmp_path / "s.parquet") == [
        scores,
        ClipScores("b", "no_video", "b.mp4: no video stream"),
    ]


# Pose


def projected(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """The model turned by angles in degrees, as a camera of 640x480 pixels sees it from 60 cm."""
    a, b, c = np.radians([yaw, pitch, roll])
    about_y = np.array([[np.cos(a), 0, -np.sin(a)], [0, 1, 0], [np.sin(a), 0, np.cos(a)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    model = FACE * (1, -1, -1)
    seen = (model - model.mean(axis=0)) @ (about_z @ about_y @ about_x).T + (0, 0, 60)
    points = np.zeros((1, 68, 2))
    points[0, RIGID] = seen[:, :2] / seen[:, 2:] * 640 + (319.5, 239.5)
    return points


@pytest.mark.parametrize("angles", [(0, 0, 0), (30, 0, 0), (-30, 0, 0), (0, 20, 0), (0, -20, 0), (0, 0, 15)])
def test_the_angles_of_a_turned_head_are_found(angles: tuple[float, float, float]) -> None:
    np.testing.assert_allclose(head_angles(projected(*angles), (640, 480))[0], angles, atol=0.1)


def test_a_drawn_head_turns_to_the_side_that_it_looks_to() -> None:
    poses = [Pose(yaw=0.2), Pose(yaw=-0.2), Pose(pitch=0.2), Pose(pitch=-0.2), Pose(roll=0.2), Pose()]
    points = np.stack([draw_face(Identity.draw(5), pose, Mouth(), 256)[1] for pose in poses])
    right, left, down, up, tilted, straight = head_angles(points, (256, 256))
    assert right[0] > straight[0] + 3 and left[0] < straight[0] - 3
    assert down[1] > straight[1] + 3 and up[1] < straight[1] - 3
    assert tilted[2] - straight[2] == pytest.approx(np.degrees(0.2), abs=1)


# Mouth outside the frame


def test_a_point_is_outside_beyond_the_edges_of_the_outermost_pixels() -> None:
    points = np.full((4, 68, 2), 10.0)
    points[1, 8] = 10, 19.6  # chin, below
    points[2, 48] = -0.6, 10  # corner of the mouth, left
    points[3, 0] = -5, 10  # a side of the jaw does not count
    assert list(outside_frames(points, (20, 20))) == [False, True, True, False]


def test_a_mouth_outside_the_frame_is_out_of_frame(
    stage: Stage, film_frames: np.ndarray, truth: np.ndarray
) -> None:
    below = int(truth[:, 57, 1].min())  # through the lower lip
    stage.add("cut_off", encode_video(np.ascontiguousarray(film_frames[:, : below - below % 2]), audio=NOISE))
    stage.add("whole", encode_video(film_frames, audio=NOISE))
    assert stage.landmarks() == {"cut_off": "out_of_frame"}
    outside = measured(stage)["cut_off"].mouth_outside_frames
    assert outside is not None and outside > 40
    assert stage.lost["cut_off"].detail == (
        f"chin or mouth outside the frame in {outside} frames, mouth_outside_frames=5"
    )
    assert stage.gates(mouth_outside_frames=None) == {}


# Voice activity


def audio_with_a_pause(film: Path) -> np.ndarray:
    voice = read_audio(film, 0.0, 2.0)
    return np.concatenate([voice, np.zeros(32_000, np.int16), voice])


def test_speech_is_told_from_silence_and_noise(film: Path) -> None:
    voice = read_audio(film, 0.0, 2.0)
    share = vad.speech_share(voice)
    assert share is not None and share > 0.5
    assert vad.speech_share(np.zeros(32_000, np.int16)) == 0
    assert vad.speech_share(NOISE) == 0
    assert vad.speech_share(NOISE[:0]) is None
    found = vad.speech_probabilities(audio_with_a_pause(film))
    assert found[75:120].max() < 0.5 < found[130:180].max()


class VoiceNet(torch.nn.Module):
    """The network in torch's own layers, step by step as the package runs it."""

    def __init__(self) -> None:
        super().__init__()
        w = {name: torch.from_numpy(np.array(value)) for name, value in vad.weights().items()}
        self.basis = w["stft.forward_basis_buffer"]
        sizes = ((129, 128, 1), (128, 64, 2), (64, 64, 2), (64, 128, 1))
        self.encoder = torch.nn.ModuleList(torch.nn.Conv1d(i, o, 3, s, padding=1) for i, o, s in sizes)
        for k, layer in enumerate(self.encoder):
            layer.load_state_dict({n: w[f"encoder.{k}.reparam_conv.{n}"] for n in ("weight", "bias")})
        self.rnn = torch.nn.LSTMCell(128, 128)
        self.rnn.load_state_dict({n: w[f"decoder.rnn.{n}"] for n in self.rnn.state_dict()})
        self.out = torch.nn.Conv1d(128, 1, 1)
        self.out.load_state_dict({n: w[f"decoder.decoder.2.{n}"] for n in ("weight", "bias")})

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        state, said = None, []
        padded = torch.nn.functional.pad(samples, (64, -len(samples) % 512))
        for at in range(0, len(padded) - 64, 512):
            x = torch.nn.functional.pad(padded[None, at : at + 576], (0, 64), "reflect")
            x = torch.nn.functional.conv1d(x[:, None], self.basis, stride=128)
            x = (x[:, :129] ** 2 + x[:, 129:] ** 2).sqrt()
            for layer in self.encoder:
                x = layer(x).relu()
            state = self.rnn(x[..., 0], state)
            said.append(self.out(state[0][..., None].relu()).sigmoid().ravel())
        return torch.cat(said)


def test_the_voice_network_is_that_of_torchs_layers(film: Path) -> None:
    audio = audio_with_a_pause(film)[:70_001]
    with torch.inference_mode():
        expected = VoiceNet()(torch.from_numpy(audio / np.float32(32768))).numpy()
    # Sums of float32 in another order, over 137 steps of a recurrent network.
    np.testing.assert_allclose(vad.speech_probabilities(audio), expected, atol=1e-3)


# Something before the mouth


def test_a_microphone_before_the_mouth_lowers_its_score(
    stage: Stage, film_frames: np.ndarray, truth: np.ndarray
) -> None:
    frames = film_frames.copy()
    for frame, points in zip(frames, truth, strict=True):
        centre = points[48:68].mean(axis=0).astype(int)
        cv2.ellipse(frame, [int(v) for v in centre], (28, 36), 0, 0, 360, (25, 25, 28), -1)
    stage.add("hidden", encode_video(frames, audio=NOISE))
    stage.add("free", encode_video(film_frames, audio=NOISE))
    assert stage.landmarks(min_detection_rate=None) == {}
    found = measured(stage)
    hidden, free = number(found["hidden"].mouth_score), number(found["free"].mouth_score)
    assert hidden < free - 0.2
    between = (hidden + free) / 2
    assert stage.gates(min_detection_rate=None, min_mouth_score=between) == {"hidden": "occluded"}


def test_predictions_that_are_equal_agree() -> None:
    mouth = np.random.default_rng(0).uniform(size=(1, 20, 2))
    assert agreement(mouth.repeat(3, axis=0)) == pytest.approx(1)
    assert agreement(mouth + np.array([-0.01, 0, 0.01])[:, None, None]) == pytest.approx(0.29, abs=0.01)
    assert agreement(mouth + np.array([-0.1, 0, 0.1])[:, None, None]) == 0


# Gates


def scored(**more: Any) -> ClipScores:
    every = tuple(range(100))
    usual: dict[str, Any] = {"frames": 100, "inspected_frames": 100, "tracks": (every,), "face_px": 200.0}
    return ClipScores("a", **(usual | more))


def reason(scores: ClipScores, **gates: Any) -> str | None:
    error = verdict(scores, GatesSettings(**gates))
    return None if error is None else error.reason


def test_a_clip_with_nothing_against_it_is_kept() -> None:
    assert reason(scored()) is None


def test_the_reason_that_explains_the_others_comes_first() -> None:
    half = (tuple(range(60)),)
    assert reason(scored(tracks=half)) == "no_face"
    assert reason(scored(tracks=half, change_frames=(60,), change_ratios=(9.0,))) == "scene_cut"
    # A cut after the face was gone for too long explains nothing.
    assert reason(scored(tracks=half, change_frames=(90,), change_ratios=(9.0,))) == "no_face"
    few = (tuple(range(2)),)
    assert reason(scored(tracks=few, change_frames=(2,), change_ratios=(9.0,))) == "no_face"
    jump = (tuple(range(50)), tuple(range(50, 100)))
    assert reason(scored(tracks=jump)) == "unstable_face"


def test_each_threshold_is_applied_to_what_was_measured() -> None:
    cut = scored(change_frames=(50,), change_ratios=(5.0,))
    assert (reason(cut), reason(cut, scene_cut_ratio=6.0)) == ("scene_cut", None)
    crowd = scored(others_inspected=10, others_seen=3)
    assert (reason(crowd), reason(crowd, several_faces_share=0.3)) == ("several_faces", None)
    still = scored(freeze_frames=30)
    assert (reason(still), reason(still, frozen_seconds=1.2)) == ("frozen", None)
    outside = scored(mouth_outside_frames=6)
    assert (reason(outside), reason(outside, mouth_outside_frames=6)) == ("out_of_frame", None)
    turned = scored(yaw_min=-40.0, yaw_max=5.0, pitch_min=0.0, pitch_max=10.0)
    assert (reason(turned), reason(turned, max_yaw_degrees=30.0)) == (None, "turned_head")
    assert (reason(turned, max_pitch_degrees=5.0), reason(turned, max_pitch_degrees=10.0)) == (
        "turned_head",
        None,
    )
    soft = scored(face_sharpness=50.0)
    assert (reason(soft), reason(soft, min_sharpness=60.0)) == (None, "blurred")
    hidden = scored(mouth_score=0.3)
    assert (reason(hidden), reason(hidden, min_mouth_score=0.5)) == (None, "occluded")
    assert (reason(scored(face_px=40.0)), reason(scored(face_px=40.0), min_face_px=40)) == (
        "small_face",
        None,
    )


# The table and the page


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    planned = [
        Clip("a-0", "a", 0.0, 4.0, "ann", "train", "train-000"),
        Clip("b-0", "b", 0.0, 4.0, "bob", "test", "test-000"),
        Clip("c-0", "c", 0.0, 0.0, "cy", "train", "train-000"),
        Clip("d-0", "d", 0.0, 4.0, "<b>", "train", "train-000"),
    ]
    scores = {
        "a-0": scored(yaw_min=-10.0, yaw_max=15.0, others_inspected=4, others_seen=1, freeze_frames=5),
        "b-0": scored(face_px=40.0),
    }
    rejects = [
        Reject("b-0", "landmarks", "small_face", "median width 40 pixels"),
        Reject("c-0", "fetch", "cannot_decode", "c.mp4: does not open"),
        Reject("d-0", "fetch", "duplicate", "the same as a-0"),
    ]
    return score_rows(planned, scores, {"a-0": (-1, 7.5)}, rejects, GATES)


def test_every_planned_clip_has_a_row_and_what_was_not_measured_is_null(rows: list[dict[str, Any]]) -> None:
    a, b, c, d = rows
    assert [row["verdict"] for row in rows] == [
        "kept", "landmarks: small_face", "fetch: cannot_decode", "fetch: duplicate",
    ]  # fmt: skip
    assert (a["yaw_range"], a["several_faces_share"], a["longest_freeze_s"]) == (25.0, 0.25, 0.2)
    assert (a["sync_offset"], a["sync_confidence"]) == (-1, 7.5)
    assert (b["face_px"], b["yaw_range"], b["sync_offset"]) == (40.0, None, None)
    planned = {"clip_id", "source_id", "identity", "split", "shard", "subset", "start_s"}
    assert {k for k in SCHEMA.names if c[k] is not None} == planned | {"verdict", "reason", "detail"}
    assert d["duplicate"] == "the same as a-0"


def test_the_page_shows_each_measure_with_its_threshold_and_escapes_names(rows: list[dict[str, Any]]) -> None:
    rows[0]["clip_id"] = "<script>"
    text = page(rows, {"<script>": b"jpeg"}, GATES)
    for measure in MEASURES:
        assert f"<code>{measure.column}</code>" in text
    assert "gate <code>min_face_px</code>: 48" in text
    assert 'class="limit"' in text
    assert "not measured in this run" in text
    assert "<script>" not in text
    assert "data:image/jpeg;base64," in text
    assert "http" not in text


def test_the_stage_writes_table_and_page(stage: Stage, film: Path, tmp_path: Path) -> None:
    stage.add("a", film)
    stage.add("b", b"no video at all")
    stage.landmarks()
    write_sync(tmp_path / "sync.csv", [("a-0", 2, 6.25)])
    assert read_sync([tmp_path / "sync.csv"]) == {"a-0": (2, 6.25)}
    write_plan(tmp_path / "clips.parquet", stage.clips)
    write_rejects(tmp_path / "speech.csv", [Reject("a-0", "speech", "silent", "level -60 dB")])
    clip_scores.run(
        plan=tmp_path / "clips.parquet",
        scores=[tmp_path / "scores.parquet"],
        rejects=[tmp_path / "landmarks.csv", tmp_path / "speech.csv"],
        settings=GATES,
        out=tmp_path / "clip_scores.parquet",
        page=tmp_path / "clip_scores.html",
        sync=[tmp_path / "sync.csv"],
    )
    table = pq.read_table(tmp_path / "clip_scores.parquet")
    assert table.schema.equals(SCHEMA)
    a, b = table.to_pylist()
    assert (a["verdict"], a["sync_offset"], b["verdict"]) == ("speech: silent", 2, "landmarks: cannot_decode")
    assert "speech: silent" in (tmp_path / "clip_scores.html").read_text()


# The workflow


def test_a_run_keeps_the_scores_of_all_clips(tiny_run: Path) -> None:
    run = tiny_run / "results" / "tiny"
    found = pq.read_table(run / "clip_scores.parquet").to_pylist()
    planned = pq.read_table(run / "plan" / "clips.parquet")["clip_id"].to_pylist()
    assert [row["clip_id"] for row in found] == planned
    funnel = {(r["stage"]): r["clips"] for r in csv.DictReader((run / "funnel.csv").open())}
    assert sum(row["verdict"] == "kept" for row in found) == int(funnel["kept"])
    assert (run / "clip_scores.html").is_file()


@pytest.mark.parametrize(
    "changed",
    [
        "gates={frozen_seconds: 2.0, scene_cut_ratio: 6.0}",
        "landmarks={min_face_px: 90, min_detection_rate: 0.9}",
    ],
)
def test_another_threshold_reruns_no_measuring(tiny_run: Path, changed: str) -> None:
    done = snakemake("-n", "--configfile", TINY, "--config", changed, directory=tiny_run)
    assert done.status == 0, done.said
    assert done.jobs["gates"] == done.jobs["crops"] == 3
    assert done.jobs["clip_scores"] == 1
    assert not {"plan", "fetch", "landmarks"} & set(done.jobs)
