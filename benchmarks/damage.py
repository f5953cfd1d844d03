"""Damage each file that one stage hands to another, in each of many ways, and run each stage that reads it.

python benchmarks/damage.py --folder FOLDER [--jobs 2] [--seed 0] [--cases N]
python benchmarks/damage.py --folder FOLDER --only 'crops/SHARD.tar/cut_member/speech train-000'

FOLDER keeps a small run of the code that is imported; it is made when it is not there. Every case must end
as a sentence that names the file, as rejects of its clips, or with the outputs of the whole file; the exit
status is then 0. What else happens is printed. `--only` takes the names of cases, with `*`; it prints the
commands and all they say, and keeps where they ran.
"""

import argparse
import fnmatch
import itertools
import json
import os
import re
import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from zlib import crc32

import numpy as np
import pyarrow.parquet as pq
from damaged_files import DAMAGES, damaged, kind_of
from outcomes import BAD, OUTCOMES, Parts, differing, files_of, names, outcome, parts_of
from small_run import interrupted, make_run
from stage_jobs import Job, preload, remove, run_job, sandbox

# By the format of a file, the format of what is put in its place.
FOREIGN = {
    ".tar": ".parquet", ".parquet": ".csv", ".csv": ".json", ".json": ".csv", ".jsonl": ".csv",
    ".safetensors": ".tar", ".mp4": ".tar", ".npy": ".csv", ".pt": ".tar",
}  # fmt: skip
ALL_DAMAGES = ("missing", *DAMAGES, "other_kind", "swapped")
# Nothing tells other damage of a table, or a video, of the user's own from what was meant so.
# A frozen plan is copied by hand, without its checksum.
OF_USER = ("missing", "empty", "zeros", "noise", "nan", "other_kind")
USERS_FILES = ("videos/", "other-videos/", "clips.", "celebvhq_info")
SUMS = "SHA256SUMS"
RECORDS = (".FILE.sha256", SUMS)
UNREAD = (".md", ".tex", ".html")
# What is seen in a file without a checksum.
UNRECORDED = (*OF_USER, "cut_half", "cut_tenth", "no_column")
# Names by which files of one kind differ.
KINDS = (
    (r"^.*/\..*\.sha256$", RECORDS[0]),
    (rf"^.*/{SUMS}$", RECORDS[1]),
    (r"^results/\w+/", ""),
    (r"^other-videos", "videos"),
    (r"(train|test)-000", "SHARD"),
    (r"(?<=rejects/)\w+", "STAGE"),
    (r"(?<=models/)(difftalk|no_audio)", "MODEL"),
    (r"(?<=state/)(difftalk|no_audio)", "MODEL"),
    (r"(?<=samples/)\w+", "METHOD"),
    (r"(?<=metrics/)\w+", "METHOD"),
    (r"(?<=tables/)\w+(?=\.csv)", "TABLE"),
    (r"(?<=/)v\d+(-000)?(?=\.mp4)", "CLIP"),
    (r"(?<=/)speaker-\d+(-[0-9a-f]+)?(?=\.)", "SOURCE"),
    (r"step-\d+", "step-N"),
)
# By such a change of its path another file of the same kind is found.
SIBLINGS = (
    ("train-000", "test-000"), ("test-000", "train-000"), ("difftalk", "no_audio"), ("/small/", "/other/"),
    ("v0", "v3"), ("v1", "v4"), ("v100", "v101"), ("speaker-000", "speaker-001"),
    ("state/autoencoder", "state/syncnet"),
)  # fmt: skip
# One job of each stage, and of some stages one for each way of reading.
CHOSEN = (
    "plan (other)", "plan (given)", "plan (table)", "plan (parquet)", "dataset celebv-hq", "fetch train-000",
    "landmarks train-000", "landmarks train-000 (demo)", "gates train-000", "crops test-000",
    "crops (sync gate)", "sync test-000", "speech train-000", "encode train-000", "funnel", "clip_scores",
    "freeze", "autoencoder", "autoencoder (given)", "syncnet (other)", "syncnet (given)", "train difftalk",
    "sample ground_truth test-000", "sample reconstruction test-000", "sample difftalk test-000",
    "score difftalk test-000", "tables", "report",
)  # fmt: skip
# What takes something up: of which job, what it takes up, and the newest checkpoint of an interrupted one.
RESTARTS = {
    "train put back": ("train difftalk", "results/small/state/difftalk/finished", ""),
    "fetch again": ("fetch train-000 (demo)", "results/store", ""),
    "train resumed": ("train difftalk", "results/small/state/difftalk", "step-00000006.pt"),
    "autoencoder resumed": ("autoencoder", "results/small/state/autoencoder", "step-00000004.pt"),
    "syncnet resumed": ("syncnet (other)", "results/other/state/syncnet", "step-00000004.pt"),
}
# What these are in the list for: other jobs read the other kinds, or they do not read them.
KINDS_OF = {
    "landmarks train-000 (demo)": "*.npy",
    "crops (sync gate)": "models/syncnet/*",
    "sample ground_truth test-000": "[!m]*",
    "sample reconstruction test-000": "models/*",
}


