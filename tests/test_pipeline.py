"""A trained model is a diffusers pipeline: one folder that loads, samples and says what it is."""

import json
import re
import runpy
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel, VQModel
from drawn_clips import speaker, write_crops
from small_training import sample_shard

from difftalk.config.encode import Encode
from difftalk.config.sampling import Sampling
from difftalk.media.shards import Crop, read_crops
from difftalk.media.video import read_video
from difftalk.models.autoencoder import build_autoencoder, decode_latents
from difftalk.models.conditioning import Conditioner
from difftalk.models.denoiser import OneTokenAttention, build_unet, noise_schedule
from difftalk.runtime.errors import UserError
from difftalk.sampling.pipeline import DiffTalkPipeline
from difftalk.speech.mfcc import mfcc_features
from difftalk.speech.table import SCHEMA
from difftalk.stages import encode

FACTS = {
    "run": "tiny",
    "settings": {"steps": 3, "prediction_type": "v_prediction"},
    "clips": 2,
    "frames": 120,
    "shards": ["train-000.tar", "train-001.tar"],
    "shards_sha256": "ab12",
}
LOG = [{"step": s, "loss": 1 / s, "images_per_s": 7.123456} for s in (1, 2, 3)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with crops and speech of one test clip, and an untrained model."""
    folder = tmp_path_factory.mktemp("made") / "results" / "tiny"
    (folder / "crops").mkdir(parents=True)
    spoken = speaker(950)
    write_crops(folder / "crops" / "test-000.tar", {"clip": spoken})
    features = mfcc_features(spoken[2], 2 * len(spoken[0]))
    (folder / "speech").mkdir()
    columns = {"clip_id": ["clip"] * len(features), "step": np.arange(len(features), dtype=np.int32)}
    table = pa.table({**columns, "features": list(features)}, schema=SCHEMA)
    pq.write_table(table, folder / "speech" / "test-000.parquet")

    torch.manual_seed(0)
    first_stage = build_autoencoder((8, 16, 16), 1, 64)
    first_stage.register_to_config(scaling_factor=2.0)
    first_stage.half().save_pretrained(folder / "autoencoder")
    (folder / "autoencoder" / "training.json").write_text(json.dumps({"held_out_psnr": 27.5}))
    (folder / "autoencoder" / ".snakemake_timestamp").touch()
    save(folder / "models" / "ours", folder / "autoencoder")
    return folder


def save(out: Path, autoencoder: Path) -> None:
    torch.manual_seed(1)
    unet, conditioner = build_unet((16, 32), 1, 16, 128, 2, 16), Conditioner(speech_features=39)
    conditions = ("audio", "landmarks", "masked", "reference")
    pipeline = DiffTalkPipeline(unet, conditioner, noise_schedule("v_prediction"), conditions)
    pipeline.save(out, autoencoder=autoencoder, facts=FACTS, log=LOG)


@pytest.fixture(scope="module")
def crop(made: Path) -> Crop:
    return next(read_crops(made / "crops" / "test-000.tar"))


def test_the_folder_is_a_diffusers_pipeline_in_safetensors(made: Path) -> None:
    folder = made / "models" / "ours"
    pipeline = DiffTalkPipeline.from_pretrained(folder)
    kinds = {name: type(part) for name, part in pipeline.components.items()}
    expected = {
        "unet": UNet2DConditionModel,
        "conditioner": Conditioner,
        "scheduler": DDIMScheduler,
        "vqvae": VQModel,
    }
    assert kinds == expected
    index = json.loads((folder / "model_index.json").read_text())
    assert index["conditioner"] == ["difftalk.models.conditioning", "Conditioner"]
    assert index["conditions"] == list(pipeline.conditions) == ["audio", "landmarks", "masked", "reference"]
    assert pipeline.config.facts["shards_sha256"] == "ab12"
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    weights = {p.name for p in folder.rglob("*") if p.suffix in {".bin", ".pt", ".ckpt", ".safetensors"}}
    assert weights == {"diffusion_pytorch_model.safetensors"}
    assert not any(
        p.requires_grad
        for part in ("unet", "conditioner", "vqvae")
        for p in getattr(pipeline, part).parameters()
    )


def test_all_that_may_read_the_folder_may_read_its_files_and_snakemakes_marks_are_left_behind(
    made: Path,
) -> None:
    folder = made / "models" / "ours"
    files = [p for p in folder.rglob("*") if p.is_file()]
    assert {p.stat().st_mode & 0o666 for p in files} == {folder.stat().st_mode & 0o666}
    assert not any(p.name.startswith(".") for p in files)


def test_what_is_loaded_takes_the_shortcut_and_moves(made: Path) -> None:
    pipeline = DiffTalkPipeline.from_pretrained(made / "models" / "ours")
    processors = [m.processor for n, m in pipeline.unet.named_modules() if n.endswith("attn2")]
    assert processors and all(isinstance(p, OneTokenAttention) for p in processors)
    assert pipeline.to("meta").unet.device.type == pipeline.vqvae.device.type == "meta"
    # Weights stored in half precision are widened.
    assert DiffTalkPipeline.from_pretrained(made / "models" / "ours").vqvae.dtype == torch.float32
    assert DiffTalkPipeline.from_pretrained(made / "models" / "ours", vqvae=None).vqvae is None


def test_a_call_gives_the_frames_of_the_stages(made: Path, crop: Crop, tmp_path: Path) -> None:
    """Encoding in float32 and sampling as the workflow does gives the same bits as the pipeline."""
    shard = tmp_path / "test-000.tar"
    paths = {"crops": made / "crops" / "test-000.tar", "speech": made / "speech" / "test-000.parquet"}
    encode.run(
        **paths,
        autoencoder=made / "autoencoder",
        settings=Encode(dtype="float32", batch_size=32),
        out=shard,
        rejects=tmp_path / "rejects.csv",
        max_reject_fraction=0.0,
    )
    settings = Sampling(steps=2, eta=0.5, batch_size=32, frames_per_pass=32)
    expected = sample_shard(made / "models" / "ours", shard, settings)["clip"]

    pipeline = DiffTalkPipeline.from_pretrained(made / "models" / "ours")
    frames, speech = crop.frames(), mfcc_features(crop.audio, 2 * len(crop.landmarks))
    found = pipeline(frames, crop.landmarks, speech, settings, clip_id="clip")
    assert torch.equal(found.latents, expected)
    assert np.array_equal(found.frames, decode_latents(pipeline.vqvae, expected, 32, fill=True))
    assert found.frames.shape == frames.shape and found.frames.dtype == np.uint8


def test_another_reference_and_other_speech_change_the_frames(made: Path, crop: Crop) -> None:
    pipeline = DiffTalkPipeline.from_pretrained(made / "models" / "ours")
    frames, landmarks = crop.frames()[:8], crop.landmarks[:8]
    speech = mfcc_features(crop.audio, 16)

    def call(speech: np.ndarray, reference: np.ndarray | None = None) -> np.ndarray:
        made = pipeline(frames, landmarks, speech, Sampling(steps=2), reference=reference)
        return made.latents.numpy()

    # Encoded on its own instead of in a batch: float32 rounding, by other kernels.
    assert np.allclose(call(speech), call(speech, frames[0]), atol=1e-4)
    assert np.abs(call(speech) - call(speech, 255 - frames[0])).max() > 1e-2
    assert not np.array_equal(call(speech), call(-speech)), "an untrained net hardly listens, but it does"


def test_arrays_that_do_not_fit_are_named(made: Path, crop: Crop) -> None:
    pipeline = DiffTalkPipeline.from_pretrained(made / "models" / "ours")
    frames, landmarks, speech = crop.frames()[:4], crop.landmarks[:4], np.zeros((8, 39), np.float32)
    with pytest.raises(UserError, match=r"frames are \(4, 32, 32, 3\) uint8, not \(T, 64, 64, 3\) uint8"):
        pipeline(frames[:, ::2, ::2], landmarks, speech)
    with pytest.raises(UserError, match=r"landmarks are \(3, 68, 2\), not \(4, 68, 2\)"):
        pipeline(frames, landmarks[:3], speech)
    with pytest.raises(UserError, match=r"speech is \(8, 29\), not \(steps, 39\)"):
        pipeline(frames, landmarks, speech[:, :29])
    with pytest.raises(UserError, match="without its first stage"):
        DiffTalkPipeline.from_pretrained(made / "models" / "ours", vqvae=None)(frames, landmarks, speech)


def test_a_folder_of_another_kind_is_refused(made: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a trained DiffTalk model"):
        DiffTalkPipeline.from_pretrained(made / "autoencoder")
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    with pytest.raises(UserError, match="not a trained DiffTalk model"):
        DiffTalkPipeline.from_pretrained(tmp_path)


def test_the_card_says_what_is_known_and_nothing_of_the_clock(made: Path) -> None:
    card = (made / "models" / "ours" / "README.md").read_text()
    for said in (
        "| run | tiny |",
        "| clips | 2 |",
        "| hours | 0.00 |",
        "| shards | train-000.tar, train-001.tar |",
        "| shards_sha256 | ab12 |",
        "| steps done | 3 |",
        "| prediction_type | v_prediction |",
        "| 3 | 0.33333 |",
        "| held_out_psnr | 27.5 |",
        "audio, landmarks, masked, reference",
        "synthetic media",
        torch.__version__.split("+")[0],
    ):
        assert said in card, said
    assert "7.123456" not in card
    save(made / "models" / "again", made / "autoencoder")
    again = (made / "models" / "again" / "README.md").read_text()
    assert again.replace("again", "ours") == card


def test_the_code_on_the_card_runs(made: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    card = (made / "models" / "ours" / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    (tmp_path / "results").symlink_to(made.parent)
    monkeypatch.chdir(tmp_path)
    Path("card.py").write_text(code)
    runpy.run_path("card.py")
    assert read_video("made.mp4").shape == (60, 64, 64, 3)
