"""Kill whole runs of the workflow at random moments: does the same command end with the same bytes?

python benchmarks/kill_runs.py --kills 200

The smallest run that goes through every stage is done once undisturbed. Then it is killed again and again,
in six ways, and started by the same command, until there were as many kills; a run that comes to its end is
compared with the undisturbed one, file by file, and begun afresh. Processes that are still there ten seconds
after a kill are orphans: they are counted, and killed. The output ends with a table in Markdown.
"""

import argparse
import atexit
import csv
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from contextlib import suppress
from pathlib import Path

import psutil
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "tests" / "config" / "tiny.yaml"
RUN = Path("results", "tiny")
MARK = "KILL_RUNS"  # an environment variable that every process of a run inherits
ORPHAN_AFTER_S = 10.0
KINDS = (
    "SIGKILL of snakemake",
    "SIGKILL of all its processes",
    "SIGKILL of one process below it",
    "SIGTERM of snakemake",
    "SIGINT of snakemake",
    "SIGINT of all its processes",
)
# Times, and what says how fast the machine was.
NOT_COMPARED = ("logs", "benchmarks", "state")
SPEEDS = {"images_per_s", "data_wait", "seconds"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--longest", type=float, default=15.0, help="seconds until a kill, at most")
    parser.add_argument("--whole", type=Path, help="folder of an undisturbed run of before")
    parser.add_argument("--config", nargs="*", default=[], help="as of snakemake, for all runs")
    args = parser.parse_args()
    asked = ["--cores", str(args.cores), *(["--config", *args.config] if args.config else [])]
    rng = random.Random(args.seed)
    # A shell may have it ignored in the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))

    with tempfile.TemporaryDirectory() as name:
        folder, whole = Path(name, "killed"), args.whole or Path(name, "whole")
        if args.whole is None:
            began = time.monotonic()
            undisturbed, _ = start(whole, asked)
            assert undisturbed.wait() == 0, tail(whole)
            print(f"undisturbed: {time.monotonic() - began:.0f} s", flush=True)

        kills, orphans = Counter[str](), Counter[str]()
        differing, leftovers = set[str](), set[str]()
        finished, at_end, is_hurt = 0, False, False
        head: subprocess.Popen[bytes] | None = None
        status: int | None
        mark = ""
        kinds: list[str] = []
        while kills.total() < args.kills or not at_end:
            if head is None:
                unlock(folder, asked)
                head, mark = start(folder, asked)
                at_end = is_hurt = False
            wait_s = rng.uniform(1, args.longest) if kills.total() < args.kills else None
            kinds = kinds or rng.sample(KINDS, len(KINDS))  # each as often as the others
            try:
                status = head.wait(wait_s)
            except subprocess.TimeoutExpired:
                kind, is_hurt = kinds.pop(), True
                whom, left = kill(kind, head, mark, rng)
                kills[kind] += 1
                orphans[kind] += len(left)
                status = head.poll()
                then = "snakemake goes on" if status is None else f"status {status}"
                print(f"{kills.total():3d} {kind}{whom} after {wait_s:.1f} s: {then}", *left, flush=True)
            else:
                if status == 0:
                    finished, at_end = finished + 1, True
                    differing |= set(difference(whole, folder))
                    leftovers |= set(temporary_files(folder))
                    print(f"finished ({finished}), {len(differing)} outputs differ", flush=True)
                    shutil.rmtree(folder)
                elif not is_hurt:
                    raise SystemExit(f"an attempt that was not killed ended with {status}:\n{tail(folder)}")
            if status is not None:
                head = None

    print("\n| kill | times | orphans after ten seconds |\n|---|---|---|")
    for kind in KINDS:
        print(f"| {kind} | {kills[kind]} | {orphans[kind]} |")
    print(f"| all | {kills.total()} | {orphans.total()} |\n")
    print(f"{finished} runs finished; {len(differing)} outputs differ; {len(leftovers)} temporary files left")
    for path in (*sorted(differing), *sorted(leftovers)):
        print(path)


def command(folder: Path, asked: list[str], *more: str) -> list[str]:
    where = ["--snakefile", str(ROOT / "workflow" / "Snakefile"), "--directory", str(folder)]
    return [sys.executable, "-m", "snakemake", *where, "--configfile", str(CONFIG), *more, *asked]


def start(folder: Path, asked: list[str]) -> tuple[subprocess.Popen[bytes], str]:
    """Start the run in a process group of its own; return snakemake and the mark of its processes."""
    folder.mkdir(exist_ok=True)
    mark = uuid.uuid4().hex
    with (folder / "said.txt").open("wb") as said:
        head = subprocess.Popen(
            command(folder, asked),
            stdout=said,
            stderr=subprocess.STDOUT,
            env={**os.environ, MARK: mark},
            start_new_session=True,
        )
    atexit.register(_end, head)
    return head, mark


def _end(head: subprocess.Popen[bytes]) -> None:
    if head.poll() is None:
        os.killpg(head.pid, signal.SIGKILL)
        head.wait()


def unlock(folder: Path, asked: list[str]) -> None:
    if any(folder.glob(".snakemake/locks/*")):
        subprocess.run(command(folder, asked, "--unlock"), check=True, capture_output=True)


def kill(kind: str, head: subprocess.Popen[bytes], mark: str, rng: random.Random) -> tuple[str, list[str]]:
    """Kill; return whom, in words, and the command lines of the processes that are orphans afterwards."""
    number = signal.SIGKILL if "SIGKILL" in kind else signal.SIGTERM if "SIGTERM" in kind else signal.SIGINT
    below = psutil.Process(head.pid).children(recursive=True)
    whom = ""
    if "all" in kind:
        os.killpg(head.pid, number)
    elif "below" in kind and below:
        victim = rng.choice(below)
        try:
            whom, below = f" ({name_of(victim)})", victim.children(recursive=True)
            victim.kill()
        except psutil.NoSuchProcess:
            whom, below = " (it had ended)", []
    else:
        head.send_signal(number)
    return whom, orphans_of(head, mark, below)


def name_of(process: psutil.Process) -> str:
    """Return the verb of a command, or what another process is."""
    words = process.cmdline()
    if words[1:3] == ["-m", "difftalk"]:
        return words[3]
    return "its worker" if any("multiprocessing" in word for word in words) else Path(words[0]).name


def orphans_of(head: subprocess.Popen[bytes], mark: str, below: list[psutil.Process]) -> list[str]:
    """Return the command lines of the processes that outlive the kill by ten seconds, after killing them.

    Those are all processes of the run once snakemake has ended. Where it goes on, since it waits for jobs or
    the kill did no harm, they are those that were below the killed process and are not below snakemake.
    """

    def are_left() -> list[psutil.Process]:
        if head.poll() is not None:
            return marked(mark)
        return [p for p in below if is_alive(p) and head.pid not in [a.pid for a in p.parents()]]

    ends = time.monotonic() + ORPHAN_AFTER_S
    while time.monotonic() < ends and (are_left() or head.poll() is None):
        time.sleep(0.1)
    lines = []
    for process in are_left():
        with suppress(psutil.Error):
            lines.append(f"; left: {' '.join(process.cmdline())[:120]}")
            process.kill()
    return lines


def is_alive(process: psutil.Process) -> bool:
    return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)


