"""Scoring against the plain loop of the reference libraries, in one run on the same frames.

python benchmarks/score.py --crops RUN/crops/test-000.tar [--frames 100] [--size 256] [--device cpu]

The loop takes one frame after another: scikit-image's PSNR and SSIM (whole frame, and the mouth's box of the
map), the package lpips, dlib's detector and 68 points; then SyncNet v2 window by window in batches of 20, as
syncnet_python has it. Ours are the instruments of `difftalk score`. LPIPS and SyncNet have random weights.
Seconds are of this machine while it does whatever else it does: the ratios count.
"""

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import cv2
import dlib
import lpips
import numpy as np
import torch
import torchvision
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from difftalk.config.evaluation import Evaluation
from difftalk.evaluation import measures, metrics
from difftalk.evaluation.pair import Pair
from difftalk.media.encode import write_video
from difftalk.media.shards import Crop, read_crops
from difftalk.models.syncnet import LIP_FRAMES, SyncExpert, SyncnetConfig, SyncNetV2
from difftalk.pretrained.dlib_models import face_detector, landmark_predictor

WINDOWS = 20  # SyncNet's batch
Loop = Callable[[Pair], np.ndarray]


def similarity_loop(pair: Pair) -> np.ndarray:
    """PSNR and SSIM of each frame, and SSIM of its mouth: (T, 3)."""
    options = {"data_range": 255, "channel_axis": -1, "gaussian_weights": True, "sigma": 1.5}
    rows = []
    for a, b in zip(pair.truth, pair.frames, strict=True):
        whole, full = structural_similarity(a, b, use_sample_covariance=False, full=True, **options)
        mouth = metrics.region(full, pair.box).mean()
        rows.append((peak_signal_noise_ratio(a, b, data_range=255), whole, mouth))
    return np.array(rows)


def lpips_loop(model: torch.nn.Module, device: str) -> Loop:
    """LPIPS of each frame: (T,)."""

    def tensor(frame: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(frame).to(device).permute(2, 0, 1)[None].float() / 127.5 - 1

    @torch.no_grad()
    def loop(pair: Pair) -> np.ndarray:
        both = zip(pair.truth, pair.frames, strict=True)
        return np.array([float(model(tensor(a), tensor(b))) for a, b in both])

    return loop


def points_loop(pair: Pair) -> np.ndarray:
    """Detect and predict in each frame: how many faces were found, and the opening of the lips (T,)."""
    found = []
    for frame in pair.frames:
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        faces = face_detector()(grey, 0)
        box = faces[0] if faces else dlib.rectangle(0, 0, grey.shape[1] - 1, grey.shape[0] - 1)
        shape = landmark_predictor()(grey, box)
        found.append(shape.part(66).y - shape.part(62).y)
    return np.array(found, float)


def sync_loop(expert: SyncExpert) -> Loop:
    """The video embeddings of SyncNet v2, window by window: (T - 4, 1024)."""

    @torch.no_grad()
    def loop(pair: Pair) -> np.ndarray:
        lips = torch.from_numpy(expert.lips(pair.frames, pair.landmarks)).permute(3, 0, 1, 2).float()
        starts = range(lips.shape[1] - LIP_FRAMES + 1)
        windows = [lips[:, k : k + LIP_FRAMES] for k in starts]
        parts = []
        for k in range(0, len(windows), WINDOWS):
            batch = torch.stack(windows[k : k + WINDOWS]).to(expert.device)
            parts.append(expert.network.video(batch)[:, 0].cpu())
        return torch.cat(parts).numpy()

    return loop


def timed(run: Callable[[], np.ndarray]) -> tuple[np.ndarray, float]:
    """What a call returns, and its seconds."""
    start = time.perf_counter()
    return run(), time.perf_counter() - start


def make_pair(crops: Path, frames: int, size: int, scratch: Path) -> Pair:
    """The first clip of a shard, beside itself compressed."""
    clip = next(read_crops(crops))
    pictures = np.stack([cv2.resize(f, (size, size)) for f in clip.frames()[:frames]])
    factor = size / int(clip.info["size"])
    write_video(scratch / "truth.mp4", pictures, crf=0, pix_fmt="yuv444p")
    write_video(scratch / "sample.mp4", pictures, crf=28)
    points = ((clip.landmarks[: len(pictures)] + 0.5) * factor - 0.5).astype(np.float32)
    np.save(scratch / "points.npy", points)
    files = {
        "mp4": (scratch / "truth.mp4").read_bytes(),
        "landmarks.npy": (scratch / "points.npy").read_bytes(),
        "flac": clip.files["flac"],
        "json": clip.files["json"],
    }
    pair = Pair(Crop(clip.clip_id, files), scratch / "sample.mp4", Evaluation())
    assert pair.count == len(pictures)
    return pair


def random_lpips(scratch: Path, device: str) -> tuple[metrics.Lpips, torch.nn.Module]:
    """LPIPS of ours and of the package, with the same random backbone."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = torchvision.models.alexnet(weights=None).state_dict()
        model = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    torch.save(state, scratch / "alexnet.pth")
    for name, parameter in model.net.named_parameters():
        parameter.data.copy_(state["features." + name.split(".", 1)[1]])
    return metrics.Lpips(scratch / "alexnet.pth", device), model.to(device).eval()


def main() -> None:
    """Print a row per instrument."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--crops", type=Path, required=True, help="crops/SHARD.tar of a run")
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--size", type=int, default=256, help="pixels")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        pair = make_pair(args.crops, args.frames, args.size, scratch)
        ours, theirs = random_lpips(scratch, args.device)
        torch.manual_seed(0)
        expert = SyncExpert(SyncnetConfig("syncnet_v2"), SyncNetV2(), args.device)

        def similarity() -> np.ndarray:
            found = measures.similarity(pair)
            return np.stack([found[name] for name in ("psnr", "ssim", "ssim_mouth")], axis=1)

        rows: list[tuple[str, Callable[[], np.ndarray], Callable[[], np.ndarray], bool]] = [
            ("PSNR, SSIM", lambda: similarity_loop(pair), similarity, True),
            (
                "LPIPS",
                lambda: lpips_loop(theirs, args.device)(pair),
                lambda: measures.perceptual(ours)(pair)["lpips"],
                True,
            ),
            (
                "SyncNet v2",
                lambda: sync_loop(expert)(pair),
                lambda: expert.video_embeddings(pair.frames, pair.landmarks),
                True,
            ),
            ("landmarks", lambda: points_loop(pair), lambda: measures.points(pair)["points"], False),
        ]
        print("| | loop, ms a frame | ours, ms a frame | ratio | largest difference |\n|---|---|---|---|---|")
        total = np.zeros(2)
        for name, reference, mine, same in rows:
            reference(), mine()  # warm
            (a, slow), (b, fast) = timed(reference), timed(mine)
            total += (slow, fast)
            apart = f"{np.abs(a - b).max():.1e}" if same else "another method"
            per_frame = [1000 * s / pair.count for s in (slow, fast)]
            print(f"| {name} | {per_frame[0]:.1f} | {per_frame[1]:.1f} | {slow / fast:.1f} | {apart} |")
        slow, fast = 1000 * total / pair.count
        print(f"| all | {slow:.1f} | {fast:.1f} | {slow / fast:.1f} | |")


if __name__ == "__main__":
    main()
