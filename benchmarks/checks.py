"""Time what checksums and syncing to the disk take of a whole run.

python benchmarks/checks.py [--configfile FILE] [--cores 2]

The workflow runs from a copy of this checkout, in a folder that is deleted again. Its commands note how often
they call `fsync`, SHA-256 of a file and CRC-32, and for how long.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Python imports it by its name when it starts.
NOTES = """
import atexit, hashlib, json, os, sys, time, zlib

began, calls = time.perf_counter(), {}

def noted(module, name):
    function = getattr(module, name)
    def call(*arguments):
        start = time.perf_counter()
        try:
            return function(*arguments)
        finally:
            count, seconds = calls.get(name, (0, 0.0))
            calls[name] = count + 1, seconds + time.perf_counter() - start
    setattr(module, name, call)

for module, name in ((os, "fsync"), (hashlib, "file_digest"), (zlib, "crc32")):
    noted(module, name)

@atexit.register
def write():
    if "difftalk" in sys.orig_argv:
        with open(os.path.join(os.path.dirname(__file__), "notes.jsonl"), "a") as notes:
            notes.write(json.dumps([time.perf_counter() - began, calls]) + "\\n")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--configfile", type=Path, default=ROOT / "tests" / "config" / "tiny.yaml")
    parser.add_argument("--cores", type=int, default=2)
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("difftalk", "workflow", "envs"):
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "config.yaml", folder)
        (folder / "sitecustomize.py").write_text(NOTES)
        command = [sys.executable, "-m", "snakemake", "--snakefile", folder / "workflow" / "Snakefile"]
        command += [
            "--directory",
            folder,
            "--cores",
            str(args.cores),
            "--configfile",
            args.configfile.resolve(),
        ]
        subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)
        notes = [json.loads(line) for line in (folder / "notes.jsonl").read_text().splitlines()]

    wall = sum(seconds for seconds, _ in notes)
    totals: dict[str, list[float]] = defaultdict(lambda: [0, 0.0])
    for _, calls in notes:
        for call, (count, seconds) in calls.items():
            totals[call][0] += count
            totals[call][1] += seconds
    print(f"{len(notes)} commands, {wall:.0f} s in all")
    print("| call | calls | s | share |")
    print("|---|---|---|---|")
    for call, (count, seconds) in sorted(totals.items()):
        print(f"| {call} | {count:.0f} | {seconds:.2f} | {seconds / wall:.2%} |")


if __name__ == "__main__":
    main()
