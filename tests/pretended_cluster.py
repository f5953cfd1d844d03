"""A SLURM cluster on this one machine, on loopback, in a folder of its own; its GPUs are links to /dev/null.

SLURM grants, queues and refuses as a real one does, sets CUDA_VISIBLE_DEVICES, and runs jobs as processes
here. Needs Debian's `slurm-wlm` and `munge`, and root, as the daemons change users.

    python tests/pretended_cluster.py FOLDER

starts one for trying things by hand, says what to export, and ends it at Ctrl-C or SIGTERM.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun")
SBIN = "/usr/sbin:/sbin:/usr/local/sbin"
NODES, GPUS_OF_NODE, CPUS_OF_NODE, MEMORY_MB = 3, 4, 64, 256_000
STARTS_IN_S = 30.0

SLURM_CONF = """\
ClusterName=pretended
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
StateSaveLocation={folder}/state
SlurmdPidFile={folder}/%n.pid
SlurmdLogFile={folder}/%n.log
SlurmdSpoolDir={folder}/spool.%n
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=6
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0
SlurmdParameters=config_overrides
SwitchType=switch/none
ReturnToService=2
KillWait=10
DefMemPerCPU=2000
OverTimeLimit=0
GresTypes=gpu
NodeName=n[1-{nodes}] NodeHostName={host} NodeAddr=127.0.0.1 Port=[{first_port}-{last_port}] \
CPUs={cpus} RealMemory={memory_mb} Gres=gpu:{gpus} State=UNKNOWN
PartitionName=cpu Nodes=ALL Default=YES MaxTime=INFINITE State=UP
PartitionName=gpu Nodes=ALL MaxTime=INFINITE State=UP
"""

# First in the PATH, as the plugin's jobs lose SLURM_CONF. Of each submission, the arguments are kept.
CLIENTS = ("sbatch", "srun", "salloc", "squeue", "scancel", "scontrol", "sinfo", "sacct")
CLIENT = """\
#!/bin/sh
{keep}SLURM_CONF={folder}/slurm.conf exec {program} "$@"
"""
KEEP = """printf '%s\\0' "$@" > {folder}/submissions/$(date +%s%N).$$
"""


def missing() -> str:
    """Say why no cluster can be pretended here; empty where one can."""
    path = f"{os.environ.get('PATH', '')}:{SBIN}"
    lacking = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    if lacking:
        return f"no {', '.join(lacking)} (Debian: apt-get install slurm-wlm munge)"
    return "" if os.geteuid() == 0 else "the daemons of SLURM need root"


@dataclass(frozen=True)
class Cluster:
    """A pretended cluster that runs.

    Attributes:
        folder: its configuration, logs and state.
        environment: of a process that is to use it.
    """

    folder: Path
    environment: dict[str, str]

    def say(self, *command: str) -> str:
        """Run a command with this cluster, such as `squeue`, and return what it printed."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=True, timeout=60
        )
        return done.stdout

    def submissions(self) -> list[list[str]]:
        """The arguments of each `sbatch` so far, but for the script, in their order."""
        found = []
        for file in sorted((self.folder / "submissions").iterdir()):
            words = file.read_text().removesuffix("\0").split("\0")
            found.append([word for word in words if not word.startswith("--wrap")])
        return found

    def job(self, number: str | int) -> dict[str, str]:
        """What `scontrol show job` says of a job, by key."""
        words = self.say("scontrol", "--oneliner", "show", "job", str(number)).split()
        return dict(word.split("=", 1) for word in words if "=" in word)


