"""The job graph: what a configuration asks for, what is refused, and what an edit reruns."""

import csv
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import yaml
from conftest import ROOT, TINY, Finished, Workflow, job_counts, snakemake

from difftalk.config.workflow import read_yaml
from difftalk.datasets.clips import Clip, read_plan
from difftalk.datasets.frozen import write_frozen
from difftalk.media.video import read_video

PREPARED = ("autoencoder", "syncnet", "sync", "funnel", "clip_scores", "freeze")
PER_SHARD = ("fetch", "landmarks", "gates", "crops", "speech", "encode")


def expected(shards: int, models: int, test_shards: int = 1, expert: bool = True) -> dict[str, int]:
    """The jobs of `all`: shards and models are all that they depend on, and a sync expert for all crops."""
    measured = (models + 4) * test_shards
    once = dict.fromkeys(
        ("plan", "autoencoder", "syncnet", "funnel", "clip_scores", "tables", "report", "all"), 1
    )
    per_shard = dict.fromkeys((*PER_SHARD, "sync") if expert else PER_SHARD, shards)
    # The truth and one model, driven by other voices.
    driven = {"pairs": 1, "cross_drive": 2 * test_shards, "cross_score": 2 * test_shards}
    return once | per_shard | driven | {"train": models, "sample": measured, "score": measured}


def test_the_demo(workflow: Workflow) -> None:
    assert workflow("-n").jobs == expected(shards=3, models=2)


def test_every_experiment_and_seed_of_the_full_demo(workflow: Workflow) -> None:
    overlay = ROOT / "config" / "demo_full.yaml"
    experiments = read_yaml(overlay)["experiments"]
    assert {"difftalk", "no_smoothing", "no_audio", "a", "al", "alr", "am"} <= set(experiments)
    count = sum(len(e.get("seeds", [1])) for e in experiments.values())
    assert workflow("-n", "--configfile", overlay).jobs == expected(shards=3, models=count)


def test_jobs_grow_with_shards_and_not_with_clips(workflow: Workflow) -> None:
    more_clips = workflow("-n", "--config", "dataset={clips_per_identity: 500}").jobs
    assert more_clips == expected(shards=3, models=2)
    more_shards = workflow("-n", "--config", "shards={train: 6, test: 2}").jobs
    assert more_shards == expected(shards=8, models=2, test_shards=2)


def test_hdtf_needs_nothing_but_its_shards_to_be_planned(workflow: Workflow) -> None:
    """No network, no weights, and as many jobs whatever the clips: 436 of them, or a part of their frames."""
    overlay = ROOT / "config" / "hdtf256.yaml"
    shards = sum(read_yaml(overlay)["shards"].values())
    jobs = dict.fromkeys((*PER_SHARD, "descriptors"), shards)
    once = ("plan", "autoencoder", "overlap", "funnel", "clip_scores", "freeze", "prepare_all")
    jobs |= dict.fromkeys(once, 1)
    assert workflow("prepare_all", "-n", "--configfile", overlay).jobs == jobs
    other = ("--config", "dataset={split: identity, max_frames: 50}")
    assert workflow("prepare_all", "-n", "--configfile", overlay, *other).jobs == jobs


def test_training_shards_wait_for_all_crops_only_where_overlap_is_rejected(workflow: Workflow) -> None:
    def jobs(shard: str, *config: str) -> dict[str, int]:
        overlay = ROOT / "config" / "hdtf256.yaml"
        shards = "shards={train: 3, test: 2}"
        target = f"results/hdtf256/shards/{shard}.tar"
        return workflow(target, "-n", "--configfile", overlay, "--config", shards, *config).jobs

    alone = dict.fromkeys((*PER_SHARD, "plan", "autoencoder"), 1)
    assert jobs("train-000") == alone, "the paper's split shares speakers"
    identity = "dataset={split: identity}"
    assert jobs("test-000", identity) == alone
    assert jobs("train-000", identity)["descriptors"] == 5
    assert jobs("train-000", identity, "gates={overlap: report}") == alone