@dataclass(frozen=True)
class Case:
    """One damage to one file, for one job that reads it."""

    job: Job
    file: str
    damage: str

    @property
    def kind(self) -> str:
        """The file's path without what tells files of its kind apart."""
        name = self.file
        for pattern, word in KINDS:
            name = re.sub(pattern, word, name)
        return name

    @property
    def name(self) -> str:
        """What `--only` takes."""
        return f"{self.kind}/{self.damage}/{self.job.name}"


@dataclass(frozen=True)
class Result:
    """How a case ended."""

    name: str
    kind: str
    damage: str
    stage: str
    outcome: str
    named: bool
    said: str
    seconds: float


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, help="so many of all, drawn by the seed")
    parser.add_argument("--only", action="append", help="KIND/DAMAGE/STAGE")
    parser.add_argument(
        "--unrecorded", action="store_true", help="delete the checksum of the damaged file too"
    )
    parser.add_argument("--limit", type=float, default=120.0, help="seconds for one command")
    parser.add_argument("--save", type=Path, help="file for all results, JSON lines")
    chosen = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    began = time.monotonic()
    # For a few commands it takes longer than it saves.
    if not chosen.only or any("*" in one for one in chosen.only):
        preload()
    tree = chosen.folder.resolve()
    only = chosen.only or ["*/*"]
    stages = [one.rpartition("/")[2] for one in only]
    names = [n for n in (*CHOSEN, *RESTARTS) if any(fnmatch.fnmatchcase(n, stage) for stage in stages)]
    cases = [
        case
        for job in commands_of(names, tree, chosen.jobs, chosen.limit)
        for case in cases_of(job, chosen.seed)
        if any(fnmatch.fnmatchcase(case.name, one) for one in only)
        and not (chosen.unrecorded and (case.damage not in UNRECORDED or case.kind in RECORDS))
    ]
    if chosen.cases is not None:
        drawn = np.random.default_rng(chosen.seed).permutation(len(cases))[: chosen.cases]
        cases = [cases[k] for k in sorted(drawn)]
    jobs = list({case.job.name: case.job for case in cases}.values())
    bench = Bench(tree, chosen.seed, chosen.limit, unrecorded=chosen.unrecorded, keep=bool(chosen.only))
    made_s = time.monotonic() - began
    print(f"{len(cases)} cases of {len(jobs)} commands; the run took {made_s:.0f} s", flush=True)
    with ThreadPoolExecutor(chosen.jobs) as pool:
        wholes = list(pool.map(bench.whole, jobs))
        if broken := [f"{job.name}: {wrong}" for job, wrong in zip(jobs, wholes, strict=True) if wrong]:
            print("\n".join(f"WRONG on whole files: {line}" for line in broken))
            return 1
        results = []
        with (chosen.save or Path(os.devnull)).open("w") as kept:
            for result in pool.map(bench.run, cases):
                results.append(result)
                print(json.dumps(asdict(result)), file=kept, flush=True)
    if changed := [job.name for job in jobs if parts_of(job.tree, job.outputs) != bench.expected[job.name]]:
        print(f"WRONG: a sandbox has changed the run, outputs of {', '.join(changed)}")
        return 1
    for title, key in (("file", "kind"), ("damage", "damage"), ("stage", "stage")):
        print_table(title, results, lambda result, key=key: getattr(result, key))  # type: ignore[misc]
    bad = [(result, case) for result, case in zip(results, cases, strict=True) if result.outcome in BAD]
    for result, case in sorted(bad, key=lambda pair: (BAD.index(pair[0].outcome), pair[0].name)):
        print(f"BAD {result.outcome}: --only {shlex.quote(result.name)}\n    {case.file}: {result.said}")
    total = Counter(result.outcome for result in results)
    counts = ", ".join(f"{total[outcome]} {outcome}" for outcome in OUTCOMES)
    unnamed = sum(result.outcome == "traceback" and not result.named for result in results)
    counts += f" ({unnamed} tracebacks do not name the file either)"
    print(f"{len(results)} cases: {counts}; {time.monotonic() - began:.0f} s")
    return 1 if bad else 0


