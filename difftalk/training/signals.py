"""SIGTERM and SIGUSR1, SLURM's warnings before a time limit, as a request to stop.

`launcher` forwards them to all processes, and a training saves a checkpoint and exits. Other stages exit at
once (`cli`).
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from difftalk.runtime.ancestors import time_for_checkpoint
from difftalk.runtime.progress import say

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


@dataclass
class StopRequest:
    """Whether this process got a signal that asks it to stop.

    Attributes:
        signal: its number; 0: none so far.
    """

    signal: int = 0


@contextmanager
def deferred_signals() -> Iterator[StopRequest]:
    """Let SIGTERM and SIGUSR1 only be noted inside the block, for a loop to stop when it can."""
    request = StopRequest()

    def note(number: int, frame: object) -> None:
        request.signal = number

    before = {number: signal.signal(number, note) for number in STOP_SIGNALS}
    try:
        with time_for_checkpoint():
            yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_after(number: int, name: str, step: int, saved: Path | None) -> NoReturn:
    """End a training that was asked to stop, and has saved.

    Args:
        number: of the signal.
        name: of the training, for the log.
        step: steps that are done.
        saved: the checkpoint; None in processes that do not write it, and say nothing.

    Raises:
        SystemExit: with 128 + `number`.
    """
    if saved is not None:
        size_gb = saved.stat().st_size / 1e9
        called = signal.Signals(number).name
        say(f"{name}: {called}: saved step {step} ({size_gb:.2g} GB); the same command continues")
    raise SystemExit(128 + number)
