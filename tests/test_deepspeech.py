"""DeepSpeech 0.1.0: its input against windows worked out by hand, and its network against plain numpy."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn_clips import write_crops
from python_speech_features import mfcc
from random_weights import write_graph
from safetensors.torch import save_file
from tensorboard.compat.proto.graph_pb2 import GraphDef

from difftalk.config.speech import Speech
from difftalk.runtime.errors import UserError
from difftalk.speech.deepspeech import DeepSpeech, fit, import_graph, load_deepspeech, network_input
from difftalk.speech.table import read_speech
from difftalk.stages import speech


def noise(frames: int, seed: int = 0) -> np.ndarray:
    """Audio as long as so many 40 ms frames."""
    return np.random.default_rng(seed).normal(0, 3000, frames * 640).astype(np.int16)


def standardised(audio: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """The 26 cepstra of every second 10 ms row as they stand in the input, and what a zero has become."""
    rows = mfcc(audio, 16_000, numcep=26)[::2]
    # Over the whole matrix each row counts as often as it falls into a window: 19 times but near the ends.
    times = np.array([sum(0 <= t + k < len(rows) for k in range(-9, 10)) for t in range(len(rows))])
    count = len(rows) * 494
    mean = (times * rows.sum(axis=1)).sum() / count
    square = (times * (rows**2).sum(axis=1)).sum() / count
    deviation = np.sqrt(square - mean**2)
    return (rows - mean) / deviation, times, -mean / deviation


@pytest.mark.parametrize("frames", [1, 5, 25, 40])
def test_there_are_two_steps_per_frame(frames: int) -> None:
    heard = network_input(noise(frames))
    assert heard.shape == (2 * frames, 494)
    assert heard.dtype == np.float32


def test_a_step_hears_the_nine_steps_before_it_and_the_nine_after(step: int = 30) -> None:
    rows, _, _ = standardised(noise(40))
    window = network_input(noise(40))[step].reshape(19, 26)
    # float32 of values up to 10.
    np.testing.assert_allclose(window, rows[21:40], atol=1e-5)
    np.testing.assert_allclose(window[9], rows[step], atol=1e-5)


def test_before_the_first_step_and_after_the_last_there_are_nine_rows_of_zeros() -> None:
    rows, _, zero = standardised(noise(20))
    heard = network_input(noise(20)).reshape(40, 19, 26)
    np.testing.assert_allclose(heard[0, :9], zero, atol=1e-5)
    np.testing.assert_allclose(heard[0, 9:], rows[:10], atol=1e-5)
    np.testing.assert_allclose(heard[8, 0], zero, atol=1e-5)
    np.testing.assert_allclose(heard[9, 0], rows[0], atol=1e-5)
    np.testing.assert_allclose(heard[39, 10:], zero, atol=1e-5)
    np.testing.assert_allclose(heard[39, :10], rows[30:], atol=1e-5)
    np.testing.assert_allclose(heard[31, 18], zero, atol=1e-5)
    np.testing.assert_allclose(heard[30, 18], rows[39], atol=1e-5)


def test_the_whole_matrix_is_standardised_zeros_included() -> None:
    audio = noise(20) // 8
    heard = network_input(audio)
    assert heard.mean() == pytest.approx(0, abs=1e-5)
    assert heard.std() == pytest.approx(1, abs=1e-5)
    assert abs(heard.mean(axis=0)).max() > 0.1, "not column by column"


def test_step_s_hears_the_25_ms_from_s_fiftieths_of_a_second() -> None:
    audio = noise(25) // 1000
    audio[30 * 320 + 200] += 20_000
    energy = network_input(audio)[:, 9 * 26]
    assert energy.argmax() == 30
    assert np.sort(energy)[-1] - np.sort(energy)[-2] > 0.5, "its neighbours do not"


@pytest.mark.parametrize("samples", [16_000, 16_300, 15_700])
def test_steps_follow_the_references_interpolation(samples: int) -> None:
    """`np.interp` between rows at t / 50 s, at as many multiples of 1 / 50 s as the audio is long."""
    logits = np.random.default_rng(0).normal(size=(len(network_input(noise(30)[:samples])), 3))
    steps = round(samples / 16_000 * 50)
    asked, given = np.arange(steps) / 50, np.arange(len(logits)) / 50
    expected = np.stack([np.interp(asked, given, column) for column in logits.T], axis=1)
    np.testing.assert_allclose(fit(logits, steps), expected, atol=1e-12)


def test_where_the_audio_is_short_the_last_step_is_held() -> None:
    np.testing.assert_array_equal(fit(np.array([[1.0], [2.0]]), 4)[:, 0], [1, 2, 2, 2])


# The network, at widths that tell its layers apart.
ONE, TWO, THREE, CELLS, FIVE = 24, 20, 28, 12, 16
SHAPES = {
    "h1": (494, ONE), "b1": (ONE,), "h2": (ONE, TWO), "b2": (TWO,), "h3": (TWO, THREE), "b3": (THREE,),
    "bidirectional_rnn/fw/basic_lstm_cell/kernel": (THREE + CELLS, 4 * CELLS),
    "bidirectional_rnn/fw/basic_lstm_cell/bias": (4 * CELLS,),
    "bidirectional_rnn/bw/basic_lstm_cell/kernel": (THREE + CELLS, 4 * CELLS),
    "bidirectional_rnn/bw/basic_lstm_cell/bias": (4 * CELLS,),
    "h5": (2 * CELLS, FIVE), "b5": (FIVE,), "h6": (FIVE, 29), "b6": (29,),
}  # fmt: skip
# float32 against float64, where sums before a clip reach hundreds.
ROUNDING = 1e-3


@pytest.fixture
def constants() -> dict[str, np.ndarray]:
    """Weights large enough for both ends of the clipped ReLU to be reached."""
    rng = np.random.default_rng(7)
    drawn = {name: rng.normal(0, 1, shape).astype(np.float32) for name, shape in SHAPES.items()}
    return {name: value / 5 if "lstm" in name else value for name, value in drawn.items()}


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def lstm(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """BasicLSTMCell step by step: `(T, inputs)` to `(T, cells)`."""
    c = h = np.zeros(len(bias) // 4)
    out = []
    for row in x:
        i, j, f, o = np.split(np.concatenate([row, h]) @ kernel + bias, 4)
        c = c * sigmoid(f + 1) + sigmoid(i) * np.tanh(j)
        h = np.tanh(c) * sigmoid(o)
        out.append(h)
    return np.stack(out)


def reference(x: np.ndarray, constants: dict[str, np.ndarray]) -> np.ndarray:
    """DeepSpeech v0.1.0's `BiRNN` in float64, from the constants as the graph has them."""
    w = {name.removeprefix("bidirectional_rnn/"): v.astype(np.float64) for name, v in constants.items()}
    for k in "123":
        x = np.clip(x @ w[f"h{k}"] + w[f"b{k}"], 0, 20)
    forward = lstm(x, w["fw/basic_lstm_cell/kernel"], w["fw/basic_lstm_cell/bias"])
    backward = lstm(x[::-1], w["bw/basic_lstm_cell/kernel"], w["bw/basic_lstm_cell/bias"])[::-1]
    x = np.clip(np.concatenate([forward, backward], axis=1) @ w["h5"] + w["b5"], 0, 20)
    return x @ w["h6"] + w["b6"]


