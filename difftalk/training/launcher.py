"""The launcher: several processes that train together, signalled and ended as one.

Those of a machine are its own; on several nodes SLURM starts a launcher on each. It stays beside `torchrun`,
whose workers outlive it when it gets SIGKILL, and which exits with 1 whatever status a worker ended with
(`python benchmarks/launchers.py`). The processes find each other by the same variables, so any other launcher
will do as well.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType

from difftalk.runtime import ancestors, device
from difftalk.runtime.errors import UserError
from difftalk.runtime.progress import say
from difftalk.training import slurm
from difftalk.training.signals import STOP_SIGNALS

GRACE_S = 10.0  # after one process has failed, until the others, which would wait for it, are killed
PR_SET_PDEATHSIG = 1  # Linux: the signal that a process gets when its parent dies


def rank() -> int | None:
    """Return the number of this process among those that train together; None without a launcher."""
    given = os.environ.get("RANK")
    return None if given is None else int(given)


def local_rank() -> int:
    """Return the number of this process among those of this machine; 0 without a launcher."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def world_size() -> int:
    """Return the number of processes that train together; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def join(stage: str, processes: int, nodes: int) -> bool:
    """Take part in a training of several processes, as one of them or as what starts them.

    The tasks that `srun` started are one training: each is a process of it, or starts those of its node. A
    process that a launcher started has its variables already.

    Args:
        stage: what is run.
        processes: of each node.
        nodes: how many.

    Returns:
        Whether this process is to start others (`launch`).

    Raises:
        UserError: if `srun` started other tasks than the training has.
        SystemExit: with status 2 in its place, in all but the first of these tasks, which speaks.
    """
    if rank() is not None:
        return False
    step = slurm.step()
    if step is None:
        return processes * nodes > 1
    try:
        _check_tasks(stage, step, processes, nodes)
    except UserError:
        if step.task:
            raise SystemExit(2) from None
        raise
    if processes > 1:
        return True
    number, here = (0, 1) if step.own_gpu else (step.number, step.here)
    os.environ |= slurm.rendezvous() | _variables(step.task, step.tasks, number, here)
    return False


def _check_tasks(stage: str, step: slurm.Step, processes: int, nodes: int) -> None:
    started = f"{stage}: srun started {step.tasks} tasks on {step.nodes} nodes"
    if processes > 1 and step.tasks != step.nodes:
        raise UserError(
            f"{started}, and each would start {processes} processes: either one task a node "
            "(--ntasks-per-node=1), or one a process, with --processes 1"
        )
    if nodes > 1 and step.nodes != nodes:
        raise UserError(f"{started}, and --nodes {nodes} asks for {nodes} (srun --nodes={nodes})")


def check_started(stage: str, processes: int, nodes: int) -> None:
    """Check that as many processes take part as the command asks for.

    Raises:
        UserError: if not.
    """
    started = world_size()
    if started % processes or (nodes > 1 and started != processes * nodes):
        asked = f"--processes {processes}" + (f" --nodes {nodes}" if nodes > 1 else "")
        raise UserError(
            f"{stage}: {asked}, but {started} take part: start them by `difftalk {stage}` or any launcher "
            "that sets WORLD_SIZE and RANK"
        )


def check_devices(stage: str) -> None:
    """Check that each process of this machine has a GPU of its own, or that there is none here.

    Raises:
        UserError: if there are fewer GPUs than processes, or none where one is reserved.
        SystemExit: with status 2 in its place, in all but the first process of this machine, which speaks.
    """
    try:
        device.check_processes(stage, int(os.environ.get("LOCAL_WORLD_SIZE", local_rank() + 1)))
    except UserError:
        if local_rank():
            raise SystemExit(2) from None
        raise


def launch(processes: int, argv: Sequence[str], module: str = "difftalk", nodes: int = 1) -> int:
    """Run a command in several processes that train together, on this machine or on the nodes of a job.

    SIGTERM and SIGUSR1 are forwarded to all. CPU threads (`OMP_NUM_THREADS`) are shared out among those of a
    machine.

    Args:
        processes: how many, of each node.
        argv: arguments of the command.
        module: the command, as `python -m` takes it.
        nodes: how many; of several, SLURM runs this command once on each.

    Returns:
        0, or the exit status of the first that failed; 128 + the signal's number where a signal ended it.

    Raises:
        UserError: if there are to be several nodes, and this is no job of SLURM.
    """
    command = [sys.executable, "-m", module, *argv]
    step = slurm.step()
    if nodes > 1 and step is None:
        # On this node, as SLURM starts the first task here; and none of them is a child of this process.
        place = {"MASTER_PORT": str(_free_port()), ancestors.VARIABLE: ""}
        return _run_together(argv[0], [([*slurm.command_on(nodes), *command], place)])
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = max(1, int(os.environ.get("OMP_NUM_THREADS") or cores) // processes)
    before, world = (0, processes) if step is None else (step.task * processes, step.tasks * processes)
    alone = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    place = (alone if step is None else slurm.rendezvous()) | {"OMP_NUM_THREADS": str(threads)}
    return _run_together(
        argv[0],
        [
            (command, place | _variables(before + number, world, number, processes))
            for number in range(processes)
        ],
    )


def _variables(rank: int, world: int, local_rank: int, local_world: int) -> dict[str, str]:
    """The variables by which torch knows which process this is."""
    values = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": local_rank, "LOCAL_WORLD_SIZE": local_world}
    return {name: str(value) for name, value in values.items()}


def _run_together(stage: str, commands: Sequence[tuple[list[str], dict[str, str]]]) -> int:
    """Run commands, each with variables of its own; see `launch`."""
    children = []
    for command, variables in commands:
        child = subprocess.Popen(
            command,
            env=os.environ | variables,
            preexec_fn=_end_with_parent,  # noqa: PLW1509 - there are no threads yet
        )
        children.append(child)

    def forward(number: int, frame: FrameType | None) -> None:
        for child in children:
            child.send_signal(number)

    for number in STOP_SIGNALS:
        signal.signal(number, forward)
    ancestors.watch()  # now, as `preexec_fn` must not meet its thread

    failed, since = 0, 0.0
    try:
        with ancestors.time_for_checkpoint():
            while None in [child.poll() for child in children]:
                if not failed:
                    failed = next((c.returncode for c in children if c.returncode), 0)
                    since = time.monotonic()
                elif time.monotonic() - since > GRACE_S:
                    break
                time.sleep(0.1)
    finally:
        for child in children:
            child.kill()
            child.wait()
    failed = failed or next((c.returncode for c in children if c.returncode), 0)
    if failed == -signal.SIGKILL:
        of_all = f"one of {len(commands)} processes" if len(commands) > 1 else "what ran it"
        say(
            f"{stage}: {of_all} was killed: most likely the memory was not enough. Run "
            "it with smaller batches, or more memory for the job; the same command continues"
        )
    return failed if failed >= 0 else 128 - failed


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _end_with_parent() -> None:
    """Let the kernel kill this process when its parent dies, however that happens (Linux)."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
