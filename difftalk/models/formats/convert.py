"""Convert released weights to what we keep of them: one converter for each row of the table of weights."""

import importlib
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor, nn

from difftalk.models import syncnet
from difftalk.models.formats.ldm import import_first_stage
from difftalk.models.formats.syncnet_v2 import import_syncnet_v2
from difftalk.models.formats.torch_file import listed, read_state_dict
from difftalk.models.formats.torchscript import is_torchscript, read_torchscript
from difftalk.models.networks import fill
from difftalk.pretrained.onnx_tensors import read_layers
from difftalk.runtime.errors import UserError


def convert(name: str, file: Path, out: Path, called: str) -> None:
    """Write the pretrained weights `name`, read from the released `file`, to `out`.

    Args:
        name: of the table.
        file: as released, unpacked if the release is an archive.
        out: the file to write, or the existing folder to fill; `difftalk.pretrained.table` says which.
        called: what people know `file` by, for the record.

    Raises:
        UserError: if the file is damaged or holds something else.
    """
    CONVERTERS[name](file, out, called)


def _vq_f4(file: Path, out: Path, called: str) -> None:
    model = import_first_stage(read_state_dict(file), str(file))
    model.save_pretrained(out, safe_serialization=True)


def _deepspeech(file: Path, out: Path, called: str) -> None:
    _save(importlib.import_module("difftalk.speech.deepspeech").import_graph(file), out)


def _syncnet_v2(file: Path, out: Path, called: str) -> None:
    network = import_syncnet_v2(file)
    syncnet.save_syncnet(out, syncnet.SyncnetConfig("syncnet_v2", about={"source": called}), network)


def _s3fd(file: Path, out: Path, called: str) -> None:
    from face_alignment.detection.sfd.net_s3fd import s3fd

    _save(_as_loaded(s3fd(), read_state_dict(file), file), out)


def _2dfan4(file: Path, out: Path, called: str) -> None:
    from face_alignment.models import FAN

    _save(_as_loaded(FAN(4), read_state_dict(file), file), out)


def _alexnet(file: Path, out: Path, called: str) -> None:
    from torchvision.models import alexnet

    _save_backbone(alexnet, file, out)


def _vgg16(file: Path, out: Path, called: str) -> None:
    from torchvision.models import vgg16

    _save_backbone(vgg16, file, out)


def _inception_fid(file: Path, out: Path, called: str) -> None:
    from difftalk.evaluation.inception import InceptionV3

    state = {k: v for k, v in read_state_dict(file).items() if not k.startswith("fc.")}
    _save_filled(InceptionV3(), state, file, out)


def _i3d_fvd(file: Path, out: Path, called: str) -> None:
    from difftalk.evaluation.i3d import I3dNetwork, named_tensors

    tensors = read_torchscript(file) if is_torchscript(file) else read_state_dict(file)
    _save_filled(I3dNetwork(), named_tensors(tensors, file), file, out)


def _arcface(file: Path, out: Path, called: str) -> None:
    from difftalk.evaluation.arcface import IResNet, named_tensors

    network = IResNet()
    _save_filled(network, named_tensors(read_layers(file), network, file), file, out)


def _stable_syncnet(file: Path, out: Path, called: str) -> None:
    import torch

    from difftalk.models.stable_syncnet import StableSyncNet

    with torch.device("meta"):
        network = StableSyncNet()
    _save_filled(network, read_state_dict(file), file, out)


def _save_filled(network: nn.Module, state: dict[str, Tensor], file: Path, out: Path) -> None:
    """Keep the tensors of a network of a metric, which are these."""
    fill(network, state, file)
    _save({k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}, out)


def _save_backbone(build: Callable[..., nn.Module], file: Path, out: Path) -> None:
    """Keep the convolutions (`features.*`) of a torchvision classifier: LPIPS uses nothing else."""
    import torch

    with torch.device("meta"):
        backbone = {k: v for k, v in build(weights=None).state_dict().items() if k.startswith("features.")}
    state = {k: v for k, v in read_state_dict(file).items() if k.startswith("features.")}
    wrong = [k for k in backbone.keys() | state.keys() if k not in state or k not in backbone]
    wrong += [k for k in backbone.keys() & state.keys() if backbone[k].shape != state[k].shape]
    if wrong:
        raise UserError(f"{file}: not the weights of {build.__name__}: {listed(sorted(wrong))}")
    _save(state, out)


def _as_loaded(network: nn.Module, state: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
    """Return the state dict of `network` after it has loaded `state`, as its authors load it."""
    try:
        network.load_state_dict(state)
    except RuntimeError as e:
        raise UserError(
            f"{file}: not the weights of {type(network).__name__}: {' '.join(str(e).split())[:200]}"
        ) from None
    return network.state_dict()


def _save(tensors: dict[str, Tensor], out: Path) -> None:
    save_file({k: v.detach().contiguous().cpu() for k, v in tensors.items()}, out)
    out.chmod(0o644)  # safetensors writes for the owner alone


CONVERTERS: dict[str, Callable[[Path, Path, str], None]] = {
    "vq-f4": _vq_f4,
    "deepspeech-0.1.0": _deepspeech,
    "syncnet-v2": _syncnet_v2,
    "s3fd": _s3fd,
    "2dfan4": _2dfan4,
    "alexnet": _alexnet,
    "vgg16": _vgg16,
    "inception-fid": _inception_fid,
    "i3d-fvd": _i3d_fvd,
    "arcface": _arcface,
    "stable-syncnet": _stable_syncnet,
}