@pytest.mark.parametrize("piece", [1000, 7])
def test_an_imported_graph_computes_what_the_reference_computes(
    constants: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    """In one piece, and in several, which hand on the state of the LSTM."""
    monkeypatch.setattr("difftalk.speech.deepspeech.PIECE", piece)
    network = DeepSpeech(import_graph(write_graph(tmp_path / "graph.pb", constants)))
    heard = network_input(noise(40))
    expected = reference(heard, constants)
    first = np.clip(heard @ constants["h1"] + constants["b1"], 0, 20)
    assert (first == 0).any() and (first == 20).any(), "both ends of the clip are reached"
    with torch.inference_mode():
        logits = network(torch.from_numpy(heard)).numpy()
    assert logits.shape == (80, 29)
    np.testing.assert_allclose(logits, expected, atol=ROUNDING)


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: f"deepspeech/{name}",
        lambda name: f"{name}/read",
        lambda name: name.replace("kernel", "weights").replace("bias", "biases"),
    ],
    ids=["in a scope", "folded into the reads", "as TensorFlow 1.0 named them"],
)
def test_other_names_of_the_same_constants_are_understood(
    rename: Callable[[str], str], constants: dict[str, np.ndarray], tmp_path: Path
) -> None:
    renamed = {rename(name): v for name, v in constants.items()}
    plain = import_graph(write_graph(tmp_path / "a.pb", constants))
    other = import_graph(write_graph(tmp_path / "b.pb", renamed, identity=False))
    assert plain.keys() == other.keys()
    assert all(torch.equal(plain[name], other[name]) for name in plain)


def test_a_constant_of_one_repeated_value_is_filled(constants: dict[str, np.ndarray], tmp_path: Path) -> None:
    constants["b5"][:] = 0.25
    path = write_graph(tmp_path / "graph.pb", constants)
    graph = GraphDef.FromString(path.read_bytes())
    tensor = next(n for n in graph.node if n.name == "b5").attr["value"].tensor
    tensor.ClearField("tensor_content")
    tensor.float_val.append(0.25)
    path.write_bytes(graph.SerializeToString())
    assert import_graph(path)["dense5.bias"].tolist() == [0.25] * FIVE


