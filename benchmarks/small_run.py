"""One small finished run of the whole workflow for `benchmarks/damage.py`, and what else can be read.

The main run is of a folder of drawn videos. A second, of other videos, has files that can be mistaken for the
main one's. Three more read what a user gives: a frozen plan, finished models, tables of clips.
"""

import csv
import hashlib
import json
import os
import shutil
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from stage_jobs import CHECKOUT, Job, jobs_of, remove, run_job, sandbox

from difftalk.datasets.demo.render import DemoSource, render_source
from difftalk.media.encode import write_video
from difftalk.media.video import read_frames

VIDEOS, SILENT, OTHER_VIDEOS, SECONDS, SIDE = 5, 2, (100, 101), 2.0, 128
SPLITS = ("train", "test")

SMALL: dict[str, Any] = {
    "videos": "videos",
    "dataset": {
        "name": "local", "same_person_distance": None, "clip_at_cuts": False, "test_fraction": 0.5, "seed": 2,
    },
    "shards": {"train": 1, "test": 1},
    "autoencoder": "train",
    "autoencoder_training": {
        "channels": [8, 16, 16], "codes": 64, "steps": 6, "batch_size": 4, "checkpoint_every": 2,
        "log_every": 2,
    },
    "syncnet_training": {"steps": 6, "stretch": 24, "checkpoint_every": 2},
    "training": {"channels": [16, 32], "steps": 9, "batch_size": 4, "log_every": 3, "checkpoint_every": 3},
    "sampling": {"steps": 1},
    "crops": {"min_frames": 20},
    "report": {"gallery_clips": 2, "panel_pixels": 64},
}  # fmt: skip
# Of each run what differs in its configuration, and the files and folders of the user's that it reads.
RUNS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "small": ({}, ("videos",)),
    "other": (
        {"videos": "other-videos", "autoencoder": "embedded", "syncnet": "train"},
        ("other-videos",),
    ),
    "given": (
        {
            "frozen_plan": "frozen.csv", "autoencoder": "first-stage", "syncnet": "expert",
            "gates": {"sync": {"min_confidence": None, "max_offset": None}},
        },
        ("videos", "frozen.csv", "first-stage", "expert"),
    ),
    "table": (
        {"videos": None, "dataset": {"name": "table", "table": "clips.csv"}},
        ("videos", "clips.csv"),
    ),
    "demo": (
        {
            "videos": None,
            "dataset": {
                "name": "demo", "identities": {"train": 2, "test": 1}, "clips_per_identity": 1,
                "clip_seconds": SECONDS, "size": SIDE,
            },
        },
        (),
    ),
}  # fmt: skip
# Of the further runs these jobs are run. What they read of the user's, no rule lists.
JOBS: dict[str, dict[str, tuple[str, ...]]] = {
    "other": {
        "plan": ("other-videos",), "fetch train-000": (), "fetch test-000": (), "landmarks train-000": (),
        "landmarks test-000": (), "gates train-000": (), "gates test-000": (), "crops train-000": (),
        "crops test-000": (), "autoencoder": (), "syncnet": (),
    },
    "given": {"plan": (), "autoencoder": ("first-stage",), "syncnet": ("expert",)},
    "table": {"plan": ("clips.csv",)},
    "demo": {"plan": (), "fetch train-000": (), "landmarks train-000": ()},
}  # fmt: skip
CELEBV = {
    "clips": {
        f"video{k}aaaaa_0": {
            "ytb_id": f"video{k}aaaaa",
            "duration": {"start_sec": 1.5, "end_sec": 6.25},
            "bbox": {"top": 0.1, "bottom": 0.9, "left": 0.2, "right": 0.7},
        }
        for k in range(4)
    }
}


def make_run(tree: Path, wanted: Collection[str], workers: int, limit_s: float) -> dict[str, Job]:
    """Make the runs in `tree`, but for what is there and of this code; return their jobs by name.

    Args:
        tree: folder of the runs.
        wanted: jobs whose inputs and outputs must be there. Where all are of the main run, only that is
            made, as far as they need it.
        workers: commands at a time.
        limit_s: seconds for one command.
    """
    code = tree / "code.txt"
    if not code.is_file() or code.read_text() != _digest():
        shutil.rmtree(tree, ignore_errors=True)
        _write_videos(tree)
        code.write_text(_digest())
    main = _planned(tree, "small")
    if {*wanted} <= {job.name for job in main}:
        _run_all(_needed(main, wanted), workers, limit_s)
        return {job.name: job for job in main}
    _run_all(main, workers, limit_s)
    _write_given(tree)
    others = [
        replace(job, name=f"{job.name} ({run})", inputs=(*job.inputs, *JOBS[run][job.name]))
        for run in JOBS
        for job in _planned(tree, run)
        if job.name in JOBS[run]
    ]
    others += _further(tree)
    _run_all(others, workers, limit_s)
    return {job.name: job for job in [*main, *others]}


def interrupted(job: Job, state: str, checkpoint: str, tree: Path, limit_s: float) -> Job:
    """Return a training as a kill leaves it: in `tree`, with its checkpoints up to `checkpoint`.

    Raises:
        RuntimeError: where it always ended before it could be killed.
    """
    for _ in range(10):
        if (tree / state).is_dir():
            return replace(job, inputs=(state,), tree=tree, cleared=())
        killed = sandbox(job, tree.with_name(f"{tree.name}-killed"))
        newest = killed / state / checkpoint
        ended = run_job(job, killed, limit_s, until=newest.is_file)
        if ended.status is None and newest.is_file():
            sandbox(replace(job, outputs=(), cleared=(state,)), tree)
            shutil.move(killed / state, tree / state)
        remove(killed)
    raise RuntimeError(f"{job.name} ended too soon to be killed")


