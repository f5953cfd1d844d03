"""SIGTERM and SIGUSR1, by which SLURM says that time is nearly up, as a request that a loop answers when it can."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

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
    """Inside the block, SIGTERM and SIGUSR1 do not end the process: they are noted in the `StopRequest`."""
    request = StopRequest()

    def note(number: int, frame: object) -> None:
        request.signal = number

    before = {number: signal.signal(number, note) for number in STOP_SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
