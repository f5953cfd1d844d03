"""What the networks of the metrics cost on one core: CPU seconds for a clip of 150 frames.

python benchmarks/metric_networks.py [--frames 48] [--sizes 64 128 256]

Weights are random but for those that come with packages. CPU seconds of a few frames, scaled to 150 by the
number of windows or frames: other work on the machine changes them less than seconds of the clock.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn

from difftalk.datasets.demo.crops import draw_crop
from difftalk.evaluation import arcface, i3d, identity, inception, st_lpips
from difftalk.models import stable_syncnet
from difftalk.models.syncnet import SyncExpert, SyncnetConfig, SyncNetV2

CLIP = 150
Measure = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def random_network(network: nn.Module) -> nn.Module:
    """Give a network, which may have none yet, random weights that keep its features in range."""
    torch.manual_seed(0)
    network = network.to_empty(device="cpu").eval().requires_grad_(False)
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var") or (name.endswith("weight") and tensor.ndim == 1):
            tensor.fill_(1.0 if name.endswith("running_var") else 0.5)
        elif name.endswith("weight"):
            tensor.normal_(0, (1 / tensor[0].numel()) ** 0.5)
        else:
            tensor.zero_()
    return network


def measures() -> list[tuple[str, Measure, int]]:
    """Each network as a function of frames, landmarks and samples, and its rows for a whole clip."""
    with torch.device("meta"):
        networks = [inception.InceptionV3(), i3d.I3dNetwork(), arcface.IResNet(), SyncNetV2()]
        networks.append(stable_syncnet.StableSyncNet())
    on: list[Any] = [random_network(network) for network in networks]
    tolerant, fid, fvd = st_lpips.StLpips(), inception.Inception(on[0]), i3d.I3d(on[1])
    csim, second = arcface.ArcFace(on[2]), stable_syncnet.StableSyncExpert(on[4])
    plain, jpeg = (SyncExpert(SyncnetConfig("syncnet_v2"), on[3], jpeg=jpeg) for jpeg in (False, True))
    return [
        ("ST-LPIPS", lambda f, p, a: tolerant(f, f[::-1].copy(), (1, 1, 9, 9))[0], CLIP),
        ("identity (dlib), every 10th frame", lambda f, p, a: identity.descriptors(f, p), CLIP // 10),
        ("FID (Inception v3)", lambda f, p, a: fid.features(f), CLIP),
        ("FVD (I3D)", lambda f, p, a: fvd.features(f), CLIP // i3d.WINDOW),
        ("CSIM (ArcFace)", lambda f, p, a: csim.embeddings(f, p), CLIP),
        ("SyncNet v2, video, plain", lambda f, p, a: plain.video_embeddings(f, p), CLIP - 4),
        ("SyncNet v2, video, jpeg", lambda f, p, a: jpeg.video_embeddings(f, p), CLIP - 4),
        ("StableSyncNet, video, every 5th window", lambda f, p, a: second.video_embeddings(f, p), 27),
        ("StableSyncNet, audio", lambda f, p, a: second.audio_embeddings(a), CLIP - 15),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--frames", type=int, default=48)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256])
    options = parser.parse_args()
    torch.set_num_threads(1)
    networks = measures()
    small, points, samples = draw_crop(1, options.frames / 25)
    print(f"CPU seconds for {CLIP} frames, by {len(small)} of them")
    print(f"{'':42}" + "".join(f"{size:>6} px" for size in options.sizes))
    for name, measure, rows in networks:
        line = f"{name:42}"
        for size in options.sizes:
            frames = np.stack([cv2.resize(f, (size, size), interpolation=cv2.INTER_CUBIC) for f in small])
            start = time.process_time()
            found = measure(frames, points * (size / small.shape[1]), samples)
            line += f"{(time.process_time() - start) / len(found) * rows:9.1f}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
