"""Whole runs on a pretended SLURM cluster, with what happens to them on a real one."""

import csv
import importlib.util
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import ROOT, command, snakemake
from pretended_cluster import GPUS_OF_NODE, Cluster, missing
from small_training import weights

LACKING = missing() or (
    "" if importlib.util.find_spec("snakemake_executor_plugin_slurm") else 'no plugin: pip install ".[slurm]"'
)
pytestmark = [
    pytest.mark.slurm_run,
    pytest.mark.skipif(bool(LACKING), reason=f"no pretended cluster: {LACKING}"),
]

PROFILE = ROOT / "workflow" / "profiles" / "slurm" / "profile.yaml"
CONDITIONS = {"conditions": ["audio", "landmarks", "masked", "reference"], "smoothing": True}
# The embedded demo in small, in shards enough for a group.
DEMO: dict[str, Any] = {
    "run": "demo",
    "dataset": {
        "identities": {"train": 2, "test": 2},
        "clips_per_identity": 1,
        "clip_seconds": 5.2,
        "size": 192,
    },
    "shards": {"train": 1, "test": 2},
    "training": {
        "channels": [32, 64],
        "steps": 1200,
        "batch_size": 4,
        "log_every": 50,
        "checkpoint_every": 50,
    },
    "experiments": {"difftalk": CONDITIONS, "no_audio": None},
    "sampling": {"steps": 2},
    "evaluation": {"cross_driven": []},
}
EIGHT = {"training": {"steps": 10}, "seeds": [*range(1, 9)]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the runs, with their configuration `demo.yaml`."""
    made = tmp_path_factory.mktemp("run")
    (made / "demo.yaml").write_text(yaml.safe_dump(DEMO))
    return made


def profile_for(folder: Path, name: str, train: dict[str, Any]) -> Path:
    """The profile of the workflow, for a site without accounting and a test that does not wait for it.

    The demo runs on CPUs, so that the GPUs which `gpu: 1` would ask for are asked for here.
    """
    profile = yaml.safe_load(PROFILE.read_text())
    for option in ("slurm-efficiency-report", "slurm-efficiency-report-path"):
        del profile[option]
    profile |= {
        "slurm-status-command": "squeue",
        "slurm-init-seconds-before-status-checks": 4,
        "seconds-between-status-checks": 4,
        "latency-wait": 10,
    }
    for rule in ("landmarks", "encode", "sample", "score"):
        profile["set-resources"][rule]["gpu"] = 1
    profile["set-resources"]["train"] |= train
    (folder / name).mkdir()
    (folder / name / "profile.yaml").write_text(yaml.safe_dump(profile))
    return folder / name


def start(cluster: Cluster, folder: Path, profile: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """Start a head; what it says is added to `head.log`."""
    given = command(*arguments, "--configfile", folder / "demo.yaml", directory=folder)
    given = [word for word in given if word not in ("--cores", "2")] + ["--workflow-profile", str(profile)]
    with (folder / "head.log").open("ab") as log:
        return subprocess.Popen(
            given, stdout=log, stderr=subprocess.STDOUT, env=cluster.environment, cwd=folder
        )


def finish(cluster: Cluster, folder: Path, profile: Path, *arguments: str, limit_s: float = 1200) -> None:
    head = start(cluster, folder, profile, *arguments)
    try:
        assert head.wait(limit_s) == 0, (folder / "head.log").read_text()[-5000:]
    finally:
        head.kill()
        head.wait()


def running(cluster: Cluster, rule: str) -> list[str]:
    """The jobs of a rule or group that run."""
    lines = cluster.say("squeue", "--noheader", "--states=RUNNING", "--format=%i %k").splitlines()
    return [line.split()[0] for line in lines if line.split()[1].startswith(f"rule_{rule}")]


def submissions_of(cluster: Cluster, rule: str) -> list[str]:
    """What `sbatch` was asked for by the jobs of a rule or group."""
    lines = [" ".join(words) for words in cluster.submissions()]
    return [line for line in lines if f"--comment rule_{rule}" in line]


def figures(table: Path) -> list[dict[str, str]]:
    """The rows of a table, without how fast samples were made."""
    with table.open(newline="") as file:
        return [
            {k: v for k, v in row.items() if not k.startswith("method_fps")} for row in csv.DictReader(file)
        ]


def kill_step(job: str) -> bool:
    """SIGKILL for the processes of the first step of a job; whether there were any yet."""
    marks = (f"SLURM_JOB_ID={job}".encode(), b"SLURM_STEP_ID=0")
    killed = False
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            variables = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if all(mark in variables for mark in marks):
            os.kill(int(entry.name), signal.SIGKILL)
            killed = True
    return killed


def test_a_run_through_all_that_happens_has_the_tables_of_a_local_one(
    cluster: Cluster, folder: Path, tmp_path: Path
) -> None:
    """A cancelled job, a killed head, a drained node, a killed step, and two time limits and more."""
    profile = profile_for(
        folder, "profile", {"gpu": 1, "runtime": 2, "slurm_extra": "'--signal=TERM@30 --open-mode=append'"}
    )
    happened: dict[str, str] = {}

    def once(what: str, rule: str, act: Callable[[str], object]) -> None:
        if what not in happened and (jobs := running(cluster, rule)) and act(jobs[0]) is not False:
            happened[what] = jobs[0]

    restarts: dict[str, int] = {}
    head = start(cluster, folder, profile, "tables")
    until = time.monotonic() + 1500
    try:
        while head.poll() is None:
            assert time.monotonic() < until, (folder / "head.log").read_text()[-5000:]
            once("cancelled", "fetch", lambda job: cluster.say("scancel", job))
            once("step killed", "encode", kill_step)
            once(
                "drained",
                "cut",
                lambda job: cluster.say("scontrol", "update", "node=n2", "state=drain", "reason=test"),
            )
            for job in running(cluster, "train"):
                restarts[job] = int(cluster.job(job)["Restarts"])
            if "head killed" not in happened and running(cluster, "landmarks"):
                head.kill()
                head.wait()
                happened["head killed"] = ""
                unlock = command("--unlock", "--configfile", folder / "demo.yaml", directory=folder)
                subprocess.run(unlock, cwd=folder, check=True, capture_output=True)
                head = start(cluster, folder, profile, "tables")
            time.sleep(0.5)
        said = (folder / "head.log").read_text()
        assert head.returncode == 0, said[-5000:]
    finally:
        head.kill()
        head.wait()
        if "drained" in happened:
            cluster.say("scontrol", "update", "node=n2", "state=resume")
    assert happened.keys() == {"cancelled", "step killed", "drained", "head killed"}
    assert "Error in rule encode" in said and "Error in rule fetch" in said, "both were retried"
    assert "Error in rule train" not in said
    assert max(restarts.values()) >= 2, "the time limit is shorter than the training"

    local = snakemake("tables", "--configfile", folder / "demo.yaml", directory=tmp_path)
    assert local.status == 0, local.said
    expected = sorted((tmp_path / "results/demo/tables").glob("*.csv"))
    assert expected
    for table in expected:
        assert figures(folder / "results/demo/tables" / table.name) == figures(table), table.name

    (train,) = {re.sub(r"^.*-p ", "-p ", line) for line in submissions_of(cluster, "train")}
    assert "-p gpu -t 2 --mem 4000 --nodes=1 --requeue" in train
    assert "--signal=TERM@30 --open-mode=append" in train
    assert train.endswith("--gpus=1")
    groups = submissions_of(cluster, "evaluate_")
    assert len(groups) >= 5, "one for each method"
    for group in groups:
        # Two shards, each sampled in 20 minutes and scored in 10, one after the other: of one GPU, not two.
        assert "-t 60 --mem 4000 --nodes=1" in group
        assert group.endswith("--gpus=1")


def test_a_training_on_two_nodes_has_the_weights_of_one_on_one(cluster: Cluster, folder: Path) -> None:
    """After the run above, with the same data; each node has two of its GPUs and one process a GPU."""
    short = CONDITIONS | {"training": {"steps": 12, "checkpoint_every": 12}}
    (folder / "demo.yaml").write_text(yaml.safe_dump(DEMO | {"experiments": {"one": short, "two": short}}))
    profile = profile_for(folder, "two", {"gpu": 0})
    finish(cluster, folder, profile, "results/demo/models/one")
    several = ("--config", "training_nodes=2", "training_processes=2")
    finish(cluster, folder, profile, "results/demo/models/two", *several)
    assert "--nodes=2 --requeue --ntasks=2" in submissions_of(cluster, "train_wildcards_two")[0]
    assert "4 processes" in (folder / "results/demo/logs/train/two.log").read_text()
    expected, found = (weights(folder / "results/demo/models" / name) for name in ("one", "two"))
    moved = torch.cat([(expected[k] - found[k]).flatten() for k in expected])
    assert moved.norm() / torch.cat([w.flatten() for w in expected.values()]).norm() < 1e-3


def test_eight_trainings_take_turns_on_the_four_gpus_of_a_node(cluster: Cluster, folder: Path) -> None:
    experiments = DEMO["experiments"] | {"eight": CONDITIONS | EIGHT}
    (folder / "demo.yaml").write_text(yaml.safe_dump(DEMO | {"experiments": experiments}))
    profile = profile_for(folder, "eight", {"gpu": 1, "slurm_extra": "'--nodelist=n3'"})
    head = start(cluster, folder, profile, "train_all")
    most = 0
    until = time.monotonic() + 900
    try:
        while head.poll() is None:
            assert time.monotonic() < until, (folder / "head.log").read_text()[-5000:]
            shown = cluster.say("scontrol", "--oneliner", "--details", "show", "job").splitlines()
            devices = [
                re.search(r"GRES=gpu:1\(IDX:(\d)\)", line)
                for line in shown
                if "JobState=RUNNING" in line and "rule_train" in line
            ]
            numbers = [found[1] for found in devices if found]
            assert len(set(numbers)) == len(numbers), "two trainings on one GPU"
            most = max(most, len(numbers))
            time.sleep(0.5)
    finally:
        head.kill()
        head.wait()
    assert head.returncode == 0, (folder / "head.log").read_text()[-5000:]
    assert most == GPUS_OF_NODE


def test_without_accounting_the_head_says_so_and_ends(cluster: Cluster, folder: Path) -> None:
    given = command("plan", "--forceall", "--workflow-profile", PROFILE.parent, directory=folder)
    done = subprocess.run(
        given, cwd=folder, env=cluster.environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode != 0
    assert "sacct does not tell how jobs end" in done.stdout + done.stderr
    assert "slurm-status-command: squeue" in done.stdout + done.stderr
