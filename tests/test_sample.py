"""The stage `sample`: a killed one goes on, clip by clip, and gives the same bytes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn_clips import speaker, write_crops
from small_training import train_on_drawn

from difftalk.config.sampling import Sampling
from difftalk.config.section import from_dict
from difftalk.media.members import list_members
from difftalk.media.shards import read_shard, write_shard
from difftalk.media.video import read_video
from difftalk.models.examples import LatentClips
from difftalk.runtime.errors import UserError
from difftalk.sampling.clip_sampler import ClipJob, sample_clips
from difftalk.sampling.frame_sampler import FrameSampler
from difftalk.sampling.inputs import ShardClip
from difftalk.sampling.pipeline import DiffTalkPipeline
from difftalk.sampling.unfinished import Unfinished
from difftalk.stages import sample

CLIPS = {"ann": 950, "ben": 951, "cat": 952}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Crops of three speakers, encoded, and a model that was trained for a moment."""
    folder = tmp_path_factory.mktemp("sample")
    train_on_drawn(folder, {clip_id: speaker(seed) for clip_id, seed in CLIPS.items()}, "test")
    return folder


def arguments(made: Path, out: Path, **settings: object) -> dict[str, object]:
    return {
        "method": "model",
        "crops": made / "crops.tar",
        "shard_file": made / "train-000.tar",
        "autoencoder": made / "autoencoder",
        "model": made / "model",
        "settings": from_dict(Sampling, {"steps": 2, **settings}, ""),
        "out": out,
    }


def videos(folder: Path) -> dict[str, bytes]:
    return {p.stem: p.read_bytes() for p in sorted(folder.glob("*.mp4"))}


