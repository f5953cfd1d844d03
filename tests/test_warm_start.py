"""Fine-tuning: a training starts from a trained model, of the same kind, whose content it depends on."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import TINY as TINY_RUN
from conftest import Workflow
from small_training import TINY, train, weights, write_made
from test_fault_tolerance import same_weights, signalled
from test_first_stage import TINY as TINY_FIRST_STAGE
from test_first_stage import random_frames

from difftalk.config.autoencoder import AutoencoderTraining
from difftalk.config.section import from_dict
from difftalk.config.syncnet import SyncnetTraining
from difftalk.config.training import Experiment, Training, TrainingSettings
from difftalk.models.autoencoder import build_autoencoder
from difftalk.models.denoiser import build_denoiser
from difftalk.models.examples import LatentClips
from difftalk.models.syncnet import load_syncnet
from difftalk.runtime.errors import UserError
from difftalk.training.first_stage import FirstStageTrainer, train_autoencoder
from difftalk.training.frames import Batches
from difftalk.training.sync_expert import SyncClip, train_syncnet
from difftalk.training.warm_start import start_denoiser

EMBEDDED_EXPERT = Path(__file__).parents[1] / "difftalk" / "assets" / "syncnet"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model `base`."""
    folder = write_made(tmp_path_factory.mktemp("made"))
    train(folder, "base")
    return folder


def test_it_starts_with_the_weights_of_the_base(made: Path) -> None:
    settings = from_dict(TrainingSettings, TINY, "test")
    model = build_denoiser(settings, LatentClips([made / "train-000.tar"], 8))
    start_denoiser(model, settings, made / "base", made / "autoencoder", verbose=False)
    base = weights(made / "base")
    found = {f"unet.{k}": v for k, v in model.unet.state_dict().items()}
    found |= {f"conditioner.{k}": v for k, v in model.conditioner.state_dict().items()}
    assert all(torch.equal(base[k], found[k]) for k in found)
    fresh = build_denoiser(settings, LatentClips([made / "train-000.tar"], 8))
    trained = [[p.requires_grad for p in one.parameters()] for one in (model, fresh)]
    assert trained[0] == trained[1] and any(trained[0])


def start(base: Path) -> dict[str, Any]:
    return {"from": str(base)}


