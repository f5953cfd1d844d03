"""The LDM/DiffTalk format: outputs equal to an independent forward pass, every name, both ways."""

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import TypeVar

import ldm_forward
import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel, VQModel

from difftalk.models.autoencoder import build_autoencoder, load_autoencoder
from difftalk.models.conditioning import Conditioner
from difftalk.models.denoiser import build_unet, noise_schedule
from difftalk.models.formats import ldm
from difftalk.models.formats.ldm import State
from difftalk.models.formats.ldm_names import EMA, FIRST_STAGE, UNET
from difftalk.models.formats.torch_file import read_state_dict
from difftalk.runtime.errors import UserError
from difftalk.sampling.ldm_checkpoint import export_checkpoint
from difftalk.sampling.pipeline import DiffTalkPipeline

# sha256 of the names and shapes of the released checkpoint, sorted lines of `name<TAB>[shape]`, without the
# copies of the moving average.
RELEASED_NAMES = "13608c04b5ca62f770b88766bb02b77c88b852132852ae5f2db4b04c87cd3615"

Model = TypeVar("Model", bound=torch.nn.Module)
Networks = tuple[UNet2DConditionModel, Conditioner, VQModel]


def shaken(model: Model) -> Model:
    """Every tensor away from its first value, so that none can be left out or taken for another unnoticed."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.add_(0.05 * torch.randn(tensor.shape, generator=generator))
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def networks() -> Networks:
    """The paper's networks, narrow: three levels, so that each kind of block has and lacks neighbours."""
    torch.manual_seed(0)
    narrow = build_autoencoder((32, 64, 96), 2, 64)
    first_stage = VQModel.from_config({**narrow.config, "norm_num_groups": 32})
    return shaken(build_unet((32, 64, 96), 2, 32, 128, 2, 64)), shaken(Conditioner()), shaken(first_stage)


@pytest.fixture(scope="module")
def checkpoint(networks: Networks) -> State:
    return ldm.to_ldm(*networks, "test")


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def assert_close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """The same sums in another order, a hundred layers deep, in float32: 1e-4 of the spread of the output."""
    assert (ours - theirs).abs().max() < 1e-4 * theirs.std()
    assert theirs.std() > 1e-3, "an output that says nothing"


def test_the_first_stage_gives_what_ldm_gives(networks: Networks, checkpoint: State) -> None:
    model, theirs = networks[2], ldm_forward.Tensors(checkpoint, FIRST_STAGE)
    pixels, latents = random(2, 3, 32, 32), random(2, 3, 8, 8)
    assert_close(model.encode(pixels).latents, ldm_forward.vq_encode(theirs, pixels))
    assert_close(model.decode(latents).sample, ldm_forward.vq_decode(theirs, latents))
    assert theirs.used == {name for name in checkpoint if name.startswith(FIRST_STAGE)}


def test_the_unet_gives_what_ldm_gives(networks: Networks, checkpoint: State) -> None:
    theirs = ldm_forward.Tensors(checkpoint, UNET)
    x, steps, context = random(2, 9, 16, 16), torch.tensor([7, 900]), random(2, 1, 128)
    assert_close(networks[0](x, steps, context).sample, ldm_forward.unet(theirs, x, steps, context))
    assert theirs.used == {name for name in checkpoint if name.startswith(UNET)}


def test_the_condition_encoders_give_what_difftalks_give_in_pixels(
    networks: Networks, checkpoint: State
) -> None:
    theirs = ldm_forward.Tensors(checkpoint)
    speech, points = random(3, 8, 16, 29), torch.rand(3, 39, 2)
    assert_close(networks[1](speech, points), ldm_forward.context(theirs, speech, 256 * points))
    assert theirs.used == {name for name in checkpoint if name.startswith("cond_stage_model")}


def test_there_and_back_changes_no_bit(networks: Networks, checkpoint: State) -> None:
    back = ldm.from_ldm(checkpoint, "test")
    for ours, again in zip(networks, back, strict=True):
        assert ours.state_dict().keys() == again.state_dict().keys()
        assert all(torch.equal(v, again.state_dict()[k]) for k, v in ours.state_dict().items())
    again = ldm.to_ldm(*back, "test")
    assert again.keys() == checkpoint.keys()
    assert all(torch.equal(again[k], v) for k, v in checkpoint.items())


def test_every_released_name_at_the_papers_size() -> None:
    with torch.device("meta"):
        unet = build_unet((256, 512, 768, 1024), 2, 32, 128, 2, 64)
        shapes = ldm.full_shapes(unet, Conditioner(), build_autoencoder((128, 256, 512), 2, 8192))
    copies = {k for k in shapes if k.startswith(EMA)} - {f"{EMA}decay", f"{EMA}num_updates"}
    lines = sorted(f"{name}\t{list(shape)}" for name, shape in shapes.items() if name not in copies)
    assert len(lines) == 937
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == RELEASED_NAMES
    assert len(copies) == 688 == sum(name.startswith(UNET) for name in shapes)
    assert f"{EMA}diffusion_modelinput_blocks00weight" in copies


def test_the_unet_is_its_moving_average_and_the_encoders_are_as_they_are(
    networks: Networks, checkpoint: State
) -> None:
    raw = {k: v + 1 if k.startswith(UNET) else v for k, v in checkpoint.items()}
    unet, conditioner, _ = ldm.from_ldm(raw, "test")
    assert torch.equal(unet.conv_in.weight, networks[0].conv_in.weight)
    head = "audio_encoder.head.0.weight"
    assert torch.equal(conditioner.state_dict()[head], networks[1].state_dict()[head])
    without = {k: v for k, v in raw.items() if not k.startswith(EMA)}
    assert torch.equal(ldm.from_ldm(without, "test")[0].conv_in.weight, networks[0].conv_in.weight + 1)


