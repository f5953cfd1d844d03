"""Watch the stages of a running workflow: how long each command takes, and how much memory."""

import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

# What tells the commands of one stage apart: the first of these flags that it has.
TOLD_BY = ("--method", "--out", "--scores", "--metrics")


@dataclass
class Stage:
    """One command.

    Args:
        stage: as on the command line, such as `train`.
        job: what tells it from others of its stage.
        seconds: from its start to when it was last seen.
        cpu_s: seconds of CPU time until then, of all its processes.
        peak_gb: most memory of its processes together at one time, what they share counted once; 1e9 bytes.
        processes: most processes at one time.
    """

    stage: str
    job: str
    seconds: float = 0.0
    cpu_s: float = 0.0
    peak_gb: float = 0.0
    processes: int = 1


class Watch:
    """Looks at all processes below one, once a second, until it is closed.

    Args:
        pid: of Snakemake.
        every_s: seconds between two looks.
    """

    def __init__(self, pid: int, every_s: float = 1.0) -> None:
        self.stages: dict[int, Stage] = {}
        self._root, self._every_s, self._over = psutil.Process(pid), every_s, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> list[Stage]:
        """Stop, and return the commands in the order in which they began."""
        self._over.set()
        self._thread.join()
        return list(self.stages.values())

    def _run(self) -> None:
        while not self._over.wait(self._every_s):
            with suppress(psutil.Error):
                for child in self._root.children(recursive=True):
                    with suppress(psutil.Error, OSError):
                        self._look(child)

    def _look(self, process: psutil.Process) -> None:
        """Note what a command and its processes use, if the process is a command of ours."""
        words = process.cmdline()
        if words[1:3] != ["-m", "difftalk"] or (process.ppid() in self.stages):
            return
        stage = self.stages.setdefault(process.pid, Stage(words[3], _told(words)))
        stage.seconds = time.time() - process.create_time()
        children = process.children(recursive=True)
        stage.cpu_s = max(stage.cpu_s, sum(map(_cpu_s, [process, *children])))
        together = sum(map(_memory_gb, [process, *children]))
        stage.peak_gb = max(stage.peak_gb, together, _highest_gb(process))
        stage.processes = max(stage.processes, 1 + len(children))


def _told(words: list[str]) -> str:
    found = [words[words.index(flag) + 1] for flag in TOLD_BY if flag in words[:-1]]
    return Path(found[0]).name.partition(".")[0] if found else ""


def _cpu_s(process: psutil.Process) -> float:
    """CPU time of a process, and of those of its own that have ended."""
    with suppress(psutil.Error):
        return sum(process.cpu_times()[:4])
    return 0.0


def _memory_gb(process: psutil.Process) -> float:
    """Memory of a process, what it shares with others divided among them (PSS)."""
    with suppress(psutil.Error, OSError):
        return _kilobytes(Path(f"/proc/{process.pid}/smaps_rollup"), "Pss:") * 1024 / 1e9
    return 0.0


def _highest_gb(process: psutil.Process) -> float:
    """The most that the process has had in memory since it began (VmHWM)."""
    with suppress(psutil.Error, OSError):
        return _kilobytes(Path(f"/proc/{process.pid}/status"), "VmHWM:") * 1024 / 1e9
    return 0.0


def _kilobytes(file: Path, name: str) -> int:
    return next((int(line.split()[1]) for line in file.read_text().splitlines() if line.startswith(name)), 0)


def table(stages: list[Stage]) -> str:
    """Return a table in Markdown, with a row for the jobs of each stage together."""
    lines = [
        "| stage | jobs | s, each | CPU s, each | most GB | processes |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name in dict.fromkeys(stage.stage for stage in stages):
        of = [stage for stage in stages if stage.stage == name]
        times, cpu = _range([stage.seconds for stage in of]), _range([stage.cpu_s for stage in of])
        most, processes = max(stage.peak_gb for stage in of), max(stage.processes for stage in of)
        lines.append(f"| `{name}` | {len(of)} | {times} | {cpu} | {most:.1f} | {processes} |")
    return "\n".join(lines)


def _range(values: list[float]) -> str:
    low, high = round(min(values)), round(max(values))
    return str(low) if low == high else f"{low} to {high}"
