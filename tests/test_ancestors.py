"""A command of the workflow ends when the snakemake that started it, or the shell between them, is killed."""

import os
import shlex
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from difftalk.runtime import ancestors

# What the Snakefile does: it announces itself and starts a command in a shell.
HEAD = textwrap.dedent(
    """
    import subprocess, sys
    from difftalk.runtime import ancestors
    if sys.argv[1] == "announced":
        ancestors.announce()
    subprocess.run(["bash", "-c", sys.argv[2] + "; true"])
    """
)

# A command that says how it ends, and may take long for it.
COMMAND = textwrap.dedent(
    """
    import os, signal, sys, time
    from contextlib import nullcontext
    from pathlib import Path
    from difftalk.runtime import ancestors

    def end(number, frame):
        Path("signal").write_text(str(number))
        if sys.argv[1] == "stuck":
            return
        if sys.argv[1] == "saving":
            time.sleep(1.0)
            Path("saved").touch()
        sys.exit()

    ancestors.POLL_S = 0.1
    ancestors.GRACE_S = ancestors._grace_s = 0.3
    signal.signal(signal.SIGTERM, end)
    ancestors.watch()
    with ancestors.time_for_checkpoint() if sys.argv[1] == "saving" else nullcontext():
        Path("pid").write_text(str(os.getpid()))
        while True:
            time.sleep(0.05)
    """
)


@contextmanager
def started(folder: Path, how: str = "quick", who: str = "announced") -> Iterator[list[psutil.Process]]:
    """Head, shell and command of a running job, and none of them afterwards."""
    command = shlex.join([sys.executable, "-c", COMMAND, how])
    head = subprocess.Popen(
        [sys.executable, "-c", HEAD, who, command],
        cwd=folder,
        env={k: v for k, v in os.environ.items() if k != ancestors.VARIABLE},
        stderr=subprocess.DEVNULL,
    )
    pid = folder / "pid"
    while not pid.exists() or not pid.read_text():
        assert head.poll() is None
        time.sleep(0.02)
    stage = psutil.Process(int(pid.read_text()))
    shell = psutil.Process(stage.ppid())
    assert shell.ppid() == head.pid
    try:
        yield [psutil.Process(head.pid), shell, stage]
    finally:
        for process in (stage, shell):
            if process.is_running():
                process.kill()
        head.kill()
        head.wait()


def ends(process: psutil.Process, within_s: float = 10.0) -> bool:
    _, alive = psutil.wait_procs([process], within_s)
    return not alive


@pytest.mark.parametrize("killed", ["snakemake", "shell"])
def test_a_command_gets_sigterm_when_an_ancestor_is_killed(killed: str, tmp_path: Path) -> None:
    with started(tmp_path) as (head, shell, command):
        (head if killed == "snakemake" else shell).kill()
        assert ends(command)
    assert (tmp_path / "signal").read_text() == str(int(signal.SIGTERM))


def test_a_command_that_does_not_end_by_sigterm_ends_hard(tmp_path: Path) -> None:
    with started(tmp_path, "stuck") as (head, _, command):
        head.kill()
        assert ends(command)


def test_a_training_has_time_to_save(tmp_path: Path) -> None:
    with started(tmp_path, "saving") as (head, _, command):
        head.kill()
        assert ends(command)
    assert (tmp_path / "saved").exists()


def test_a_command_that_was_started_by_hand_outlives_its_shell(tmp_path: Path) -> None:
    with started(tmp_path, who="somebody") as (head, shell, command):
        shell.kill()
        head.kill()
        assert not ends(command, 1.0)


def test_one_whose_snakemake_died_before_it_began_ends_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with started(tmp_path) as (head, _, command):
        variable = command.environ()[ancestors.VARIABLE]
        head.kill()
        assert ends(command)
    run = [sys.executable, "-c", COMMAND, "quick"]
    late = subprocess.run(run, cwd=tmp_path, env={**os.environ, ancestors.VARIABLE: variable}, timeout=10)
    assert late.returncode == 0


def test_a_variable_from_another_machine_means_nothing(tmp_path: Path) -> None:
    variable = f"another/1 {os.getpid()} 1"
    run = [sys.executable, "-c", COMMAND, "quick"]
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run(run, cwd=tmp_path, env={**os.environ, ancestors.VARIABLE: variable}, timeout=1.5)
