"""Progress of a stage: a bar with rate and time left in a terminal, plain lines in a log."""

import fcntl
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Self, TextIO, TypeVar

from tqdm import tqdm

T = TypeVar("T")

SECONDS_BETWEEN_LINES = 10.0
CLEAR_LINE = "\r\x1b[K"

# The terminal, once `log_to` has redirected stderr to a file; and a label of this job of the stage.
_screen: TextIO | None = None
_label = ""
# Told of every step, beside the terminal: name of the bar, items done, of how many.
_listener: Callable[[str, int, int], None] | None = None


def listen(listener: Callable[[str, int, int], None] | None) -> None:
    """Have a function called with `(desc, done, total)` at each step of any bar of this process."""
    global _listener
    _listener = listener


def log_to(path: Path, label: str = "", *, is_second: bool = False) -> None:
    """Redirect stdout and stderr of this process, its children and their libraries to the file `path`.

    The former stderr, a terminal as a rule, gets the bar and the lines of `say`, and nothing else.

    Args:
        path: replaced where it exists.
        label: added to the stage's name in each line, such as a shard: several jobs share a terminal.
        is_second: another process of this job writes the log and the terminal; this one only
            appends to the log.
    """
    global _screen, _label
    path.parent.mkdir(parents=True, exist_ok=True)
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | (0 if is_second else os.O_TRUNC), 0o644)
    _screen, _label = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace"), label
    if is_second:
        _screen = open(os.devnull, "w")  # noqa: SIM115 - as long as the process
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]


def say(line: str, *, in_log: bool = True) -> None:
    """Print one line to the terminal, and to the log where there is one.

    A terminal that was closed, or a log on a full disk, ends no stage.
    """
    if in_log or _screen is None:
        _print(line, sys.stderr)
    if _screen is not None:
        _print(f"{CLEAR_LINE if _screen.isatty() else ''}{line}", _screen)


def note(line: str) -> None:
    """Print one line to the log; to the terminal only where there is no log."""
    _print(line, sys.stderr)


def _print(line: str, stream: TextIO) -> None:
    with suppress(OSError):
        print(line, file=stream, flush=True)


class Progress:
    """Show how many of `total` items of a `unit` are done; `advance` it from the main process."""

    def __init__(self, total: int, desc: str, unit: str) -> None:
        self.total, self.unit = total, unit
        self.desc = desc if _label in desc else f"{desc} {_label}"
        self.done = 0
        self._start = self._last = time.monotonic()
        screen = _screen or sys.stderr
        self._terminal = _take_terminal(screen)
        self._bar = None
        if self._terminal is not None:
            columns = os.get_terminal_size(self._terminal).columns or None
            self._bar = tqdm(total=total, desc=self.desc, unit=f" {unit}", file=screen, ncols=columns)
        self._tell()

    def advance(self, n: int = 1, note: str = "") -> None:
        """Count `n` more items as done, and show a `note` with them."""
        self.done += n
        self._tell()
        if self._bar is not None:
            if note:
                self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(n)
        now = time.monotonic()
        if now - self._last >= SECONDS_BETWEEN_LINES or self.done >= self.total:
            self._last = now
            self._line(now, note)

    def _tell(self) -> None:
        if _listener is not None:
            _listener(self.desc.strip(), self.done, self.total)

    def _line(self, now: float, note: str) -> None:
        rate = self.done / max(now - self._start, 1e-9)
        left = (self.total - self.done) / max(rate, 1e-9)
        line = (
            f"{self.desc}: {self.done}/{self.total} {self.unit}, {rate:.2f} {self.unit}/s, "
            f"{left:.0f} s left{'; ' + note if note else ''}"
        )
        if self._bar is None:
            say(line)
        elif _screen is not None:
            _print(line, sys.stderr)

    def close(self) -> None:
        """Remove the bar, and leave the terminal to another job."""
        if self._bar is not None:
            self._bar.close()
        if self._terminal is not None:
            os.close(self._terminal)
            self._terminal = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _take_terminal(screen: TextIO) -> int | None:
    """Open and lock the terminal that `screen` is; None where it is not one, or another job has a bar there.

    Of the jobs that run at once, the first draws its bar and the others print lines above it.
    """
    if not screen.isatty():
        return None
    # A file description of our own: on the one that all jobs inherit they would share the lock.
    terminal = os.open(os.ttyname(screen.fileno()), os.O_WRONLY | os.O_NOCTTY)
    try:
        fcntl.flock(terminal, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(terminal)
        return None
    return terminal


def progress(items: Iterable[T], total: int, desc: str, unit: str) -> Iterator[T]:
    """Yield `items`, and show how many of `total` have been taken."""
    with Progress(total, desc, unit) as shown:
        for item in items:
            yield item
            shown.advance()
