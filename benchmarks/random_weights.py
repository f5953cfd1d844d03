"""Files of pretrained weights as they are released, with random content: for tests and benchmarks.

python benchmarks/random_weights.py FOLDER NAME ...

imports them, in their full sizes, into a folder of weights.
"""

import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import VQModel
from face_alignment.detection.sfd.net_s3fd import s3fd
from face_alignment.models import FAN
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.compat.proto.types_pb2 import DT_FLOAT

from difftalk.evaluation.arcface import IResNet
from difftalk.evaluation.i3d import I3dNetwork
from difftalk.evaluation.inception import InceptionV3
from difftalk.models.autoencoder import build_autoencoder
from difftalk.models.formats.ldm import export_first_stage
from difftalk.models.stable_syncnet import StableSyncNet
from difftalk.models.syncnet import SyncNetV2
from difftalk.pretrained import table
from difftalk.stages import weights

# The widths of DeepSpeech 0.1.0.
HIDDEN, LAST_DENSE = 2048, 4096


def import_random(name: str, scratch: Path) -> None:
    """Import weights of the table from a file as it is released, in all sizes, with random content.

    Args:
        name: of the table.
        scratch: existing folder for the file, which is deleted.
    """
    if table.present(name) is not None:
        return
    file = scratch / f"random-{name}"
    write_released(name, file)
    released = table.WEIGHTS[name]
    # A hash of the release would refuse the content; all else of the import is as with the release.
    table.WEIGHTS[name] = replace(released, sha256="", sha1="")
    try:
        weights.import_file(name, file)
    finally:
        table.WEIGHTS[name] = released
        file.unlink()


def write_released(name: str, file: Path) -> None:
    """Write random weights of the table as its release has them."""
    torch.manual_seed(0)
    if name == "deepspeech-0.1.0":
        graph = write_graph(file.with_suffix(".pb"), deepspeech_constants(HIDDEN, LAST_DENSE))
        with zipfile.ZipFile(file, "w") as archive:
            archive.write(graph, "deepspeech-0_1_0-b90017e8.pb")
        graph.unlink()
        return
    if name == "vq-f4":
        ours = build_autoencoder((128, 256, 512), 2, 8192)
        model = VQModel.from_config({**ours.config, "norm_num_groups": 32})
        checkpoint = file.with_suffix(".ckpt")
        torch.save({"state_dict": export_first_stage(model), "global_step": 0}, checkpoint)
        with zipfile.ZipFile(file, "w") as archive:
            archive.write(checkpoint, "model.ckpt")
        checkpoint.unlink()
        return
    if name == "arcface":
        file.write_bytes(write_onnx(arcface_layers(IResNet())))
        return
    networks = {
        "syncnet-v2": SyncNetV2, "s3fd": s3fd, "2dfan4": lambda: FAN(4), "inception-fid": InceptionV3,
        "i3d-fvd": I3dNetwork, "stable-syncnet": StableSyncNet,
    }  # fmt: skip
    backbones = {"alexnet": alexnet, "vgg16": vgg16}
    torch.save(backbones[name]() if name in backbones else networks[name]().state_dict(), file)


def alexnet() -> dict[str, torch.Tensor]:
    """Its convolutions as torchvision names them, and one of the tensors that LPIPS does not look at."""
    sizes = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}
    return _convolutions(sizes) | {"classifier.6.bias": torch.zeros(1000)}


def vgg16() -> dict[str, torch.Tensor]:
    """Its convolutions as torchvision names them."""
    widths = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    places = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    return _convolutions({p: (b, a, 3) for p, a, b in zip(places, widths, widths[1:], strict=False)})


def arcface_layers(network: IResNet) -> Iterator[tuple[str, list[torch.Tensor]]]:
    """Type and tensors of the layers of an export, in the order of their use."""
    kinds = {torch.nn.Conv2d: "Conv", torch.nn.Linear: "Gemm", torch.nn.PReLU: "PRelu"}
    for module in network.modules():
        state = {k: v for k, v in module.state_dict().items() if k != "num_batches_tracked"}
        if not next(module.children(), None) and state:
            yield kinds.get(type(module), "BatchNormalization"), list(state.values())