def test_missing_unknown_and_misshapen_tensors_are_listed(checkpoint: State) -> None:
    changed = dict(checkpoint)
    del changed[f"{UNET}middle_block.1.norm.bias"]
    del changed[f"{EMA}diffusion_modelout2bias"]
    changed["model.diffusion_model.label_emb.weight"] = torch.zeros(1)
    changed["cond_stage_model_for_ldm.encoder_fc1.4.bias"] = torch.zeros(3)
    with pytest.raises(UserError) as said:
        ldm.from_ldm(changed, "my.ckpt")
    for part in (
        "my.ckpt: not in the LDM/DiffTalk format",
        f"missing: {UNET}middle_block.1.norm.bias, {EMA}diffusion_modelout2bias;",
        "unknown: model.diffusion_model.label_emb.weight;",
        "of another shape: cond_stage_model_for_ldm.encoder_fc1.4.bias [3] instead of [64]",
    ):
        assert part in str(said.value)
    only_first_stage = {k: v for k, v in checkpoint.items() if k.startswith(FIRST_STAGE)}
    with pytest.raises(UserError, match="input_blocks.0.0.weight is missing"):
        ldm.from_ldm(only_first_stage, "vq.ckpt")


def test_another_noise_schedule_is_refused(checkpoint: State) -> None:
    with pytest.raises(UserError, match=r"noise schedule than DiffTalk's: betas$"):
        ldm.from_ldm({**checkpoint, "betas": checkpoint["betas"] * 1.1}, "my.ckpt")


def test_the_buffers_are_those_of_our_schedule() -> None:
    ours: DDIMScheduler = noise_schedule("epsilon")
    # Ours multiplies 1000 float32 factors, the buffers are rounded once.
    assert torch.allclose(ours.alphas_cumprod, ldm.schedule_buffers()["alphas_cumprod"], rtol=1e-5)


def test_a_first_stage_alone_may_come_from_ldm_or_from_a_whole_checkpoint(
    networks: Networks, checkpoint: State
) -> None:
    alone = ldm.export_first_stage(networks[2])
    loss = {"loss.discriminator.main.0.weight": torch.zeros(1)}
    for state in (alone, alone | loss, checkpoint):
        model = ldm.import_first_stage(state, "vq")
        assert torch.equal(
            model.decode(random(1, 3, 8, 8)).sample, networks[2].decode(random(1, 3, 8, 8)).sample
        )
    with pytest.raises(UserError, match=r"unknown: encoder\.down\.2\.attn\.0\.q\.weight"):
        ldm.import_first_stage(alone | {"encoder.down.2.attn.0.q.weight": torch.zeros(1)}, "vq")


def test_a_scale_of_latents_is_folded_in(networks: Networks) -> None:
    scaled = VQModel.from_config({**networks[2].config, "scaling_factor": 0.37})
    scaled.load_state_dict(networks[2].state_dict())
    theirs = ldm_forward.Tensors(ldm.export_first_stage(scaled))
    pixels, latents = random(1, 3, 32, 32), random(1, 3, 8, 8)
    assert_close(0.37 * scaled.encode(pixels).latents, ldm_forward.vq_encode(theirs, pixels))
    assert_close(scaled.decode(latents / 0.37).sample, ldm_forward.vq_decode(theirs, latents))


def test_a_checkpoint_becomes_a_model_folder_and_a_checkpoint_again(
    networks: Networks, checkpoint: State, tmp_path: Path
) -> None:
    file, folder, again = tmp_path / "last.ckpt", tmp_path / "model", tmp_path / "again.ckpt"
    torch.save({"epoch": 3, "global_step": 10, "state_dict": checkpoint}, file)
    command = [sys.executable, "-m", "difftalk", "weights", "import-model", str(file), "--out", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last.ckpt", "model"]
    pipeline = DiffTalkPipeline.from_pretrained(folder)
    x, context = random(1, 9, 16, 16), random(1, 1, 128)
    assert_close(pipeline.unet(x, 5, context).sample, networks[0](x, 5, context).sample)
    assert load_autoencoder(folder / "vqvae").config.norm_num_groups == 32
    export_checkpoint(folder, again)
    exported = read_state_dict(again)
    assert exported.keys() == checkpoint.keys()
    assert all(torch.equal(exported[k], v) for k, v in checkpoint.items())


@pytest.mark.parametrize(
    ("prediction", "landmarks", "says"),
    [("v_prediction", True, "predicts the noise"), ("epsilon", False, "has audio, masked, reference")],
)
def test_a_model_that_the_format_cannot_hold_is_refused(
    networks: Networks, tmp_path: Path, prediction: str, landmarks: bool, says: str
) -> None:
    conditions = ("audio", *(("landmarks",) if landmarks else ()), "masked", "reference")
    model = DiffTalkPipeline(
        networks[0], Conditioner(landmarks=landmarks), noise_schedule(prediction), conditions
    )
    networks[2].save_pretrained(tmp_path / "vq")
    model.save(tmp_path / "model", autoencoder=tmp_path / "vq", facts={}, log=[])
    with pytest.raises(UserError, match=says):
        export_checkpoint(tmp_path / "model", tmp_path / "x.ckpt")
