"""What is measured between two lines of the training log: loss, gradient norm, images/s, data wait."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Meters:
    """Measurements since the last line of the log; the clock starts when this is made.

    Attributes:
        losses: of the steps since that line, those before a resume included.
        norms: gradient norms of the same steps.
        steps: of this process; those before a resume are not included.
        data_wait_s: seconds spent waiting for batches.
        since: when the clock started.
    """

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    steps: int = 0
    data_wait_s: float = 0.0
    since: float = field(default_factory=time.monotonic)

    def state(self) -> dict[str, list[float]]:
        """Return what a resumed training goes on with: `Meters(**state)`."""
        return {"losses": self.losses, "norms": self.norms}

    @contextmanager
    def data_wait(self) -> Iterator[None]:
        """Count the time inside the block as waiting for data."""
        started = time.monotonic()
        yield
        self.data_wait_s += time.monotonic() - started

    def add(self, loss: float, norm: float) -> None:
        """Count one step."""
        self.losses.append(loss)
        self.norms.append(norm)
        self.steps += 1

    def line(self, step: int, learning_rate: float, batch_size: int) -> dict[str, Any]:
        """Return the line of the log after `step` steps; the next line takes new meters."""
        seconds = time.monotonic() - self.since
        return {
            "step": step,
            "loss": sum(self.losses) / len(self.losses),
            "gradient_norm": sum(self.norms) / len(self.norms),
            "learning_rate": learning_rate,
            "images_per_s": self.steps * batch_size / seconds,
            "data_wait": self.data_wait_s / seconds,
        }
