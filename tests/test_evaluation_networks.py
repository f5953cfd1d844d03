"""Networks of the metrics, each equal to its reference implementation."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from drawn_clips import speaker, write_crops, write_sample
from random_weights import write_onnx
from reference_i3d import ReferenceI3d
from reference_iresnet import random_network
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

import difftalk
from difftalk.config.evaluation import Evaluation
from difftalk.evaluation import arcface
from difftalk.evaluation.arcface import ArcFace, IResNet, align, csim
from difftalk.evaluation.i3d import I3d, I3dNetwork, named_tensors
from difftalk.evaluation.identity import descriptors, id_distance
from difftalk.evaluation.inception import NOT_COMPUTED, Inception, InceptionV3
from difftalk.evaluation.scorer import Scorer
from difftalk.evaluation.scores import read_scores, write_scores
from difftalk.evaluation.st_lpips import StLpips
from difftalk.media.shards import read_crops
from difftalk.models.formats.torchscript import read_torchscript
from difftalk.pretrained import table
from difftalk.pretrained.onnx_tensors import read_layers, read_tensors
from difftalk.runtime.errors import UserError
from difftalk.stages import weights

EMBEDDED_SYNCNET = Path(difftalk.__file__).parent / "assets" / "syncnet"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of weights."""
    monkeypatch.setenv("DIFFTALK_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path / "weights"


def randomised(network: nn.Module) -> nn.Module:
    """A network with random weights and statistics, whose features neither vanish nor grow with depth."""
    torch.manual_seed(0)
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2)
        elif name.endswith("weight") and tensor.ndim > 1:
            tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5)
        elif name.endswith("weight"):
            tensor.uniform_(0.5, 1.5)
        elif tensor.is_floating_point():
            tensor.normal_(0, 0.1)
    return network.eval()


