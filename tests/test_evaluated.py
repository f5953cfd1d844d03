"""Which test clips are evaluated and how much of each, what a codec alone does, and what sampling costs."""

import csv
import hashlib
from pathlib import Path

import numpy as np
import pytest
from drawn_clips import speaker, write_crops
from small_training import train_on_drawn

from difftalk.config.evaluation import EvaluatedClips, Evaluation
from difftalk.config.sampling import Sampling
from difftalk.config.workflow import expected_test_frames, load
from difftalk.datasets.chosen import Candidate, choose, read_chosen
from difftalk.datasets.clips import Clip, write_plan
from difftalk.evaluation.pair import Pair
from difftalk.media.audio import read_audio
from difftalk.media.probe import probe
from difftalk.media.shards import read_crops, write_shard
from difftalk.media.video import read_video
from difftalk.runtime.errors import UserError
from difftalk.sampling.cost import sampling_cost
from difftalk.stages import evaluated, sample

CLIPS = {"ann": 950, "ben": 951}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Crops of two speakers, encoded, and a model that was trained for a moment."""
    folder = tmp_path_factory.mktemp("made")
    train_on_drawn(folder, {clip_id: speaker(seed) for clip_id, seed in CLIPS.items()}, "test")
    return folder


def test_clips_are_chosen_by_the_md5_of_their_ids_one_of_each_source() -> None:
    of_source = {"a": ("a-0", "a-1", "a-2"), "b": ("b-0",), "c": ("c-0", "c-1")}
    candidates = [Candidate(c, source, "test-000", 100) for source, ids in of_source.items() for c in ids]
    md5 = {c.clip_id: hashlib.md5(c.clip_id.encode()).hexdigest() for c in candidates}
    chosen = choose(candidates, EvaluatedClips(count=2, seconds=2.0))
    firsts = sorted(min(md5[c] for c in ids) for ids in of_source.values())
    assert [clip.md5 for clip in chosen] == firsts[:2]
    assert {clip.evaluated_frames for clip in chosen} == {50}
    assert choose(reversed(candidates), EvaluatedClips(count=2, seconds=2.0)) == chosen


def test_clips_that_are_too_short_are_passed_over() -> None:
    candidates = [Candidate(f"{k}-0", str(k), "test-000", 40 + k) for k in range(20)]
    chosen = choose(candidates, EvaluatedClips(seconds=2.0))
    assert {clip.clip_id for clip in chosen} == {f"{k}-0" for k in range(10, 20)}
    whole = choose(candidates, EvaluatedClips(count=3))
    assert [clip.evaluated_frames for clip in whole] == [clip.frames for clip in whole]


def test_the_list_is_of_clips_that_there_are(tmp_path: Path) -> None:
    clips = [Clip(f"{name}-0", name, 0.0, 4.0, name, "test", "test-000") for name in "abc"]
    write_plan(tmp_path / "clips.parquet", clips, ["test-000"])
    arrays = {"latents.npy": np.zeros((60, 1), np.float16)}
    write_shard(tmp_path / "test-000.tar", [("a-0", arrays), ("b-0", arrays)])

    def choose_in(seconds: float) -> None:
        evaluated.run(
            plan=tmp_path / "clips.parquet",
            shards=[tmp_path / "test-000.tar"],
            settings=EvaluatedClips(seconds=seconds),
            out=tmp_path / "evaluated.csv",
        )

    choose_in(2.0)
    assert read_chosen(tmp_path / "evaluated.csv") == {"a-0": 50, "b-0": 50}
    with pytest.raises(UserError, match=r"none of 2 test clips is 3 s long, the longest has 60 frames"):
        choose_in(3.0)


def sampled(made: Path, out: Path, method: str, only: Path | None = None) -> dict[str, np.ndarray]:
    sample.run(
        method=method,
        crops=made / "crops.tar",
        shard_file=made / "train-000.tar",
        autoencoder=made / "autoencoder",
        model=made / "model" if method == "model" else None,
        settings=Sampling(steps=2, crf=0),
        out=out,
        only=only,
    )
    return {p.stem: read_video(p) for p in sorted(out.glob("*.mp4"))}


@pytest.mark.parametrize("method", ["ground_truth", "reconstruction", "model"])
def test_only_the_chosen_part_of_the_chosen_clips_is_sampled(made: Path, tmp_path: Path, method: str) -> None:
    (tmp_path / "evaluated.csv").write_text(
        "clip_id,source_id,shard,frames,evaluated_frames,md5\nben,ben,test-000,60,25,0\nother,o,test-001,60,25,1\n"
    )
    part = sampled(made, tmp_path / "part", method, tmp_path / "evaluated.csv")
    assert {clip_id: len(frames) for clip_id, frames in part.items()} == {"ben": 25}
    assert abs(len(read_audio(tmp_path / "part" / "ben.mp4")) - 16000) < 1200, "AAC has frames of 64 ms"
    if method != "model":  # the audio around a frame is as in the whole clip, but how H.264 sees it is not
        whole = sampled(made, tmp_path / "whole", method)
        assert np.abs(part["ben"].astype(int) - whole["ben"][:25]).max() <= 3


def test_what_a_model_takes_is_written_down(made: Path, tmp_path: Path) -> None:
    sampled(made, tmp_path / "samples" / "model" / "test-000", "model")
    with (tmp_path / "samples" / "model" / "test-000" / "timing.csv").open(newline="") as file:
        rows = {row["clip_id"]: row for row in csv.DictReader(file)}
    assert set(rows) == set(CLIPS)
    assert all(
        row["frames"] == "60" and row["steps"] == "2" and float(row["seconds"]) > 0 for row in rows.values()
    )
    sampled(made, tmp_path / "truth", "ground_truth")
    assert not (tmp_path / "truth" / "timing.csv").exists()


def test_the_cost_is_said_from_the_plan_and_the_rate_of_earlier_samples(tmp_path: Path) -> None:
    jobs = [("ours", "test-000"), ("ours", "test-001"), ("theirs", "test-000")]
    assert sampling_cost(tmp_path, [], 5, None) is None
    unknown = sampling_cost(tmp_path, jobs, 5, None)
    assert unknown is not None and "how many frames, the plan will say" in unknown.line()
    expected = sampling_cost(tmp_path, jobs, 5, None, 937.5)
    assert expected is not None and ": about 2,814 frames x 5 steps;" in expected.line()
    clips = [Clip(f"{k}-0", str(k), 0.0, 4.0, str(k), "test", f"test-00{k}") for k in (0, 1)]
    (tmp_path / "plan").mkdir()
    write_plan(tmp_path / "plan" / "clips.parquet", clips, ["test-000", "test-001"])
    planned = sampling_cost(tmp_path, jobs, 200, None)
    assert planned is not None and planned.frames == 300
    said = "Sampling by 2 models (ours, theirs): 300 frames x 200 steps; each job says how long it takes"
    assert planned.line().startswith(said)
    earlier = tmp_path / "samples" / "ours" / "test-000"
    earlier.mkdir(parents=True)
    (earlier / "timing.csv").write_text("clip_id,seconds,frames,steps\n0-0,50.0,100,5\n")
    measured = sampling_cost(tmp_path, jobs, 200, None)
    assert measured is not None and measured.seconds == pytest.approx(300 * 200 * 0.1)
    assert measured.line().endswith("one after the other 1.7 h, at the rate of earlier samples")


def test_recompressed_is_the_truth_through_a_usual_codec_and_so_heard(made: Path, tmp_path: Path) -> None:
    found = sampled(made, tmp_path / "out", "recompressed")
    info = probe(tmp_path / "out" / "ann.mp4")
    assert (info.codec, info.fps, info.has_audio) == ("h264", 25.0, True)
    crop = next(read_crops(made / "crops.tar", ["ann"]))
    difference = np.abs(found["ann"].astype(int) - crop.frames()).mean()
    assert 0.5 < difference < 8
    pair = Pair(crop, tmp_path / "out" / "ann.mp4", Evaluation(), own_audio=True)
    heard, true = pair.audio.astype(float), crop.audio.astype(float)
    assert len(heard) == len(true)
    # AAC at 128 kbit/s: not the same samples, and at the same time.
    assert 0.98 < np.corrcoef(heard, true)[0, 1] < 1 - 1e-9
    assert np.array_equal(Pair(crop, pair.path, Evaluation()).audio, crop.audio)
    sampled(made, tmp_path / "again", "recompressed")
    assert (tmp_path / "again" / "ann.mp4").read_bytes() == pair.path.read_bytes()


def test_a_limited_crop_is_its_beginning(tmp_path: Path) -> None:
    write_crops(tmp_path / "c.tar", {"ann": speaker(950)})
    whole, part = (
        next(read_crops(tmp_path / "c.tar")),
        next(read_crops(tmp_path / "c.tar", None, {"ann": 10})),
    )
    assert np.array_equal(part.frames(), whole.frames()[:10])
    assert np.array_equal(part.audio, whole.audio[:6400])
    assert np.array_equal(part.landmarks, whole.landmarks[:10])


def test_the_configuration_says_how_many_frames_to_expect() -> None:
    demo = {"crops": {"size": 64}}
    assert expected_test_frames(load(demo)) == 6 * 2 * 6.0 * 25
    chosen = {"evaluation": {"clips": {"count": 75, "seconds": 10.0}}}
    assert expected_test_frames(load(demo | chosen)) == 75 * 250
    assert expected_test_frames(load(demo | {"dataset": {"name": "hdtf"}})) is None
