"""Compare launchers of several processes under kills and signals: ours against torchrun.

python benchmarks/launchers.py

Each launcher starts two processes of a dummy training (this file with --worker), which answers SIGUSR1 and
SIGTERM as ours does: it finishes its step and exits with 128 + the signal's number. The output is a table in
Markdown, a row a launcher.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

PROCESSES = 2
STEP_S = 3.0
START_S = 120.0  # to wait for the workers, at most
SEEN_AFTER_S = 10.0  # workers that are still alive so long after their launcher was killed are orphans
HERE = Path(__file__).resolve()
SIGNALS = "SIGTERM,SIGINT,SIGUSR1"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--worker", metavar="FOLDER", type=Path, help="be a worker that writes there")
    parser.add_argument("--status", type=int, help="of a worker: exit with this at once, in rank 0")
    parser.add_argument("--ours", nargs=argparse.REMAINDER, help="start such workers by our launcher")
    args = parser.parse_args()
    if args.worker is not None:
        sys.exit(worker(args.worker, args.status))
    if args.ours is not None:
        from difftalk.training.launcher import launch

        sys.exit(launch(PROCESSES, args.ours, module=HERE.stem))

    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    torchrun += [f"--nproc-per-node={PROCESSES}", "--shutdown-timeout=3600"]
    launchers = {
        "ours": [sys.executable, str(HERE), "--ours"],
        "torchrun": [*torchrun, str(HERE)],
        f"torchrun --signals-to-handle={SIGNALS}": [*torchrun, f"--signals-to-handle={SIGNALS}", str(HERE)],
    }
    columns = ["launcher", "workers left after its SIGKILL"]
    columns += [f"{name}: steps finished, status" for name in ("SIGUSR1", "SIGTERM")]
    columns += [f"a worker exits with {status}" for status in (143, 138, 2)]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)
    for name, command in launchers.items():
        cells = [name, orphans(command)]
        cells += [signalled(command, number) for number in (signal.SIGUSR1, signal.SIGTERM)]
        cells += [exited(command, status) for status in (143, 138, 2)]
        print(f"| {' | '.join(cells)} |", flush=True)


def worker(folder: Path, status: int | None) -> int:
    """Train for ever, in steps that are finished whatever signal comes; return the exit status."""
    noted: list[int] = []
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda number, frame: noted.append(number))
    rank = os.environ["RANK"]
    (folder / f"started-{rank}").write_text(str(os.getpid()))
    if status is not None and rank == "0":
        return status
    while not noted:
        until = time.monotonic() + STEP_S
        while (left := until - time.monotonic()) > 0:
            time.sleep(left)
    (folder / f"finished-{rank}").touch()
    return 128 + noted[0]


def orphans(command: list[str]) -> str:
    """Kill the launcher with SIGKILL and count the workers that outlive it."""

    def kill(job: subprocess.Popen, folder: Path) -> str:
        pids = [int(path.read_text()) for path in folder.glob("started-*")]
        job.kill()
        job.wait()
        deadline = time.monotonic() + SEEN_AFTER_S
        while time.monotonic() < deadline and any(map(is_alive, pids)):
            time.sleep(0.1)
        left = [pid for pid in pids if is_alive(pid)]
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        return f"{len(left)} of {PROCESSES}"

    return while_training(command, kill)


def signalled(command: list[str], number: signal.Signals) -> str:
    """Send the launcher a signal; return the workers that finished their step, and its status."""

    def send(job: subprocess.Popen, folder: Path) -> str:
        pids = [int(path.read_text()) for path in folder.glob("started-*")]
        job.send_signal(number)
        status = job.wait()
        time.sleep(STEP_S + 1)
        finished = len(list(folder.glob("finished-*")))
        for pid in filter(is_alive, pids):
            os.kill(pid, signal.SIGKILL)
        return f"{finished} of {PROCESSES}, {status}"

    return while_training(command, send)


def exited(command: list[str], status: int) -> str:
    """Return the launcher's exit status where rank 0 exits with `status`."""
    with tempfile.TemporaryDirectory() as name:
        arguments = ["--worker", name, "--status", str(status)]
        done = subprocess.run([*command, *arguments], env=environment(), capture_output=True, check=False)
    return str(done.returncode)


def while_training(command: list[str], act: Callable[[subprocess.Popen, Path], str]) -> str:
    """Return what `act` finds with the launcher and the workers' folder, once all are within a step."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with subprocess.Popen(
            [*command, "--worker", name],
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as job:
            deadline = time.monotonic() + START_S
            while len(list(folder.glob("started-*"))) < PROCESSES:
                assert job.poll() is None and time.monotonic() < deadline, "the workers did not start"
                time.sleep(0.05)
            time.sleep(STEP_S / 2)
            return act(job, folder)


def environment() -> dict[str, str]:
    """Return this process's environment, with our package and this file importable."""
    paths = [str(HERE.parents[1]), str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}


def is_alive(pid: int) -> bool:
    """Return whether the process runs, and is not just waiting to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


if __name__ == "__main__":
    main()
