"""Time the one-token shortcut: the UNet with cross-attention to one token, and as a bias.

python benchmarks/shortcut.py --precision no --batch-size 1

The paper's UNet, on a GPU or else the CPU; the two take turns, and the least of several times counts.
"""

import argparse
import time

import torch

from difftalk.models.denoiser import build_unet, use_one_token_shortcut
from difftalk.runtime.device import default_device


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--precision", choices=["no", "bf16"], default="no")
    parser.add_argument("--size", type=int, default=64, help="of the latent")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()

    device = default_device()
    torch.manual_seed(0)
    model = build_unet((256, 512, 768, 1024), 2, 32, 128, 2, args.size).to(device)
    x = torch.randn(args.batch_size, 9, args.size, args.size, device=device)
    context = torch.randn(args.batch_size, 1, 128, device=device)
    timesteps = torch.full((args.batch_size,), 500, device=device)

    def step() -> tuple[float, torch.Tensor]:
        model.zero_grad(set_to_none=True)
        if device == "cuda":
            torch.cuda.synchronize()
        began = time.monotonic()
        with torch.autocast(device, torch.bfloat16, enabled=args.precision == "bf16"):
            out = model(x, timesteps, context).sample
        out.float().square().mean().backward()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.monotonic() - began, out.detach().float()

    times: dict[bool, list[float]] = {True: [], False: []}
    outputs = {}
    for _ in range(args.repeats):
        for shortcut in (False, True):
            use_one_token_shortcut(model, shortcut)
            seconds, outputs[shortcut] = step()
            times[shortcut].append(seconds)
    attention, bias = min(times[False]), min(times[True])
    apart = (outputs[True] - outputs[False]).abs().max().item()
    print(
        f"{device}, precision {args.precision}, batch of {args.batch_size}, latent {args.size} x {args.size}"
    )
    print(
        f"attention {attention:.2f} s, bias {bias:.2f} s, {attention / bias:.3f} times; "
        f"outputs {apart:.1e} apart"
    )


if __name__ == "__main__":
    main()
