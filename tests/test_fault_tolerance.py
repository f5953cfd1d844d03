"""Fault tolerance of training: signals, damaged files, full disks, edited settings, bad data."""

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from conftest import files_no_larger_than
from small_training import TINY, difftalk_train, train, weights, write_made
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from difftalk.media.shards import read_shard, write_shard
from difftalk.models.examples import LatentClips
from difftalk.runtime.errors import UserError
from difftalk.training.checkpoint import differences, resume, save_checkpoint
from difftalk.training.data import frames_of_batch


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model `whole`: `TINY`, trained without interruption."""
    folder = write_made(tmp_path_factory.mktemp("made"))
    train(folder, "whole")
    return folder


def checkpoints(made: Path, name: str) -> list[int]:
    """Return the steps of the checkpoints of a model that is being trained."""
    return sorted(int(p.stem[5:]) for p in (made / f"state-{name}").glob("step-*.pt"))


@contextmanager
def signalled(made: Path, name: str, number: signal.Signals, after: int) -> Iterator[None]:
    """Send this process the signal as soon as the checkpoint of step `after` is there."""
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            if any(step >= after for step in checkpoints(made, name)):
                os.kill(os.getpid(), number)
                return
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()


def same_weights(first: Path, second: Path) -> bool:
    expected, found = weights(first), weights(second)
    return expected.keys() == found.keys() and all(torch.equal(expected[k], found[k]) for k in expected)


def test_signals_save_the_step_under_way_and_the_rest_follows_bit_for_bit(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, usual = "signalled", signal.getsignal(signal.SIGUSR1)
    for number, after in ((signal.SIGTERM, 2), (signal.SIGUSR1, 4)):
        with (
            signalled(made, name, number, after),
            pytest.raises(SystemExit) as ended,
        ):
            train(made, name)
        assert ended.value.code == 128 + number
        assert f"{number.name}: saved step {checkpoints(made, name)[-1]} (" in capsys.readouterr().err
        lines = [json.loads(x) for x in (made / f"state-{name}" / "log.jsonl").read_text().splitlines()]
        assert len(lines) >= after / TINY["log_every"]
        assert [line["step"] for line in lines] == [2, 4, 6][: len(lines)]
    assert signal.getsignal(signal.SIGUSR1) is usual, "outside the loop, signals mean what they did"
    model = train(made, name)
    assert same_weights(made / "whole", model)
    lines = [json.loads(line) for line in (model / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6, 8]


def test_processes_that_prepare_batches_do_not_hold_up_the_end(made: Path) -> None:
    """Workers ignore signals: at its exit, Python would wait for them for ever."""
    command = [*difftalk_train(made, "prepared", 1, steps=5000), "--data-workers", "1"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as job:
        while not checkpoints(made, "prepared"):
            assert job.poll() is None, (made / "prepared.log").read_text()
            time.sleep(0.05)
        job.send_signal(signal.SIGTERM)
        try:
            assert job.wait(60) == 128 + signal.SIGTERM
        finally:
            job.kill()


def test_two_processes_train_the_model_of_one_with_twice_the_batch_though_signalled(made: Path) -> None:
    """Two gloo processes of 2 x 1 frames against one of 4; the loss's denominator differs by frame."""
    changes: dict[str, Any] = {"loss_region": "generated", "gradient_clip": 1.0, "steps": 12}
    one = train(made, "one", **changes)
    command = difftalk_train(made, "two", 2, gradient_accumulation_steps=2, **changes)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as job:
        while not checkpoints(made, "two"):
            assert job.poll() is None, (made / "two.log").read_text()
            time.sleep(0.005)
        job.send_signal(signal.SIGTERM)
        said = job.communicate(timeout=60)[1]
    assert job.returncode == 143, said
    assert said.count("SIGTERM: saved step") == 1, "one of them speaks for both"
    subprocess.run(command, check=True, capture_output=True)

    logs = [[json.loads(x) for x in (m / "log.jsonl").read_text().splitlines()] for m in (one, made / "two")]
    assert [line["step"] for line in logs[1]] == [2, 4, 6, 8, 10, 12]
    for ours, theirs in zip(*logs, strict=True):
        # The same sums in another order: float32 rounding. Another batch or other noise would differ in the
        # first digit.
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
    expected, found = weights(one), weights(made / "two")
    moved = torch.cat([(expected[k] - found[k]).flatten() for k in expected])
    trained = torch.cat([w.flatten() for w in expected.values()])
    # Adam makes a full step of a gradient that is nothing but rounding, such as that of a bias before a norm.
    assert moved.norm() / trained.norm() < 1e-3


