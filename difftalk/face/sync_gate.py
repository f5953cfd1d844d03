"""The sync gate: the run's sync expert checks that lips and audio of a crop are in sync.

It is a module of its own since it imports torch.
"""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from difftalk.config.gates import MAX_SHIFT_FRAMES, SyncGate
from difftalk.evaluation.sync import measure_sync
from difftalk.models.syncnet import SyncExpert, load_syncnet
from difftalk.runtime.device import default_device
from difftalk.runtime.errors import ClipError


def check_sync(
    frames: np.ndarray, landmarks: np.ndarray, audio: np.ndarray, gate: SyncGate, syncnet: Path
) -> dict[str, Any]:
    """Measure the offset between the lips and the audio of a crop.

    Args:
        frames: `(T, S, S, 3)` uint8 RGB.
        landmarks: `(T, 68, 2)` in their pixels.
        audio: `(N,)` int16 16 kHz.
        gate: what the expert must find.
        syncnet: folder of the expert.

    Returns:
        `offset` in frames, positive where the audio leads; `confidence`; `repaired`, which asks the caller to
        cut the audio with that offset, false where there is none or the gate ignores offsets.

    Raises:
        ClipError: `out_of_sync` for too little confidence or too large an offset; `too_short` to tell.
    """
    expert = _expert(syncnet)
    found = measure_sync(
        expert.video_embeddings(frames, landmarks),
        expert.audio_embeddings(audio),
        MAX_SHIFT_FRAMES,
        expert.zero_padded,
    )
    if found is None:
        raise ClipError(
            "too_short", f"{len(frames)} frames, the sync gate needs more than {MAX_SHIFT_FRAMES + 4}"
        )
    measured = f"confidence {found.confidence:.2f}, offset {found.offset} frames"
    if gate.min_confidence is not None and found.confidence < gate.min_confidence:
        raise ClipError("out_of_sync", f"{measured}, min_confidence={gate.min_confidence:g}")
    if gate.max_offset is not None and abs(found.offset) > gate.max_offset:
        raise ClipError("out_of_sync", f"{measured}, max_offset={gate.max_offset}")
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
