"""Measure what grows with clips and shards, and compute what 1, 10 and 100 nodes prepare in a day.

python benchmarks/scale.py OUT --clips 10000 100000 1000000 --shards 64 448 1024
python benchmarks/scale.py OUT --plot docs/images/scale.png

Each line is one process: its CPU seconds (user and system) and the most memory that it had. `plan` reads a
CSV table of clips of drawn YouTube addresses, five of each; `shard` is one job's look at the clip table.
`dry run` is `snakemake -n prepare_all` before a run, `nothing to do` the same after it (its files are empty,
and marked by `--touch`), `empty rules` a chain of seven rules without settings over as many shards: what is
Snakemake's own. `reading` parses the Snakefile with a folder of that many videos, when it has been read once
before. What was measured is kept in OUT/scale.json; lines that are there are not measured again.
"""

import argparse
import csv
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CLIPS_OF_SOURCE, CLIP_S = 5, 10
# What `nodes` takes from docs/speed.md, docs/gpu.md and here. ASSUMED was not measured.
CORES = 16
CPU_MS = 14.1  # of a frame of 1080p, fetch to speech with dlib: docs/speed.md, 22.9 CPU s for 1,620 frames
ENCODE_FPS = 253  # of one H200: docs/gpu.md
KB_OF_FRAME = 12.5 + 3 * 9.1 + 2 * 54  # source read, crops written and read twice, shards written and read
SUBMISSIONS = 5  # jobs a second: `max-jobs-per-second` of the SLURM profile
JOBS_OF_SHARD, CLIPS_OF_SHARD = 7, 1000
ASSUMED_STORAGE_GB_S = 2.0
ASSUMED_DOWNLOAD_S, DOWNLOADS, ASSUMED_CLIPS_S = 18.0, 2, 157.0  # of a video, at once, of clips in it

CHAIN = """
S = [f"s{k:05d}" for k in range(int(config["shards"]))]
rule all:
    input: expand("done/{s}.6", s=S)
for k in range(7):
    rule:
        name: f"step{k}"
        input: f"done/{{s}}.{k - 1}" if k else []
        output: f"done/{{s}}.{k}"
        shell: "touch {output}"
"""


def measured(command: list[str], folder: Path) -> dict[str, float]:
    """Return CPU seconds, wall seconds and the most memory in MB of a command that runs in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    began = time.monotonic()
    with (folder / "output.txt").open("w") as said:
        child = subprocess.Popen(
            [sys.executable, *command], cwd=folder, env=environment, stdout=said, stderr=said
        )
        _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{(folder / 'output.txt').read_text()[-2000:]}")
    return {
        "cpu_s": round(used.ru_utime + used.ru_stime, 2),
        "wall_s": round(time.monotonic() - began, 1),
        "mb": used.ru_maxrss // 1024,
    }


def write_table(path: Path, clips: int) -> None:
    """Write a table of clips."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["url", "start", "end", "identity", "tags"])
        for k in range(clips):
            source, start = k // CLIPS_OF_SOURCE, k % CLIPS_OF_SOURCE * 12
            video = hashlib.sha256(str(source).encode()).hexdigest()[:11]
            address = f"https://www.youtube.com/watch?v={video}"
            writer.writerow(
                [address, start, start + CLIP_S, f"id{source // 3:06d}", "gender=female;interview"]
            )


def plan(folder: Path, clips: int) -> dict[str, float]:
    write_table(folder / "table.csv", clips)
    table = json.dumps({"name": "table", "table": str(folder / "table.csv")})
    shards = json.dumps({"train": 448, "test": 64})
    out = ["--out", "clips.parquet", "--digests", "shards"]
    return measured(["-m", "difftalk", "plan", "--dataset", table, "--shards", shards, *out], folder)


def shard(folder: Path, clips: int) -> dict[str, float]:
    """Read one shard of the plan in a process that has read another one before: no imports count."""
    code = (
        "import time\nfrom difftalk.datasets.clips import read_plan\n"
        "read_plan('clips.parquet', 'test-000')\nbegan = time.process_time()\n"
        "read_plan('clips.parquet', 'train-200')\nprint(time.process_time() - began)"
    )
    found = measured(["-c", code], folder)
    return found | {"cpu_s": round(float((folder / "output.txt").read_text()), 3)}


def workflow(folder: Path, shards: int, *more: str) -> dict[str, float]:
    test = max(shards // 8, 1)
    config = ["--config", f"shards={{train: {shards - test}, test: {test}}}"]
    entry = ["-m", "snakemake", "prepare_all", "-s", str(ROOT / "Snakefile"), *more]
    return measured([*entry, *config], folder)


def dry_run(folder: Path, shards: int) -> dict[str, float]:
    found = workflow(folder, shards, "-n", "--quiet", "all")
    total = next(
        line.split()[1] for line in (folder / "output.txt").read_text().splitlines() if line[:5] == "total"
    )
    return found | {"jobs": int(total)}


def nothing_to_do(folder: Path, shards: int) -> dict[str, float]:
    workflow(folder, shards, "--summary")
    lines = (folder / "output.txt").read_text().splitlines()
    files = [line.split("\t")[0] for line in lines if line.startswith("results/") and "\t" in line]
    names = {Path(file).stem for file in files if "/shards/" in file}
    for file in [*files, *(f"results/demo/plan/shards/{name}.sha256" for name in names)]:
        path = folder / file
        if path.suffix:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        else:
            path.mkdir(parents=True, exist_ok=True)
    workflow(folder, shards, "--touch", "--cores", "1")
    found = workflow(folder, shards, "-n", "--quiet", "all")
    assert "Nothing to be done" in (folder / "output.txt").read_text()
    return found


def empty_rules(folder: Path, shards: int) -> dict[str, float]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "Snakefile").write_text(CHAIN)
    command = ["-m", "snakemake", "-n", "--quiet", "all", "--config", f"shards={shards}"]
    return measured(command, folder) | {"jobs": 7 * shards + 1}