@contextmanager
def pretended_cluster(folder: Path) -> Iterator[Cluster]:
    """Run a cluster in a folder, and end it and its jobs.

    Raises:
        RuntimeError: if it does not start.
    """
    folder = folder.absolute()
    for name in ("munge", "state", "bin", "submissions", *(f"spool.n{n}" for n in range(1, NODES + 1))):
        (folder / name).mkdir(parents=True, mode=0o755)
    host = socket.gethostname().partition(".")[0]
    ports = _free_ports(NODES + 1)
    values = {
        "folder": folder, "host": host, "port": ports[-1], "nodes": NODES, "gpus": GPUS_OF_NODE,
        "first_port": ports[0], "last_port": ports[NODES - 1], "cpus": CPUS_OF_NODE, "memory_mb": MEMORY_MB,
    }  # fmt: skip
    (folder / "slurm.conf").write_text(SLURM_CONF.format(**values))
    devices = [folder / f"gpu{number}" for number in range(GPUS_OF_NODE)]
    for device in devices:
        device.symlink_to("/dev/null")  # not a file: of what is no device, no job gets the number
    (folder / "gres.conf").write_text(f"Name=gpu File={folder}/gpu[0-{GPUS_OF_NODE - 1}]\n")
    path = f"{os.environ['PATH']}:{SBIN}"
    for name in CLIENTS:
        keep = KEEP.format(folder=folder) if name == "sbatch" else ""
        client = folder / "bin" / name
        client.write_text(CLIENT.format(folder=folder, keep=keep, program=shutil.which(name, path=path)))
        client.chmod(0o755)
    # What a test is run under, such as in a job of another cluster, is not for the jobs of this one.
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_", "SRUN_"))}
    environment = kept | {"PATH": f"{folder / 'bin'}:{path}", "SLURM_CONF": str(folder / "slurm.conf")}
    cluster = Cluster(folder, environment)
    with ExitStack() as daemons:
        daemons.callback(_end_jobs, cluster)
        for command in _daemons(folder):
            daemons.enter_context(_daemon(command, environment))
        _wait_for_nodes(cluster)
        daemons.callback(_cancel, cluster)
        yield cluster


def _daemons(folder: Path) -> list[list[str]]:
    munge = folder / "munge"
    (munge / "key").write_bytes(secrets.token_bytes(128))
    (munge / "key").chmod(0o600)
    files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    options = [f"--{option}={munge / name}" for option, name in files.items()]
    nodes = [["slurmd", "-D", "-N", f"n{number}"] for number in range(1, NODES + 1)]
    return [["munged", "--foreground", "--force", *options], ["slurmctld", "-D"], *nodes]


@contextmanager
def _daemon(command: list[str], environment: dict[str, str]) -> Iterator[None]:
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    if command[0] == "munged":
        time.sleep(0.5)
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for_nodes(cluster: Cluster) -> None:
    until = time.monotonic() + STARTS_IN_S
    said = ""
    while time.monotonic() < until:
        try:
            said = cluster.say("sinfo", "--noheader", "--Node", "--partition=cpu", "--format=%N %T")
        except subprocess.CalledProcessError as e:
            said = e.stderr
        if said.count(" idle\n") == NODES:
            return
        time.sleep(0.2)
    logs = [f"{log.name}: {log.read_text()[-1500:]}" for log in sorted(cluster.folder.glob("*.log"))]
    raise RuntimeError(f"the pretended cluster did not start: {said}\n" + "\n".join(logs))


def _cancel(cluster: Cluster) -> None:
    """Cancel all jobs, and wait until none is left."""
    until = time.monotonic() + 30
    subprocess.run(["scancel", "--me"], env=cluster.environment, capture_output=True, check=False)
    while time.monotonic() < until and cluster.say("squeue", "--noheader").strip():
        subprocess.run(
            ["scancel", "--me", "--signal=KILL", "--full"],
            env=cluster.environment,
            capture_output=True,
            check=False,
        )
        time.sleep(0.5)


def _end_jobs(cluster: Cluster) -> None:
    """End what the daemons have left: their step managers and the processes of jobs."""
    mark = f"SLURM_CONF={cluster.folder / 'slurm.conf'}".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            variables = (entry / "environ").read_bytes().split(b"\0")
            name = (entry / "comm").read_text().strip()
        except OSError:
            continue
        is_of_job = any(variable.startswith(b"SLURM_JOB_ID=") for variable in variables)
        if mark in variables and (is_of_job or name in ("slurmstepd", "srun")):
            os.kill(int(entry.name), signal.SIGKILL)


def _free_ports(count: int) -> list[int]:
    """Return ports that follow one another, and that nobody listens on."""
    for first in range(17001, 32000, count):
        with ExitStack() as held:
            try:
                for port in range(first, first + count):
                    held.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return list(range(first, first + count))
    raise RuntimeError("no free ports")


def main() -> None:
    """Run a cluster until SIGINT or SIGTERM."""
    if lacking := missing():
        sys.exit(f"pretended_cluster: {lacking}")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit())
    with pretended_cluster(Path(sys.argv[1])) as cluster:
        configuration = cluster.environment["SLURM_CONF"]
        print(f"export SLURM_CONF={configuration} PATH={cluster.folder / 'bin'}:$PATH:{SBIN}", flush=True)
        signal.pause()


if __name__ == "__main__":
    main()
