"""The networks: the paper's sizes to the parameter, and shortcuts that change no result."""

import pytest
import torch

from difftalk.models.autoencoder import build_autoencoder, to_frames, to_pixels
from difftalk.models.conditioning import AudioEncoder, Conditioner, LandmarkEncoder, TemporalFilter
from difftalk.models.denoiser import build_unet, use_one_token_shortcut


def count(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_sizes_are_the_papers() -> None:
    assert count(AudioEncoder(29)) == 32_800
    assert count(TemporalFilter(8)) == 2_149
    assert count(LandmarkEncoder()) == 22_528
    with torch.device("meta"):
        assert count(build_unet((256, 512, 768, 1024), 2, 32, 128, 2, 64)) == 530_152_963
        assert count(build_autoencoder((128, 256, 512), 2, 8192)) == 55_322_782


def test_context_is_one_token_of_what_is_conditioned_on() -> None:
    speech, landmarks = torch.randn(3, 8, 16, 29), torch.rand(3, 39, 2)
    assert Conditioner()(speech, landmarks).shape == (3, 1, 128)
    assert Conditioner(landmarks=False)(speech, landmarks).shape == (3, 1, 64)
    assert Conditioner(audio=False)(speech, landmarks).shape == (3, 1, 64)
    with pytest.raises(ValueError, match="audio, landmarks or both"):
        Conditioner(audio=False, landmarks=False)


def test_a_model_without_audio_ignores_the_speech() -> None:
    model, landmarks = Conditioner(audio=False), torch.rand(2, 39, 2)
    assert torch.equal(
        model(torch.zeros(2, 1, 16, 29), landmarks), model(torch.ones(2, 1, 16, 29), landmarks)
    )


def test_temporal_filter_is_a_weighted_mean() -> None:
    same = torch.randn(2, 1, 64).expand(2, 8, 64)
    assert torch.allclose(TemporalFilter(8)(same), same[:, 0], atol=1e-6)


def test_one_token_shortcut_equals_attention_and_so_do_its_gradients() -> None:
    torch.manual_seed(0)
    model = build_unet((32, 64), 1, 16, 128, 2, 8)
    x, token, t = torch.randn(2, 9, 8, 8), torch.randn(2, 1, 128), torch.tensor([10, 900])

    def run() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        model.zero_grad()
        context = token.clone().requires_grad_()
        out = model(x, t, context).sample
        out.square().sum().backward()
        assert context.grad is not None
        return out.detach(), {"context": context.grad} | {
            name: p.grad for name, p in model.named_parameters() if p.grad is not None
        }

    short, short_gradients = run()
    names = list(model.state_dict())
    use_one_token_shortcut(model, False)
    full, full_gradients = run()
    use_one_token_shortcut(model)
    # The same sums in another order: float32 rounding only.
    assert torch.allclose(short, full, atol=1e-5)
    assert list(model.state_dict()) == names
    for name, gradient in full_gradients.items():
        expected = short_gradients.get(name, torch.zeros(()))
        assert torch.allclose(gradient, expected, atol=1e-4 * max(1.0, float(gradient.abs().max()))), name
    unused = {name for name in full_gradients if name not in short_gradients}
    assert unused and all(
        ".norm2." in name or ".attn2.to_q." in name or ".attn2.to_k." in name for name in unused
    )


def test_pixels_and_frames_are_inverse() -> None:
    frames = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).expand(1, 16, 16, 3).numpy()
    assert (to_frames(to_pixels(frames)) == frames).all()
