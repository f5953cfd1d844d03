"""Sync experts and the protocol by which they judge a clip."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from drawn_clips import speaker, write_crops

from difftalk.config.syncnet import SyncnetTraining
from difftalk.evaluation.sync import Sync, measure_sync
from difftalk.media.clock import SAMPLES_PER_FRAME
from difftalk.models.formats.syncnet_v2 import import_syncnet_v2
from difftalk.models.sync_inputs import audio_windows, cut_box, face_box, lip_box
from difftalk.models.syncnet import (
    SmallSyncNet,
    SyncExpert,
    SyncnetConfig,
    SyncNetV2,
    load_syncnet,
    save_syncnet,
)
from difftalk.runtime.errors import UserError
from difftalk.stages.syncnet import EMBEDDED, run
from difftalk.training.sync_expert import SyncClip, train_syncnet


def test_audio_windows_start_at_each_frame_and_hold_20_steps() -> None:
    cepstra = np.arange(100 * 13, dtype=float).reshape(100, 13)
    windows = audio_windows(cepstra)
    assert windows.shape == (21, 13, 20)
    for i in (0, 7, 20):
        np.testing.assert_array_equal(windows[i], cepstra[4 * i : 4 * i + 20].T)
    assert audio_windows(cepstra[:19]).shape == (0, 13, 20)


def naive_sync(
    video: np.ndarray, audio: np.ndarray, max_shift: int, zero_padded: bool
) -> tuple[int, float, float]:
    """Follow the released protocol, one pair at a time: offset, confidence, distance."""
    count, means = min(len(video), len(audio)), []
    for shift in range(-max_shift, max_shift + 1):
        distances = []
        for i in range(count):
            inside = 0 <= i + shift < count
            if inside or zero_padded:
                heard = audio[i + shift] if inside else np.zeros_like(audio[0])
                distances.append(float(np.sqrt(((video[i] - heard + 1e-6) ** 2).sum())))
        means.append(sum(distances) / len(distances))
    best = means.index(min(means))
    return max_shift - best, sorted(means)[max_shift] - means[best], means[best]


@pytest.mark.parametrize("zero_padded", [True, False])
@pytest.mark.parametrize("shift", [-4, 0, 6])
def test_sync_equals_a_naive_loop_and_finds_the_shift(zero_padded: bool, shift: int) -> None:
    rng = np.random.default_rng(3)
    whole = rng.normal(size=(80, 8))
    video = whole[10:60] + 0.1 * rng.normal(size=(50, 8))
    audio = whole[10 + shift : 63 + shift]  # three more than there are frames
    found = measure_sync(video, audio, 15, zero_padded)
    offset, confidence, distance = naive_sync(video, audio, 15, zero_padded)
    assert found is not None
    assert found.offset == offset == shift
    assert found.windows == 50
    np.testing.assert_allclose([found.confidence, found.distance], [confidence, distance], rtol=1e-9)


def test_offset_is_positive_where_the_audio_leads_the_video() -> None:
    whole = np.random.default_rng(0).normal(size=(60, 8))
    video, early = whole[:40], whole[3:43]  # what is seen at frame i was heard at frame i - 3
    found = measure_sync(video, early, 15, True)
    assert found is not None and found.offset == 3


def test_a_clip_shorter_than_the_shifts_has_no_verdict() -> None:
    nothing = np.zeros((0, 8))
    assert measure_sync(nothing, nothing, 15, True) is None
    assert measure_sync(np.ones((15, 8)), np.ones((15, 8)), 15, False) is None


def test_syncnet_v2_has_the_released_size_and_names() -> None:
    network = SyncNetV2()
    assert sum(p.numel() for p in network.parameters()) == 13_631_616
    parts = {"netcnnaud": 4_875_712, "netcnnlip": 7_177_920, "netfcaud": 788_992, "netfclip": 788_992}
    for name, count in parts.items():
        assert sum(p.numel() for p in getattr(network, name).parameters()) == count
    # A few that the layer table fixes: index in the sequence, and shape.
    state = network.state_dict()
    assert {k.split(".")[0] for k in state} == set(parts)
    assert state["netcnnaud.18.weight"].shape == (512, 256, 5, 4)
    assert state["netcnnlip.0.weight"].shape == (96, 3, 5, 7, 7)
    assert state["netcnnlip.18.weight"].shape == (512, 256, 1, 6, 6)
    assert state["netfclip.3.weight"].shape == (1024, 512)


def test_syncnet_v2_over_a_clip_equals_its_windows_one_by_one() -> None:
    torch.manual_seed(0)
    network = SyncNetV2().eval()
    lips = torch.rand(1, 3, 7, 224, 224) * 255
    with torch.no_grad():
        whole = network.video(lips)[0]
        single = torch.stack([network.video(lips[:, :, i : i + 5])[0, 0] for i in range(3)])
    assert whole.shape == (3, 1024)
    torch.testing.assert_close(whole, single, rtol=1e-4, atol=1e-4)
    assert network.audio(torch.randn(2, 13, 20)).shape == (2, 1024)


def test_released_weights_import_without_unpickling_code(tmp_path: Path) -> None:
    torch.manual_seed(1)
    network = SyncNetV2()
    torch.save(network.state_dict(), tmp_path / "syncnet_v2.model")
    for key, value in import_syncnet_v2(tmp_path / "syncnet_v2.model").state_dict().items():
        torch.testing.assert_close(value, network.state_dict()[key], rtol=0, atol=0)
    torch.save(network, tmp_path / "pickled.model")
    with pytest.raises(UserError, match="not syncnet_v2.model"):
        import_syncnet_v2(tmp_path / "pickled.model")


def test_the_stage_imports_released_weights_and_its_own_folders(tmp_path: Path) -> None:
    torch.save(SyncNetV2().state_dict(), tmp_path / "syncnet_v2.model")
    common: dict[str, Any] = {"crops": [], "settings": SyncnetTraining(), "state": tmp_path / "state"}
    run(source=str(tmp_path / "syncnet_v2.model"), out=tmp_path / "one", **common)
    run(source=str(tmp_path / "one"), out=tmp_path / "two", **common)
    expert = load_syncnet(tmp_path / "two")
    assert expert.config.architecture == "syncnet_v2" and expert.zero_padded
    frames, landmarks, samples = speaker(1)
    video = expert.video_embeddings(frames[:8], landmarks[:8], chunk_frames=3)
    assert video.shape == (4, 1024)
    # In pieces or at once, the windows are the same.
    np.testing.assert_allclose(
        video, expert.video_embeddings(frames[:8], landmarks[:8]), rtol=1e-3, atol=1e-4
    )
    assert expert.audio_embeddings(samples[: 10 * SAMPLES_PER_FRAME]).shape == (5, 1024)


def test_v2_sees_bgr_at_224_pixels() -> None:
    expert = SyncExpert(SyncnetConfig("syncnet_v2"), SyncNetV2())
    frames, landmarks, _ = speaker(1)
    lips = expert.lips(frames[:5], landmarks[:5])
    box = face_box(landmarks[:5])
    assert lips.shape == (5, 224, 224, 3)
    np.testing.assert_array_equal(lips[..., ::-1], cut_box(frames[:5], box, 224, fill=110))


def test_v2_sees_the_jpeg_files_of_the_released_code_where_asked_to() -> None:
    frames, landmarks, _ = speaker(1)
    plain, released = (
        SyncExpert(SyncnetConfig("syncnet_v2"), SyncNetV2(), jpeg=jpeg).lips(frames[:30], landmarks[:30])
        for jpeg in (False, True)
    )
    assert released.shape == plain.shape
    error = np.mean((released.astype(float) - plain) ** 2, axis=(1, 2, 3))
    psnr = 10 * np.log10(255**2 / error)
    # 200 kbit/s are for all frames together: the first are written finely, those after a second coarsely.
    assert (psnr[:3] > 40).all() and (psnr[-3:] < 36).all() and (psnr > 30).all()
    small = SyncExpert(SyncnetConfig(), SmallSyncNet(SyncnetConfig()), jpeg=True)
    np.testing.assert_array_equal(
        small.lips(frames[:3], landmarks[:3]), cut_box(frames[:3], lip_box(landmarks[:3]), 32)
    )


def test_a_folder_that_is_no_expert_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no sync expert"):
        load_syncnet(tmp_path)
    save_syncnet(tmp_path, SyncnetConfig(), SmallSyncNet(SyncnetConfig()))
    (tmp_path / "config.json").write_text('{"architecture": "small", "channels": [8, 8, 8, 8]}')
    with pytest.raises(UserError, match="cannot be read"):
        load_syncnet(tmp_path)


def test_the_lip_box_is_fixed_holds_the_mouth_and_may_leave_the_frame() -> None:
    frames, landmarks, _ = speaker(1)
    x0, y0, x1, y1 = lip_box(landmarks)
    assert x1 - x0 == y1 - y0
    mouth = landmarks[:, 48:68]
    assert (mouth > (x0, y0)).all() and (mouth < (x1, y1)).all()
    moved = landmarks + (40.0, 40.0)
    assert cut_box(frames, lip_box(moved), 32).shape == (len(frames), 32, 32, 3)
    inside = cut_box(frames, (10, 20, 42, 52), 32)
    np.testing.assert_array_equal(inside, frames[:, 20:52, 10:42])
    filled = cut_box(frames[:1], (-32, 0, 32, 64), 64, fill=110)
    assert (filled[0, :, :32] == 110).all()
    np.testing.assert_array_equal(filled[0, :, 32:], frames[0, :, :32])


def small_run(clips: list[SyncClip], state: Path, steps: int) -> dict[str, torch.Tensor]:
    settings = SyncnetTraining(steps=steps, batch_size=1, stretch=16, checkpoint_every=2)
    return train_syncnet(clips, settings, state)[0].state_dict()


def test_training_resumes_to_the_same_weights(tmp_path: Path) -> None:
    clips = [SyncClip.of(*speaker(seed), 32) for seed in (1, 2)]
    whole = small_run(clips, tmp_path / "a", 4)
    small_run(clips, tmp_path / "b", 4)
    (tmp_path / "b" / "step-00000004.pt").unlink()  # as if killed after the checkpoint of step 2
    resumed = small_run(clips, tmp_path / "b", 4)
    for key, value in whole.items():
        assert torch.equal(value, resumed[key]), key


def test_the_stage_trains_on_the_crops_of_the_run(tmp_path: Path) -> None:
    crops = write_crops(tmp_path / "train-000.tar", {"one": speaker(1)}, split="train")
    settings = SyncnetTraining(steps=2, batch_size=2, stretch=16)
    run(crops=[crops], settings=settings, source="train", state=tmp_path / "s", out=tmp_path / "out")
    expert = load_syncnet(tmp_path / "out")
    assert expert.config.architecture == "small" and expert.config.about["clips"] == 1
    assert [p.name for p in (tmp_path / "s").iterdir() if p.is_dir()] == ["finished"]
    assert not list((tmp_path / "s").glob("step-*"))
    with pytest.raises(UserError, match="no clip of the train crops"):
        run(
            crops=[crops],
            settings=SyncnetTraining(stretch=500),
            source="train",
            state=tmp_path / "s",
            out=tmp_path / "o2",
        )


def test_the_embedded_expert_is_copied_and_judges_in_float32(tmp_path: Path) -> None:
    settings, out = SyncnetTraining(), tmp_path / "out"
    run(crops=[], settings=settings, source="embedded", state=tmp_path / "state", out=out)
    assert sorted(p.name for p in out.iterdir()) == ["SHA256SUMS", "config.json", "model.safetensors"]
    for name in ("config.json", "model.safetensors"):
        assert (out / name).read_bytes() == (EMBEDDED / name).read_bytes()
    narrow = load_syncnet(out)
    (tmp_path / "wide").mkdir()
    save_syncnet(tmp_path / "wide", narrow.config, narrow.network)
    wide = load_syncnet(tmp_path / "wide")
    frames, landmarks, samples = speaker(1)
    found, expected = (e.video_embeddings(frames[:8], landmarks[:8]) for e in (narrow, wide))
    assert found.dtype == np.float32 and np.array_equal(found, expected)
    assert np.array_equal(narrow.audio_embeddings(samples), wide.audio_embeddings(samples))


def test_the_embedded_expert_tells_true_from_moved_and_still_mouths() -> None:
    expert = load_syncnet(EMBEDDED)
    found = {}
    frames, landmarks, samples = speaker(77, 4.0)

    def judge(shown: np.ndarray, heard: np.ndarray) -> Sync:
        video = expert.video_embeddings(shown, landmarks[: len(shown)])
        verdict = measure_sync(video, expert.audio_embeddings(heard), 15, expert.zero_padded)
        assert verdict is not None
        return verdict

    found["true"] = judge(frames, samples)
    found["moved"] = judge(frames[:-7], samples[7 * SAMPLES_PER_FRAME :])
    found["still"] = judge(np.repeat(frames[40:41], len(frames), axis=0), samples)
    assert abs(found["true"].offset) <= 1 and abs(found["moved"].offset - 7) <= 1
    assert found["true"].confidence > 2 * found["still"].confidence
    assert found["true"].distance < found["still"].distance


def test_the_embedded_expert_is_small() -> None:
    assert sum(p.stat().st_size for p in EMBEDDED.iterdir()) < 2_000_000
