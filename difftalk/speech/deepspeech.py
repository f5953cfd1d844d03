"""Speech backend `deepspeech`: the logits of Mozilla DeepSpeech 0.1.0 before the softmax.

AD-NeRF and the paper use the same. The network (`BiRNN` of mozilla/DeepSpeech v0.1.0) is three dense layers,
a bidirectional LSTM, and two dense layers, over 19 rows of MFCC around each 20 ms step. Its weights are read
from the constants of the released graph, without TensorFlow.
"""

import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from google.protobuf.message import DecodeError
from python_speech_features import mfcc
from safetensors.torch import load_file
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_FLOAT
from torch import nn

from difftalk.media.clock import SAMPLE_RATE
from difftalk.pretrained.table import locate
from difftalk.runtime.device import default_device
from difftalk.runtime.errors import UserError

CEPSTRA = 26
CONTEXT = 9  # steps of context on each side
INPUTS = (2 * CONTEXT + 1) * CEPSTRA
LOGITS = 29  # space, a to z, apostrophe, and CTC's blank
RELU_CLIP = 20.0
PIECE = 1000  # steps that are in memory with all their activations

# What each constant is called in the graph, below whatever scope; of several names one (TensorFlow changed
# them).
GRAPH_NAMES = {
    "h1": ["h1"], "b1": ["b1"], "h2": ["h2"], "b2": ["b2"], "h3": ["h3"], "b3": ["b3"],
    "forward kernel": ["fw/basic_lstm_cell/kernel", "fw/basic_lstm_cell/weights"],
    "forward bias": ["fw/basic_lstm_cell/bias", "fw/basic_lstm_cell/biases"],
    "backward kernel": ["bw/basic_lstm_cell/kernel", "bw/basic_lstm_cell/weights"],
    "backward bias": ["bw/basic_lstm_cell/bias", "bw/basic_lstm_cell/biases"],
    "h5": ["h5"], "b5": ["b5"], "h6": ["h6"], "b6": ["b6"],
}  # fmt: skip


def network_input(audio: np.ndarray) -> np.ndarray:
    """Return the network's input of a whole clip: `(T, 494)` float32, standardised over the whole matrix.

    Row t holds 19 rows of 26 MFCC, those of steps t - 9 to t + 9, the earliest first; steps outside the clip
    are zeros, put in before the matrix is standardised. Step t is the 25 ms window that begins at t / 50 s.

    Args:
        audio: `(N,)` int16 mono 16 kHz. T is half the number of 10 ms rows, rounded up: `N / 320` where that
            is whole.
    """
    rows = mfcc(audio, SAMPLE_RATE, numcep=CEPSTRA)[::2]
    padded = np.pad(rows, ((CONTEXT, CONTEXT), (0, 0)))
    around = np.arange(len(rows))[:, None] + np.arange(2 * CONTEXT + 1)
    stacked = padded[around].reshape(len(rows), INPUTS)
    return ((stacked - stacked.mean()) / stacked.std()).astype(np.float32)


def fit(logits: np.ndarray, steps: int) -> np.ndarray:
    """Return the logits at s / 50 s, `(T, D)` to `(steps, D)`, the last one held where the audio is shorter.

    AD-NeRF interpolates linearly from the network's 50 rows a second to 50 steps a second. The grids are the
    same, so that this cuts or pads and does nothing else; where the audio is as long as the video, not even
    that.
    """
    return logits[np.minimum(np.arange(steps), len(logits) - 1)]


