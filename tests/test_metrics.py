"""Image metrics against independent implementations, the mouth's region and opening, and scoring."""

import hashlib
import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import lpips
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torchvision
from drawn_clips import speaker, write_crops, write_sample
from scipy.ndimage import gaussian_filter
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

import difftalk
from difftalk.config.evaluation import Evaluation
from difftalk.evaluation import metrics
from difftalk.evaluation.mouth import correlation, measured_opening, opening
from difftalk.evaluation.scores import IMAGE_METRICS
from difftalk.pretrained import table as pretrained
from difftalk.runtime.errors import UserError
from difftalk.stages import score, weights

EMBEDDED = Path(difftalk.__file__).parent / "assets" / "syncnet"
Scored = tuple[Path, dict[str, pa.Table]]


def noisy(frames: np.ndarray, strength: float = 12, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.clip(frames + rng.normal(0, strength, frames.shape), 0, 255).astype(np.uint8)


def test_psnr_equals_skimage_and_identical_frames_have_none() -> None:
    truth = speaker(1)[0][3]
    frame = noisy(truth)
    expected = peak_signal_noise_ratio(truth, frame, data_range=255)
    assert metrics.psnr(truth, frame) == pytest.approx(expected, rel=1e-12)
    assert metrics.psnr(truth, truth) is None


def test_ssim_equals_skimage_and_its_map_the_formula() -> None:
    truth = speaker(1)[0][3]
    frame = noisy(truth)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    expected = structural_similarity(truth, frame, data_range=255, channel_axis=-1, **options)
    assert metrics.ssim(truth, frame) == pytest.approx(expected, rel=1e-12)

    def blur(a: np.ndarray) -> np.ndarray:
        return gaussian_filter(a, 1.5, truncate=3.5)

    # Wang et al. 2004, eq. 13, channel by channel.
    parts = []
    for c in range(3):
        x, y = truth[..., c].astype(float), frame[..., c].astype(float)
        mx, my = blur(x), blur(y)
        vx, vy, vxy = blur(x * x) - mx * mx, blur(y * y) - my * my, blur(x * y) - mx * my
        c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
        parts.append((2 * mx * my + c1) * (2 * vxy + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2)))
    np.testing.assert_allclose(metrics.ssim_map(truth, frame), np.mean(parts, axis=0), rtol=1e-7)


