"""Put what was sampled back into the frames of the source."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, tee
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from difftalk.animation.faces import CropRule, Faces, cut
from difftalk.animation.paste import paste, soft_mask
from difftalk.animation.source import Source, Stretch
from difftalk.media.lazy_frame import LazyFrame

if TYPE_CHECKING:
    from difftalk.sampling.frame_sampler import FrameSampler


def latents_file(kept: Path, number: int) -> Path:
    """Return the file of the latents of one track in one stretch, from frame `number` of the output on."""
    return kept / f"latents-{number:08d}.npy"


def parts_of(stretch: Stretch, faces: Faces) -> list[tuple[int, int, int]]:
    """Return the parts (first, stop, track) of a stretch that show one track each."""
    tracks = faces.track[list(stretch.shown)]
    parts: list[tuple[int, int, int]] = []
    for k, track in enumerate(map(int, tracks)):
        if track >= 0 and parts and parts[-1][1] == k and parts[-1][2] == track:
            parts[-1] = (parts[-1][0], k + 1, track)
        elif track >= 0:
            parts.append((k, k + 1, track))
    return parts


@dataclass
class _Made:
    """A generated crop, and where it belongs."""

    crop: np.ndarray
    mask: np.ndarray
    to_frame: np.ndarray


def frames_of(
    kept: Path, source: Source, faces: Faces, rule: CropRule, plan: list[Stretch], sampler: "FrameSampler"
) -> Iterator[np.ndarray]:
    """Yield the frames (H, W, 3) uint8 of the output, from the latents that are kept.

    With `interpolation: smooth`, the crops of a track are smoothed before they are pasted.
    """
    smoothed = sampler.settings.interpolation == "smooth"
    shown = _decoded(kept, source, faces, rule, plan, sampler)
    for track, frames in groupby(shown, key=lambda found: found[0]):
        if track < 0:
            yield from (np.asarray(frame[:, :]) for _, frame, _ in frames)
            continue
        placed, sampled = tee((frame, made) for _, frame, made in frames if made is not None)
        generated = (made for _, made in sampled)
        crops = _smooth(generated) if smoothed else (made.crop for made in generated)
        for (frame, made), crop in zip(placed, crops, strict=True):
            yield paste(np.asarray(frame[:, :]), crop, made.mask, made.to_frame)


def _smooth(generated: Iterator[_Made]) -> Iterator[np.ndarray]:
    from difftalk.sampling.interpolation import smooth

    crops, masks = tee(generated)
    return smooth((made.crop for made in crops), (made.mask for made in masks))


def _decoded(
    kept: Path, source: Source, faces: Faces, rule: CropRule, plan: list[Stretch], sampler: "FrameSampler"
) -> Iterator[tuple[int, np.ndarray | LazyFrame, _Made | None]]:
    """Yield of each frame of the output its track (-1: none), the source's frame, and the generated crop."""
    import torch

    from difftalk.models.autoencoder import downsampling
    from difftalk.sampling.inputs import inpainting_mask

    placements = faces.placements(rule, source.size)
    cells = rule.size // downsampling(sampler.pipeline.vqvae)
    for stretch in plan:
        frames = stretch.read(source)
        made: dict[int, tuple[int, _Made]] = {}
        for first, stop, track in parts_of(stretch, faces):
            latents = torch.from_numpy(np.load(latents_file(kept, stretch.first + first), allow_pickle=False))
            numbers = stretch.shown[first:stop]
            _, landmarks, to_frame = cut(frames[first:stop], numbers, faces, placements[track], rule)
            masks = inpainting_mask(landmarks, rule.size, cells, sampler.settings)[:, 0].numpy()
            for k, crop in enumerate(sampler.decode(latents)):
                made[first + k] = track, _Made(crop, soft_mask(masks[k], rule.size), to_frame[k])
        for k, frame in enumerate(frames):
            track, found = made.get(k, (-1, None))
            yield track, frame, found