def test_fine_tuning_is_its_own_training_and_says_where_from(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tuned = train(made, "tuned", **start(made / "base"))
    assert f"starts from {made / 'base'}" in capsys.readouterr().err
    assert not same_weights(made / "base", tuned)
    facts = json.loads((tuned / "training.json").read_text())
    assert facts["settings"]["from"] == str(made / "base") and len(facts["from_sha256"]) == 64
    assert str(made / "base") in (tuned / "README.md").read_text()
    of_base = json.loads((made / "base" / "training.json").read_text())
    assert facts["shards_sha256"] == of_base["shards_sha256"], "the same clips, whatever it started from"
    first = [
        json.loads((made / name / "log.jsonl").read_text().splitlines()[0]) for name in ("base", "tuned")
    ]
    assert first[1]["loss"] < first[0]["loss"], "it goes on where the base ended"


def test_killed_it_goes_on_and_another_base_is_refused(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "base", tmp_path / "base")
    wanted = start(tmp_path / "base")
    whole = train(made, "whole", **wanted)
    for name in ("killed", "other"):
        with signalled(made, name, signal.SIGTERM, 2), pytest.raises(SystemExit):
            train(made, name, **wanted)
    (tmp_path / "base").rename(tmp_path / "moved")
    moved = train(made, "killed", **start(tmp_path / "moved"))
    assert same_weights(whole, moved), "the same base elsewhere is the same training"
    with pytest.raises(UserError, match="base: the model that it started from is another"):
        train(made, "other", **start(whole))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"channels": [32, 32]},
            r"training\.channels \(block_out_channels .*16, 32.* there, .*32, 32.* here\)",
        ),
        ({"conditions": ["audio", "landmarks"]}, r"conditions \(in_channels 9 there, 3 here\)"),
        ({"smoothing": False}, r"training\.smoothing_frames, smoothing \(neighbours 8 there, 1 here\)"),
        ({"prediction_type": "v_prediction"}, r"prediction_type epsilon there, v_prediction here"),
        ({"known_region": "clean"}, r"known_region noised there, clean here"),
    ],
)
def test_another_kind_of_model_is_refused_with_the_keys(
    made: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        train(made, "refused", **start(made / "base"), **changes)


def test_what_is_no_model_is_refused(made: Path) -> None:
    with pytest.raises(UserError, match="not a trained DiffTalk model"):
        train(made, "refused", **start(made / "autoencoder"))


def test_an_experiment_may_start_from_another_model_or_from_none() -> None:
    common = from_dict(Training, {"from": "a", "steps": 3}, "test")
    given = {"conditions": ["audio"], "smoothing": True}
    for own, expected in (({}, "a"), ({"from": "b"}, "b"), ({"from": None}, None)):
        experiment = from_dict(Experiment, given | {"training": own}, "test")
        settings = experiment.settings(common, 1)
        assert settings.base == expected and settings.as_dict()["from"] == expected and settings.steps == 3


# The first stage and the sync expert


def test_a_first_stage_goes_on_from_another(tmp_path: Path) -> None:
    settings = from_dict(AutoencoderTraining, TINY_FIRST_STAGE, "test")
    frames = random_frames()
    batches = Batches(frames[8:], 4, seed=1)
    trained = train_autoencoder(batches, settings, tmp_path / "state").model
    trained.save_pretrained(tmp_path / "base")
    again = from_dict(AutoencoderTraining, TINY_FIRST_STAGE | {"steps": 2, "learning_rate": 1e-6}, "test")
    started = FirstStageTrainer(again, "cpu", None, tmp_path / "base")
    expected = trained.state_dict()
    assert all(torch.equal(expected[k], v) for k, v in started.model.state_dict().items())
    assert all(p.requires_grad for p in started.model.parameters()) and started.quantise_from == 0
    tuned = train_autoencoder(batches, again, tmp_path / "tuned", base=tmp_path / "base").model
    codes = "quantize.embedding.weight"
    torch.testing.assert_close(tuned.state_dict()[codes], expected[codes], atol=1e-4, rtol=0)
    build_autoencoder((16, 16, 32), 1, 64).save_pretrained(tmp_path / "larger")
    with pytest.raises(UserError, match="autoencoder_training: the networks of .*larger have other sizes"):
        FirstStageTrainer(again, "cpu", None, tmp_path / "larger")


def test_an_expert_goes_on_from_the_embedded_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    clip = SyncClip(
        rng.integers(0, 255, (24, 40, 40, 3), np.uint8), rng.normal(size=(20, 13, 20)).astype(np.float32)
    )
    settings = SyncnetTraining(steps=1, stretch=8, batch_size=1, learning_rate=1e-9)
    base = load_syncnet(EMBEDDED_EXPERT).network.state_dict()
    tuned, _ = train_syncnet([clip], settings, tmp_path / "state", EMBEDDED_EXPERT)
    trained = dict(tuned.named_parameters())
    assert all(torch.allclose(base[name], value, atol=1e-6) for name, value in trained.items())
    assert torch.equal(base["mfcc_mean"], tuned.mfcc_mean)
    other = settings.model_copy(update={"lip_size": 64})
    with pytest.raises(UserError, match="syncnet_training: the networks of .*syncnet have other sizes"):
        train_syncnet(
            [SyncClip(clip.lips.repeat(2, 1).repeat(2, 2), clip.audio)], other, tmp_path, EMBEDDED_EXPERT
        )


# The workflow


def test_a_base_of_the_run_is_trained_first_and_a_missing_one_is_named(
    workflow: Workflow, tmp_path: Path
) -> None:
    def planned(base: str) -> tuple[int, str]:
        inputs = {"conditions": ["audio", "landmarks", "masked", "reference"], "smoothing": True}
        experiments = {"no_audio": None, "tuned": {**inputs, "training": {"from": base}}}
        file = tmp_path / "tuned.yaml"
        file.write_text(yaml.safe_dump({"experiments": experiments}))
        done = workflow("--configfile", TINY_RUN, str(file), "-n", "results/tiny/models/tuned")
        return done.status, done.said

    status, said = planned("results/tiny/models/difftalk")
    assert status == 0, said
    assert said.index("Train difftalk") < said.index("Train tuned")
    for wrong, words in (
        ("results/tiny/models/diftalk", "did you mean results/tiny/models/difftalk?"),
        ("results/tiny/models/tuned", "training.from of tuned: in a circle: tuned from tuned"),
    ):
        status, said = planned(wrong)
        assert status and words in said and "Traceback" not in said
