"""Test clips driven by another person's voice and by silence: pairs, videos, what is measured of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from drawn_clips import speaker, write_crops
from small_training import train_on_drawn

from difftalk.config.evaluation import Evaluation
from difftalk.config.sampling import Sampling
from difftalk.config.speech import Speech
from difftalk.config.workflow import cross_driven, load
from difftalk.datasets.pairs import Speaking, VoicePair, read_pairs, voice_pairs, write_pairs
from difftalk.evaluation.cross_driven import CrossScorer, leakage_in_silence, leakage_of_voice
from difftalk.evaluation.instruments import load_instruments
from difftalk.evaluation.pair import Pair
from difftalk.media.audio import read_audio
from difftalk.media.encode import write_video
from difftalk.media.shards import read_crops
from difftalk.media.video import read_video
from difftalk.models.syncnet import SyncnetConfig, SyncNetV2, save_syncnet
from difftalk.runtime.errors import UserError
from difftalk.sampling.voices import silence_of
from difftalk.speech.mfcc import mfcc_features
from difftalk.stages import cross_drive, cross_score

SYNCNET = Path(__file__).parents[1] / "difftalk" / "assets" / "syncnet"
CLIPS = {"ann": speaker(950), "ben": speaker(951, 2.0)}
PAIRS = [VoicePair("ann", "crops", "ben", "crops", 50), VoicePair("ben", "crops", "ann", "crops", 50)]


def speaking(*names: str) -> list[Speaking]:
    """Clips whose speaker is the first letter of their name."""
    return [Speaking(name, name[0], "test-000", 100 + k) for k, name in enumerate(names)]


def test_each_voice_drives_one_clip_of_another_person() -> None:
    clips = speaking("a0", "a1", "b0", "b1", "c0", "c1")
    pairs = {pair.clip_id: pair for pair in voice_pairs(clips)}
    assert {c: p.driven_by for c, p in pairs.items()} == {
        "a0": "b0", "a1": "b1", "b0": "c0", "b1": "c1", "c0": "a0", "c1": "a1"
    }  # fmt: skip
    assert pairs["a0"].frames == 100 and pairs["c1"].frames == 101, "both are cut to the shorter"
    assert voice_pairs(clips[::-1]) == voice_pairs(clips)


def test_where_no_rotation_suits_all_each_gets_the_next_other_person_and_one_alone_nobody() -> None:
    pairs = {pair.clip_id: pair.driven_by for pair in voice_pairs(speaking("a0", "a1", "a2", "b0"))}
    assert pairs == {"a0": "b0", "a1": "b0", "a2": "b0", "b0": "a0"}
    (alone,) = voice_pairs(speaking("a0"))
    assert alone.driven_by == "" and alone.frames == 100


def test_silence_is_heard_as_a_pause_and_not_as_noise(tmp_path: Path) -> None:
    _, _, samples = CLIPS["ann"]
    (crop,) = read_crops(write_crops(tmp_path / "c.tar", {"ann": CLIPS["ann"]}))
    voice = silence_of(crop, mfcc_features)
    assert not voice.samples.any() and len(voice.samples) == len(samples)
    assert voice.speech is not None and voice.speech.shape == (120, 39)
    alone = mfcc_features(np.zeros_like(samples), 120)
    # Standardised by itself, silence is noise of deviation 1; in a pause it hardly changes.
    assert alone.std() > 0.9 and voice.speech[8:].std(axis=0).mean() < 0.6


def test_leakage_is_how_much_of_the_original_mouth_is_left() -> None:
    rng = np.random.default_rng(1)
    true, other = np.abs(rng.normal(size=(2, 400)))
    assert leakage_of_voice(true, true) == pytest.approx(1)
    assert abs(leakage_of_voice(other, true) or 0) < 0.15, "three standard errors of 400 draws"
    assert (leakage_of_voice(0.5 * true + 0.5 * other, true) or 0) == pytest.approx(0.7, abs=0.1)
    assert leakage_of_voice(np.zeros(400), true) is None
    assert leakage_in_silence(np.full(400, 0.1), true) == 0
    assert leakage_in_silence(true / 2, true) == pytest.approx(0.5)
    assert leakage_in_silence(true, np.zeros(400)) is None


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Crops of two speakers, one shorter, encoded, and a model that was trained for a moment; their pairs."""
    folder = tmp_path_factory.mktemp("made")
    train_on_drawn(folder, CLIPS, "test")
    write_pairs(folder / "pairs.csv", PAIRS)
    return folder