def imported(name: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """Import a file as weights of the table, whatever its hash, and return what is kept of it."""
    monkeypatch.setitem(table.WEIGHTS, name, replace(table.WEIGHTS[name], sha256=""))
    weights.import_file(name, file)
    return load_file(table.locate(name, asked_by="a test"))


def pattern(size: int, shift: float = 0) -> np.ndarray:
    """A smooth frame (S, S, 3), shifted to the right by some pixels."""
    y, x = np.mgrid[:size, :size] + 0.0
    x -= shift
    waves = (np.sin(x / 11 + y / 23), np.sin(x / 17 - y / 13), np.cos((x + y) / 19))
    return (127.5 + 80 * np.stack(waves, axis=-1)).round().astype(np.uint8)


# What the package `stlpips-pytorch` 0.0.2 gives for these frames: alex, shift_tolerant; float32.
@pytest.mark.parametrize(
    ("size", "shifted", "noisy", "inside"),
    [(64, 0.00331208, 0.21129876, 0.3464331), (128, 0.00322409, 0.20680329, 0.25658637)],
)
def test_st_lpips_gives_the_figures_of_its_package(
    size: int, shifted: float, noisy: float, inside: float
) -> None:
    truth = pattern(size)
    noise = np.random.default_rng(0).normal(0, 12.75, truth.shape)
    frames = np.stack([truth, pattern(size, 1), np.clip(truth + noise, 0, 255).round().astype(np.uint8)])
    box = (size // 4, size // 2, size // 2 + 3, size - 5)
    whole, mouth = StLpips()(np.stack([truth] * 3), frames, box)
    assert whole[0] == mouth[0] == 0
    np.testing.assert_allclose(whole[1:], [shifted, noisy], rtol=1e-4)
    assert mouth[2] == pytest.approx(inside, rel=1e-4)
    assert StLpips()(frames[:0], frames[:0], box)[0].shape == (0,)


def test_the_identity_distance_is_small_for_one_person_and_large_for_another() -> None:
    (mine, my_points, _), (other, other_points, _) = speaker(1), speaker(2)
    described = descriptors(mine[:21], my_points[:21])
    assert described.shape == (3, 128)
    one = descriptors(mine[10:11], my_points[10:11])
    np.testing.assert_allclose(described[1], one[0], atol=1e-6, err_msg="in a batch as alone")
    same = id_distance(described[0], described)
    foreign = id_distance(described[0], descriptors(other[:1], other_points[:1]))
    assert same is not None and foreign is not None
    assert 0 < same < 0.3 < foreign
    assert id_distance(described[0], described[:1]) == 0
    assert id_distance(described[0], descriptors(mine[:0], my_points[:0])) is None


def torchvision_as_fid(monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """The Inception v3 of torchvision with the two changes of FID's.

    Averages leave out the padding; in the last block a maximum is in the place of the average.
    """
    used = SimpleNamespace(
        avg_pool2d=partial(functional.avg_pool2d, count_include_pad=False),
        max_pool2d=functional.max_pool2d,
        relu=functional.relu,
    )
    monkeypatch.setattr(torchvision.models.inception, "F", used)
    network = torchvision.models.inception_v3(
        weights=None, num_classes=1008, aux_logits=False, transform_input=False, init_weights=False
    )

    def take_the_maximum(*_: object) -> None:
        used.avg_pool2d = functional.max_pool2d

    network.Mixed_7c.register_forward_pre_hook(take_the_maximum)
    return randomised(network)


def test_the_inception_of_fid_equals_torchvisions_with_its_two_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Inception.load() is None and "difftalk weights fetch inception-fid" in NOT_COMPUTED
    reference = torchvision_as_fid(monkeypatch)
    torch.save(reference.state_dict(), tmp_path / "pt_inception.pth")
    imported("inception-fid", tmp_path / "pt_inception.pth", monkeypatch)
    frames = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.uint8)
    inception = Inception.load()
    assert inception is not None and "pytorch-fid" in inception.protocol
    found = inception.features(frames)
    x = torch.from_numpy(frames).permute(0, 3, 1, 2) / 255
    x = functional.interpolate(x, size=(299, 299), mode="bilinear", align_corners=False)
    reference.fc = nn.Identity()
    with torch.no_grad():
        expected = reference(2 * x - 1).numpy()
    assert found.shape == (2, 2048) and expected.std() > 0.1
    # float32 through 94 convolutions.
    np.testing.assert_allclose(found, expected, atol=1e-4 * expected.std())


def test_weights_of_another_network_are_refused_by_name(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = InceptionV3().state_dict()
    state["Mixed_7c.unknown"] = state.pop("Mixed_7c.branch1x1.conv.weight")
    torch.save(state, tmp_path / "some.pth")
    with pytest.raises(
        UserError, match=r"some.pth: not the weights of InceptionV3: Mixed_7c.branch1x1.conv.w"
    ):
        imported("inception-fid", tmp_path / "some.pth", monkeypatch)
    assert list(folder.iterdir()) == []


@pytest.mark.filterwarnings("ignore")  # torch.jit is deprecated, and the released file is of it
def test_i3d_equals_a_network_written_apart_whose_archive_is_read_without_its_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert I3d.load() is None
    reference = randomised(ReferenceI3d())
    frames = np.random.default_rng(0).integers(0, 256, (18, 56, 56, 3)).astype(np.uint8)
    x = functional.interpolate(
        torch.from_numpy(frames[:16]).permute(0, 3, 1, 2).float(), (224, 224), mode="bilinear"
    )
    x = (x / 127.5 - 1).transpose(0, 1)[None]
    with torch.no_grad():
        traced = torch.jit.trace(reference, x, check_trace=False)
        expected = reference(x).numpy()
    traced.save(tmp_path / "i3d_torchscript.pt")

    def run_no_code(*_: object) -> None:
        raise AssertionError("the archive is loaded")

    with monkeypatch.context() as patch:
        patch.setattr(torch.jit, "load", run_no_code)
        patch.setattr(torch, "load", run_no_code)
        imported("i3d-fvd", tmp_path / "i3d_torchscript.pt", monkeypatch)
    i3d = I3d.load()
    assert i3d is not None and "16 consecutive frames" in i3d.protocol
    found = i3d.features(frames)
    assert found.shape == (1, 400) and i3d.features(frames[:15]).shape == (0, 400)
    np.testing.assert_allclose(found, expected, atol=1e-4 * expected.std())


def test_i3d_refuses_a_file_whose_tensors_come_in_another_order(tmp_path: Path) -> None:
    state = I3dNetwork().state_dict()
    assert named_tensors(dict(state), tmp_path).keys() == {k for k in state if "num_batches" not in k}
    moved = {"Conv3d_2c_3x3.conv.weight": state.pop("Conv3d_2c_3x3.conv.weight"), **state}
    with pytest.raises(UserError, match=r"Conv3d_2c_3x3.conv.weight .* is in the place of Conv3d_1a"):
        named_tensors(moved, tmp_path)
    del moved["Mixed_5c.b0.conv.weight"]
    with pytest.raises(UserError, match="56 convolutions and 228 vectors, where 57 and 228"):
        named_tensors(moved, tmp_path)


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(6.0).view(2, 3).t())
        self.register_buffer("seen", torch.tensor(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight


@pytest.mark.filterwarnings("ignore")
def test_the_tensors_of_an_archive_have_the_names_of_their_attributes(tmp_path: Path) -> None:
    model = nn.Sequential(Scale(), nn.Linear(3, 3))
    torch.jit.script(model).save(tmp_path / "model.pt")
    found = read_torchscript(tmp_path / "model.pt")
    assert found.keys() == model.state_dict().keys()
    assert all(torch.equal(found[k], v) for k, v in model.state_dict().items())
    torch.save({"a": torch.zeros(1)}, tmp_path / "plain.pt")
    with pytest.raises(UserError, match=r"plain\.pt is no TorchScript archive"):
        read_torchscript(tmp_path / "plain.pt")


def test_arcface_of_an_onnx_export_equals_the_network_that_was_exported(tmp_path: Path) -> None:
    channels, depths = (4, 8, 8, 12), (1, 2, 1, 1)
    reference, file = random_network(channels, depths), tmp_path / "narrow.onnx"
    file.write_bytes(write_onnx(reference.layers()))
    network = IResNet(channels, depths)
    layers = read_layers(file)
    network.load_state_dict(arcface.named_tensors(layers, network, file), strict=False)
    frames, landmarks, _ = speaker(1)
    found = ArcFace(network.eval()).embeddings(frames[:5], landmarks[:5])
    faces = np.stack([align(f, p) for f, p in zip(frames[:5], landmarks[:5], strict=True)])
    with torch.no_grad():
        expected = functional.normalize(reference(torch.from_numpy(faces).permute(0, 3, 1, 2) / 127.5 - 1))
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    layers[3], layers[4] = layers[4], layers[3]
    with pytest.raises(UserError, match=r"layer 3 is PRelu .* where blocks\.0\.conv1 is Conv"):
        arcface.named_tensors(layers, network, file)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match="no ONNX model"):
        read_tensors(file)


def test_arcface_has_the_size_of_the_released_network_and_its_licence_is_said() -> None:
    with torch.device("meta"):
        network = IResNet()
    # 43.59 million, of which 12,672 are in the weights: a norm in a convolution leaves one vector of two.
    assert sum(p.numel() for p in network.parameters()) + 12_672 == 43_590_848
    assert ArcFace.load() is None and "difftalk weights fetch arcface" in arcface.NOT_COMPUTED
    assert "non-commercial" in table.row("arcface").licence


def test_a_face_is_aligned_by_a_similarity_of_its_five_points() -> None:
    frame = np.zeros((200, 240, 3), np.uint8)
    points = np.zeros((68, 2))
    # The five points where the network expects them, turned by 90 degrees, twice as large, and moved.
    turned = 2 * (arcface.FIVE_POINTS @ [[0, 1], [-1, 0]]) + (220, 5)
    for index, where in zip((range(36, 42), range(42, 48), [30], [48], [54]), turned, strict=True):
        points[list(index)] = where
    x, y = turned[2].round().astype(int)
    frame[y - 4 : y + 5, x - 4 : x + 5] = 255
    found = align(frame, points)
    assert found.shape == (112, 112, 3)
    centre = np.argwhere(found[..., 0] > 127).mean(axis=0)
    np.testing.assert_allclose(centre[::-1], arcface.FIVE_POINTS[2], atol=0.5)


def test_csim_is_the_mean_cosine_with_one_frame_or_with_the_same_frames() -> None:
    e = np.eye(3)
    assert csim(e[0], e) == pytest.approx(1 / 3)
    assert csim(e, e) == 1
    assert csim(e[0], e[:0]) is None


def test_columns_appear_with_their_weights_and_the_foot_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames, landmarks, audio = speaker(1)
    clip = next(read_crops(write_crops(tmp_path / "test-000.tar", {"a": (frames, landmarks, audio)})))
    video = write_sample(tmp_path / "a.mp4", frames, audio)
    without = Scorer.load(EMBEDDED_SYNCNET, Evaluation())
    row = without.score("m", clip, video)[-1]
    for column, name in (("fid", "inception-fid"), ("fvd", "i3d-fvd"), ("csim", "arcface")):
        assert f"difftalk weights fetch {name}" in without.protocol()[column]
        assert f"{column}_features" not in row and column not in row
    file = tmp_path / "inception.pth"
    torch.save(randomised(InceptionV3()).state_dict(), file)
    imported("inception-fid", file, monkeypatch)
    scorer = Scorer.load(EMBEDDED_SYNCNET, Evaluation())
    assert scorer.protocol()["fid"].startswith("Inception v3 of 2015-12-05")
    short = write_sample(tmp_path / "short.mp4", frames[:4])
    scored = {name: scorer.score(name, replace(clip, limit=4), short) for name in ("ground_truth", "m")}
    paths = []
    for name, rows in scored.items():
        write_scores(tmp_path / f"{name}.parquet", name, rows, scorer.protocol())
        paths.append(tmp_path / f"{name}.parquet")
    fid = read_scores(paths).of_set["m"]["fid"].value
    assert fid == pytest.approx(0, abs=1e-3), "the same file twice"