def write_backbone(folder: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """AlexNet's convolutions with random weights, in a file named by its hash as torchvision's is."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        alexnet = torchvision.models.alexnet(weights=None)
    state = {k: v for k, v in alexnet.state_dict().items() if k.startswith("features.")}
    path = folder / "alexnet.pth"
    torch.save(state, path)
    named = path.with_name(f"alexnet-owt-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}.pth")
    return path.rename(named), state


def test_lpips_equals_the_package_with_the_same_backbone(tmp_path: Path) -> None:
    path, state = write_backbone(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
        spatial = lpips.LPIPS(net="alex", pnet_rand=True, spatial=True, verbose=False)
    for model in (whole, spatial):
        for name, parameter in model.net.named_parameters():
            parameter.data.copy_(state["features." + name.split(".", 1)[1]])
    truth = speaker(1)[0][:3]
    frames = noisy(truth, 20)
    a, b = (torch.from_numpy(x).permute(0, 3, 1, 2).float() / 127.5 - 1 for x in (truth, frames))
    box = (20, 30, 50, 60)
    found, inside = metrics.Lpips(path)(truth, frames, box, batch=2)
    with torch.no_grad():
        np.testing.assert_allclose(found, whole(a, b).flatten().numpy(), rtol=1e-4)
        expected = spatial(a, b)[:, 0, 30:60, 20:50].mean(dim=(1, 2)).numpy()
    np.testing.assert_allclose(inside, expected, rtol=1e-4)
    assert (found > 0).all()


def test_lpips_without_its_backbone_is_missing_and_a_damaged_backbone_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("DIFFTALK_WEIGHTS", str(tmp_path / "weights"))
    assert metrics.find_lpips_backbone(None) is None
    with pytest.raises(UserError, match="lpips_backbone"):
        metrics.find_lpips_backbone(str(tmp_path / "none.pth"))
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    path, _ = write_backbone(tmp_path)
    damaged = path.rename(cache / metrics.LPIPS_BACKBONE)
    assert metrics.find_lpips_backbone(None) == damaged
    with pytest.raises(UserError, match="sha256"):
        metrics.Lpips(damaged)


def test_lpips_takes_the_backbone_of_the_weights_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIFFTALK_WEIGHTS", str(tmp_path / "weights"))
    path, _ = write_backbone(tmp_path)
    digits = path.stem.rpartition("-")[2]
    monkeypatch.setitem(pretrained.WEIGHTS, "alexnet", replace(pretrained.WEIGHTS["alexnet"], sha256=digits))
    weights.import_file("alexnet", path)
    found = metrics.find_lpips_backbone(None)
    assert found == tmp_path / "weights" / "alexnet.safetensors"
    assert metrics.find_lpips_backbone(str(path)) == path, "the configured file goes first"
    truth = speaker(1)[0][:2]
    ours, theirs = (metrics.Lpips(p)(truth, noisy(truth), (8, 8, 40, 40))[0] for p in (found, path))
    np.testing.assert_array_equal(ours, theirs)


def test_the_mouth_box_holds_the_mouth_of_all_frames_and_stays_inside() -> None:
    landmarks = speaker(1)[1]
    x0, y0, x1, y1 = metrics.mouth_box(landmarks, (64, 64), 0.25)
    mouth = landmarks[:, 48:68].reshape(-1, 2)
    assert (mouth >= (x0, y0)).all() and (mouth <= (x1, y1)).all()
    low, high = mouth.min(axis=0), mouth.max(axis=0)
    assert x0 == int(np.floor(low[0] - 0.25 * (high - low).max()))
    assert metrics.mouth_box(landmarks + 30, (64, 64), 0.25)[2:] == (64, 64)


def test_mouth_opening_is_measured_from_the_frame_alone() -> None:
    frames, landmarks, _ = speaker(5, 4.0)
    truth = opening(landmarks)
    follows = correlation(measured_opening(frames, landmarks), truth)
    assert follows is not None and follows > 0.9
    # A still frame has nothing of the movement that the landmarks know of.
    still = measured_opening(np.repeat(frames[:1], len(frames), axis=0), landmarks)
    follows = correlation(still, truth)
    assert follows is None or abs(follows) < 0.5


def test_correlation_is_pearsons_and_undefined_without_variation() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 50))
    expected = ((a - a.mean()) * (b - b.mean())).mean() / (a.std() * b.std())
    assert correlation(a, b) == pytest.approx(expected)
    assert correlation(a, np.ones(50)) is None


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Scored:
    """Two clips: scores of the truth, and of a worse copy of the first with a damaged file for the second."""
    folder = tmp_path_factory.mktemp("scored")
    clips = {"a": speaker(1), "b": speaker(2)}
    crops = write_crops(folder / "test-000.tar", clips)
    for clip_id, (frames, _, audio) in clips.items():
        write_sample(folder / "ground_truth" / f"{clip_id}.mp4", frames, audio)
    write_sample(folder / "mine" / "a.mp4", noisy(clips["a"][0]))
    (folder / "mine" / "b.mp4").write_bytes(b"no video")
    rows = {}
    for method in ("ground_truth", "mine"):
        out = folder / f"{method}.parquet"
        score.run(
            method=method,
            samples=folder / method,
            crops=crops,
            syncnet=EMBEDDED,
            settings=Evaluation(),
            out=out,
        )
        rows[method] = pq.read_table(out)
    return folder, rows


def clip_rows(table: pa.Table) -> dict[str, dict[str, Any]]:
    return {row["clip_id"]: row for row in table.to_pylist() if row["frame"] is None}


def test_a_clip_row_is_the_mean_of_its_frames(scored: Scored) -> None:
    _, rows = scored
    clip = clip_rows(rows["mine"])["a"]
    frames = [r for r in rows["mine"].to_pylist() if r["clip_id"] == "a" and r["frame"] is not None]
    assert clip["frames"] == len(frames) == 60 and clip["problem"] is None
    for name in ("psnr", "ssim", "psnr_mouth", "ssim_mouth"):
        assert clip[name] == pytest.approx(np.mean([f[name] for f in frames]))
    assert clip["lpips"] is None
    assert 20 < clip["psnr"] < 30 and clip["mouth_corr"] > 0.5 and abs(clip["sync_offset"]) <= 2


def test_the_truth_has_no_image_metrics_but_sync_and_mouth(scored: Scored) -> None:
    _, rows = scored
    truth = clip_rows(rows["ground_truth"])
    assert set(truth) == {"a", "b"}
    for row in truth.values():
        assert all(row[name] is None for name in IMAGE_METRICS)
        assert row["sync_confidence"] > 0 and row["mouth_corr"] > 0.9


def test_a_damaged_video_keeps_its_row(scored: Scored) -> None:
    _, rows = scored
    row = clip_rows(rows["mine"])["b"]
    assert "cannot_decode" in row["problem"] and row["psnr"] is None


def test_protocol_is_written_with_the_rows(scored: Scored) -> None:
    _, rows = scored
    protocol = json.loads(rows["mine"].schema.metadata[b"protocol"])
    assert protocol["crop_pixels"] == "64" and protocol["lpips"].startswith(
        "not computed: no AlexNet backbone"
    )
    assert protocol == json.loads(rows["ground_truth"].schema.metadata[b"protocol"])


def test_videos_of_another_size_rate_or_length(scored: Scored, tmp_path: Path) -> None:
    folder, _ = scored
    frames, _, audio = speaker(1)
    large = np.repeat(np.repeat(frames, 2, axis=1), 2, axis=2)
    write_sample(tmp_path / "a.mp4", large, audio)
    write_sample(tmp_path / "b.mp4", frames[:30])
    out = tmp_path / "m.parquet"
    settings = Evaluation()
    score.run(
        method="m",
        samples=tmp_path,
        crops=folder / "test-000.tar",
        syncnet=EMBEDDED,
        settings=settings,
        out=out,
    )
    rows = clip_rows(pq.read_table(out))
    assert rows["a"]["psnr"] > 35
    assert "length_mismatch" in rows["b"]["problem"]


def test_a_folder_of_other_names_is_refused(scored: Scored, tmp_path: Path) -> None:
    folder, _ = scored
    write_sample(tmp_path / "foreign.mp4", speaker(1)[0][:10])
    with pytest.raises(UserError, match="named by clip id"):
        score.run(
            method="m",
            samples=tmp_path,
            crops=folder / "test-000.tar",
            syncnet=EMBEDDED,
            settings=Evaluation(),
            out=tmp_path / "m.parquet",
        )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_one_line(scored: Scored, tmp_path: Path) -> None:
    folder, _ = scored
    with pytest.raises(UserError, match=r"device is cuda, and torch finds none: .*evaluation\.device: cpu"):
        score.run(
            method="ground_truth",
            samples=folder / "ground_truth",
            crops=folder / "test-000.tar",
            syncnet=EMBEDDED,
            settings=Evaluation(device="cuda"),
            out=tmp_path / "m.parquet",
        )
