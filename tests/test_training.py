"""Training: it learns, resumes where it was killed, and writes what can be sampled from."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from small_training import TINY, sample_shard, train, weights, write_made

from difftalk.config.sampling import Sampling
from difftalk.config.section import from_dict
from difftalk.config.training import TrainingSettings
from difftalk.models.denoiser import noise_schedule
from difftalk.models.examples import LatentClips
from difftalk.runtime.errors import UserError
from difftalk.sampling.pipeline import DiffTalkPipeline
from difftalk.training.data import TrainingBatch, training_batch
from difftalk.training.loss import counted_cells, squared_error


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_made(tmp_path_factory.mktemp("made"))


def test_killed_training_resumes_to_the_same_weights(made: Path) -> None:
    whole = train(made, "whole")
    # The same training in a process that dies by SIGKILL as soon as its second checkpoint is there.
    victim = f"""
import os, signal, threading, time
from pathlib import Path
state = Path({str(made / "state-killed")!r})
def assassin():
    while not (state / "step-00000004.pt").exists():
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGKILL)
threading.Thread(target=assassin, daemon=True).start()
from difftalk.config.section import from_dict
from difftalk.config.training import TrainingSettings
from difftalk.stages.train import run
made = Path({str(made)!r})
settings = from_dict(TrainingSettings, {TINY!r}, "test")
shards, autoencoder = [made / "train-000.tar"], made / "autoencoder"
run(shards=shards, autoencoder=autoencoder, settings=settings, state=state, out=made / "killed")
"""
    died = subprocess.run([sys.executable, "-c", victim], capture_output=True, check=False)
    assert died.returncode == -9, died.stderr.decode()
    assert not (made / "killed").exists()
    resumed = train(made, "killed")

    expected, found = weights(whole), weights(resumed)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[k], found[k]) for k in expected)
    lines = [json.loads(line) for line in (resumed / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6, 8]


def test_training_learns_and_what_it_writes_is_sampled(made: Path) -> None:
    model = train(made, "longer", steps=60, prediction_type="v_prediction", loss_region="generated")
    losses = [json.loads(line)["loss"] for line in (model / "log.jsonl").read_text().splitlines()]
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])

    assert DiffTalkPipeline.from_pretrained(model).conditions == (
        "audio", "landmarks", "masked", "reference",
    )  # fmt: skip
    clips = LatentClips([made / "train-000.tar"], neighbours=8)
    settings = Sampling(steps=2, batch_size=32)
    latents = sample_shard(model, made / "train-000.tar", settings)["a"]
    kept = np.broadcast_to(clips.clips[0]["generated"][:, None] == 0, latents.shape)
    assert np.array_equal(latents.numpy()[kept], clips.clips[0]["latents"].astype(np.float32)[kept])
    again = sample_shard(model, made / "train-000.tar", settings)["a"]
    assert torch.equal(latents, again), "the same seed, the same video"


@pytest.mark.parametrize(
    ("conditions", "inputs", "context"),
    [
        (["audio"], 3, 64),
        (["audio", "landmarks", "reference"], 6, 128),
        (["landmarks", "masked", "reference"], 9, 64),
    ],
)
def test_conditions_decide_what_the_denoiser_sees(
    made: Path, conditions: list[str], inputs: int, context: int
) -> None:
    model = train(made, "-".join(conditions), steps=1, conditions=conditions, smoothing=False)
    config = json.loads((model / "unet" / "config.json").read_text())
    assert (config["in_channels"], config["cross_attention_dim"]) == (inputs, context)


def test_a_loss_that_is_not_a_number_stops_the_training(made: Path) -> None:
    with pytest.raises(UserError, match=r"loss became nan at step \d+.*learning_rate"):
        train(made, "diverged", learning_rate=1.0e30, gradient_clip=1.0e30)


def test_what_a_training_without_curves_needs_not_is_not_imported(made: Path) -> None:
    imported = subprocess.run(
        [sys.executable, "-c", "import sys, difftalk.training.loop; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert "torch" in imported
    assert not {"tensorboard", "difftalk.sampling.pipeline", "cv2", "matplotlib"} & set(imported)


def test_with_a_clean_known_region_the_generated_cells_alone_are_noisy(made: Path) -> None:
    model = train(made, "clean", steps=20, known_region="clean", loss_region="all")
    pipeline = DiffTalkPipeline.from_pretrained(model)
    assert pipeline.known_region == "clean"
    assert json.loads((model / "model_index.json").read_text())["known_region"] == "clean"
    assert DiffTalkPipeline.from_pretrained(train(made, "noised", steps=2)).known_region == "noised"

    clips = LatentClips([made / "train-000.tar"], neighbours=8)
    settings = from_dict(TrainingSettings, TINY | {"known_region": "clean"}, "")
    batch = TrainingBatch(
        training_batch(clips, 4, 0, 1, 60).to("cpu"), torch.randn(4, 3, 8, 8), torch.full((4,), 500)
    )
    seen: list[torch.Tensor] = []

    def model_that_looks(noisy: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        seen.append(noisy)
        return torch.zeros_like(noisy)

    found = squared_error(model_that_looks, noise_schedule("epsilon"), batch, settings)
    known = ~batch.examples.generated.expand_as(seen[0])
    assert torch.equal(seen[0][known], batch.examples.target[known])
    assert not torch.isclose(seen[0][~known], batch.examples.target[~known]).all()
    assert torch.isclose(found, batch.noise[~known].square().sum()), "the loss is over the generated cells"
    assert counted_cells(batch, settings) == (~known).sum()