def test_the_evaluated_clips_are_chosen_when_all_test_shards_are_there(workflow: Workflow) -> None:
    chosen = workflow(
        "results/demo/plan/evaluated.csv", "-n", "--config", "evaluation={clips: {count: 3}}"
    ).jobs
    assert chosen == {**dict.fromkeys((*PER_SHARD, "plan", "autoencoder", "evaluated"), 1)}
    all_of_them = workflow("sample_all", "-n", "--config", "evaluation={clips: {count: 3}}").jobs
    assert all_of_them["evaluated"] == 1 and "evaluated" not in workflow("sample_all", "-n").jobs


def test_no_method_is_driven_by_other_voices_where_none_is_named(workflow: Workflow) -> None:
    jobs = workflow("-n", "--config", "evaluation={cross_driven: []}").jobs
    assert not {"pairs", "cross_drive", "cross_score"} & set(jobs)
    two = workflow("-n", "--config", "evaluation={cross_driven: [difftalk, no_audio]}").jobs
    assert two["cross_drive"] == two["cross_score"] == 3
    said = complaint(workflow("-n", "--config", "evaluation={cross_driven: [diftalk]}"))
    assert "evaluation.cross_driven: diftalk is no model of the run; did you mean difftalk" in said


def test_any_name_may_be_that_of_a_first_stage_or_a_frozen_plan(workflow: Workflow, tmp_path: Path) -> None:
    folder = tmp_path / "{x} it's"
    shutil.copytree(ROOT / "difftalk/assets/autoencoder", folder / "{y}")
    clips = [Clip(f"{s}-0", s, 0.0, 1.0, s, s, uri="1") for s in ("train", "test")]
    write_frozen(folder / "{frozen}.csv", clips, {"train": "1" * 64, "test": "2" * 64})
    names = [f"autoencoder={folder.name}/{{y}}", f"frozen_plan={folder.name}/{{frozen}}.csv"]
    targets = ("results/demo/models/autoencoder", "results/demo/plan/clips.parquet")
    done = workflow(*targets, "--config", *names)
    assert done.status == 0, done.said
    assert {c.clip_id for c in read_plan(tmp_path / targets[1])} == {"train-0", "test-0"}
    assert workflow(*targets, "-n", "--config", *names).idle


def test_a_folder_of_videos(workflow: Workflow, tmp_path: Path) -> None:
    (tmp_path / "films").mkdir()
    found = workflow("-n", "--configfile", ROOT / "config/videos.yaml", "--config", "videos=films")
    assert found.jobs == expected(shards=2, models=2, expert=False)


@pytest.mark.parametrize(
    ("target", "rules"),
    [
        ("prepare_all", {"plan", *PER_SHARD, *PREPARED, "prepare_all"}),
        ("train_all", {"plan", *PER_SHARD, "autoencoder", "train", "train_all"}),
        ("sample_all", {"plan", *PER_SHARD, "autoencoder", "train", "sample", "sample_all"}),
    ],
)
def test_targets(workflow: Workflow, target: str, rules: set[str]) -> None:
    assert set(workflow(target, "-n").jobs) == rules


def test_parts_that_are_trained_wait_for_the_training_crops(workflow: Workflow) -> None:
    embedded = workflow("results/demo/models/autoencoder", "results/demo/models/syncnet", "-n")
    assert embedded.jobs == {"autoencoder": 1, "syncnet": 1}
    trained = workflow("results/demo/models/autoencoder", "-n", "--config", "autoencoder=train")
    assert trained.jobs == {"plan": 1, "fetch": 2, "landmarks": 2, "gates": 2, "crops": 2, "autoencoder": 1}