def test_processes_end_with_what_started_them(made: Path) -> None:
    with subprocess.Popen(difftalk_train(made, "orphans", 2), stderr=subprocess.DEVNULL) as job:
        listed = ["ps", "-o", "pid=", "--ppid", str(job.pid)]
        pids: list[int] = []
        while len(pids) < 2:
            assert job.poll() is None
            shown = subprocess.run(listed, capture_output=True, text=True, check=False).stdout
            pids = [int(pid) for pid in shown.split()]
        time.sleep(0.5)
        job.kill()
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline, "they outlived it"
        time.sleep(0.05)


def descendants(job: subprocess.Popen[Any], words: str, count: int) -> list[psutil.Process]:
    """Wait for processes below `job` whose command lines hold some words."""
    while True:
        assert job.poll() is None
        found = psutil.Process(job.pid).children(recursive=True)
        if len(found := [p for p in found if words in " ".join(p.cmdline())]) >= count:
            return found
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("processes", "status", "sentence"),
    [
        (1, 2, "difftalk train: a process that prepares batches was killed (DataLoader worker"),
        (2, 137, "train: one of 2 processes was killed: most likely the memory was not enough"),
    ],
)
def test_a_process_that_the_system_killed_says_memory(
    processes: int, status: int, sentence: str, made: Path
) -> None:
    name = f"killed-{processes}"
    with subprocess.Popen(
        difftalk_train(made, name, processes, steps=5000), stderr=subprocess.PIPE, text=True
    ) as job:
        while not checkpoints(made, name):
            assert job.poll() is None, (made / f"{name}.log").read_text()
            time.sleep(0.05)
        # The worker that prepares batches, or one of the two that train.
        descendants(job, "difftalk train", 1)[0].kill()
        said = job.communicate(timeout=60)[1]
    assert job.returncode == status, said
    assert sentence in said and "Traceback" not in said


def test_worker_processes_change_no_bit_and_a_strip_changes_none(made: Path, tmp_path: Path) -> None:
    model = train(made, "strips", curves=tmp_path / "curves", data_workers=2, samples_every=4)
    assert same_weights(made / "whole", model)
    board = EventAccumulator(str(tmp_path / "curves")).Reload()
    assert [e.step for e in board.Scalars("train/loss")] == [2, 4, 6, 8]
    strips = board.Images("target | masked | reference | generated")
    assert [(e.step, e.width, e.height) for e in strips] == [(s, 4 * 16, 4 * 16) for s in (4, 8)]


def start(made: Path, name: str, **changes: Any) -> int:
    """Begin a training and end it at its first checkpoint; return the step it got to."""
    with signalled(made, name, signal.SIGTERM, 2), pytest.raises(SystemExit):
        train(made, name, **changes)
    return checkpoints(made, name)[-1]


def test_another_configuration_is_refused_with_the_keys_that_differ(made: Path) -> None:
    start(made, "edited")
    wanted = (
        r"ema_decay 0\.5 -> 0\.9; learning_rate 0\.001 -> 0\.002\. .* delete .*state-edited to start afresh"
    )
    with pytest.raises(UserError, match=wanted):
        train(made, "edited", learning_rate=2e-3, ema_decay=0.9)
    assert checkpoints(made, "edited"), "nothing is deleted"
    with pytest.raises(UserError, match="steps 8 -> 9"):
        train(made, "edited", final_lr_fraction=0.5, steps=9)


