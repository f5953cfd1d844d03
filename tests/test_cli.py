"""The command line as a person meets it: help, errors, logs and signals."""

import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import textwrap
import time
from pathlib import Path

import pytest

from difftalk.cli import STAGES, WEIGHTS

PYTHON = [sys.executable, "-m", "difftalk"]


def difftalk(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*PYTHON, *map(str, arguments)], capture_output=True, text=True, check=False)


def test_help_names_every_stage_and_imports_nothing_heavy() -> None:
    program = (
        "import sys; from difftalk.cli import parser; print(parser().format_help());"
        "print([m for m in ('torch', 'cv2', 'numpy', 'pyarrow') if m in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert all(f"    {name}" in said for name in STAGES)
    assert said.endswith("[]\n")


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_has_a_help_that_explains_each_flag(stage: str) -> None:
    said = difftalk(stage, "--help")
    assert said.returncode == 0
    for flag in STAGES[stage].flags.split():
        assert f"--{flag.partition('=')[0].rstrip('.?')}" in said.stdout


@pytest.mark.parametrize("action", WEIGHTS)
def test_every_action_on_weights_has_a_help(action: str) -> None:
    said = difftalk("weights", action, "--help")
    assert said.returncode == 0
    assert WEIGHTS[action].help in " ".join(said.stdout.split())
    for flag in WEIGHTS[action].flags.split():
        name = flag.rstrip(".?")
        assert (name if name.isupper() else f"--{name}") in said.stdout


def test_a_users_mistake_is_one_line_and_status_2(tmp_path: Path) -> None:
    dataset = '{"name": "local", "videos": "/nowhere"}'
    done = difftalk(
        "plan", "--dataset", dataset, "--shards", '{"train": 1, "test": 1}', "--out", tmp_path / "x"
    )
    assert done.returncode == 2
    assert done.stderr.startswith("difftalk plan: ")
    assert done.stderr.count("\n") == 1


def test_the_message_is_in_the_terminal_and_in_the_log(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "plan.log"
    dataset = '{"name": "local", "videos": "/nowhere"}'
    shards = '{"train": 1, "test": 1}'
    done = difftalk("plan", "--dataset", dataset, "--shards", shards, "--out", tmp_path / "x", "--log", log)
    assert done.stderr == log.read_text()
    assert "/nowhere" in done.stderr


def test_a_fault_is_status_1_with_its_traceback_in_the_log_alone(tmp_path: Path) -> None:
    log = tmp_path / "tables.log"
    required = ("--metrics", tmp_path / "absent", "--plan", tmp_path / "absent", "--settings", "{}")
    done = difftalk("tables", *required, "--out", tmp_path / "x", "--log", log)
    assert done.returncode == 1
    assert "Traceback" in log.read_text()
    assert "Traceback" not in done.stderr
    assert str(log) in done.stderr


# A stage that counts slowly, in a process of its own, with or without a log.
COUNTING = textwrap.dedent(
    """
    import sys, time
    from pathlib import Path
    from difftalk.runtime import progress
    progress.SECONDS_BETWEEN_LINES = 0.05
    if len(sys.argv) > 1:
        progress.log_to(Path(sys.argv[1]), "train-000")
    for _ in progress.progress(range(4), 4, "landmarks", "clips"):
        time.sleep(0.1)
    print("said by a library", file=sys.stderr)
    """
)


def in_a_terminal(*programs: list[str]) -> str:
    """What a terminal of 80 columns shows of programs that run at once."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    running = [subprocess.Popen(program, stdout=theirs, stderr=theirs) for program in programs]
    os.close(theirs)
    shown = b""
    while True:
        try:
            block = os.read(ours, 4096)
        except OSError:  # how Linux says that the other end is closed
            break
        if not block:
            break
        shown += block
    os.close(ours)
    assert [process.wait() for process in running] == [0] * len(programs)
    return shown.decode()


def test_a_terminal_shows_a_bar_and_the_log_plain_lines(tmp_path: Path) -> None:
    log = tmp_path / "train-000.log"
    shown = in_a_terminal([sys.executable, "-c", COUNTING, str(log)])
    assert "landmarks train-000: 100%|" in shown
    assert "clips/s" in shown
    assert "said by a library" not in shown
    lines = log.read_text().splitlines()
    assert lines[-1] == "said by a library"
    assert lines[-2].startswith("landmarks train-000: 4/4 clips, ")
    assert not any("\r" in line for line in lines)


def test_without_a_terminal_there_are_plain_lines_alone(tmp_path: Path) -> None:
    log = tmp_path / "train-000.log"
    run = [sys.executable, "-c", COUNTING, str(log)]
    shown = subprocess.run(run, capture_output=True, text=True, check=True).stderr
    assert "%|" not in shown
    assert shown.splitlines() == log.read_text().splitlines()[:-1]


def test_one_job_draws_its_bar_and_those_beside_it_print_lines() -> None:
    shown = in_a_terminal([sys.executable, "-c", COUNTING], [sys.executable, "-c", COUNTING])
    assert shown.count("  0%|") == 1
    assert "landmarks: 4/4 clips" in shown


# A stage whose worker processes are busy for longer than anybody waits.
POOL = textwrap.dedent(
    """
    import signal, sys, time
    from difftalk.cli import _stop
    from difftalk.runtime.parallel import map_clips

    if __name__ == "__main__":
        signal.signal(signal.SIGTERM, _stop)
        jobs = [("a", 0), ("b", 60), ("c", 60), ("d", 60)]
        for clip, _ in map_clips(time.sleep, jobs, stage="crops", workers=2):
            print(clip, flush=True)
    """
)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_worker_processes_end_with_the_stage(how: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "pool.py").write_text(POOL)
    stage = subprocess.Popen(
        [sys.executable, "pool.py"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert stage.stdout is not None
    assert stage.stdout.readline() == "a\n"
    workers = children(stage.pid)
    assert len(workers) >= 2
    stage.send_signal(how)
    assert stage.wait(10) == (143 if how == signal.SIGTERM else -9)
    stage.stdout.close()
    for _ in range(100):
        left = [pid for pid in workers if Path(f"/proc/{pid}").exists()]
        if not left:
            return
        time.sleep(0.1)
    pytest.fail(f"left behind: {left}")


def children(pid: int) -> list[int]:
    """Process ids of the children of `pid`."""
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=True
    )
    return [int(line) for line in listed.stdout.split()]