def test_crops_wait_for_the_sync_expert_where_it_judges_them(workflow: Workflow) -> None:
    crops = "results/demo/crops/test-000.tar"
    alone = dict.fromkeys(("plan", "fetch", "landmarks", "gates", "crops"), 1)
    assert workflow(crops, "-n").jobs == alone
    judged = workflow(crops, "-n", "--config", "gates={sync: {min_confidence: 2}}")
    assert judged.jobs == alone | {"syncnet": 1}
    circular = workflow("-n", "--config", "gates={sync: {}}", "syncnet=train")
    assert circular.status != 0
    assert "difftalk: config: gates.sync needs a sync expert before there are crops" in circular.said
    assert "Traceback" not in circular.said


def test_the_root_snakefile_is_the_same_workflow() -> None:
    command = [sys.executable, "-m", "snakemake", "-n", "--forceall"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert job_counts(done.stdout) == expected(shards=3, models=2)


def complaint(done: Finished) -> str:
    """What a refused configuration prints beside snakemake's own notes: one line."""
    assert done.status == 1
    notes = ("Using workflow specific profile", "Config file")
    lines = [line for line in done.said.splitlines() if line and not line.startswith(notes)]
    assert len(lines) == 1, done.said
    return lines[0]


def test_a_mistyped_key_is_one_line_with_the_key_the_file_and_the_nearest_key(
    workflow: Workflow, tmp_path: Path
) -> None:
    (tmp_path / "mine.yaml").write_text("training:\n  batchsize: 4\n")
    said = complaint(workflow("-n", "--configfile", "mine.yaml"))
    assert said == (
        "difftalk: mine.yaml: training.batchsize is not a known key (did you mean training.batch_size?)"
    )
    said = complaint(workflow("-n", "--config", "trainin={}"))
    assert said == "difftalk: --config: trainin is not a known key (did you mean training?)"


def test_folders_that_are_not_there_are_one_line(workflow: Workflow) -> None:
    assert "videos: no folder nowhere" in complaint(workflow("-n", "--config", "videos=nowhere"))
    said = complaint(workflow("-n", "--config", "autoencoder=models/vq"))
    assert said == "difftalk: config: autoencoder: models/vq does not exist"


def test_lint() -> None:
    command = [sys.executable, "-m", "snakemake", "--lint"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_edit_of_a_training_leaves_what_is_not_trained(tmp_path: Path, checkout: Path) -> None:
    targets = ("results/demo/models/autoencoder", "results/demo/models/syncnet")
    assert snakemake(*targets, directory=tmp_path).status == 0
    for module in ("checkpoint.py", "first_stage.py", "sync_expert.py"):
        edit(checkout / "difftalk/training" / module, "\nimport ", "\nEDITED = True\nimport ")
    assert snakemake(*targets, "-n", directory=tmp_path, checkout=checkout).idle
    found = snakemake(*targets, "-n", "--config", "syncnet=train", directory=tmp_path, checkout=checkout)
    assert found.jobs["syncnet"] == 1


# From here on: the run that the tests share.


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def tiny(directory: Path, *arguments: str | Path, checkout: Path = ROOT) -> Finished:
    return snakemake(*arguments, "--configfile", TINY, directory=directory, checkout=checkout)


def test_all_outputs_are_there(tiny_run: Path) -> None:
    run = tiny_run / "results" / "tiny"
    for path in (
        "plan/clips.parquet",
        "sources/train-000",
        "landmarks/train-001.parquet",
        "crops/test-000.tar",
        "speech/test-000.parquet",
        "shards/train-000.tar",
        "models/autoencoder",
        "models/syncnet",
        "models/difftalk",
        "models/no_audio",
        "metrics/ground_truth/test-000.parquet",
        "tables/comparison.csv",
        "funnel.csv",
        "clip_scores.parquet",
        "clip_scores.html",
        "report/index.html",
        "report.zip",
        "rejects/crops/train-000.csv",
    ):
        assert (run / path).exists(), path
    for method in (
        "ground_truth",
        "reconstruction",
        "reference_copy",
        "recompressed",
        "difftalk",
        "no_audio",
    ):
        assert len(list((run / "samples" / method / "test-000").glob("*.mp4"))) == 2, method


def test_every_job_has_left_a_log_and_nothing_half_done(tiny_run: Path) -> None:
    run = tiny_run / "results" / "tiny"
    stages = {path.stem for path in (run / "logs").iterdir()}
    assert {*PER_SHARD, "plan", "train", "sample", "score", "tables", "funnel", "report"} <= stages
    assert "4/4" not in (run / "logs" / "train" / "difftalk.log").read_text()
    assert [p for p in (tiny_run / "results").rglob("*.part*") if p.name.startswith(".")] == []


def test_a_second_run_has_nothing_to_do_within_10_seconds(tiny_run: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert tiny(tiny_run).idle
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Of processor time, so that what else the machine does has no say.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 10


def test_a_comment_reruns_nothing(tiny_run: Path, checkout: Path) -> None:
    for module in ("media/video.py", "training/loop.py", "evaluation/metrics.py"):
        file = checkout / "difftalk" / module
        file.write_text("# A comment.\n" + file.read_text() + "\n# Another.\n")
    assert tiny(tiny_run, "-n", checkout=checkout).idle


def test_an_edit_of_the_metrics_reruns_score_and_what_follows(tiny_run: Path, checkout: Path) -> None:
    metrics = checkout / "difftalk" / "evaluation" / "metrics.py"
    metrics.write_text(metrics.read_text() + "\nEDITED = True\n")
    found = tiny(tiny_run, "-n", checkout=checkout)
    # The page computes mouth openings by the same module, and follows anyhow.
    assert found.jobs == {"score": 6, "cross_score": 2, "tables": 1, "report": 1, "all": 1}


def test_an_edit_of_the_training_leaves_the_data(tiny_run: Path, checkout: Path) -> None:
    loop = checkout / "difftalk" / "training" / "loop.py"
    loop.write_text(loop.read_text() + "\nEDITED = True\n")
    found = tiny(tiny_run, "-n", checkout=checkout)
    driven = {"cross_drive": 1, "cross_score": 1}
    assert found.jobs == {
        **{"train": 2, "sample": 2, "score": 2, "tables": 1, "report": 1, "all": 1},
        **driven,
    }


def test_models_have_nothing_of_the_machine_in_them(tiny_run: Path) -> None:
    for file in (path for path in (tiny_run / "results/tiny/models").rglob("*") if path.is_file()):
        content = file.read_bytes()
        assert str(tiny_run).encode() not in content and str(ROOT).encode() not in content, file
        assert file.name != ".snakemake_timestamp" or not content


def test_copied_frames_wait_for_no_gpu(workflow: Workflow) -> None:
    said = workflow("-n", "-p", "--configfile", TINY, "--config", "gpu=1", "--", "sample_all").said
    has_one = {}
    for line in said.splitlines():
        environment, _, command = line.partition(" -m difftalk sample --method ")
        if command:
            has_one[command.split()[0]] = "sample" in environment.partition("DIFFTALK_GPU=")[2]
    assert has_one == {
        "ground_truth": False, "reference_copy": False, "recompressed": False,
        "reconstruction": True, "difftalk": True, "no_audio": True,
    }  # fmt: skip


def test_steps_of_one_experiment_rerun_that_one_and_what_follows(tiny_run: Path) -> None:
    found = tiny(tiny_run, "-n", "--config", "experiments={no_audio: {training: {steps: 13}}}")
    assert found.jobs == {"train": 1, "sample": 1, "score": 1, "tables": 1, "report": 1, "all": 1}


def test_the_process_of_a_job_builds_no_graph_but_its_own(tiny_run: Path) -> None:
    """As on a node of a cluster: with the checkpoint, Snakemake would build that of the whole run."""
    job = (
        "--mode",
        "remote",
        "--nolock",
        "--allowed-rules",
        "train",
        "--target-jobs",
        "train:model=difftalk",
    )
    done = snakemake("-n", "--forceall", *job, "--configfile", TINY, directory=tiny_run)
    assert done.jobs == {"train": 1}


def test_how_jobs_run_reruns_nothing(tiny_run: Path) -> None:
    changed = ("max_reject_fraction=0.9", "training_threads=2", "gpu=1", "autoencoder_training={}")
    assert tiny(tiny_run, "-n", "--config", *changed).idle


def test_snakemakes_own_report_holds_tables_and_page(tiny_run: Path, tmp_path: Path) -> None:
    done = tiny(tiny_run, "--report", tmp_path / "report.zip")
    assert done.status == 0, done.said
    assert (tmp_path / "report.zip").stat().st_size > 100_000


def test_videos_of_a_folder_end_as_crops_or_as_rejects(tiny_run: Path, tmp_path: Path) -> None:
    films = tmp_path / "films"
    films.mkdir()
    for film in sorted((tiny_run / "results" / "store" / "sources").glob("*.mp4"))[:3]:
        (films / film.name).write_bytes(film.read_bytes())
    (films / "damaged.mp4").write_bytes(b"no video at all")
    done = snakemake(
        *("prepare_all", "--configfile", ROOT / "config/videos.yaml"),
        *("--config", "videos=films", f"autoencoder={tiny_run}/results/tiny/models/autoencoder"),
        "crops={size: 64}",
        directory=tmp_path,
    )
    assert done.status == 0, done.said
    funnel = (tmp_path / "results" / "videos" / "funnel.csv").read_text().splitlines()
    clips = {tuple(line.split(",")[:2]): int(line.split(",")[2]) for line in funnel[1:]}
    assert clips == {("planned", ""): 4, ("fetch", "cannot_decode"): 1, ("kept", ""): 3}


def test_methods_from_elsewhere_become_rows_of_the_table(tiny_run: Path, tmp_path: Path) -> None:
    """A command that shows each frame late, and videos at 30 fps in Matroska, one of two missing."""
    shutil.copytree(tiny_run, tmp_path, dirs_exist_ok=True)
    run = tmp_path / "results" / "tiny"
    truth = sorted((run / "samples" / "ground_truth" / "test-000").glob("*.mp4"))
    (tmp_path / "theirs").mkdir()
    frames = read_video(truth[0])
    shown = frames[np.arange(len(frames) * 30 // 25) * 25 // 30]
    with av.open(str(tmp_path / "theirs" / f"{truth[0].stem}.mkv"), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"crf": "4"})
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv444p"
        for frame in shown:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    late = (
        "import sys; from difftalk.media.video import read_video; "
        "from difftalk.media.encode import write_video; "
        "f = read_video(sys.argv[1]); write_video(sys.argv[2], f[[0, 0, 0, *range(len(f) - 3)]], crf=4)"
    )
    methods = {
        "late": {
            "command": ["python", "-c", late, "{video}", "{out}"],
            "variables": {"PYTHONPATH": str(ROOT)},
        },
        "folder": {"videos": "theirs"},
    }
    (tmp_path / "methods.yaml").write_text(yaml.safe_dump({**read_yaml(TINY), "methods": methods}))
    asked = ("tables", "--configfile", "methods.yaml")
    done = snakemake(*asked, directory=tmp_path)
    assert done.status == 0, done.said
    assert done.jobs == {"run_method": 2, "score": 2, "tables": 1}
    with (run / "tables" / "comparison.csv").open(newline="") as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert (rows["late"]["clips"], rows["late"]["clips_asked"]) == ("2", "2")
    assert (rows["folder"]["clips"], rows["folder"]["clips_asked"]) == ("1", "2")
    assert float(rows["late"]["method_fps"]) > 0 and rows["folder"]["method_fps"] == ""
    assert float(rows["folder"]["psnr"]) > 35 > float(rows["late"]["psnr"])
    assert snakemake(*asked, "-n", directory=tmp_path).idle
    shutil.copy(truth[1], tmp_path / "theirs")
    assert snakemake(*asked, "-n", directory=tmp_path).jobs == {"run_method": 1, "score": 1, "tables": 1}