def commands_of(names: Collection[str], tree: Path, workers: int, limit_s: float) -> list[Job]:
    """Return jobs of the matrix and of `RESTARTS`, with all that they read."""
    jobs = make_run(tree, names, workers, limit_s)
    found = [afresh(jobs[name]) for name in names if name not in RESTARTS]
    for name in names:
        if name in RESTARTS:
            of, taken_up, checkpoint = RESTARTS[name]
            job = replace(jobs[of], inputs=(taken_up,))
            if checkpoint:
                kept = tree / "trees" / name.replace(" ", "-")
                job = interrupted(afresh(jobs[of]), taken_up, checkpoint, kept, limit_s)
            found.append(replace(job, name=name))
    return found


def afresh(job: Job) -> Job:
    """A training without what it would continue from."""
    state = job.argv[job.argv.index("--state") + 1] if "--state" in job.argv else ""
    return replace(job, cleared=(state,)) if state else job


def cases_of(job: Job, seed: int) -> list[Case]:
    """Return the cases of a job: of each kind of file that it reads, one file and every damage."""
    of_kind: dict[str, list[str]] = {}
    for given in job.inputs:
        for path in (*files_of(job.tree, given), *records_of(job.tree / given)):
            name = path.relative_to(job.tree).as_posix()
            kind = Case(job, name, "").kind
            # Of the models, a report shows the logs.
            is_read = (
                job.name != "report" or not kind.startswith("models/") or kind.endswith("/MODEL/log.jsonl")
            )
            if (
                is_read
                and path.suffix not in UNREAD
                and fnmatch.fnmatchcase(kind, KINDS_OF.get(job.name, "*"))
            ):
                of_kind.setdefault(kind, []).append(name)
    found = []
    for of in of_kind.values():
        # The newest checkpoint; else the largest file: that of rejects may have a row.
        name = max(of, key=lambda n: (n if n.endswith(".pt") else "", (job.tree / n).stat().st_size, n))
        for damage in _damages_of(name):
            case = Case(job, name, damage)
            # Nothing tells the only file that a stage reads from another of its kind.
            if damage == "swapped" and sum(map(len, of_kind.values())) == 1:
                continue
            if damage == "missing" or damaged_bytes(case, seed) is not None:
                found.append(case)
    return found


def _damages_of(name: str) -> tuple[str, ...]:
    if name.endswith("/speakers.csv"):  # it may be missing
        return OF_USER[1:]
    if name == "clips.parquet":  # NaN says that there is none
        return tuple(damage for damage in OF_USER if damage != "nan")
    if name.startswith(USERS_FILES):
        return OF_USER
    return UNRECORDED if name == "frozen.csv" else ALL_DAMAGES


def damaged_bytes(case: Case, seed: int) -> bytes | None:
    """Return the bytes of the damaged file; None where the damage does not apply to it.

    They depend on the seed, the file and the damage, and not on the job.
    """
    path = case.job.tree / case.file
    data = path.read_bytes()
    if case.damage == "swapped":
        names = (case.file.replace(old, new) for old, new in SIBLINGS if old in case.file)
        others = (case.job.tree / name for name in names)
        return next((b for o in others if o.is_file() and (b := o.read_bytes()) != data), None)
    if case.damage == "other_kind":
        suffix = FOREIGN.get(kind_of(case.file), ".csv")
        foreign = sorted((case.job.tree / "results" / "small").rglob(f"*{suffix}"))
        return next((b for o in foreign if o.is_file() and (b := o.read_bytes()) != data), None)
    rng = np.random.default_rng((seed, crc32(f"{case.file} {case.damage}".encode())))
    return damaged(data, case.file, case.damage, rng)


