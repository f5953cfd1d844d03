"""Trainings under SLURM, on a pretended cluster: several tasks and nodes, time limits, cancelled jobs."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pretended_cluster import Cluster, missing
from small_training import difftalk_train, train, weights, write_made

from difftalk.runtime.errors import UserError
from difftalk.training import launcher, slurm

on_cluster = pytest.mark.skipif(bool(missing()), reason=f"no pretended cluster: {missing()}")
# The loss's denominator differs by frame, and so by process.
CHANGES: dict[str, Any] = {"loss_region": "generated", "gradient_clip": 1.0}
# The variables that a process finds as the third task of five on two nodes.
THIRD_OF_FIVE = {
    "SLURM_STEP_NUM_TASKS": "5",
    "SLURM_NTASKS": "5",
    "SLURM_STEP_TASKS_PER_NODE": "2,3",
    "SLURM_PROCID": "2",
    "SLURM_NODEID": "1",
    "SLURM_LOCALID": "0",
    "SLURM_STEP_NODELIST": "gpu[3-4]",
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_ID": "0",
    "MASTER_ADDR": "gpu3",
}
SET = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """`environment(NAME="value")` sets variables; before, there is none of SLURM or a launcher."""
    for name in [name for name in os.environ if name.startswith("SLURM_") or name in SET]:
        monkeypatch.delenv(name)
    before = dict(os.environ)
    yield lambda **variables: os.environ.update(variables)
    os.environ.clear()
    os.environ.update(before)


def test_the_tasks_of_one_srun_are_the_processes_of_one_training(environment: Callable[..., None]) -> None:
    assert slurm.step() is None
    assert not launcher.join("train", 1, 1)
    assert launcher.join("train", 2, 1), "without SLURM it starts them"
    environment(**THIRD_OF_FIVE)
    assert slurm.step() == slurm.Step(5, 2, 2, 3, 0, own_gpu=False)
    assert not launcher.join("train", 1, 1)
    joined = [os.environ[name] for name in SET]
    assert joined[:5] == ["2", "5", "0", "3", "gpu3"]
    assert not launcher.join("train", 1, 1), "as a process that a launcher started"


def test_a_task_that_sees_its_own_gpu_alone_takes_the_first(environment: Callable[..., None]) -> None:
    environment(**THIRD_OF_FIVE, SLURM_GPUS_PER_TASK="1")
    assert not launcher.join("train", 1, 1)
    assert (os.environ["LOCAL_RANK"], os.environ["LOCAL_WORLD_SIZE"]) == ("0", "1")


def test_a_variable_that_a_batch_script_inherited_means_no_other_tasks(
    environment: Callable[..., None],
) -> None:
    environment(**THIRD_OF_FIVE | {"SLURM_NTASKS": "1"})
    assert slurm.step() is None


@pytest.mark.parametrize(
    ("processes", "nodes", "said"),
    [
        (2, 1, "5 tasks on 2 nodes, and each would start 2 processes: either one task a node"),
        (1, 3, "5 tasks on 2 nodes, and --nodes 3 asks for 3"),
    ],
)
def test_other_tasks_than_the_training_has_are_refused(
    environment: Callable[..., None], processes: int, nodes: int, said: str
) -> None:
    environment(**THIRD_OF_FIVE | {"SLURM_PROCID": "0", "SLURM_NODEID": "0"})
    with pytest.raises(UserError, match=said):
        launcher.join("train", processes, nodes)
    environment(**THIRD_OF_FIVE)
    with pytest.raises(SystemExit) as ended:
        launcher.join("train", processes, nodes)
    assert ended.value.code == 2, "the first speaks for all"


def test_several_nodes_need_a_job_of_slurm(environment: Callable[..., None]) -> None:
    assert launcher.join("train", 1, 2)
    with pytest.raises(UserError, match="2 nodes are those of a SLURM job, and this is none"):
        launcher.launch(1, ["train"], nodes=2)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model `one`, trained by one process."""
    folder = write_made(tmp_path_factory.mktemp("made"))
    train(folder, "one", **CHANGES)
    return folder


def difference(made: Path, name: str) -> float:
    """By how much the weights of a model differ from those of `one`, as a part of them."""
    expected, found = weights(made / "one"), weights(made / name)
    moved = torch.cat([(expected[k] - found[k]).flatten() for k in expected])
    return float(moved.norm() / torch.cat([w.flatten() for w in expected.values()]).norm())