def marked(mark: str) -> list[psutil.Process]:
    """Return the living processes of a run, whoever their parents are by now."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and is_alive(process):
                found.append(process)
        except psutil.Error:
            continue
    return found


def difference(whole: Path, killed: Path) -> list[str]:
    """Return the outputs of two runs that differ in a byte, or that one of them lacks."""
    files = [outputs(folder / RUN) for folder in (whole, killed)]
    return sorted(
        path
        for path in files[0].keys() | files[1].keys()
        if path not in files[0] or path not in files[1] or content(files[0][path]) != content(files[1][path])
    )


def outputs(run: Path) -> dict[str, Path]:
    found = {str(p.relative_to(run)): p for p in run.rglob("*") if p.is_file()}
    # The other forms of a table, the page, and checksums of these: of the speeds of sampling, as the csv is.
    shown = re.compile(
        r"tables/(.*\.(md|tex|html)|SHA256SUMS)|report(/.*|\.zip|.*\.sha256)|(cross_driven|metrics)/.*\.sha256"
    )
    return {
        path: p
        for path, p in found.items()
        if path.split("/")[0] not in NOT_COMPARED and not shown.fullmatch(path)
    }


def content(file: Path) -> object:
    if file.name == "SHA256SUMS":  # the speeds are in the files that it lists
        listed = file.read_text().splitlines()
        return [line for line in listed if not line.endswith((".jsonl", "timing.csv"))]
    if file.name == "timing.csv":
        return [row["clip_id"] for row in csv.DictReader(file.read_text().splitlines())]
    if file.suffix == ".csv" and file.parent.name == "tables":
        table = csv.DictReader(file.read_text().splitlines())
        figures = [row for row in table if row.get("metric") != "method_fps"]
        return [{k: v for k, v in row.items() if not k.startswith("method_fps")} for row in figures]
    if "metrics" in file.parts and file.suffix == ".parquet":
        rows = pq.read_table(file).to_pylist()
        return [{k: v for k, v in row.items() if k != "method_fps"} for row in rows]
    if file.suffix == ".jsonl":
        entries = map(json.loads, file.read_text().splitlines())
        return [{key: value for key, value in entry.items() if key not in SPEEDS} for entry in entries]
    return file.read_bytes()


def temporary_files(folder: Path) -> list[str]:
    return [str(p.relative_to(folder)) for p in (folder / "results").rglob(".*.part*")]


def tail(folder: Path) -> str:
    return "\n".join((folder / "said.txt").read_text(errors="replace").splitlines()[-40:])


if __name__ == "__main__":
    main()
