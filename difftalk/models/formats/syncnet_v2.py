"""Read SyncNet v2 from the file that its authors released."""

from pathlib import Path

import torch

from difftalk.models.syncnet import SyncNetV2
from difftalk.runtime.errors import UserError


def import_syncnet_v2(path: str | Path) -> SyncNetV2:
    """Read the state dict `syncnet_v2.model`; nothing but tensors is unpickled.

    Raises:
        UserError: if the file does not hold exactly these tensors.
    """
    network = SyncNetV2()
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        network.load_state_dict(state)
    except Exception as e:  # noqa: BLE001 - torch.load raises many kinds for what is no state dict
        raise UserError(f"{path} is not syncnet_v2.model: {' '.join(str(e).split())[:200]}") from None
    return network
