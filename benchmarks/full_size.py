"""Run the paper's configuration once through at its full sizes: time and memory of every stage.

python benchmarks/full_size.py hdtf256 FOLDER
python benchmarks/full_size.py hdtf512 FOLDER --experiments difftalk

The networks are those of `config/hdtf256.yaml` and `config/hdtf512.yaml`; nothing of them is made smaller.
What is small is the work: HDTF is three drawn speakers on a video site on loopback, one of whom has been
removed; batches are of one frame; trainings end after two steps (the first stage's after four), and samples
are made in two. Pretrained weights are files as released with random content, so that all videos are noise;
landmarks are dlib's, which finds faces without any. FOLDER keeps all outputs, and the same command continues.
A model takes 2.3 GB of disk, and 20 GB while it is trained. The output ends with a table in Markdown.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from stage_watch import Stage, Watch, table
from video_site import Site, fails, in_a_room, plays, running

from difftalk.datasets.demo.render import DemoSource, render_source
from difftalk.datasets.hdtf.annotations import read_table, write_table
from difftalk.media.audio import read_audio
from difftalk.media.encode import write_video
from difftalk.media.video import read_frames

ROOT = Path(__file__).resolve().parents[1]
# Clips by the names that HDTF has, so that `split: paper` splits them, and the seconds of each.
TRAINED, TESTED = {"RD_Radio10_000": 3}, {"WDA_AdamSchiff_000": 1}
REMOVED = "WRA_AdamKinzinger0_000"
FRAME = (1280, 720)
# A training frame needs a reference 60 frames away.
MOST_FRAMES, LEAST_FRAMES = 64, 25
WEIGHTS = {
    "hdtf256": ["vq-f4", "deepspeech-0.1.0", "syncnet-v2", "alexnet"],
    "hdtf512": ["deepspeech-0.1.0", "syncnet-v2", "alexnet", "vgg16"],
}
FIRST_STAGE_STEPS, STEPS = 4, 2


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("setting", choices=[*WEIGHTS])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--experiments", nargs="*", help="those to train; all, where this is not given")
    parser.add_argument("--targets", nargs="*", default=["all", "prepare_all"])
    args, further = parser.parse_known_args()  # the others are Snakemake's
    args.folder.mkdir(parents=True, exist_ok=True)
    folder = args.folder.resolve()

    site = write_site(folder / "site")
    # In a process of its own, which leaves the memory to the stages.
    random_weights = [Path(__file__).with_name("random_weights.py"), folder / "weights"]
    subprocess.run([sys.executable, *random_weights, *WEIGHTS[args.setting]], check=True)
    configs = ["config/hdtf256.yaml", *(["config/hdtf512.yaml"] if args.setting == "hdtf512" else [])]
    files = [*(ROOT / config for config in configs), folder / f"{args.setting}-small.yaml"]
    known = folder / f"{args.setting}-stages.json"
    with running(site):
        files[-1].write_text(yaml.safe_dump(overlay(folder, site, args.experiments)))
        status, seen = run_workflow(folder, [*map(str, files)], args.targets, args.cores, further)
    # What an earlier command has done, this one has not done again.
    before = [Stage(**stage) for stage in json.loads(known.read_text())] if known.is_file() else []
    stages = list({(stage.stage, stage.job): stage for stage in [*before, *seen]}.values())
    known.write_text(json.dumps([vars(stage) for stage in stages], indent=1))
    for stage in stages:
        took = f"{stage.seconds:.0f} s, {stage.cpu_s:.0f} CPU s, {stage.peak_gb:.2f} GB"
        print(f"{stage.stage} {stage.job}: {took}")
    print(f"\n{args.setting}, {args.cores} cores\n\n{table(stages)}")
    return status


def write_site(folder: Path) -> Site:
    """Draw the speakers into a room of 720p, write the table of their clips, and return the site."""
    site, folder_exists = Site(), folder.is_dir()
    folder.mkdir(exist_ok=True)
    seconds = TRAINED | TESTED | {REMOVED: 1}
    of_clip = {row.clip_id: row for row in read_table() if row.clip_id in seconds}
    for number, (clip_id, row) in enumerate(of_clip.items()):
        file = folder / f"{clip_id}.mp4"
        site.files[file.name] = file
        site.pages[row.youtube_id] = fails(404) if clip_id == REMOVED else plays(file.name)
        if not file.is_file() and clip_id != REMOVED:
            with tempfile.TemporaryDirectory() as scratch:
                drawn = Path(scratch) / "drawn.mp4"
                render_source(DemoSource(clip_id, 900 + number, 900 + number, 1, seconds[clip_id]), drawn)
                frames = [in_a_room(frame, *FRAME) for frame in read_frames(drawn)]
                write_video(file, frames, audio=read_audio(drawn), crf=18)
    side = 2 * 256  # the drawn face, as `in_a_room` enlarges it
    left, top = (FRAME[0] - side) // 2, (FRAME[1] - side) // 2
    rows = [
        replace(row, start_s=0, end_s=seconds[i], x=left, y=top, w=side, h=side, height=FRAME[1])
        for i, row in of_clip.items()
    ]
    if not folder_exists:
        write_table(folder / "clips.csv", rows)
    return site


def overlay(folder: Path, site: Site, experiments: list[str] | None) -> dict[str, Any]:
    """Return the keys that differ from those of the paper's configuration."""
    known = yaml.safe_load((ROOT / "config/hdtf256.yaml").read_text())["experiments"]
    left_out = [name for name in known if experiments is not None and name not in experiments]
    return {
        "gpu": 0,
        "weights": str(folder / "weights"),
        "dataset": {"table": str(folder / "site/clips.csv"), "max_frames": MOST_FRAMES},
        "download": {"url": site.url, "sleep_s": 0, "request_sleep_s": 0},
        "shards": {"train": 1, "test": 1},
        "landmarks": {"backend": "dlib"},
        "crops": {"min_frames": LEAST_FRAMES},
        "autoencoder_training": {"steps": FIRST_STAGE_STEPS, "batch_size": 1, "log_every": 1},
        "training": {"steps": STEPS, "batch_size": 1, "log_every": 1},
        "experiments": dict.fromkeys(left_out),
        "sampling": {"steps": STEPS},
        "evaluation": {"device": "cpu"},
    }


def run_workflow(
    folder: Path, configs: list[str], targets: list[str], cores: int, further: list[str]
) -> tuple[int, list[Stage]]:
    """Run Snakemake in a folder; return its exit status, and what was seen of each command."""
    command = [sys.executable, "-m", "snakemake", "--cores", str(cores), *targets]
    where = ["--snakefile", str(ROOT / "workflow/Snakefile"), "--directory", str(folder), *further]
    with subprocess.Popen([*command, *where, "--configfile", *configs]) as process:
        watch = Watch(process.pid)
        status = process.wait()
    return status, watch.close()


if __name__ == "__main__":
    sys.exit(main())
