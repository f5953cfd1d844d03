"""Read frames in a thread of its own, while the caller works on those before them."""

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from difftalk.media.lazy_frame import LazyFrame

F = TypeVar("F", bound=np.ndarray | LazyFrame)


@dataclass(frozen=True)
class _End:
    """After the last frame: what reading raised, if it did."""

    error: BaseException | None = None


def read_ahead(frames: Iterator[F], count: int) -> Iterator[F]:
    """Yield frames that a thread decodes, and converts to RGB whole, at most `count` of them in advance.

    The thread ends, and closes `frames`, when the caller closes this generator or drops it.

    Raises:
        Exception: what `frames` raises, after the frames before it.
    """
    ready: queue.SimpleQueue[F | _End] = queue.SimpleQueue()
    room = threading.Semaphore(count)
    closed = threading.Event()

    def read() -> None:
        end = _End()
        try:
            while room.acquire() and not closed.is_set():
                frame = next(frames, None)
                if frame is None:
                    break
                frame[:, :]  # a lazy frame keeps the pixels
                ready.put(frame)
        except BaseException as e:
            end = _End(e)
        finally:
            # Decoders are closed where they run.
            if (close := getattr(frames, "close", None)) is not None:
                close()
            ready.put(end)

    thread = threading.Thread(target=read, name="read ahead", daemon=True)
    thread.start()
    try:
        while not isinstance(item := ready.get(), _End):
            room.release()
            yield item
        if item.error is not None:
            raise item.error
    finally:
        closed.set()
        room.release()
        thread.join()