class DeepSpeech(nn.Module):
    """The network of DeepSpeech 0.1.0.

    Its widths are those of `tensors`, a state dict as `import_graph` returns it, which becomes its own.
    `torch.nn.LSTM` computes TensorFlow's BasicLSTMCell once the gates are reordered and the forget bias of 1
    is added to the bias of the forget gate, both of which `import_graph` does.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        one, two, three, five = (len(tensors[f"dense{layer}.bias"]) for layer in (1, 2, 3, 5))
        with torch.device("meta"):
            self.dense1 = nn.Linear(INPUTS, one)
            self.dense2 = nn.Linear(one, two)
            self.dense3 = nn.Linear(two, three)
            cells = tensors["lstm.weight_hh_l0"].shape[1]
            self.ahead, self.back = nn.LSTM(three, cells), nn.LSTM(three, cells)
            self.dense5 = nn.Linear(2 * cells, five)
            self.dense6 = nn.Linear(five, LOGITS)
        self.load_state_dict({_of_direction(name): value for name, value in tensors.items()}, assign=True)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Map the inputs `(T, 494)` of one whole clip to logits `(T, 29)`.

        In pieces: of the whole there are the outputs of the LSTM alone, which takes its input for each
        direction anew. At once it would be 5 GB for ten minutes.
        """
        pieces = inputs.split(PIECE)
        ahead = self._directed(self.ahead, pieces)
        back = self._directed(self.back, [piece.flip(0) for piece in reversed(pieces)])
        both = (torch.cat([a, b.flip(0)], dim=1) for a, b in zip(ahead, reversed(back), strict=True))
        return torch.cat([self.dense6(self.dense5(x).clamp_(0, RELU_CLIP)) for x in both])

    def _directed(self, lstm: nn.LSTM, pieces: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Run one direction of the LSTM over pieces of the input, in its order."""
        state: tuple[torch.Tensor, torch.Tensor] | None = None
        outputs = []
        for x in pieces:
            for dense in (self.dense1, self.dense2, self.dense3):
                x = dense(x).clamp_(0, RELU_CLIP)
            output, state = lstm(x, state)
            outputs.append(output)
        return outputs


def _of_direction(name: str) -> str:
    """Return the name in the network of a tensor of the state dict, which has both directions in one LSTM."""
    if not name.startswith("lstm."):
        return name
    direction = "back" if name.endswith("_reverse") else "ahead"
    return f"{direction}.{name.removeprefix('lstm.').removesuffix('_reverse')}"


def load_deepspeech() -> Callable[[np.ndarray, int], np.ndarray]:
    """Return the backend: `(audio, steps)` to `(steps, 29)` float32, on the GPU where there is one.

    Clips are not batched: each is processed as a whole, without padding, and its features depend on no other
        clip.

    Raises:
        UserError: if the weights are missing.
    """
    tensors = load_file(locate("deepspeech-0.1.0", asked_by="speech.backend: deepspeech"))
    device = default_device()
    # cuDNN would round what goes into the LSTM to 10 bits.
    torch.backends.cudnn.allow_tf32 = False
    network = DeepSpeech(tensors).eval().to(device)

    def features(audio: np.ndarray, steps: int) -> np.ndarray:
        with torch.inference_mode():
            logits = network(torch.from_numpy(network_input(audio)).to(device))
        return fit(logits.cpu().numpy(), steps)

    return features


def import_graph(pb: Path) -> dict[str, torch.Tensor]:
    """Read the weights of the frozen graph of DeepSpeech 0.1.0, as the state dict of `DeepSpeech`.

    Args:
        pb: `output_graph.pb` of Mozilla's release, or a zip that holds one `.pb`, as it is shared today.

    Raises:
        UserError: if it is no graph, or not this network: which constants are missing or of another shape.
    """
    constants = _constants(pb)
    found = {part: _named(constants, names) for part, names in GRAPH_NAMES.items()}
    for trouble, parts in (
        ("no", [part for part, names in found.items() if not names]),
        ("several", [part for part, names in found.items() if len(names) > 1]),
    ):
        if parts:
            names = ", ".join(GRAPH_NAMES[part][0] for part in parts)
            raise UserError(
                f"{pb} is not DeepSpeech 0.1.0: {trouble} constants {names} "
                "(from 0.2 on its LSTM has one direction and other names)"
            )
    arrays = {part: constants[name] for part, (name,) in found.items()}
    _check_shapes(pb, arrays)
    tensors = {}
    for layer in (1, 2, 3, 5, 6):
        tensors[f"dense{layer}.weight"] = arrays[f"h{layer}"].T
        tensors[f"dense{layer}.bias"] = arrays[f"b{layer}"]
    for direction, suffix in (("forward", "l0"), ("backward", "l0_reverse")):
        kernel, bias = _gates(arrays[f"{direction} kernel"]), _gates(arrays[f"{direction} bias"])
        cells = len(bias) // 4
        bias[cells : 2 * cells] += 1  # BasicLSTMCell adds it to the forget gate when it runs
        tensors[f"lstm.weight_ih_{suffix}"] = kernel[:-cells].T
        tensors[f"lstm.weight_hh_{suffix}"] = kernel[-cells:].T
        tensors[f"lstm.bias_ih_{suffix}"] = bias
        tensors[f"lstm.bias_hh_{suffix}"] = np.zeros_like(bias)
    return {name: torch.from_numpy(np.array(value, order="C")) for name, value in tensors.items()}


def _gates(columns: np.ndarray) -> np.ndarray:
    """Reorder gates along the last axis from BasicLSTMCell's order to torch's.

    That is from input, candidate, forget, output to input, forget, candidate, output.
    """
    i, j, f, o = np.split(columns, 4, axis=-1)
    return np.concatenate([i, f, j, o], axis=-1)


def _constants(pb: Path) -> dict[str, np.ndarray]:
    """Return the float32 matrices and vectors of a graph by name.

    The suffix `/read`, which freezing may append, is cut.
    """
    graph = GraphDef()
    try:
        graph.ParseFromString(_content(pb))
    except DecodeError:
        raise UserError(f"{pb} is no frozen TensorFlow graph (a GraphDef, .pb)") from None
    values = {
        node.name.removesuffix("/read"): node.attr["value"].tensor
        for node in graph.node
        if node.op == "Const" and node.attr["value"].tensor.dtype == DT_FLOAT
    }
    kept = {name: value for name, value in values.items() if len(value.tensor_shape.dim) in (1, 2)}
    if not kept:
        raise UserError(
            f"{pb} is no frozen TensorFlow graph: of its {len(graph.node)} nodes none is a weight"
        )
    try:
        return {name: _array(value) for name, value in kept.items()}
    except ValueError as e:
        raise UserError(f"{pb}: a constant is shorter or longer than its shape ({e})") from None


def _array(tensor: TensorProto) -> np.ndarray:
    """Decode raw bytes, or values of which the last stands for all that follow."""
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    if tensor.tensor_content:
        return np.frombuffer(tensor.tensor_content, "<f4").reshape(shape)
    values = np.array(tensor.float_val, np.float32)
    return np.pad(values, (0, int(np.prod(shape)) - len(values)), mode="edge").reshape(shape)


def _content(pb: Path) -> bytes:
    if not pb.is_file():
        raise UserError(f"{pb}: no such file")
    if not zipfile.is_zipfile(pb):
        return pb.read_bytes()
    with zipfile.ZipFile(pb) as archive:
        graphs = [name for name in archive.namelist() if name.endswith(".pb")]
        if len(graphs) != 1:
            raise UserError(f"{pb} holds {len(graphs)} files that end in .pb, not one")
        return archive.read(graphs[0])


def _named(constants: Mapping[str, np.ndarray], names: list[str]) -> list[str]:
    """Return the constants called one of `names`, in whatever scope."""
    return [full for full in constants if any(full == name or full.endswith(f"/{name}") for name in names)]


def _check_shapes(pb: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Check that each layer takes what the one before gives; every width may differ from the released one."""
    one, two, three, five = (len(arrays[f"b{layer}"]) for layer in (1, 2, 3, 5))
    cells = len(arrays["forward bias"]) // 4
    expected = {
        "h1": (INPUTS, one), "b1": (one,), "h2": (one, two), "b2": (two,), "h3": (two, three), "b3": (three,),
        "forward kernel": (three + cells, 4 * cells), "forward bias": (4 * cells,),
        "backward kernel": (three + cells, 4 * cells), "backward bias": (4 * cells,),
        "h5": (2 * cells, five), "b5": (five,), "h6": (five, LOGITS), "b6": (LOGITS,),
    }  # fmt: skip
    for part, shape in expected.items():
        if arrays[part].shape != shape:
            raise UserError(
                f"{pb} is not DeepSpeech 0.1.0: {GRAPH_NAMES[part][0]} is {arrays[part].shape}, not {shape}"
            )