def test_a_killed_sampling_goes_on_and_gives_the_same_bytes(made: Path, tmp_path: Path) -> None:
    sample.run(**arguments(made, tmp_path / "whole", steps=50))  # type: ignore[arg-type]
    out, state = tmp_path / "out", tmp_path / "state"
    words = []
    for name, value in arguments(made, out, steps=50).items():
        given = value.as_dict() if isinstance(value, Sampling) else value
        words += [f"--{name.replace('_', '-')}", json.dumps(given) if isinstance(given, dict) else str(given)]
    command = [sys.executable, "-m", "difftalk", "sample", *words, "--state", str(state)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as killed:
        deadline = time.monotonic() + 120
        while not list(state.glob(".*.mp4.sha256")) and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(killed.pid, signal.SIGKILL)
    before = {p.stem: p.stat().st_mtime_ns for p in state.glob("*.mp4")}
    assert before and not out.exists()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "of 3 clips are there from before" in done.stderr
    assert videos(out) == videos(tmp_path / "whole") and set(videos(out)) == set(CLIPS)
    assert all((state / f"{clip_id}.mp4").samefile(out / f"{clip_id}.mp4") for clip_id in CLIPS), "no space"
    shutil.rmtree(out)  # as Snakemake does where it lost the job
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "3 of 3 clips are there from before" in done.stderr
    assert videos(out) == videos(tmp_path / "whole")


def test_a_clip_goes_on_in_the_middle(made: Path, tmp_path: Path) -> None:
    pipeline = DiffTalkPipeline.from_pretrained(made / "model")
    settings = Sampling(steps=2, progressive="latent")
    clips = LatentClips([made / "train-000.tar"], pipeline.conditioner.neighbours)
    sampler = FrameSampler(pipeline, settings)

    def job() -> ClipJob:
        clip = ShardClip(clips, 0, 64, settings)
        return ClipJob(clip, range(12), clip.latent(0))

    (*_, whole) = sample_clips(sampler, [job()])
    begun = Unfinished(tmp_path / "state", {"seed": 1}, seconds_between=0.0)
    for turn, sampled in enumerate(sample_clips(sampler, [job()])):
        begun.keep(sampled)
        if turn == 6:
            break
    continued = job()
    continued.done += Unfinished(tmp_path / "state", {"seed": 1}).load(continued)
    assert len(continued.done) == 7
    (*_, rest) = sample_clips(sampler, [continued])
    assert torch.equal(rest.latents(), whole.latents())

    file = next((tmp_path / "state").glob("*.npy"))
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert not Unfinished(tmp_path / "state", {"seed": 1}).load(job()), "damaged latents are not used"
    Unfinished(tmp_path / "state", {"seed": 2})
    assert not list((tmp_path / "state").glob("*.npy")), "another sampling starts afresh"


@pytest.mark.parametrize("interpolation", ["smooth", "between"])
def test_interpolation_keeps_length_and_known_region(made: Path, tmp_path: Path, interpolation: str) -> None:
    """Outside the region a frame that was sampled is as sampled, one between is the reconstruction."""
    for name in ("none", interpolation):
        sample.run(**arguments(made, tmp_path / name, interpolation=name, crf=0))  # type: ignore[arg-type]
    known = arguments(made, tmp_path / "known", crf=0) | {"method": "reconstruction", "model": None}
    sample.run(**known)  # type: ignore[arg-type]
    names = ("none", interpolation, "known")
    plain, found, kept = (read_video(tmp_path / name / "ann.mp4") for name in names)
    assert plain.shape == found.shape
    if interpolation == "between":
        plain[1:-1:2] = kept[1:-1:2]
    generated = LatentClips([made / "train-000.tar"], 1).clips[0]["generated"].astype(bool)
    region = generated.repeat(4, axis=1).repeat(4, axis=2)
    changed = np.abs(plain.astype(int) - found).max(axis=3) > 3  # of H.264's colours
    assert not changed[~region].any() and changed[region].any()


def test_other_masks_change_the_generated_region_alone(made: Path, tmp_path: Path) -> None:
    for name, changes in {
        "ours": {},
        "line": {"mask_line": "nose_base"},
        "mask": {"mask": "released"},
    }.items():
        sample.run(**arguments(made, tmp_path / name, crf=0, **changes))  # type: ignore[arg-type]
    ours, line, mask = (read_video(tmp_path / name / "ann.mp4") for name in ("ours", "line", "mask"))
    assert not np.array_equal(ours, line) and not np.array_equal(ours, mask)


def test_two_processes_and_one_make_the_same_videos(made: Path, tmp_path: Path) -> None:
    """Two shards, in processes side by side, against one shard with their clips."""
    running = []
    for name, chosen in {"one": set(CLIPS), "first": {"ann"}, "second": {"ben", "cat"}}.items():
        (tmp_path / name).mkdir()
        for shard in ("crops.tar", "train-000.tar"):
            clips = [(clip_id, files) for clip_id, files in read_shard(made / shard) if clip_id in chosen]
            write_shard(tmp_path / name / shard, clips)
        wanted = arguments(made, tmp_path / name / "videos") | {
            "crops": tmp_path / name / "crops.tar",
            "shard_file": tmp_path / name / "train-000.tar",
            "settings": '{"steps": 2}',
        }
        words = [word for key, value in wanted.items() for word in (f"--{key.replace('_', '-')}", str(value))]
        running.append(subprocess.Popen([sys.executable, "-m", "difftalk", "sample", *words]))
    assert [process.wait() for process in running] == [0, 0, 0]
    one, first, second = (videos(tmp_path / name / "videos") for name in ("one", "first", "second"))
    assert len(one) == len(CLIPS) and first | second == one


def test_a_reference_from_the_training_clips(made: Path, tmp_path: Path) -> None:
    """The first frame of the first training clip of the speaker; who has none, has no video."""
    earlier, later = speaker(960), speaker(961)
    training = write_crops(
        tmp_path / "t.tar", {"ann-001": later, "ann-000": earlier, "ben-000": later}, split="train",
        identities={"ann-001": "of-ann", "ann-000": "of-ann", "ben-000": "of-ben"},
    )  # fmt: skip
    wanted = arguments(made, tmp_path / "copies", reference="training", crf=0)
    copied = wanted | {"method": "reference_copy", "model": None}
    with pytest.raises(UserError, match="needs --references"):
        sample.run(**copied)  # type: ignore[arg-type]
    sample.run(**copied, references=[training])  # type: ignore[arg-type]
    found = videos(tmp_path / "copies")
    assert set(found) == {"ann", "ben"}
    np.testing.assert_allclose(read_video(found["ann"])[3], earlier[0][0], atol=3)
    sample.run(**wanted | {"out": tmp_path / "made"}, references=[training])  # type: ignore[arg-type]
    sample.run(**arguments(made, tmp_path / "own", crf=0))  # type: ignore[arg-type]
    made_with, own = videos(tmp_path / "made"), videos(tmp_path / "own")
    assert set(made_with) == {"ann", "ben"} and made_with["ann"] != own["ann"]


def test_all_clips_failing_is_an_error(made: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "crops.tar"
    rewritten = write_crops(damaged, {clip_id: speaker(seed) for clip_id, seed in CLIPS.items()})
    data = bytearray(rewritten.read_bytes())
    for member in list_members(rewritten):
        if member.extension == "flac":
            data[member.offset : member.offset + 4] = b"none"
    damaged.write_bytes(data)
    with pytest.raises(UserError, match="damaged"):
        sample.run(**arguments(made, tmp_path / "out") | {"crops": damaged})  # type: ignore[arg-type]
