"""The gate that asks the run's sync expert whether the mouth of a crop says what is heard. Brings torch."""

from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from difftalk.evaluation.sync import measure_sync
from difftalk.models.syncnet import SyncExpert, load_syncnet
from difftalk.runtime.errors import ClipError

MAX_SHIFT = 15  # frames that the sound is shifted either way, as in SyncNet's protocol


class Limits(Protocol):
    """`crops.SyncGate`."""

    @property
    def min_confidence(self) -> float | None: ...

    @property
    def max_offset(self) -> int | None: ...


def judge(
    frames: np.ndarray, landmarks: np.ndarray, sound: np.ndarray, limits: Limits, syncnet: Path
) -> dict[str, Any]:
    """What the expert finds: `offset` in frames, positive where the sound leads; `confidence`; `repaired`.

    `repaired` asks the caller to cut the sound with that offset. It is false where there is none, and where the offset
    is not to be looked at.

    Args:
        frames: `(T, S, S, 3)` uint8 RGB. landmarks: `(T, 68, 2)` in their pixels. sound: `(N,)` int16 16 kHz.
        syncnet: folder of the expert.

    Raises:
        ClipError: `out_of_sync` for too little confidence or too large an offset; `too_short` to tell.
    """
    expert = _expert(syncnet)
    found = measure_sync(
        expert.video_embeddings(frames, landmarks),
        expert.audio_embeddings(sound),
        MAX_SHIFT,
        expert.zero_padded,
    )
    if found is None:
        raise ClipError("too_short", f"{len(frames)} frames, the sync gate needs more than {MAX_SHIFT + 4}")
    said = f"confidence {found.confidence:.2f}, offset {found.offset} frames"
    if limits.min_confidence is not None and found.confidence < limits.min_confidence:
        raise ClipError("out_of_sync", f"{said}, min_confidence={limits.min_confidence:g}")
    if limits.max_offset is not None and abs(found.offset) > limits.max_offset:
        raise ClipError("out_of_sync", f"{said}, max_offset={limits.max_offset}")
    return {
        "offset": found.offset,
        "confidence": round(found.confidence, 3),
        "repaired": limits.max_offset is not None and found.offset != 0,
    }


@cache
def _expert(folder: Path) -> SyncExpert:
    # Clips run in a pool of processes, one thread each.
    torch.set_num_threads(1)
    return load_syncnet(folder, "cuda" if torch.cuda.is_available() else "cpu")