def _planned(tree: Path, run: str) -> list[Job]:
    """The jobs of a run, as snakemake plans them; it is asked once."""
    known = tree / f"jobs-{run}.json"
    if not known.is_file():
        config, own_files = RUNS[run]
        jobs = jobs_of(tree, SMALL | config | {"run": run}, own_files)
        known.write_text(json.dumps([{k: v for k, v in vars(job).items() if k != "tree"} for job in jobs]))
    return [
        Job(of["name"], tuple(of["argv"]), tuple(of["inputs"]), tuple(of["outputs"]), tree)
        for of in json.loads(known.read_text())
    ]


def _needed(jobs: Sequence[Job], wanted: Collection[str]) -> list[Job]:
    """Jobs of these names, and all that make their inputs."""
    makes = {name: job for job in jobs for name in job.outputs}
    needed: dict[str, Job] = {}
    left = [job for job in jobs if job.name in wanted]
    while left:
        job = left.pop()
        needed[job.name] = job
        left += [makes[name] for name in job.inputs if name in makes and makes[name].name not in needed]
    return list(needed.values())


def _further(tree: Path) -> list[Job]:
    """Jobs of the same commands on other inputs: a Parquet table, an adapter, crops with the sync gate."""
    (plan,) = (job for job in _planned(tree, "table") if job.name == "plan")
    (crops,) = (job for job in _planned(tree, "given") if job.name == "crops test-000")
    parquet = replace(
        plan,
        name="plan (parquet)",
        argv=tuple(
            w.replace("clips.csv", "clips.parquet").replace("results/table", "results/parquet")
            for w in plan.argv
        ),
        inputs=("clips.parquet",),
        outputs=tuple(o.replace("results/table", "results/parquet") for o in plan.outputs),
    )
    argv = ("dataset", "celebv-hq", "celebvhq_info.json", "--out", "results/celebv/clips.csv")
    celebv = Job("dataset celebv-hq", argv, ("celebvhq_info.json",), ("results/celebv/clips.csv",), tree)
    reads = {name: name.replace("results/given", "results/small") for name in crops.inputs}
    gated = replace(
        crops,
        name="crops (sync gate)",
        argv=tuple(reads.get(word, word) for word in crops.argv),
        inputs=tuple(reads.values()),
    )
    return [parquet, celebv, gated]


def _run_all(jobs: Sequence[Job], workers: int, limit_s: float) -> None:
    """Run jobs that have not run, in the order in which their inputs come to be."""
    left = [job for job in jobs if not all((job.tree / name).exists() for name in job.outputs)]
    with ThreadPoolExecutor(workers) as pool:
        while left:
            ready = [job for job in left if all((job.tree / name).exists() for name in job.inputs)]
            if not ready:
                raise RuntimeError(f"nothing makes the inputs of {left[0]}")
            ends = pool.map(lambda job: run_job(job, job.tree, limit_s), ready)
            for job, ended in zip(ready, ends, strict=True):
                if ended.status != 0:
                    raise RuntimeError(f"{' '.join(job.argv)}\n{ended}")
            left = [job for job in left if job not in ready]


def _write_videos(tree: Path) -> None:
    """Draw the videos of both runs; one is silent, so that there is a reject."""
    for folder, seeds in (("videos", range(VIDEOS)), ("other-videos", OTHER_VIDEOS)):
        (tree / folder).mkdir(parents=True)
        for seed in seeds:
            path = tree / folder / f"v{seed}.mp4"
            render_source(DemoSource("drawn", seed, seed, 1, SECONDS, SIDE), path)
            path.with_suffix(".landmarks.npy").unlink()
            if seed == SILENT:
                frames = np.stack(list(read_frames(path)))
                write_video(path, frames, audio=np.zeros(int(16_000 * SECONDS), np.int16), crf=18)
        for checksum in (tree / folder).glob(".*"):
            checksum.unlink()
    speakers = "".join(f"v{seed}.mp4,person {seed}\n" for seed in OTHER_VIDEOS)
    (tree / "other-videos" / "speakers.csv").write_text("file,speaker\n" + speakers)


def _write_given(tree: Path) -> None:
    """Write what a user gives to the further runs: files of the main one, and tables."""
    run = tree / "results" / "small"
    shutil.copy(run / "frozen_plan.csv", tree / "frozen.csv")
    shutil.copytree(run / "models" / "autoencoder", tree / "first-stage", dirs_exist_ok=True)
    shutil.copytree(run / "models" / "syncnet", tree / "expert", dirs_exist_ok=True)
    rows = [
        {"path": f"videos/v{k}.mp4", "start": 0.0, "end": 1.5, "split": SPLITS[k % 2]} for k in range(VIDEOS)
    ]
    with (tree / "clips.csv").open("w", newline="") as target:
        writer = csv.DictWriter(target, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    pq.write_table(pa.Table.from_pylist(rows), tree / "clips.parquet")
    (tree / "celebvhq_info.json").write_text(json.dumps(CELEBV))


def _digest() -> str:
    """A hash of the package, the workflow and this file."""
    digest = hashlib.sha256()
    files = [
        *CHECKOUT.glob("difftalk/**/*"),
        *CHECKOUT.glob("workflow/**/*"),
        CHECKOUT / "config.yaml",
        Path(__file__),
    ]
    for path in sorted(files):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(
                os.fsencode(path.relative_to(CHECKOUT) if path.is_relative_to(CHECKOUT) else path.name)
            )
            digest.update(path.read_bytes())
    return digest.hexdigest()
