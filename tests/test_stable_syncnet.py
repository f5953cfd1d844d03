"""The second sync expert: names and shapes of its tensors, its inputs, and its use."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from drawn_clips import speaker
from torch import nn
from torch.nn import functional

from difftalk.config.evaluation import Evaluation
from difftalk.evaluation import measures
from difftalk.evaluation.columns import METRICS
from difftalk.evaluation.sync import measure_sync
from difftalk.models.stable_syncnet import (
    AUDIO,
    NOT_COMPUTED,
    TEMPLATE,
    VISUAL,
    Attention,
    StableSyncExpert,
    StableSyncNet,
    Stage,
    Tower,
    lower_half,
    mel_windows,
)
from difftalk.speech.mel import filters, mel_spectrogram


def narrow(tower: Tower) -> Tower:
    return replace(tower, channels=(64,) * len(tower.channels))


@pytest.fixture(scope="module")
def expert() -> StableSyncExpert:
    torch.manual_seed(0)
    return StableSyncExpert(StableSyncNet(narrow(AUDIO), narrow(VISUAL)).eval())


def test_its_tensors_are_those_of_the_release() -> None:
    with torch.device("meta"):
        network = StableSyncNet()
    shapes = {k: tuple(v.shape) for k, v in network.state_dict().items()}
    # Counted in the released class with configs/syncnet/syncnet_16_pixel_attn.yaml.
    assert len(shapes) == 266
    assert sum(p.numel() for p in network.parameters()) == 401_306_080
    assert shapes["visual_encoder.conv_in.weight"] == (64, 48, 3, 3)
    assert shapes["visual_encoder.down_blocks.5.ff.net.0.proj.weight"] == (4096, 512)
    assert shapes["visual_encoder.down_blocks.9.downsample_conv.bias"] == (2048,)
    assert shapes["audio_encoder.down_blocks.4.attn.to_out.0.weight"] == (256, 256)
    assert "audio_encoder.down_blocks.3.downsample_conv.weight" not in shapes
    assert "visual_encoder.down_blocks.3.conv_shortcut.weight" not in shapes


def test_a_side_that_strides_is_padded_at_its_end_and_another_at_both() -> None:
    stage = Stage(32, 32, (2, 1))
    identity = torch.zeros(32, 32, 3, 3)
    identity[range(32), range(32), 0, 0] = 1  # the corner of the window, up and to the left
    with torch.no_grad():
        for parameter in stage.parameters():
            parameter.zero_()
        stage.downsample_conv.weight.copy_(identity)  # type: ignore[union-attr]
        x = torch.rand(1, 32, 6, 5)
        found = stage(x)
    expected = functional.pad(x, (1, 0))[:, :, ::2, :5]
    torch.testing.assert_close(found, expected)


def test_attention_equals_that_of_torch() -> None:
    torch.manual_seed(0)
    block, reference = Attention(64).eval(), nn.MultiheadAttention(64, 8, batch_first=True).eval()
    x, attn = torch.randn(2, 5, 64), block.attn
    parts = (attn.to_q, attn.to_k, attn.to_v)
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.cat([p.weight for p in parts]))
        reference.in_proj_bias.copy_(torch.cat([p.bias for p in parts]))
        reference.out_proj.load_state_dict(attn.to_out[0].state_dict())
        torch.testing.assert_close(attn(x), reference(x, x, x)[0])


def test_without_its_weights_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFTALK_WEIGHTS", str(tmp_path))
    assert StableSyncExpert.load() is None
    assert "difftalk weights fetch stable-syncnet" in NOT_COMPUTED


def test_it_embeds_every_fifth_window_and_the_audio_at_every_frame(expert: StableSyncExpert) -> None:
    frames, landmarks, samples = speaker(1)
    video = expert.video_embeddings(frames[:30], landmarks[:30])
    audio = expert.audio_embeddings(samples)
    assert video.shape == (3, 64)  # windows at 0, 5 and 10 of the 15
    np.testing.assert_allclose(np.linalg.norm(video, axis=1), 1, rtol=1e-5)
    alone = expert.video_embeddings(frames[5:21], landmarks[5:21])
    np.testing.assert_allclose(alone[0], video[1], atol=1e-5)
    assert len(audio) == len(mel_windows(samples)) == 60 - 15
    assert expert.video_embeddings(frames[:15], landmarks[:15]).shape == (0, 64)
    assert expert.audio_embeddings(samples[:8000]).shape == (0, 64)


def test_sync_by_every_fifth_window_finds_the_shift() -> None:
    whole = np.random.default_rng(0).normal(size=(120, 8))
    video, audio = whole[10:110:5], whole[14:114]  # what is seen at frame i was heard at frame i - 4
    found = measure_sync(video, audio, 15, zero_padded=False, every=5)
    assert found is not None and (found.offset, found.windows) == (4, 20)
    at_each = measure_sync(whole[10:110], audio, 15, zero_padded=False)
    assert at_each is not None and at_each.offset == 4
    assert measure_sync(video[:3], audio, 15, zero_padded=False, every=5) is None


def test_its_figures_have_names_of_their_own(expert: StableSyncExpert) -> None:
    frames, landmarks, samples = speaker(1)
    pair: Any = SimpleNamespace(frames=frames, landmarks=landmarks, audio=samples)
    found = measures.sync(expert, Evaluation(), "sync2")(pair)
    assert set(found) == {"sync2_offset", "sync2_confidence", "sync2_distance"} <= METRICS.keys()
    assert 0 <= found["sync2_distance"] <= 2
    pair.frames, pair.landmarks = frames[:20], landmarks[:20]
    assert np.isnan(measures.sync(expert, Evaluation(), "sync2")(pair)["sync2_offset"])


def test_the_mel_bands_are_slaneys() -> None:
    # librosa.filters.mel(sr=16000, n_fft=800, n_mels=80, fmin=55, fmax=7600), of version 0.11.
    bands = filters()
    assert bands.shape == (80, 401)
    np.testing.assert_allclose(
        bands.sum(axis=1)[[0, 40, 79]], [0.04936409, 0.04992355, 0.04997956], rtol=1e-5
    )
    np.testing.assert_array_equal(bands.argmax(axis=1)[[0, 40, 79]], [5, 86, 366])


def test_a_tone_is_in_its_band_and_silence_at_the_floor() -> None:
    time = np.arange(16000) / 16000
    mel = mel_spectrogram((10000 * np.sin(2 * np.pi * 1000 * time)).astype(np.int16))
    assert mel.shape == (80, 81)
    assert abs(filters()[mel[:, 40].argmax()].argmax() * 20 - 1000) <= 40
    assert (mel_spectrogram(np.zeros(1600, np.int16)) == -4).all()


def test_the_lower_half_is_cut_by_brows_and_nose() -> None:
    frame = np.zeros((300, 300, 3), np.uint8)
    points = np.full((68, 2), 100.0)
    brow_left, brow_right, nose = TEMPLATE / 1.5 + (40, 20)
    points[17:22], points[22:27], points[[29, 30, 31, 35]] = brow_left, brow_right, nose
    x, y = (np.array([105.0, 210.0]) / 1.5 + (40, 20)).round().astype(int)
    frame[y - 5 : y + 6, x - 5 : x + 6] = 255  # at (105, 210) of the face of 210 x 280
    half = lower_half(frame, points)
    assert half.shape == (128, 256, 3)
    centre = np.argwhere(half[..., 0] > 127).mean(axis=0)[::-1]
    np.testing.assert_allclose(centre, (105 * 256 / 210, 210 * 256 / 280 - 128), atol=1.5)
