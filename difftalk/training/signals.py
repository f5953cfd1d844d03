"""SIGTERM and SIGUSR1, SLURM's warnings before a time limit, as a request to stop.

`launcher` forwards them to all processes, and `loop` saves a checkpoint and exits. Other stages exit at
once (`cli`).
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from difftalk.runtime.ancestors import time_for_checkpoint

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
