"""Time each speech backend on a minute of audio, and measure the memory for HDTF's longest clip.

    python benchmarks/speech_features.py [--seconds 60 500]

DeepSpeech has its full width and random weights, which take as long as trained ones. One clip of noise per
length, on the GPU where there is one.
"""

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from difftalk.media.clock import FPS, SAMPLE_RATE
from difftalk.runtime.device import default_device
from difftalk.speech.features import load_backend
from difftalk.speech.windows import STEPS_PER_FRAME

WIDTH = 2048
STEPS_PER_S = STEPS_PER_FRAME * FPS


def save_random_weights(folder: Path) -> None:
    """DeepSpeech at the released size, in a weights folder."""
    shapes: dict[str, tuple[int, ...]] = {
        f"lstm.bias_{kind}_l0{end}": (4 * WIDTH,) for kind in ("ih", "hh") for end in ("", "_reverse")
    }
    for end in ("", "_reverse"):
        shapes |= {
            f"lstm.weight_ih_l0{end}": (4 * WIDTH, 2 * WIDTH),
            f"lstm.weight_hh_l0{end}": (4 * WIDTH, WIDTH),
        }
    widths = {
        1: (494, WIDTH),
        2: (WIDTH, WIDTH),
        3: (WIDTH, 2 * WIDTH),
        5: (2 * WIDTH, WIDTH),
        6: (WIDTH, 29),
    }
    for layer, (inputs, outputs) in widths.items():
        shapes |= {f"dense{layer}.weight": (outputs, inputs), f"dense{layer}.bias": (outputs,)}
    random = torch.Generator().manual_seed(1)
    tensors = {
        name: torch.randn(shape, generator=random) / shape[-1] ** 0.5 for name, shape in shapes.items()
    }
    save_file(tensors, folder / "deepspeech-0.1.0.safetensors")
    (folder / "deepspeech-0.1.0.json").write_text(json.dumps({"sha256": "random"}))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=int, nargs="+", default=[60])
    lengths = parser.parse_args().seconds
    on_gpu = default_device() == "cuda"
    where = torch.cuda.get_device_name() if on_gpu else f"{torch.get_num_threads()} CPU threads"
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DIFFTALK_WEIGHTS"] = folder
        save_random_weights(Path(folder))
        for name in ("mfcc", "deepspeech"):
            backend = load_backend(name)
            backend(np.ones(SAMPLE_RATE, np.int16), STEPS_PER_S)
            for seconds in lengths:
                audio = np.random.default_rng(1).normal(0, 3000, seconds * SAMPLE_RATE).astype(np.int16)
                start, worked = time.perf_counter(), time.process_time()
                backend(audio, seconds * STEPS_PER_S)
                taken, worked = time.perf_counter() - start, time.process_time() - worked
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
                print(
                    f"{name}: {seconds} s of audio in {taken:.2f} s "
                    f"({60 * taken / seconds:.2f} s a minute; of processors {60 * worked / seconds:.2f} s) "
                    f"on {where}; {peak:.1f} GB at most until now",
                    flush=True,
                )


if __name__ == "__main__":
    main()
