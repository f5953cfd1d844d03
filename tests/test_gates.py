"""Quality gates: each rejects the clips that it is for, says what it measured, and can be switched off."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import Stage

from difftalk.config.gates import AudioGates, FrameGates, SyncGate
from difftalk.datasets.demo.faces import Identity, Mouth, Pose, draw_face
from difftalk.face.scenes import SceneMonitor
from difftalk.media.audio import read_audio
from difftalk.media.encode import encode_video
from difftalk.media.shards import read_crops
from difftalk.media.video import read_frames
from difftalk.runtime.errors import UserError
from difftalk.stages.syncnet import EMBEDDED

NOISE = np.random.default_rng(0).normal(0, 3000, 32_000).astype(np.int16)


def watched(frames: list[np.ndarray] | np.ndarray) -> SceneMonitor:
    monitor = SceneMonitor()
    assert sum(1 for _ in monitor.through(frames)) == len(frames)
    return monitor


def cut_frames(monitor: SceneMonitor) -> list[int]:
    limit = FrameGates().scene_cut_ratio
    assert limit is not None
    return [k for k, ratio in monitor.changes() if ratio >= limit]


def other_scene(film_frames: np.ndarray) -> np.ndarray:
    """The same speaker before another background, mirrored, as from a second camera."""
    return np.ascontiguousarray(film_frames[:, :, ::-1, [2, 0, 1]])


# Cuts


def test_a_cut_is_reported_with_its_time(stage: Stage, film_frames: np.ndarray) -> None:
    frames = np.concatenate([film_frames[:30], other_scene(film_frames[30:])])
    stage.add("cut", encode_video(frames))
    stage.add("whole", encode_video(film_frames))
    assert stage.landmarks() == {"cut": "scene_cut"}
    assert stage.lost["cut"].detail == "at 1.20 s of the clip"
    assert stage.landmarks(gates=FrameGates(scene_cut_ratio=None)) == {}


@pytest.mark.parametrize("at", [1, 2, 25, 48, 49])
def test_a_cut_is_found_at_the_very_ends_too(at: int, film_frames: np.ndarray) -> None:
    frames = np.concatenate([film_frames[:at], other_scene(film_frames[at:])])
    assert cut_frames(watched(frames)) == [at]


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
def test_a_cut_through_a_blended_frame_is_found(film_frames: np.ndarray, share: float) -> None:
    frames = film_frames.copy()
    other = 255 - frames[:, ::-1]
    frames[20] = (share * other[20] + (1 - share) * frames[20]).astype(np.uint8)
    frames[21:] = other[21:]
    assert cut_frames(watched(frames)) == [20, 21]


def test_a_black_frame_between_two_scenes_is_a_cut(film_frames: np.ndarray) -> None:
    frames = film_frames.copy()
    frames[20] = 0
    frames[21:] = 255 - frames[21:, ::-1]
    assert cut_frames(watched(frames)) == [20, 21]


def test_a_photographers_flash_is_no_cut(film_frames: np.ndarray) -> None:
    frames = film_frames.copy()
    frames[20] = np.minimum(frames[20].astype(int) + 120, 255)
    assert cut_frames(watched(frames)) == []


def test_where_the_face_is_gone_after_a_cut_the_cut_is_told(stage: Stage, film_frames: np.ndarray) -> None:
    frames = film_frames.copy()
    frames[25:] = (40, 90, 160)
    stage.add("a", encode_video(frames))
    assert stage.landmarks() == {"a": "scene_cut"}


def test_where_there_was_hardly_a_face_that_is_told(stage: Stage, film_frames: np.ndarray) -> None:
    frames = np.full_like(film_frames, 128)
    frames[1:] = (40, 90, 160)
    stage.add("a", encode_video(frames))
    assert stage.landmarks() == {"a": "no_face"}


# Freezes


def test_a_freeze_is_reported_with_its_length(stage: Stage, film_frames: np.ndarray) -> None:
    frames = np.concatenate([film_frames[:10], film_frames[10:11].repeat(40, axis=0), film_frames[10:]])
    # As a video site compresses it: the frozen frame goes on to change a little.
    stage.add("a", encode_video(frames, crf=30), 0.0, 3.2)
    assert stage.landmarks() == {"a": "frozen"}
    # The freeze is 1.64 s long; at this compression the first frames after the stop are still settling.
    start, length = watched(list(read_frames(stage.folder / "sources" / "a.mp4"))).longest_freeze()
    assert 10 <= start <= 18
    assert start + length == pytest.approx(51, abs=1)
    assert stage.lost["a"].detail.startswith(f"the video freezes for {length / 25:.2f} s from ")
    assert stage.landmarks(gates=FrameGates(frozen_seconds=None)) == {}


def test_frames_that_are_repeated_now_and_then_are_not_frozen(film_frames: np.ndarray) -> None:
    """24 to 25 frames a second repeats one in each second, 10 to 25 shows each twice or three times."""
    assert watched(film_frames[np.arange(50) * 24 // 25]).longest_freeze()[1] <= 3
    assert watched(film_frames[np.arange(50) * 10 // 25 * 2]).longest_freeze()[1] <= 6


def test_one_small_part_that_moves_is_enough(film_frames: np.ndarray) -> None:
    frames = film_frames[:1].repeat(50, axis=0)
    for k, frame in enumerate(frames):
        cv2.circle(frame, (128, 128), 4 + k % 4, (255, 255, 255), -1)
    assert watched(frames).longest_freeze()[1] <= 3


# Other faces


def next_to_another(film_frames: np.ndarray, width: int) -> np.ndarray:
    """The speaker, next to somebody else drawn `width` pixels wide."""
    other, _ = draw_face(Identity.draw(6), Pose(), Mouth(), width)
    frames = np.full((len(film_frames), 256, 512, 3), 128, np.uint8)
    frames[:, :, :256] = film_frames
    frames[:, 20 : 20 + width, 270 : 270 + width] = other
    return frames


def test_a_second_face_of_comparable_size_is_told(stage: Stage, film_frames: np.ndarray) -> None:
    stage.add("two", encode_video(next_to_another(film_frames, 200)))
    stage.add("small", encode_video(next_to_another(film_frames, 100)))
    assert stage.landmarks() == {"two": "several_faces"}
    assert stage.lost["two"].detail == (
        "another face at least half as wide in 2 of 2 inspected frames, several_faces_share=0.2"
    )
    assert stage.landmarks(gates=FrameGates(several_faces_share=None)) == {}


# Audio


def test_the_difference_in_length_that_is_borne_is_a_setting(stage: Stage, film_frames: np.ndarray) -> None:
    stage.add("curt", encode_video(film_frames, audio=NOISE[:24_000]))
    stage.landmarks()
    assert stage.crops() == {"curt": "length_mismatch"}
    assert stage.lost["curt"].detail == "1.50 s of audio, 2.00 s of video, length_mismatch_seconds=0.04"
    for limit in (0.6, None):
        assert stage.crops(gates=AudioGates(length_mismatch_seconds=limit)) == {}


def test_short_clips_are_borne_where_nothing_is_asked(stage: Stage, film_frames: np.ndarray) -> None:
    stage.add("short", encode_video(film_frames, audio=NOISE), 0.0, 0.4)
    stage.landmarks()
    assert stage.crops(min_frames=11) == {"short": "too_short"}
    assert stage.crops(min_frames=None) == {}


@pytest.fixture(scope="module")
def sync_stage(tmp_path_factory: pytest.TempPathFactory, film: Path, film_frames: np.ndarray) -> Stage:
    """Clips of 2 s: as filmed, with the audio 4 frames early, 4 late, 12 early, and with noise."""
    stage = Stage(tmp_path_factory.mktemp("sync"))
    audio = read_audio(film, 0.0, 2.0)
    early = np.concatenate([audio[4 * 640 :], np.zeros(4 * 640, np.int16)])
    late = np.concatenate([np.zeros(4 * 640, np.int16), audio[: -4 * 640]])
    far = np.concatenate([audio[12 * 640 :], np.zeros(12 * 640, np.int16)])
    voices = {"true": audio, "early": early, "late": late, "far": far, "noise": NOISE}
    for name, voice in voices.items():
        stage.add(name, encode_video(film_frames, audio=voice))
    assert stage.landmarks() == {}
    return stage


def audio_offset(audio: np.ndarray, expected: np.ndarray) -> int:
    """By how many samples `audio` is later than `expected`, where their product is largest."""
    product = np.correlate(audio.astype(float), expected.astype(float), "full")
    return int(product.argmax()) - len(expected) + 1


def test_a_constant_offset_is_repaired_and_what_is_out_of_sync_is_lost(sync_stage: Stage, film: Path) -> None:
    gate = AudioGates(sync=SyncGate(min_confidence=3.0, max_offset=5))
    reasons = sync_stage.crops(gates=gate, syncnet=EMBEDDED)
    assert reasons == {"far": "out_of_sync", "noise": "out_of_sync"}
    assert sync_stage.lost["far"].detail.endswith("offset 12 frames, max_offset=5")
    found = {c.clip_id[:-2]: c for c in read_crops(sync_stage.folder / "crops.tar")}
    assert {name: c.info["sync"]["offset"] for name, c in found.items()} == {
        "true": 0,
        "early": 4,
        "late": -4,
    }
    assert [found[n].info["sync"]["repaired"] for n in ("true", "early", "late")] == [False, True, True]
    true = read_audio(film, 0.0, 2.0)
    for crop in found.values():
        assert crop.info["sync"]["confidence"] > 3
        assert len(crop.audio) == 32_000
        # AAC twice: the second encoding may move a sample or two.
        assert abs(audio_offset(crop.audio, true)) <= 16


def test_limits_of_the_sync_gate_can_be_left_out(sync_stage: Stage) -> None:
    gate = AudioGates(sync=SyncGate(min_confidence=None, max_offset=None))
    assert sync_stage.crops(gates=gate, syncnet=EMBEDDED) == {}
    (early,) = [c for c in read_crops(sync_stage.folder / "crops.tar") if c.clip_id == "early-0"]
    assert early.info["sync"]["offset"] == 4
    assert not early.info["sync"]["repaired"]


def test_a_sync_gate_without_an_expert_is_the_users_mistake(stage: Stage) -> None:
    with pytest.raises(UserError, match="--syncnet"):
        stage.crops(gates=AudioGates(sync=SyncGate()))


def test_torch_is_imported_for_the_sync_gate_alone() -> None:
    program = (
        "import sys, difftalk.stages.crops, difftalk.stages.landmarks;"
        "import difftalk.face.crops, difftalk.face.follow, difftalk.face.dlib_backend;"
        "import numpy; difftalk.face.follow.speech_share(numpy.zeros(9000, numpy.int16));"
        "print('torch' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert said.stdout == "False\n"