def test_more_steps_and_how_it_runs_may_change(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start(made, "extended", steps=8)
    model = train(made, "extended", steps=10, log_every=1, checkpoint_every=3)
    said = capsys.readouterr().err
    assert "changed since: checkpoint_every 2 -> 3; log_every 2 -> 1; steps 8 -> 10" in said
    assert same_weights(train(made, "ten", steps=10), model)


def test_edited_code_is_refused_unless_it_is_accepted(made: Path) -> None:
    start(made, "coded")
    for path in (made / "state-coded").glob("step-*.pt"):
        checkpoint = torch.load(path, weights_only=True)
        origin = json.loads(checkpoint["provenance"])
        checkpoint["provenance"] = json.dumps(origin | {"code": "0" * 64})
        torch.save(checkpoint, path)
    with pytest.raises(UserError, match="code: the training's was edited"):
        train(made, "coded")
    assert same_weights(made / "whole", train(made, "coded", accept_changed_code=True))


def test_a_finished_model_that_was_thrown_away_is_put_back(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = weights(train(made, "discarded", steps=2))
    shutil.rmtree(made / "discarded")
    after = weights(train(made, "discarded", steps=2, log_every=1))
    assert "its model is put back" in capsys.readouterr().err
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)
    train(made, "discarded", steps=2, learning_rate=2e-3)
    assert "put back" not in capsys.readouterr().err, "another one is trained, and not refused"


def test_other_data_is_named() -> None:
    assert list(differences('{"data": "a", "settings": {"x": 1}}', '{"data": "b", "settings": {}}')) == [
        "x",
        "data",
    ]
    assert differences('{"settings": {"x": 1}}', '{"settings": {}}') == {"x": "x 1 -> absent"}


def test_with_one_wrong_bit_in_the_newest_checkpoint_the_one_before_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (1, 2):
        save_checkpoint(tmp_path, step, "{}", {"x": torch.full((100_000,), float(step))})
    newest = tmp_path / "step-00000002.pt"
    content = bytearray(newest.read_bytes())
    content[200_000] ^= 1
    newest.write_bytes(content)
    found = resume(tmp_path, "{}")
    assert found is not None and found["step"] == 1
    assert "step-00000002.pt: damaged" in capsys.readouterr().err


def test_without_room_the_last_checkpoint_is_intact_and_the_training_goes_on_later(made: Path) -> None:
    reached = start(made, "full")
    with (
        files_no_larger_than(20_000),
        pytest.raises(UserError, match=r"step-\d+\.pt could not be written: the file"),
    ):
        train(made, "full")
    assert checkpoints(made, "full")[-1] == reached
    assert [p.name for p in (made / "state-full").iterdir() if ".part" in p.name] == []
    assert same_weights(made / "whole", train(made, "full"))


def test_bad_data_stops_the_training_with_the_batch_and_the_last_good_checkpoint(
    made: Path, tmp_path: Path
) -> None:
    samples = dict(read_shard(made / "train-000.tar"))
    samples["b"]["latents.npy"][:, 0, 0, 0] = np.where(np.arange(70) == 33, np.nan, 0)
    write_shard(tmp_path / "train-000.tar", samples.items())
    (tmp_path / "autoencoder").symlink_to(made / "autoencoder")
    # In clips of 70 frames, 33 is no reference: the first step that shows it is the one that trains on it.
    clips = LatentClips([tmp_path / "train-000.tar"], neighbours=8)
    bad = next(s for s in range(100) if (1, 33) in frames_of_batch(clips, TINY["batch_size"], s, seed=1))
    last = bad - bad % TINY["checkpoint_every"]
    assert last > 0, "there is a good checkpoint to name"
    with pytest.raises(UserError) as raised:
        train(tmp_path, "bad", steps=100)
    said = str(raised.value)
    assert f"loss became nan at step {bad}, " in said
    assert f"The last good checkpoint is {tmp_path}/state-bad/step-{last:08d}.pt. " in said
    assert checkpoints(tmp_path, "bad")[-1] == last
    named = said.split("frames: ")[1].split(". The last")[0]
    assert sum(len(of_clip.split(",")) for of_clip in named.split(";")) == TINY["batch_size"]
    assert "\n" not in said
    for path in (tmp_path / "state-bad").glob("step-*.pt"):
        held = torch.load(path, weights_only=True)["model"]
        assert all(torch.isfinite(w).all() for w in held.values())


def test_a_batch_that_cannot_be_shared_out_evenly_is_refused(made: Path) -> None:
    with pytest.raises(
        UserError, match=r"batch_size 4 .* multiple of 1 processes x training\.gradient_accumulation_steps 3"
    ):
        train(made, "uneven", gradient_accumulation_steps=3)


def test_processes_that_were_not_started_are_refused(made: Path) -> None:
    with pytest.raises(UserError, match="--processes 2, but 1 take part"):
        train(made, "alone", processes=2)