def run(cluster: Cluster, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env=cluster.environment, capture_output=True, text=True, check=False, timeout=300
    )


@on_cluster
def test_two_tasks_of_srun_train_the_model_of_one(cluster: Cluster, made: Path) -> None:
    done = run(cluster, "srun", "--ntasks=2", "--gpus=2", *difftalk_train(made, "tasks", 1, **CHANGES))
    assert done.returncode == 0, done.stderr
    assert (made / "tasks.log").read_text().count("2 processes") == 1
    assert difference(made, "tasks") < 1e-3


@on_cluster
def test_two_nodes_of_two_processes_train_the_model_of_one(cluster: Cluster, made: Path) -> None:
    """In a job of two nodes, the command itself starts a launcher on each."""
    command = [*difftalk_train(made, "nodes", 2, **CHANGES), "--nodes", "2"]
    done = run(cluster, "salloc", "--nodes=2", "--ntasks=2", "--gres=gpu:2", *command)
    assert done.returncode == 0, done.stderr
    assert (made / "nodes.log").read_text().count("4 processes") == 1
    assert difference(made, "nodes") < 1e-3


@on_cluster
def test_tasks_that_would_each_start_processes_are_refused_by_one_line(cluster: Cluster, made: Path) -> None:
    done = run(cluster, "srun", "--ntasks=2", *difftalk_train(made, "refused", 2))
    assert done.returncode == 2
    assert done.stderr.count("each would start 2 processes") == 1
    assert not (made / "state-refused").exists()


def submit(cluster: Cluster, made: Path, name: str, *options: str) -> str:
    """Submit a training as a job of the workflow, and wait for its first checkpoint."""
    script = made / f"{name}.sh"
    words = " ".join(f"'{word}'" for word in difftalk_train(made, name, 1, **CHANGES, steps=3000))
    # As the Snakefile announces itself, but for a snakemake that would have to live.
    script.write_text(f"#!/bin/sh\nexport DIFFTALK_SNAKEMAKE='elsewhere 1 1'\nexec srun --ntasks=1 {words}\n")
    options = (*options, f"--output={made / name}.out", "--open-mode=append")
    job = cluster.say("sbatch", "--parsable", "--requeue", *options, str(script))
    until = time.monotonic() + 120
    while slurm.steps_saved(made / f"state-{name}") == 0:
        assert time.monotonic() < until, (made / f"{name}.out").read_text()
        time.sleep(0.2)
    return job.strip()


def ended(cluster: Cluster, job: str, *states: str) -> dict[str, str]:
    """Wait until a job is in one of the states; return what SLURM says of it."""
    until = time.monotonic() + 120
    while (about := cluster.job(job))["JobState"] not in states:
        assert time.monotonic() < until, about
        time.sleep(0.5)
    return about


@on_cluster
def test_a_job_that_slurm_warns_goes_back_into_the_queue_if_it_got_further(
    cluster: Cluster, made: Path
) -> None:
    """As at a time limit, with `--signal=TERM@120`: SLURM signals the steps of a job that runs on."""
    job = submit(cluster, made, "warned")
    cluster.say("scancel", "--signal=TERM", job)
    about = ended(cluster, job, "PENDING")
    assert about["Restarts"] == "1"
    saved = slurm.steps_saved(made / "state-warned")
    assert (
        f"SLURM starts job {job} again, which goes on from step {saved}" in (made / "warned.log").read_text()
    )
    ended(cluster, job, "RUNNING")
    until = time.monotonic() + 120
    while slurm.steps_saved(made / "state-warned") <= saved:
        assert time.monotonic() < until, (made / "warned.out").read_text()
        time.sleep(0.2)
    cluster.say("scancel", job)


@on_cluster
def test_a_job_that_is_cancelled_saves_and_stays_ended(cluster: Cluster, made: Path) -> None:
    job = submit(cluster, made, "cancelled")
    cluster.say("scancel", job)
    assert ended(cluster, job, "CANCELLED")["Restarts"] == "0"
    until = time.monotonic() + 60
    while "SIGTERM: saved step" not in (made / "cancelled.log").read_text():
        assert time.monotonic() < until, (made / "cancelled.out").read_text()
        time.sleep(0.2)
    assert "starts job" not in (made / "cancelled.log").read_text()
