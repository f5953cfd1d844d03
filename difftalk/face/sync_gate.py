"""The sync gate: the run's sync expert measures whether lips and audio of a crop are in sync.

It is a module of its own since it imports torch.
"""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from difftalk.config.gates import MAX_SHIFT_FRAMES, SyncGate
from difftalk.evaluation.sync import Sync, measure_sync
from difftalk.models.syncnet import SyncExpert, load_syncnet
from difftalk.runtime.device import default_device
from difftalk.runtime.errors import ClipError


def measure_crop(frames: np.ndarray, landmarks: np.ndarray, audio: np.ndarray, syncnet: Path) -> Sync | None:
    """Measure the offset between the lips and the audio of a crop; None where it is too short to tell.

    Args:
        frames: `(T, S, S, 3)` uint8 RGB.
        landmarks: `(T, 68, 2)` in their pixels.
        audio: `(N,)` int16 16 kHz.
        syncnet: folder of the expert.
    """
    expert = _expert(syncnet)
    return measure_sync(
        expert.video_embeddings(frames, landmarks),
        expert.audio_embeddings(audio),
        MAX_SHIFT_FRAMES,
        expert.zero_padded,
    )


def sync_verdict(found: Sync | None, frames: int, gate: SyncGate) -> ClipError | None:
    """Return why a crop does not pass the gate; None if it does.

    It is `out_of_sync` for too little confidence or too large an offset; `too_short` to tell.

    Args:
        found: of `measure_crop`.
        frames: of the crop.
        gate: what the expert must find.
    """
    if found is None:
        needed = f"the sync gate needs more than {MAX_SHIFT_FRAMES + 4}"
        return ClipError("too_short", f"{frames} frames, {needed}")
    measured = f"confidence {found.confidence:.2f}, offset {found.offset} frames"
    if gate.min_confidence is not None and found.confidence < gate.min_confidence:
        return ClipError("out_of_sync", f"{measured}, min_confidence={gate.min_confidence:g}")
    if gate.max_offset is not None and abs(found.offset) > gate.max_offset:
        return ClipError("out_of_sync", f"{measured}, max_offset={gate.max_offset}")
    return None


def sync_facts(found: Sync, gate: SyncGate) -> dict[str, Any]:
    """Return what the `json` of a crop says of its sync.

    `offset` is in frames, positive where the audio leads; `repaired` asks the caller to cut the audio with
    that offset, false where there is none or the gate ignores offsets.
    """
    return {
        "offset": found.offset,
        "confidence": round(found.confidence, 3),
        "repaired": gate.max_offset is not None and found.offset != 0,
    }


@cache
def _expert(folder: Path) -> SyncExpert:
    # Clips run in a pool of processes, one thread each.
    torch.set_num_threads(1)
    return load_syncnet(folder, default_device())
