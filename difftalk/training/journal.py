"""The journal of a training: `log.jsonl`, and TensorBoard with its figures and sample strips."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from difftalk.config.sampling import Sampling
from difftalk.config.training import TrainingSettings
from difftalk.models.denoiser import Denoiser, noise_schedule
from difftalk.models.examples import LatentClips
from difftalk.runtime.faults import writing
from difftalk.runtime.files import write_json_lines
from difftalk.training.data import training_batch

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

STRIP = "target | masked | reference | generated"
STRIP_FRAMES, STRIP_STEPS = 4, 50  # of a sample strip: frames, and DDIM steps of each


class Journal:
    """The log of one training, written by its first process.

    Args:
        path: `log.jsonl`; each line is on disk as soon as it is written.
        curves: folder for TensorBoard; None: none.
        log: the lines of the steps so far, to which `write` adds. What a killed run wrote beyond them is
            removed: it comes again.
    """

    def __init__(self, path: Path, curves: Path | None, log: list[dict[str, Any]]) -> None:
        self.path, self.log = path, log
        write_json_lines(path, log)
        self.board = None if curves is None else _open_board(curves, log)

    def write(self, line: dict[str, Any]) -> None:
        """Add a line, of a step and its figures."""
        self.log.append(line)
        with writing(self.path, "the newest checkpoint is intact"):
            with self.path.open("a") as lines:
                lines.write(json.dumps(line) + "\n")
            if self.board is not None:
                for name, value in line.items():
                    if name != "step":
                        self.board.add_scalar(f"train/{name}", value, line["step"])
                self.board.flush()

    def wants_strip(self, step: int, every: int) -> bool:
        """Return whether a sample strip is due after `step` steps, and TensorBoard is there."""
        return self.board is not None and every > 0 and step % every == 0

    def show(self, strip: np.ndarray, step: int) -> None:
        """Add a sample strip (H, W, 3) uint8 to TensorBoard."""
        if self.board is not None:
            with writing(self.path.parent, "the newest checkpoint is intact"):
                self.board.add_image(STRIP, strip, step, dataformats="HWC")
                self.board.flush()

    def close(self) -> None:
        """Finish the files of TensorBoard."""
        if self.board is not None:
            self.board.close()


def _open_board(curves: Path, log: list[dict[str, Any]]) -> "SummaryWriter":
    """Open TensorBoard's folder to go on after the last line of `log`; without a line, empty it."""
    from torch.utils.tensorboard import SummaryWriter

    if not log:
        shutil.rmtree(curves, ignore_errors=True)
    last = log[-1]["step"] if log else 0
    return SummaryWriter(curves, purge_step=last + 1)


@torch.no_grad()
def sample_strip(
    model: Denoiser, clips: LatentClips, autoencoder: Path, settings: TrainingSettings, device: torch.device
) -> np.ndarray:
    """Sample a few training frames, always the same: a strip (H, W, 3) uint8.

    Its columns are target, masked, reference and generated. This is the only part of the training that runs
    the first stage, which is loaded for it and released again.
    """
    from difftalk.models.autoencoder import decode_latents, load_autoencoder
    from difftalk.sampling.frame_sampler import FrameSampler
    from difftalk.sampling.inputs import FrameInputs
    from difftalk.sampling.pipeline import DiffTalkPipeline

    batch = training_batch(clips, STRIP_FRAMES, 0, settings.seed + 1, settings.reference_distance)
    examples = batch.to("cpu")
    scheduler = noise_schedule(settings.prediction_type)
    pipeline = DiffTalkPipeline(
        model.unet, model.conditioner, scheduler, settings.conditions, known_region=settings.known_region
    )
    # A pass is filled up to its size: one of the default would be of 64 frames on a GPU, beside the training.
    sampling = Sampling(steps=STRIP_STEPS, frames_per_pass=STRIP_FRAMES, compile=False, seed=settings.seed)
    sampler = FrameSampler(pipeline, sampling)
    inputs = {k: v for k, v in vars(examples).items() if k not in ("target", "reference")}
    generated = sampler.sample(
        FrameInputs(known=examples.target, **inputs),
        examples.reference,
        [("strip", frame) for frame in range(STRIP_FRAMES)],
    )
    first_stage = load_autoencoder(autoencoder, device)
    shown = (examples.target, examples.masked, examples.reference, generated)
    columns = [np.concatenate(list(decode_latents(first_stage, latents))) for latents in shown]
    return np.concatenate(columns, axis=1)