def test_the_zip_of_a_graph_will_do(constants: dict[str, np.ndarray], tmp_path: Path) -> None:
    path = write_graph(tmp_path / "graph.pb", constants)
    with zipfile.ZipFile(tmp_path / "graph.pb.zip", "w") as archive:
        archive.write(path, "deepspeech-0_1_0-b90017e8.pb")
    assert import_graph(tmp_path / "graph.pb.zip").keys() == import_graph(path).keys()


def complaint(path: Path) -> str:
    with pytest.raises(UserError) as raised:
        import_graph(path)
    assert path.name in str(raised.value) and "\n" not in str(raised.value)
    return str(raised.value)


def test_a_file_that_is_no_frozen_graph_is_refused(tmp_path: Path) -> None:
    (tmp_path / "noise.pb").write_bytes(b"\x80\x02}q\x00" * 100)
    assert "no frozen TensorFlow graph" in complaint(tmp_path / "noise.pb")
    (tmp_path / "empty.pb").write_bytes(b"")
    assert "no frozen TensorFlow graph" in complaint(tmp_path / "empty.pb")
    assert "no such file" in complaint(tmp_path / "nowhere.pb")


def test_a_truncated_graph_is_refused(constants: dict[str, np.ndarray], tmp_path: Path) -> None:
    path = write_graph(tmp_path / "graph.pb", constants)
    path.write_bytes(path.read_bytes()[:-1000])
    complaint(path)


def test_a_later_deepspeech_is_refused_with_what_it_lacks(
    constants: dict[str, np.ndarray], tmp_path: Path
) -> None:
    later = {name: value for name, value in constants.items() if "/bw/" not in name}
    said = complaint(write_graph(tmp_path / "graph.pb", later))
    assert "no constants bw/basic_lstm_cell/kernel, bw/basic_lstm_cell/bias" in said
    assert "0.2" in said


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("h1", (39, ONE), f"h1 is (39, {ONE}), not (494, {ONE})"),
        ("h6", (FIVE, 33), f"h6 is ({FIVE}, 33), not ({FIVE}, 29)"),
        (
            "bidirectional_rnn/bw/basic_lstm_cell/kernel",
            (THREE, 4 * CELLS),
            f"bw/basic_lstm_cell/kernel is ({THREE}, {4 * CELLS}), not ({THREE + CELLS}, {4 * CELLS})",
        ),
    ],
)
def test_a_constant_of_another_shape_is_named(
    name: str, shape: tuple[int, ...], words: str, constants: dict[str, np.ndarray], tmp_path: Path
) -> None:
    constants[name] = np.zeros(shape, np.float32)
    assert words in complaint(write_graph(tmp_path / "graph.pb", constants))


@pytest.fixture
def weights(constants: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A weights folder that has DeepSpeech."""
    folder = tmp_path / "weights"
    folder.mkdir()
    monkeypatch.setenv("DIFFTALK_WEIGHTS", str(folder))
    tensors = import_graph(write_graph(tmp_path / "graph.pb", constants))
    save_file(tensors, folder / "deepspeech-0.1.0.safetensors")
    (folder / "deepspeech-0.1.0.json").write_text(json.dumps({"sha256": "0"}))
    return folder


def test_the_stage_writes_the_logits_of_whole_clips(
    weights: Path, constants: dict[str, np.ndarray], tmp_path: Path
) -> None:
    clips_audio = {"a": noise(20), "b": noise(26, seed=1)}
    black = {
        name: (
            np.zeros((len(s) // 640, 16, 16, 3), np.uint8),
            np.zeros((len(s) // 640, 68, 2), np.float32),
            s,
        )
        for name, s in clips_audio.items()
    }
    speech.run(
        crops=write_crops(tmp_path / "crops.tar", black),
        settings=Speech(backend="deepspeech"),
        out=tmp_path / "speech.parquet",
        rejects=tmp_path / "speech.csv",
        max_reject_fraction=0,
    )
    found = read_speech(tmp_path / "speech.parquet")
    assert {name: value.shape for name, value in found.items()} == {"a": (40, 29), "b": (52, 29)}
    for name, audio in clips_audio.items():
        np.testing.assert_allclose(found[name], reference(network_input(audio), constants), atol=ROUNDING)


def test_without_weights_the_error_says_which_key_asked_and_how_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIFFTALK_WEIGHTS", str(tmp_path))
    with pytest.raises(UserError, match=r"speech\.backend: deepspeech needs .*difftalk weights import"):
        load_deepspeech()
