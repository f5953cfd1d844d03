"""The commands of the workflow's rules, and their runs in forked processes, for `benchmarks/damage.py`.

Snakemake says what each rule reads, writes and runs. The processes are forked from one that may have imported
everything (`preload`), which takes a tenth of the time.
"""

import multiprocessing
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

import difftalk

CHECKOUT = Path(difftalk.__file__).resolve().parents[1]
CONFIG = "small.yaml"
# Of what a shard's jobs wait for, and do not read.
DIGEST = ".sha256"
MEMORY_BYTES = 12 << 30  # of one command: a damaged size must not take the machine down
# Variables of the shell that the rules' commands take.
VARIABLES = {
    "$download": "{}", "$max_reject_fraction": "0.6", "$training_processes": "1", "$training_workers": "0",
    "$training_nodes": "1",
}  # fmt: skip


@dataclass(frozen=True)
class Job:
    """The command of a stage.

    Args:
        name: of the rule, with what tells its jobs apart.
        argv: arguments of `difftalk`.
        inputs: files and folders that it reads, relative to `tree`.
        outputs: files and folders that it writes.
        tree: folder with all of these; it runs in a copy.
        cleared: what else is deleted before it runs.
    """

    name: str
    argv: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    tree: Path = field(repr=False)
    cleared: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit status, None for a time limit, and what it wrote to the terminal."""

    status: int | None
    said: str


def jobs_of(tree: Path, config: Mapping[str, object], own_files: Collection[str]) -> list[Job]:
    """Return the jobs of a configuration, as snakemake plans them.

    Args:
        tree: folder of the run.
        config: the whole configuration.
        own_files: files and folders of the user in `tree`.
    """
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        for own in own_files:
            (scratch / own).symlink_to(tree / own)
        (scratch / CONFIG).write_text(yaml.safe_dump(dict(config)))
        # Commands are told of outputs that snakemake has made: it takes these for made.
        for row in _summary(scratch):
            path = scratch / row["output_file"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch() if path.suffix else path.mkdir(exist_ok=True)
            if row["rule"] == "fetch" and not path.suffix:
                digest = path.parents[1] / "plan/shards" / f"{path.name}{DIGEST}"
                digest.parent.mkdir(parents=True, exist_ok=True)
                digest.touch()
        _snakemake(scratch, "--touch", "--forceall")
        rows = _summary(scratch)
    of_log: dict[str, Job] = {}
    for row in rows:
        if row["shellcmd"] == "-":
            continue
        # What is between `${NAME:+` and `}` changes no output: how clips are cropped early.
        log, words = row["log-file(s)"], shlex.split(re.sub(r"\$\{\w+:\+.*?\}", "", row["shellcmd"]))
        argv = tuple(VARIABLES.get(word, word) for word in words[words.index("difftalk") + 1 :])
        if unknown := [word for word in argv if word.startswith("$")]:
            raise RuntimeError(f"{row['rule']}: no value for {unknown}")
        outputs = (*of_log[log].outputs, row["output_file"]) if log in of_log else (row["output_file"],)
        label = " ".join(dict.fromkeys([row["rule"], *Path(log).stem.split(".")]))
        inputs = tuple(
            f for f in row["input-file(s)"].split(",") if f not in ("-", "") and not f.endswith(DIGEST)
        )
        of_log[log] = Job(label, argv, inputs, outputs, tree)
    return list(of_log.values())


def _summary(directory: Path) -> list[dict[str, str]]:
    """What snakemake says of each output: of which rule, from which inputs, by which command."""
    header, *rows = [line.split("\t") for line in _snakemake(directory, "--detailed-summary").splitlines()]
    return [dict(zip(header, row, strict=True)) for row in rows]


def _snakemake(directory: Path, *words: str) -> str:
    where = ["--snakefile", CHECKOUT / "workflow/Snakefile", "--directory", directory]
    command = [sys.executable, "-m", "snakemake", "--cores", "1", *words, *where, "--configfile"]
    targets = ["--", "all", "prepare_all"]
    done = subprocess.run(
        [*map(str, command), str(directory / CONFIG), *targets], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout


def sandbox(job: Job, folder: Path) -> Path:
    """Make `folder` a copy of a job's run, by hard links, in which it has not run yet; return it."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(job.tree, folder, symlinks=True, copy_function=_link, ignore=_not_linked(job.tree))
    for name in (*job.outputs, *job.cleared):
        remove(folder / name)
    return folder


def remove(path: Path) -> None:
    """Delete a file or folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def run_job(job: Job, directory: Path, limit_s: float, until: Callable[[], bool] | None = None) -> Ended:
    """Run the command of a job in a directory; kill it after `limit_s` seconds, or when `until` holds."""
    screen = directory / "terminal.txt"
    process = _server().Process(target=_stage, args=(job.argv, str(directory), str(screen)))
    process.start()
    ends = time.monotonic() + limit_s
    while process.exitcode is None and time.monotonic() < ends and not (until is not None and until()):
        process.join(0.5 if until is None else 0.001)
    status = process.exitcode
    if status is None:
        process.kill()
    process.join()
    said = screen.read_text(errors="backslashreplace") if screen.is_file() else ""
    return Ended(status, said)


def _stage(argv: Sequence[str], directory: str, screen: str) -> None:
    """In a forked process: run one command."""
    os.chdir(directory)
    with open(screen, "wb") as terminal:
        os.dup2(terminal.fileno(), 1)
        os.dup2(terminal.fileno(), 2)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    from difftalk.cli import main

    sys.exit(main(argv))


def preload() -> None:
    """Import, in the process that commands are forked from, all that they import and load."""
    _server().set_forkserver_preload(["preloaded"])


def _server() -> multiprocessing.context.ForkServerContext:
    # It does not take over the import path of this process, but its environment.
    os.environ["PYTHONPATH"] = os.pathsep.join(map(str, (CHECKOUT, Path(__file__).resolve().parent)))
    return multiprocessing.get_context("forkserver")


def _link(source: str, target: str) -> None:
    os.link(source, target, follow_symlinks=False)


def _not_linked(tree: Path) -> Callable[[str, list[str]], set[str]]:
    """Logs are written in place, so they must not be links; sandboxes are in the folder of the run."""

    def ignored(folder: str, names: list[str]) -> set[str]:
        at_top = {"sandboxes", "trees"} if Path(folder) == tree else set()
        return {"logs", "terminal.txt", *at_top} & set(names)

    return ignored