def drive(made: Path, out: Path, method: str, pairs: Path | None = None, **other: Any) -> Path:
    model = method == "model"
    (made / "shards").mkdir(exist_ok=True)
    shard = made / "shards" / "crops.tar"  # under the name of the shard, as in a run
    if not shard.exists():
        shard.symlink_to(made / "train-000.tar")
    cross_drive.run(
        method=method,
        crops=made / "crops.tar",
        shard_file=made / "train-000.tar",
        pairs=pairs or made / "pairs.csv",
        voice_crops=[made / "crops.tar"],
        voice_shards=[shard],
        settings=Sampling(steps=2, crf=0),
        speech=Speech(backend="mfcc"),
        other=out / "other",
        silence=out / "silence",
        autoencoder=made / "autoencoder" if model else None,
        model=made / "model" if model else None,
        **other,
    )
    return out


@pytest.fixture(scope="module")
def driven(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the model and the truth show, driven by other sounds."""
    folder = tmp_path_factory.mktemp("driven")
    for method in ("model", "ground_truth"):
        drive(made, folder / method, method)
    return folder


@pytest.mark.parametrize("method", ["model", "ground_truth"])
def test_a_clip_is_as_long_as_the_voice_and_has_it_as_its_sound(driven: Path, method: str) -> None:
    frames = read_video(driven / method / "other" / "ann.mp4")
    assert frames.shape == (50, 64, 64, 3)
    heard = read_audio(driven / method / "other" / "ann.mp4")[:32000].astype(float)
    assert np.corrcoef(heard, CLIPS["ben"][2][:32000])[0, 1] > 0.9, "AAC at 96 kbit/s"
    assert read_video(driven / method / "silence" / "ann.mp4").shape[0] == 60
    assert not read_audio(driven / method / "silence" / "ann.mp4").any()


def test_the_truth_shows_its_own_frames_and_a_model_listens(driven: Path) -> None:
    truth = read_video(driven / "ground_truth" / "other" / "ann.mp4").astype(int)
    assert np.abs(truth - CLIPS["ann"][0][:50]).max() <= 3, "of H.264's colours"
    other, silent = (read_video(driven / "model" / voice / "ann.mp4") for voice in ("other", "silence"))
    assert not np.array_equal(other, silent[:50]), "a net trained for a moment hardly listens, but it does"


def test_a_killed_command_goes_on_and_one_that_is_alone_has_no_other_voice(
    made: Path, tmp_path: Path
) -> None:
    alone = tmp_path / "pairs.csv"
    write_pairs(alone, [VoicePair("ann", "crops", "", "", 60)])
    drive(made, tmp_path / "alone", "model", alone)
    assert not list((tmp_path / "alone" / "other").glob("*.mp4"))
    assert [p.name for p in (tmp_path / "alone" / "silence").glob("*.mp4")] == ["ann.mp4"]
    drive(made, tmp_path / "kept", "model", alone, state=tmp_path / "state")
    kept = tmp_path / "state" / "state-silence" / "ann.mp4"
    assert kept.samefile(tmp_path / "kept" / "silence" / "ann.mp4"), "no space"
    silent = [tmp_path / name / "silence" / "ann.mp4" for name in ("alone", "kept")]
    assert silent[0].read_bytes() == silent[1].read_bytes()


def test_a_model_without_its_folder_is_refused(made: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cross_drive: other needs --model and --autoencoder"):
        drive(made, tmp_path, "other")


def score(made: Path, videos: Path, out: Path, method: str) -> dict[str, dict[str, dict[str, Any]]]:
    """Score the videos; returns the row of each clip by voice."""
    cross_score.run(
        method=method,
        other=videos / "other",
        silence=videos / "silence",
        crops=made / "crops.tar",
        pairs=made / "pairs.csv",
        voice_crops=[made / "crops.tar"],
        syncnet=SYNCNET,
        settings=Evaluation(),
        out_other=out / "other.parquet",
        out_silence=out / "silence.parquet",
        cache=out / "state",
    )
    return {
        voice: {row["clip_id"]: row for row in pq.read_table(out / f"{voice}.parquet").to_pylist()}
        for voice in ("other", "silence")
    }


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match="cross_score: evaluation.device is cuda, and torch finds none"):
        CrossScorer.load(SYNCNET, Evaluation(device="cuda"))


def test_the_truth_leaks_all_of_itself(made: Path, driven: Path, tmp_path: Path) -> None:
    rows = score(made, driven / "ground_truth", tmp_path, "ground_truth")
    for voice in ("other", "silence"):
        assert all(row["leakage"] == pytest.approx(1) for row in rows[voice].values())
        assert {row["problem"] for row in rows[voice].values()} == {None}
    for row in rows["other"].values():
        assert row["leak_confidence"] > 2 * row["sync_confidence"], "it says what it said before"
        assert 0 <= row["id_distance"] < 0.5
    assert {row["sync_confidence"] for row in rows["silence"].values()} == {None}


def test_a_frozen_mouth_leaks_nothing_and_a_missing_clip_is_a_row(made: Path, tmp_path: Path) -> None:
    for voice in ("other", "silence"):
        frames, _, _ = CLIPS["ann"]
        count = 50 if voice == "other" else 60
        (tmp_path / voice).mkdir()
        write_video(
            tmp_path / voice / "ann.mp4", np.repeat(frames[:1], count, axis=0), crf=0, pix_fmt="yuv444p"
        )
    rows = score(made, tmp_path, tmp_path, "frozen")
    # The predictor is placed by the true head, which moves: what is measured of a still mouth is its noise.
    assert (rows["silence"]["ann"]["leakage"] or 0) < 0.6 < 1
    assert abs(rows["other"]["ann"]["leakage"] or 0) < 0.6
    assert rows["other"]["ben"]["problem"] == "cannot_fetch: no video of this clip"


def test_pairs_are_read_by_shard(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.csv", [*PAIRS, VoicePair("cat", "test-001", "ann", "crops", 9)])
    assert read_pairs(tmp_path / "pairs.csv", "crops") == {pair.clip_id: pair for pair in PAIRS}


def test_the_configuration_names_models_of_the_run() -> None:
    experiments = {"ours": {"conditions": ["audio"], "smoothing": False}}

    def methods(*names: str) -> list[str]:
        config = {"crops": {"size": 64}, "experiments": experiments, "evaluation": {"cross_driven": [*names]}}
        return cross_driven(load(config))

    assert methods() == []
    assert methods("ours") == ["ground_truth", "ours"]
    with pytest.raises(
        UserError, match="evaluation.cross_driven: our is no model of the run; did you mean ours"
    ):
        methods("our")


def test_syncnet_v2_is_shown_what_score_shows_it(tmp_path: Path) -> None:
    """Rows of the own voice, which `score` measures, stand in the same table."""
    frames, landmarks, audio = speaker(950)
    crops = write_crops(tmp_path / "crops.tar", {"a": (frames[:48], landmarks[:48], audio[: 48 * 640])})
    (tmp_path / "expert").mkdir()
    torch.manual_seed(1)
    save_syncnet(tmp_path / "expert", SyncnetConfig("syncnet_v2"), SyncNetV2())
    write_video(tmp_path / "a.mp4", frames[:48], crf=0, pix_fmt="yuv444p")
    crop, distances = next(read_crops(crops)), []
    for kind in ("jpeg", "plain"):
        settings = Evaluation(sync_frames=kind)
        pair = Pair(crop, tmp_path / "a.mp4", settings)
        own = next(i for i in load_instruments(tmp_path / "expert", settings) if i.name == "sync")
        assert own.measure is not None
        scorer = CrossScorer.load(tmp_path / "expert", settings, tmp_path / "state")
        row = scorer.score("m", "other", crop, 48, tmp_path / "a.mp4", crop.audio)
        assert row["sync_distance"] == pytest.approx(float(own.measure(pair)["sync_distance"]), rel=1e-6)
        distances.append(row["sync_distance"])
    assert distances[0] != distances[1]
