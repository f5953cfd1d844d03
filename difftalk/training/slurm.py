"""What SLURM gave a training: the tasks that `srun` started, the nodes of a job, and its time limit."""

import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from difftalk.runtime import ancestors
from difftalk.runtime.errors import UserError
from difftalk.runtime.progress import say
from difftalk.training.signals import STOP_SIGNALS

# Where the processes meet, in a step that SLURM gave no port: by the numbers of job and step.
FIRST_PORT, PORTS = 15000, 15000
# After one launcher has ended, until those of the other nodes, which would wait for it, are ended.
GRACE_S = 60
TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Step:
    """The tasks that one `srun` started, as one of them sees it.

    Attributes:
        tasks: how many.
        task: number of this one.
        nodes: on how many nodes they are.
        here: how many are on this node.
        number: of this one among those of its node.
        own_gpu: whether SLURM gave each task GPUs of its own.
    """

    tasks: int
    task: int
    nodes: int
    here: int
    number: int
    own_gpu: bool


def step(environment: Mapping[str, str] = os.environ) -> Step | None:
    """Return the step that this process is a task of; None outside of any, and where it is the only task."""
    tasks = int(environment.get("SLURM_STEP_NUM_TASKS", "1"))
    if tasks < 2 or environment.get("SLURM_NTASKS") != str(tasks):
        return None
    counts = tasks_per_node(environment["SLURM_STEP_TASKS_PER_NODE"])
    return Step(
        tasks=tasks,
        task=int(environment["SLURM_PROCID"]),
        nodes=len(counts),
        here=counts[int(environment["SLURM_NODEID"])],
        number=int(environment["SLURM_LOCALID"]),
        own_gpu="SLURM_GPUS_PER_TASK" in environment or "gpu" in environment.get("SLURM_TRES_PER_TASK", ""),
    )


def tasks_per_node(text: str) -> list[int]:
    """Read the tasks of each node, as SLURM writes them.

    >>> tasks_per_node("2(x3),1")
    [2, 2, 2, 1]
    """
    found = re.findall(r"(\d+)(?:\(x(\d+)\))?", text)
    return [int(count) for count, times in found for _ in range(int(times or 1))]


def rendezvous(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return MASTER_ADDR and MASTER_PORT for the tasks of a step: on its first node, the same for all.

    Either is left as it is where it is set.

    Raises:
        UserError: if SLURM does not tell the address of the node.
    """
    place = {name: environment[name] for name in ("MASTER_ADDR", "MASTER_PORT") if environment.get(name)}
    if "MASTER_ADDR" not in place:
        place["MASTER_ADDR"] = _address_of_first(environment["SLURM_STEP_NODELIST"])
    if "MASTER_PORT" not in place:
        number = 31 * int(environment["SLURM_JOB_ID"]) + int(environment["SLURM_STEP_ID"])
        place["MASTER_PORT"] = str(FIRST_PORT + number % PORTS)
    return place


def command_on(nodes: int) -> list[str]:
    """Return what starts one task on each node of the job that this process runs in.

    Raises:
        UserError: if this is no job of SLURM.
    """
    if "SLURM_JOB_ID" not in os.environ:
        raise UserError(
            f"train: {nodes} nodes are those of a SLURM job, and this is none: set training_nodes: 1, submit "
            "it (docs/slurm.md), or start the processes by any launcher that sets WORLD_SIZE and RANK"
        )
    # All CPUs and GPUs that the job has on its nodes; what they are bound to is the launchers' to share out.
    return [
        *("srun", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", "--cpu-bind=none"),
        *("--overlap", f"--wait={GRACE_S}", "--unbuffered", "--input=none"),
    ]


@contextmanager
def requeued_on_warning(stage: str, state: Path | None) -> Iterator[None]:
    """Put a job of the workflow back into the queue, where SLURM warned it and its training got further.

    So a time limit below the length of a training is no failure. A job that is cancelled, or over its limit,
    is not RUNNING any more, and ends.

    Args:
        stage: what trains in the block, until `SystemExit` with 128 + the number of a signal.
        state: folder of its checkpoints; None, or one without any, for what does not train.
    """
    before = steps_saved(state)
    try:
        yield
    except SystemExit as e:
        job = os.environ.get("SLURM_JOB_ID")
        warned = e.code in {128 + number for number in STOP_SIGNALS}
        if job and warned and os.environ.get(ancestors.VARIABLE) and (saved := steps_saved(state)) > before:
            _requeue(stage, job, saved)
        raise


def steps_saved(state: Path | None) -> int:
    """Return the step of the newest checkpoint in a folder; 0 where there is none."""
    if state is None:
        return 0
    found = (re.fullmatch(r"step-(\d+)\.pt", path.name) for path in state.glob("step-*.pt"))
    return max((int(match[1]) for match in found if match), default=0)


def _requeue(stage: str, job: str, reached: int) -> None:
    if _ask("squeue", "--noheader", f"--jobs={job}", "--format=%T") != "RUNNING":
        return
    if _ask("scontrol", "requeue", job) is None:
        say(f"{stage}: SLURM does not start job {job} again (`slurm-requeue: true` in the profile allows it)")
    else:
        say(f"{stage}: SLURM starts job {job} again, which goes on from step {reached}")


def _address_of_first(nodes: str) -> str:
    """The address of the first node of a list such as `gpu[3-4]`, as SLURM itself reaches it."""
    names = (_ask("scontrol", "show", "hostnames", nodes) or "").split()
    about = (_ask("scontrol", "--oneliner", "show", "node", names[0]) if names else None) or ""
    if found := re.search(r"\bNodeAddr=(\S+)", about):
        return found[1]
    raise UserError(f"train: SLURM does not tell the address of the first of {nodes}: set MASTER_ADDR to it")


def _ask(*command: str) -> str | None:
    """What a command of SLURM printed; None where it failed or there is none."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=TIMEOUT_S)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
