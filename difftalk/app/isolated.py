"""A process for work that may crash, hang or be cancelled, and must not take the server with it."""

import multiprocessing
import signal
import threading
import time
import traceback
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

from tqdm import tqdm

from difftalk.runtime import faults, progress
from difftalk.runtime.errors import ClipError, UserError, is_memory_fault
from difftalk.runtime.parallel import end_with_parent
from difftalk.runtime.rejects import REASONS

R = TypeVar("R")

POLL_S = 0.3
OF_OURS = "this is a fault of difftalk's own; the terminal in which the page was started says more"


class Cancelled(Exception):
    """Somebody did not want the result any more."""


@dataclass(frozen=True)
class Step:
    """How far the work is.

    Args:
        name: of what is being done.
        done: items of it.
        total: of how many.
    """

    name: str
    done: int
    total: int


class Isolated:
    """One process that is asked for one thing at a time, and replaced when it ends."""

    def __init__(self) -> None:
        # Spawned, not forked: the server has threads, and torch and FFmpeg do not survive a fork.
        self._context = multiprocessing.get_context("spawn")
        self._process: Any = None
        self._pipe: Any = None
        self._lock = threading.Lock()

    def call(
        self,
        work: Callable[..., R],
        *arguments: Any,
        cancelled: threading.Event | None = None,
        most_s: float | None = None,
    ) -> Generator[Step | None, None, R]:
        """Yield every `POLL_S` how far `work(*arguments)` is, None where it does not say; return its result.

        A generator that is closed early ends the process, and so does one that is told to.

        Args:
            work: a function that the process imports.
            arguments: picklable.
            cancelled: set by somebody who does not want the result any more.
            most_s: seconds after which the work is given up.

        Raises:
            UserError: in one sentence, whatever went wrong.
            Cancelled: if `cancelled` was set.
        """
        with self._lock:
            self.start()
            pipe, process = self._pipe, self._process
            until = time.monotonic() + (most_s or float("inf"))
            answered = False
            step: Step | None = None
            try:
                pipe.send((work, arguments))
                while True:
                    if cancelled is not None and cancelled.is_set():
                        raise Cancelled
                    if time.monotonic() > until:
                        raise UserError(f"given up after {most_s:g} s")
                    # Asked first: a process may end with its answer still in the pipe.
                    is_alive = process.is_alive()
                    if not pipe.poll(POLL_S if is_alive else 0):
                        if not is_alive:
                            raise UserError(_ended(process.exitcode))
                        yield step
                        continue
                    kind, value = pipe.recv()
                    if kind == "step":
                        step = Step(*value)
                        # Of steps that come fast only the last is shown.
                        if not pipe.poll(0):
                            yield step
                        continue
                    answered = True
                    if kind == "refused":
                        raise UserError(value)
                    found: R = value
                    return found
            except (EOFError, BrokenPipeError, ConnectionResetError):
                process.join(5)
                raise UserError(_ended(process.exitcode)) from None
            finally:
                if not answered:
                    self.end()

    def start(self) -> None:
        """Start the process, if there is none: it imports while nobody waits."""
        if self._process is not None and self._process.is_alive():
            return
        self.end()
        self._pipe, its_end = self._context.Pipe()
        self._process = self._context.Process(target=serve, args=(its_end,), daemon=True)
        self._process.start()
        its_end.close()

    def end(self) -> None:
        """End the process, whatever it does."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
            self._process = self._pipe = None


def result_of(call: Generator[Step | None, None, R]) -> R:
    """Return the result of a call whose steps nobody wants to see."""
    while True:
        try:
            next(call)
        except StopIteration as end:
            found: R = end.value
            return found


def serve(pipe: Any) -> None:
    """Answer one request after the other, in a process of its own that ends with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-c is the parent's, which ends this process
    end_with_parent()
    tqdm.set_lock(threading.RLock())  # its own is a semaphore of the system, which a kill leaves behind
    progress.listen(lambda *step: pipe.send(("step", step)))
    while True:
        try:
            work, arguments = pipe.recv()
        except EOFError:
            return
        try:
            answer = "done", work(*arguments)
        except ClipError as e:
            answer = "refused", e.detail or REASONS[e.reason]
        except UserError as e:
            answer = "refused", _without_advice(str(e))
        except Exception as e:  # noqa: BLE001 - outermost: whatever it was, it is reported
            traceback.print_exc()
            answer = "refused", _sentence(e)
        pipe.send(answer)


def _sentence(error: Exception) -> str:
    """What is said of an exception that is not the user's fault."""
    if is_memory_fault(error):
        return "the memory of this machine is not enough for it: a smaller video or a shorter sound may fit"
    return _without_advice(faults.sentence(error) or OF_OURS)


def _without_advice(said: str) -> str:
    """A sentence without what it says to somebody at a command line."""
    return said.removesuffix(f"; {faults.CONTINUES}")


def _ended(status: int | None) -> str:
    """What is said where the process ended by itself, or was killed."""
    number = -(status or 0)
    if number == signal.SIGKILL:
        return "the system ended the work on it, most likely because the memory was not enough"
    name = signal.Signals(number).name if number > 0 else f"status {status}"
    return f"the work on it crashed ({name}): the file may be damaged"