def write_onnx(layers: Iterable[tuple[str, list[torch.Tensor]]]) -> bytes:
    """An export to ONNX: nodes and initializers named by numbers, and a shape of integers among these."""
    nodes, tensors, count = b"", _onnx_tensor("shape", np.array([1, -1])), 0
    for kind, parts in layers:
        names = [str(count + k) for k in range(len(parts))]
        count += len(parts)
        inputs = b"".join(_field(1, name.encode()) for name in ["features", *names])
        nodes += _field(1, inputs + _field(4, kind.encode()))
        nodes += _field(1, _field(1, b"features") + _field(4, b"Identity"))
        tensors += b"".join(_onnx_tensor(n, t.detach().numpy()) for n, t in zip(names, parts, strict=True))
    return _field(1, 6) + _field(7, nodes + _field(2, b"export") + tensors)


def _onnx_tensor(name: str, values: np.ndarray) -> bytes:
    dims = b"".join(_field(1, size) for size in values.shape)
    kind = 1 if values.dtype == np.float32 else 7
    return _field(5, dims + _field(2, kind) + _field(8, name.encode()) + _field(9, values.tobytes()))


def _field(number: int, content: int | bytes) -> bytes:
    """A field of a protobuf message."""
    if isinstance(content, int):
        return _varint(number * 8) + _varint(content)
    return _varint(number * 8 + 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def _convolutions(sizes: dict[int, tuple[int, int, int]]) -> dict[str, torch.Tensor]:
    """Weights that keep the size of what passes through their ReLUs."""
    scaled = {i: (2 / (a * k * k)) ** 0.5 for i, (_, a, k) in sizes.items()}
    tensors = {f"features.{i}.weight": torch.randn(b, a, k, k) * scaled[i] for i, (b, a, k) in sizes.items()}
    return tensors | {f"features.{i}.bias": torch.randn(b) * 0.1 for i, (b, _, _) in sizes.items()}


def deepspeech_constants(hidden: int, last_dense: int) -> dict[str, np.ndarray]:
    """The constants of DeepSpeech 0.1.0's graph, drawn so that sums keep their size from layer to layer.

    Args:
        hidden: width of the layers 1, 2 and 5, and of the LSTM's cells.
        last_dense: width of the layer before the LSTM.
    """
    rng = np.random.default_rng(0)
    cell, gates = last_dense + hidden, 4 * hidden
    shapes = {
        "h1": (494, hidden), "h2": (hidden, hidden), "h3": (hidden, last_dense),
        "bidirectional_rnn/fw/basic_lstm_cell/kernel": (cell, gates),
        "bidirectional_rnn/bw/basic_lstm_cell/kernel": (cell, gates),
        "h5": (2 * hidden, hidden), "h6": (hidden, 29),
    }  # fmt: skip
    constants = {}
    for name, shape in shapes.items():
        scale = np.float32((2 / shape[0]) ** 0.5)
        constants[name] = rng.standard_normal(shape, np.float32) * scale
        bias = name.replace("kernel", "bias") if "kernel" in name else name.replace("h", "b")
        constants[bias] = np.zeros(shape[1], np.float32)
    return constants


def write_graph(path: Path, constants: Mapping[str, np.ndarray], identity: bool = True) -> Path:
    """Write a frozen graph as TensorFlow does: constants, an Identity after each, nodes without weights."""
    graph = GraphDef()
    graph.node.add(name="input_node", op="Placeholder")
    for name, value in constants.items():
        node = graph.node.add(name=name, op="Const")
        node.attr["dtype"].type = DT_FLOAT
        tensor = node.attr["value"].tensor
        tensor.dtype = DT_FLOAT
        for size in value.shape:
            tensor.tensor_shape.dim.add(size=size)
        tensor.tensor_content = value.astype("<f4").tobytes()
        if identity:
            graph.node.add(name=f"{name}/read", op="Identity", input=[name])
    clip = graph.node.add(name="Minimum/y", op="Const").attr["value"].tensor
    clip.dtype = DT_FLOAT
    clip.float_val.append(20.0)
    path.write_bytes(graph.SerializeToString())
    return path


if __name__ == "__main__":
    table.use_folder(sys.argv[1])
    with tempfile.TemporaryDirectory() as scratch:
        for name in sys.argv[2:]:
            import_random(name, Path(scratch))