def records_of(path: Path) -> list[Path]:
    """Return what lies beside a file under its name, such as its checksum, and its folder's checksums."""
    return [*path.parent.glob(f".{path.name}.*"), *path.parent.glob(SUMS)]


class Bench:
    """Runs cases, several at a time, each in a sandbox of its own.

    Args:
        tree: folder of the runs.
        seed: of the damage.
        limit_s: seconds for one command.
        unrecorded: whether the damaged file has lost its checksum, as one that was put there by hand.
        keep: whether sandboxes stay.
    """

    def __init__(self, tree: Path, seed: int, limit_s: float, *, unrecorded: bool, keep: bool) -> None:
        self.tree, self.seed, self.limit_s, self.keep = tree, seed, limit_s, keep
        self.unrecorded = unrecorded
        self.expected: dict[str, Parts] = {}
        self.volatile: dict[str, set[str]] = {}
        self.numbers = itertools.count()
        self.clips = {
            clip
            for plan in tree.glob("results/*/plan/clips.parquet")
            for clip in pq.read_table(plan)["clip_id"].to_pylist()
        }

    def whole(self, job: Job) -> str:
        """Run a job on whole files, to know what it writes, and what of it never comes twice.

        Returns:
            What is wrong, or an empty text.
        """
        expected = self.expected[job.name] = parts_of(job.tree, job.outputs)
        volatile = self.volatile[job.name] = set()
        # What is taken up may be refused, and then all is done again, in another time.
        for whole in dict.fromkeys((job, afresh(job))):
            with self._sandbox(whole) as directory:
                ended = run_job(whole, directory, self.limit_s)
                volatile |= differing(expected, parts_of(directory, job.outputs))
            if ended.status != 0:
                return f"status {ended.status}: {ended.said}"
        files = sorted(part for part in volatile if "\0" not in part)
        return f"other bytes each time in {files}" if files else ""

    def run(self, case: Case) -> Result:
        """Run a case."""
        began = time.monotonic()
        job = case.job
        data = None if case.damage == "missing" else damaged_bytes(case, self.seed)
        with self._sandbox(job) as directory:
            path = directory / case.file
            is_link = path.is_symlink()
            path.unlink()
            if self.unrecorded:
                above = [directory / given for given in job.inputs if path.is_relative_to(directory / given)]
                for record in (r for p in (path, *above) for r in (*records_of(p), p / SUMS)):
                    record.unlink(missing_ok=True)
            if data is not None:
                path.write_bytes(data)
            elif is_link:
                path.symlink_to(directory / "gone" / path.name)
            ended = run_job(job, directory, self.limit_s)
            expected, volatile = self.expected[job.name], self.volatile[job.name]
            found = outcome(job, case.file, ended, directory, expected, volatile, self.clips)
        if self.keep:
            print(
                f"\n{case.name}: {found}\n  cd {directory}\n  difftalk {shlex.join(job.argv)}\n{ended.said}"
            )
        said = " | ".join([line for line in ended.said.splitlines() if line.strip()][-2:])[-400:]
        named = names(ended.said, case.file, job.inputs, self.clips)
        took_s = round(time.monotonic() - began, 2)
        return Result(case.name, case.kind, case.damage, job.argv[0], found, named, said, took_s)

    @contextmanager
    def _sandbox(self, job: Job) -> Iterator[Path]:
        directory = self.tree / "sandboxes" / str(next(self.numbers))
        yield sandbox(job, directory)
        if not self.keep:
            remove(directory)


def print_table(title: str, results: Sequence[Result], key: Callable[[Result], str]) -> None:
    """Print how many cases ended in which way, a row per value of `key`."""
    counts: dict[str, Counter[str]] = {}
    for result in results:
        counts.setdefault(key(result), Counter())[result.outcome] += 1
    print(f"\n| {title} | " + " | ".join(OUTCOMES) + " |\n|---|" + "---|" * len(OUTCOMES))
    for value, of in sorted(counts.items()):
        print(f"| {value} | " + " | ".join(str(of[o] or "") for o in OUTCOMES) + " |")


if __name__ == "__main__":
    sys.exit(main())
