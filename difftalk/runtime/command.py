"""Run a program that is not ours: in its own environment, with a time limit, never through a shell."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from difftalk.runtime.errors import ClipError, UserError

# From SIGTERM to SIGKILL. Below the grace that a command of the workflow has itself (`ancestors.GRACE_S`).
GRACE_S = 3.0
# Lines and characters of what a program said last that are quoted.
QUOTED_LINES, QUOTED_CHARACTERS = 3, 400
# Of the end of what it said, bytes that are read at all.
READ_BYTES = 64 * 1024
# What to do about a program that the system does not execute, by the number of its error.
ADVICE = {
    errno.ENOEXEC: ". A script's first line names its interpreter (#!), or the command begins with it",
    errno.ENOENT: ". Is the interpreter there that its first line names?",
}
# Ours, which mean nothing, or the wrong thing, to a program of another environment.
DROPPED = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "CONDA_PREFIX", "CONDA_DEFAULT_ENV")


def environment_of(place: str | None, variables: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables of a program.

    Args:
        place: a Python interpreter, a folder `bin`, or the folder of a conda or virtual environment that has
            one; None: where this Python is.
        variables: further ones, which replace others.

    Raises:
        UserError: if `place` is none of these.
    """
    kept = {k: v for k, v in os.environ.items() if k not in DROPPED and not k.startswith("DIFFTALK_")}
    programs = Path(sys.executable).parent if place is None else _programs(place)
    kept["PATH"] = os.pathsep.join([str(programs), kept.get("PATH", os.defpath)])
    if programs.name == "bin" and (programs.parent / "conda-meta").is_dir():
        kept["CONDA_PREFIX"] = str(programs.parent)
    elif (programs.parent / "pyvenv.cfg").is_file():
        kept["VIRTUAL_ENV"] = str(programs.parent)
    return kept | dict(variables)


def _programs(place: str) -> Path:
    path = Path(place).absolute()
    if path.is_dir():
        return path / "bin" if (path / "bin").is_dir() else path
    if path.is_file():
        return path.parent
    raise UserError(f"{place}: no Python interpreter, `bin` folder or environment (seen from {Path.cwd()})")


def program_of(word: str, place: str | None, directory: str | Path, environment: Mapping[str, str]) -> str:
    """Return the file of the program that a word names.

    `python` is the interpreter itself where `place` names one. A relative path is one in `directory`.

    Raises:
        UserError: if there is no such program, or it may not be run.
    """
    if word in ("python", "python3") and place is not None and Path(place).is_file():
        return str(Path(place).absolute())
    if "/" in word:
        path = Path(directory, word).absolute()
        if path.is_file() and os.access(path, os.X_OK):
            return str(path)
        raise UserError(f"{path}: {'may not be run' if path.exists() else 'no such program'}")
    found = shutil.which(word, path=environment["PATH"])
    if found is None:
        raise UserError(f"no program {word} in {environment['PATH'].partition(os.pathsep)[0]} or the PATH")
    return found


def run_program(
    words: Sequence[str],
    *,
    environment: Mapping[str, str],
    directory: str | Path,
    said: Path,
    timeout_s: float,
) -> None:
    """Run a program to its end. What it has started ends with it, and with this process.

    But for what has left its group (`setsid`).

    Args:
        words: the program's file, and its arguments.
        environment: its variables.
        directory: its working directory.
        said: file for what it prints; `.err` is added for its standard error.
        timeout_s: seconds that it may take.

    Raises:
        ClipError: `crashed`, with its exit status, or `timed_out`; with the last lines that it printed.
        UserError: if it cannot be started.
    """
    errors = said.with_name(f"{said.name}.err")
    with said.open("wb") as out, errors.open("wb") as err:
        try:
            process = subprocess.Popen(
                words,
                cwd=directory,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        except OSError as e:
            raise UserError(
                f"{words[0]} cannot be started: {e.strerror}{ADVICE.get(e.errno or 0, '')}"
            ) from None
        guard = _guard(process.pid)
        try:
            status = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise ClipError("timed_out", f"no end after {timeout_s:g} s{last_words(said)}") from None
        finally:
            _end_group(process)
            guard.kill()
            guard.communicate()
    if status:
        how = f"ended by {_signal_name(-status)}" if status < 0 else f"exit status {status}"
        raise ClipError("crashed", f"{how}{last_words(said)}")


def last_words(said: Path) -> str:
    """Return the last lines of a program's standard error, or else of its output, as ` (...)`."""
    for file in (said.with_name(f"{said.name}.err"), said):
        lines = [" ".join(line.split()) for line in last_lines(file)]
        if kept := [line for line in lines if line][-QUOTED_LINES:]:
            return f" ({' | '.join(kept)[-QUOTED_CHARACTERS:]})"
    return ""


def last_lines(file: Path, count: int | None = None) -> list[str]:
    """Return the last lines of what a program printed, without control characters; none where it is gone.

    Of its last `READ_BYTES`: there may be gigabytes.
    """
    try:
        with file.open("rb") as source:
            source.seek(max(file.stat().st_size - READ_BYTES, 0))
            lines = source.read().decode(errors="replace").splitlines()
    except OSError:  # the program may have deleted it
        return []
    return ["".join(c if c.isprintable() else " " for c in line) for line in lines[-(count or 0) :]]


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _guard(group: int) -> subprocess.Popen[bytes]:
    """Start what ends a group of processes when this process is gone, by SIGKILL too.

    Its input is a pipe that nobody writes to: it closes with this process.
    """
    return subprocess.Popen(
        ["/bin/sh", "-c", 'read _; kill -s KILL -- "-$0"', str(group)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started and left in its group: asked to first, then by force."""
    if not _signal_group(process.pid, signal.SIGTERM):
        return
    until = time.monotonic() + GRACE_S
    while time.monotonic() < until:
        process.poll()  # one that has ended is in the group until it is asked for
        if not _signal_group(process.pid, 0):
            return
        time.sleep(0.02)
    _signal_group(process.pid, signal.SIGKILL)
    process.wait()


def _signal_group(group: int, number: int) -> bool:
    """Send a signal to a group of processes; whether there is one."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    except PermissionError:  # of one that has ended, on macOS
        return False
    return True
