"""The command line as a person meets it: help, errors, logs and signals."""

import fcntl
import importlib
import inspect
import os
import pty
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import textwrap
import time
import typing
from pathlib import Path

import pytest

from difftalk.cli import argument_help, functions, parser
from difftalk.stages import STAGES

PYTHON = [sys.executable, "-m", "difftalk"]
HEAVY = ("torch", "cv2", "numpy", "pyarrow", "av", "pydantic")
VERBS = [(stage, action) for stage in STAGES for action in functions(stage)]


def difftalk(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*PYTHON, *map(str, arguments)], capture_output=True, text=True, check=False)


def imported_by(statement: str) -> list[str]:
    """The heavy packages that a Python statement imports."""
    program = f"import sys; {statement}; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    found: list[str] = eval(done.stdout.splitlines()[-1])
    return found


def test_help_names_every_stage_and_imports_nothing_heavy() -> None:
    shown = " ".join(parser().format_help().split())
    for stage in STAGES:
        summary = (importlib.import_module(f"difftalk.stages.{stage}").__doc__ or "").splitlines()[0]
        assert summary.endswith(".") and f" {stage} {summary}" in shown
    assert imported_by("from difftalk.cli import parser; parser().format_help()") == []


@pytest.mark.parametrize("stage", STAGES)
def test_a_stages_module_imports_nothing_heavy(stage: str) -> None:
    assert imported_by(f"import difftalk.stages.{stage}") in ([], ["pydantic"])


@pytest.mark.parametrize(("stage", "action"), VERBS)
def test_the_flags_of_a_verb_are_the_arguments_of_its_function(stage: str, action: str) -> None:
    function = functions(stage)[action]
    said = difftalk(stage, *([action] if action else []), "--help")
    assert said.returncode == 0
    usage, _, options = said.stdout.partition("options:")
    described = " ".join(said.stdout.split())
    flags = {word for word in options.split() if word.startswith("--")}
    expected = {"--log", "--help"}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY:
            flag = f"--{name.replace('_', '-')}"
            expected.add(flag)
            is_list = typing.get_origin(typing.get_type_hints(function)[name]) is list
            is_required = parameter.default is parameter.empty and not is_list
            assert (f"[{flag}" not in usage) == is_required
        else:
            assert name.upper() in usage
        assert argument_help(function)[name] in described, f"{name} is not in the docstring's Args"
    assert {flag.rstrip(",") for flag in flags} >= expected
    assert not {f for f in flags if f.rstrip(",") not in expected and f in usage}


@pytest.mark.parametrize(("stage", "action"), VERBS)
def test_every_function_of_a_verb_is_described_in_a_sentence(stage: str, action: str) -> None:
    summary = (inspect.getdoc(functions(stage)[action]) or "").splitlines()[0]
    assert summary.endswith(".") and len(summary) < 100


def test_values_that_are_no_plain_text_are_read_as_json(tmp_path: Path) -> None:
    dataset, shards = '{"name": "demo", "sise": 2}', '{"train": 1, "test": 1}'
    done = difftalk("plan", "--dataset", dataset, "--shards", shards, "--out", tmp_path / "x")
    assert done.returncode == 2
    assert done.stderr == "difftalk plan: --dataset: sise is not a known key (did you mean size?)\n"
    done = difftalk("plan", "--dataset", "{}", "--shards", '{"train": 0, "test": 1}', "--out", tmp_path / "x")
    assert done.stderr.startswith("difftalk plan: --")


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


TMP = tempfile.gettempdir()

# A stage with a bug, or on a machine that refuses something.
FAILING = textwrap.dedent(
    """
    import sys
    from difftalk import cli
    from difftalk.stages import tables

    def run(*, out: str) -> None:
        raise eval(out)

    tables.run = run
    sys.exit(cli.main(["tables", "--out", *sys.argv[1:]]))
    """
)


def failing(error: str, *more: str | Path) -> subprocess.CompletedProcess[str]:
    run = [sys.executable, "-c", FAILING, error, *map(str, more)]
    return subprocess.run(run, capture_output=True, text=True, check=False)


def test_a_fault_of_ours_is_status_1_with_its_traceback_in_the_log_alone(tmp_path: Path) -> None:
    log = tmp_path / "tables.log"
    done = failing("IndexError('of ours')", "--log", log)
    assert done.returncode == 1
    assert "Traceback" in log.read_text()
    assert done.stderr == f"difftalk tables: IndexError: of ours (where, is in {log})\n"
    assert "Traceback" in failing("IndexError('of ours')").stderr


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            "OSError(28, 'No space left on device', '/x/a.tar')",
            "/x/a.tar could not be written: the disk is full (",
        ),
        ("OSError(122, 'Disk quota exceeded', '/x/a')", "/x/a could not be written: the quota is used up ("),
        (
            "OSError(28, 'No space left on device')",
            f"a temporary file (in {TMP} or /dev/shm) could not be written",
        ),
        (
            "OSError(30, 'Read-only file system', '/x/a')",
            "/x/a could not be written: the file system is read-only",
        ),
        (
            "RuntimeError('write: No space left on device')",
            f"a temporary file (in {TMP} or /dev/shm) could not be",
        ),
        ("PermissionError(13, 'Permission denied', '/x/a')", "/x/a: no permission"),
        ("OSError(5, 'Input/output error', '/x/a')", "/x/a: the disk, or the connection to it, failed"),
        ("FileNotFoundError(2, 'No such file', '/x/a')", "/x/a: no such file or folder"),
        ("MemoryError()", "the memory is not enough: run it with fewer workers or smaller batches, or give"),
        (
            "RuntimeError('DefaultCPUAllocator: can\\'t allocate memory')",
            "the memory is not enough (DefaultCPU",
        ),
    ],
)
def test_a_fault_of_the_machine_is_one_line_and_status_2(error: str, sentence: str, tmp_path: Path) -> None:
    log = tmp_path / "tables.log"
    done = failing(error, "--log", log)
    assert done.returncode == 2
    assert done.stderr.startswith(f"difftalk tables: {sentence}") and done.stderr.count("\n") == 1
    assert "Traceback" in log.read_text(), "it may be a fault of ours nevertheless"


def test_without_a_log_no_traceback_is_printed_of_a_fault_of_the_machine() -> None:
    assert failing("OSError(5, 'Input/output error', '/x/a')").stderr.count("\n") == 1


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
    from difftalk.cli import exit_on_signal
    from difftalk.runtime.parallel import map_clips

    if __name__ == "__main__":
        signal.signal(signal.SIGTERM, exit_on_signal)
        jobs = [("a", 0), ("b", 60), ("c", 60), ("d", 60)]
        for clip, _ in map_clips(time.sleep, jobs, stage="crops", workers=2, shared=(sys.argv[1] or None)):
            print(clip, flush=True)
    """
)


@pytest.mark.parametrize("shared", ["", "time"])
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_worker_processes_end_with_the_stage(how: signal.Signals, shared: str, tmp_path: Path) -> None:
    (tmp_path / "pool.py").write_text(POOL)
    stage = subprocess.Popen(
        [sys.executable, "pool.py", shared],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert stage.stdout is not None
    assert stage.stdout.readline() == "a\n"
    workers = [*children(stage.pid), *(w for pid in children(stage.pid) for w in children(pid))]
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
    """Process ids of the children of `pid`; `ps` fails where there are none."""
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    return [int(line) for line in listed.stdout.split()]