def reading(folder: Path, videos: int) -> dict[str, float]:
    for k in range(videos):
        file = folder / "videos" / f"speaker-{k // 1000:04d}" / f"{k:07d}.mp4"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    time.sleep(4)  # until the folder counts as settled
    command = ["-m", "snakemake", "--list-rules", "-s", str(ROOT / "Snakefile")]
    command += ["--config", f"videos={folder / 'videos'}"] if videos else []
    first = measured(command, folder)
    return measured(command, folder) | {"first_cpu_s": first["cpu_s"]}


def nodes(counts: list[int]) -> list[str]:
    """Return the lines of a table: frames a second that each part can take, and what a day gives."""
    lines = [
        "| nodes | CPUs | GPUs | submissions | file system | downloads | of files: hours a day, bound by "
        "| of downloads: hours a day, bound by |",
        "|---:|---:|---:|---:|---:|---:|---|---|",
    ]
    for count in counts:
        frames = {
            "CPUs": count * CORES * 1000 / CPU_MS,
            "GPUs": count * float(ENCODE_FPS),
            "submissions": SUBMISSIONS / JOBS_OF_SHARD * CLIPS_OF_SHARD * CLIP_S * 25,
            "file system": ASSUMED_STORAGE_GB_S * 1e6 / KB_OF_FRAME,
            "downloads": DOWNLOADS * ASSUMED_CLIPS_S / ASSUMED_DOWNLOAD_S * 25,
        }
        cells = [f"{value:,.0f}" for value in frames.values()]
        for used in (list(frames)[:-1], list(frames)):
            bound = min(used, key=frames.__getitem__)
            cells.append(f"{frames[bound] / 25 * 24:,.0f}, {bound}")
        lines.append(f"| {count} | {' | '.join(cells)} |")
    return lines


def plot(found: dict[str, dict[str, float]], file: Path) -> None:
    """Draw CPU seconds and memory against clips and jobs."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FuncFormatter, NullFormatter

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    of_kind: dict[str, list[tuple[int, dict[str, float]]]] = {}
    for key, line in found.items():
        kind, _, size = key.rpartition(" ")
        of_kind.setdefault(kind, []).append((int(size), line))
    for axes, kinds, below in (
        (left, ("plan", "shard"), "clips"),
        (right, ("dry run", "nothing to do", "empty rules"), "shards"),
    ):
        memory = axes.twinx()
        for kind in kinds:
            sizes = sorted(of_kind.get(kind, []), key=lambda pair: pair[0])
            at = [size for size, _ in sizes]
            (line,) = axes.loglog(at, [of["cpu_s"] for _, of in sizes], "o-", label=kind)
            if kind != "shard":
                memory.semilogx(at, [of["mb"] for _, of in sizes], "s:", color=line.get_color(), alpha=0.6)
        axes.set(xlabel=below, ylabel="CPU seconds (line)")
        memory.set_ylabel("MB (dotted)")
        memory.set_ylim(bottom=0)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
            axis.set_minor_formatter(NullFormatter())
        if kinds[0] != "plan":
            axes.set_ylim(1, 100)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)


KINDS: dict[str, Callable[[Path, int], dict[str, float]]] = {
    "plan": plan,
    "shard": shard,
    "dry run": dry_run,
    "nothing to do": nothing_to_do,
    "empty rules": empty_rules,
    "reading": reading,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="folder for what is measured")
    parser.add_argument("--clips", type=int, nargs="*", default=[])
    parser.add_argument("--shards", type=int, nargs="*", default=[])
    parser.add_argument("--videos", type=int, nargs="*", default=[])
    parser.add_argument(
        "--only", nargs="*", choices=list(KINDS), default=list(KINDS), help="some of the lines"
    )
    parser.add_argument("--nodes", type=int, nargs="*", default=[1, 10, 100])
    parser.add_argument("--plot", type=Path, help="file of the plot to draw")
    args = parser.parse_args()

    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    record = out / "scale.json"
    found: dict[str, dict[str, float]] = json.loads(record.read_text()) if record.is_file() else {}
    sizes = {"plan": args.clips, "shard": args.clips, "reading": args.videos}
    for kind in args.only:
        for size in sizes.get(kind, args.shards):
            key = f"{kind} {size}"
            if key not in found:
                place = f"plan {size}" if kind == "shard" else key
                found[key] = KINDS[kind](out / place.replace(" ", "-"), size)
                record.write_text(json.dumps(found, indent=1))
    print("| | CPU s | MB | jobs | ms a job |\n|---|---:|---:|---:|---:|")
    for key, line in found.items():
        jobs = line.get("jobs")
        each = f"{1000 * line['cpu_s'] / jobs:.1f}" if jobs else ""
        first = f" (the first time {line['first_cpu_s']:g})" if "first_cpu_s" in line else ""
        print(f"| {key} | {line['cpu_s']:g}{first} | {line['mb']:.0f} | {jobs or ''} | {each} |")
    print("\n".join(["", *nodes(args.nodes)]))
    if args.plot:
        plot(found, args.plot)


if __name__ == "__main__":
    main()
