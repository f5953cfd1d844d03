"""How a command ended that was given a damaged file, for `benchmarks/damage.py`."""

import csv
import hashlib
import io
import json
import tarfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from stage_jobs import Ended, Job

# In the order of a table's columns; the first four are as it should be.
OUTCOMES = {
    "refused": "status 2, and a sentence that names the file, or the clip",
    "rejected": "clips are rows of rejects, or named on the terminal; what is of others is the same",
    "harmless": "the outputs are those of the whole file",
    "other result": "status 0 with other outputs",
    "traceback": "status 1, a crash, or a traceback on the terminal",
    "unnamed": "status 2, but neither the file nor the clip is named",
    "hang": "the time limit",
}
BAD = list(OUTCOMES)[3:]
# Outputs that summarise clips: they may differ where a clip is rejected.
SUMMARIES = {".html", ".zip", ".json", ".md", ".tex"}

Parts = dict[str, Any]


def parts_of(tree: Path, outputs: Collection[str]) -> Parts:
    """Return what there is of a command's outputs: a digest per file, a text per key of JSON."""
    found: Parts = {}
    for name in sorted(outputs):
        for file in files_of(tree, name):
            relative = file.relative_to(tree).as_posix()
            found |= _keys(relative, file.read_bytes())
    return found


def files_of(tree: Path, name: str) -> Iterator[Path]:
    """Yield the files of an output, which may be a folder; not what snakemake puts into it."""
    path = tree / name
    found = sorted(path.rglob("*")) if path.is_dir() else [path]
    yield from (p for p in found if p.is_file() and p.name != ".snakemake_timestamp")


def differing(expected: Mapping[str, Any], found: Mapping[str, Any]) -> set[str]:
    """Return the parts that are not the same."""
    return {key for key in {*expected, *found} if expected.get(key) != found.get(key)}


def outcome(
    job: Job,
    name: str,
    ended: Ended,
    directory: Path,
    expected: Parts,
    volatile: Collection[str],
    clips: Collection[str],
) -> str:
    """Return one of `OUTCOMES`.

    Args:
        job: the command, whose `tree` has the outputs of the whole file.
        name: the damaged file, relative to the tree.
        ended: how it ended.
        directory: where it ran.
        expected: parts of the outputs in the tree.
        volatile: parts that differ between two runs on whole files.
        clips: ids of all clips of the run.
    """
    if ended.status is None:
        return "hang"
    if ended.status not in (0, 2) or "Traceback (most recent call last)" in ended.said:
        return "traceback"
    if ended.status == 2:
        return "refused" if names(ended.said, name, job.inputs, clips) else "unnamed"
    different = differing(expected, parts_of(directory, job.outputs)) - set(volatile)
    if not different:
        return "harmless"
    lost = rejected_clips(directory, job.outputs) - rejected_clips(job.tree, job.outputs)
    lost |= {clip for clip in clips if clip in ended.said}
    same = lost and all(_same_without(job.tree / f, directory / f, lost) for f in _of(different))
    return "rejected" if same else "other result"


def names(said: str, name: str, inputs: Collection[str], clips: Collection[str]) -> bool:
    """Whether a text names a file: by its path, by its name and the folder that was given, or by its clip."""
    path = Path(name)
    if path.name == "SHA256SUMS" and path.parent.as_posix() in said:
        return True
    above = [given for given in inputs if path.is_relative_to(given) and given != name]
    if name in said or (path.name in said and (not above or any(folder in said for folder in above))):
        return True
    of_clips = path.suffix in (".tar", ".mp4", ".npy") or "landmarks" in path.parts
    return of_clips and any(clip in said for clip in clips)


def rejected_clips(tree: Path, outputs: Collection[str]) -> set[str]:
    """Return the clips that a command's outputs give a reason for: rejects, problems of scores, left out."""
    found: set[str] = set()
    for name in outputs:
        path = tree / name
        if path.suffix == ".csv" and path.is_file():
            rows = list(csv.DictReader(io.StringIO(path.read_text())))
            found |= {row["clip_id"] for row in rows if row.get("reason") and "clip_id" in row}
        elif path.suffix == ".parquet" and path.is_file():
            for row in pq.read_table(path).to_pylist():
                if any(row.get(column) for column in ("reason", "problem", "left_out")):
                    found.add(row["clip_id"])
    return found


def _of(parts: Collection[str]) -> set[str]:
    """The files of some parts."""
    return {part.split("\0")[0] for part in parts}


def _same_without(expected: Path, found: Path, clips: Collection[str]) -> bool:
    """Whether two files are the same but for what is of some clips."""
    if expected.suffix in SUMMARIES or expected.stem.removesuffix("-strip") in clips:
        return True
    if not expected.is_file() or not found.is_file():
        return False
    return _without(expected, clips) == _without(found, clips)


def _without(path: Path, clips: Collection[str]) -> Any:
    sources = {clip.rpartition("-")[0] for clip in clips}
    data = path.read_bytes()
    if path.suffix == ".parquet":
        rows = pq.read_table(path).to_pylist()
        return repr([row for row in rows if row.get("clip_id") not in clips])
    if path.suffix in (".csv", ".clips"):
        rows_of = list(csv.reader(io.StringIO(data.decode())))
        return [row for row in rows_of if not {*clips, *sources} & set(row)]
    if path.suffix == ".tar":
        with tarfile.open(path) as tar:
            members = {m.name: tar.extractfile(m) for m in tar if m.name.split(".")[0] not in clips}
            return {name: content and content.read() for name, content in members.items()}
    return data


def _keys(name: str, data: bytes) -> Parts:
    """The parts of a file: each key of JSON, of all lines together; else one digest."""
    suffix = Path(name).suffix
    if suffix in (".json", ".jsonl"):
        try:
            values = [json.loads(line) for line in (data.splitlines() if suffix == ".jsonl" else [data])]
        except ValueError:
            return {name: data}
        found: dict[str, list[str]] = {}
        for value in values:
            for key, leaf in _leaves(value, name + "\0"):
                found.setdefault(key, []).append(repr(leaf))
        return dict(found)
    if suffix == ".sha256" or Path(name).name == "SHA256SUMS":
        lines = (line.split(maxsplit=1) for line in data.decode().splitlines())
        return {f"{name}\0{file}": digest for digest, file in lines}
    return {name: hashlib.sha256(data).hexdigest()}


def _leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(inner, f"{key}.{name}")
    else:
        yield key, value
