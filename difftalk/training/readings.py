"""Numbers of the steps on their way from the device."""

from collections import deque
from collections.abc import Iterator

import torch
from torch import Tensor


class Readings:
    """The numbers of each step, read when the next one is launched.

    Read at once, they would leave the device without work until the host has launched the next step.
    """

    def __init__(self) -> None:
        self._pending: deque[tuple[int, Tensor, torch.cuda.Event | None]] = deque()

    def put(self, step: int, numbers: Tensor) -> None:
        """Send the numbers (N,) of a step on their way."""
        event = None
        host = numbers.to("cpu", non_blocking=True)  # into pinned memory
        if numbers.is_cuda:
            event = torch.cuda.Event()
            event.record()
        self._pending.append((step, host, event))

    def take(self, everything: bool) -> Iterator[tuple[int, list[float]]]:
        """Give each step that has not been read, with its numbers: all but the newest, or `everything`."""
        while len(self._pending) > (0 if everything else 1):
            step, host, event = self._pending.popleft()
            if event is not None:
                event.synchronize()
            yield step, host.tolist()
