"""First stage and sync expert are trained as the denoiser is: stopped by a signal, killed, finished once."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import ROOT
from drawn_clips import speaker, write_crops

from difftalk.runtime import ancestors
from difftalk.runtime.owner import owner_of

SETTINGS = {
    "autoencoder": '{"channels": [8, 16, 16], "codes": 64, "steps": 24, "batch_size": 4, "log_every": 6, '
    '"checkpoint_every": 4}',
    "syncnet": '{"steps": 24, "checkpoint_every": 4, "batch_size": 2, "stretch": 16}',
}
PARTS = tuple(SETTINGS)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with crops, and each part trained on them without an interruption."""
    folder = tmp_path_factory.mktemp("parts")
    write_crops(folder / "train-000.tar", {name: speaker(seed, 2.0) for seed, name in enumerate("abc", 30)})
    for part in PARTS:
        with started(folder, part, "whole") as job:
            assert job.wait(300) == 0, (folder / "whole.log").read_text()
    return folder


@contextmanager
def started(folder: Path, part: str, name: str) -> Iterator["subprocess.Popen[bytes]"]:
    environment = {k: v for k, v in os.environ.items() if k != ancestors.VARIABLE}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    flags: dict[str, object] = {
        "--crops": folder / "train-000.tar",
        "--source": "train",
        "--settings": SETTINGS[part],
        "--state": state(folder, part, name),
        "--out": folder / f"{part}-{name}",
        "--log": folder / f"{name}.log",
    }
    command = [sys.executable, "-m", "difftalk", part, *(str(x) for pair in flags.items() for x in pair)]
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as job:
        try:
            yield job
        finally:
            job.kill()


def state(folder: Path, part: str, name: str) -> Path:
    return folder / f"state-{part}-{name}"


def files(folder: Path) -> dict[str, bytes]:
    """The content of a model's files; the log has times in it."""
    return {f.name: f.read_bytes() for f in folder.iterdir() if f.name not in ("log.jsonl", "SHA256SUMS")}


def after_checkpoint(folder: Path, job: "subprocess.Popen[bytes]", number: signal.Signals) -> int:
    deadline = time.monotonic() + 120
    while not list(folder.glob("step-*.pt")):
        assert job.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    job.send_signal(number)
    return job.wait(120)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_training_that_was_stopped_ends_with_the_same_bytes(
    part: str, number: signal.Signals, made: Path
) -> None:
    name = number.name
    with started(made, part, name) as job:
        status = after_checkpoint(state(made, part, name), job, number)
    assert status == (-number if number == signal.SIGKILL else 128 + number)
    if number != signal.SIGKILL:
        said = (made / f"{name}.log").read_text()
        assert f"{part}: {number.name}: saved step " in said and "the same command continues" in said
        assert owner_of(state(made, part, name)) is None
    with started(made, part, name) as job:
        assert job.wait(300) == 0, (made / f"{name}.log").read_text()
    assert files(made / f"{part}-{name}") == files(made / f"{part}-whole")


@pytest.mark.parametrize("part", PARTS)
def test_a_finished_part_that_was_thrown_away_is_put_back(part: str, made: Path) -> None:
    model = made / f"{part}-whole"
    before = {file.name: file.read_bytes() for file in model.iterdir()}
    for file in model.iterdir():
        file.unlink()
    model.rmdir()
    with started(made, part, "whole") as job:
        assert job.wait(300) == 0
    assert "this training had come to its end, its model is put back" in (made / "whole.log").read_text()
    assert {file.name: file.read_bytes() for file in model.iterdir()} == before


@pytest.mark.parametrize("part", PARTS)
def test_a_second_training_of_the_same_part_is_refused(part: str, made: Path) -> None:
    with started(made, part, "owned") as job:
        deadline = time.monotonic() + 120
        while owner_of(state(made, part, "owned")) is None:
            assert job.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
        os.kill(job.pid, signal.SIGSTOP)
        with started(made, part, "owned") as second:
            assert second.wait(120) == 2
        assert f"belongs to process {job.pid} on" in (made / "owned.log").read_text()
