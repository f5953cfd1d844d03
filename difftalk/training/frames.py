"""Batches of face crops for the training of the first stage, in bounded memory.

Each batch is a function of seed and step.
Crops that fit into the memory allowed are all decoded and held (`Batches`). Larger ones go through a pool
(`PooledBatches`): `STRETCH` frames of a clip at a time, in an endless seeded order of clips. A window over
that order moves on as frames are drawn.
"""

import hashlib
import json
import zlib
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from difftalk.media.members import Member, list_members, verify_shards
from difftalk.media.video import read_video
from difftalk.models.autoencoder import to_pixels
from difftalk.runtime.errors import ClipError, UserError
from difftalk.runtime.parallel import one_ahead

STRETCH = 64  # frames of a clip that are in the pool at a time
DECODED_AHEAD = 2  # stretches
HELD_OUT_FRAMES = 256  # frames that measure, over all clips that are held out


class FrameBatches(Protocol):
    """Batches in an endless, seeded order.

    Each is a pure function of its step, so that a resumed training sees the same.
    """

    @property
    def frames_per_epoch(self) -> int:
        """Frames drawn while, on average, every clip has its turn once."""

    def at(self, step: int) -> torch.Tensor:
        """Return (B, 3, H, W) in [-1, 1], each mirrored with probability one half."""

    def identifying_arrays(self) -> Iterator[np.ndarray]:
        """Yield arrays that tell one set of frames from another."""


def prepared(batches: FrameBatches, start: int, stop: int) -> Iterator[torch.Tensor]:
    """Give the batches of the steps from `start` to `stop`, each of them prepared beside the step before."""
    return one_ahead(batches.at, range(start, stop))


@dataclass(frozen=True)
class Batches:
    """Batches out of frames that are held in memory."""

    frames: np.ndarray  # (N, H, W, 3) uint8
    batch_size: int
    seed: int

    @property
    def frames_per_epoch(self) -> int:
        """Frames that are held."""
        return len(self.frames)

    def at(self, step: int) -> torch.Tensor:
        """Draw a batch (B, 3, H, W) in [-1, 1] from all frames."""
        rng = np.random.default_rng((self.seed, step))
        return mirrored(self.frames[rng.integers(len(self.frames), size=self.batch_size)], rng)

    def identifying_arrays(self) -> Iterator[np.ndarray]:
        """Yield the frames themselves."""
        yield self.frames


@dataclass(frozen=True)
class CropVideo:
    """The video of one clip in a crops shard.

    Args:
        clip_id: of the clip.
        shard: the file.
        member: where in the shard the mp4 is.
        frames: number of frames.
        pixels: width and height of a frame.
    """

    clip_id: str
    shard: Path
    member: Member
    frames: int
    pixels: int

    def read(self) -> bytes:
        """Read the mp4, and compare it with its checksum.

        Raises:
            UserError: if it differs.
        """
        with self.shard.open("rb") as file:
            return self.member.read(self.shard, file)

    def read_frames(self, chosen: np.ndarray) -> np.ndarray:
        """Decode the frames of rising numbers `chosen`: (len(chosen), H, W, 3) uint8.

        No others are kept in memory.
        """
        try:
            return read_video(self.read(), chosen.tolist())
        except (ClipError, IndexError) as e:
            raise UserError(f"{self.shard}: the frames of {self.clip_id} cannot be decoded ({e})") from None


def find_videos(crops: Sequence[Path], rejected: Collection[str] = ()) -> list[CropVideo]:
    """Find the videos of crops shards, by shard and in its order; no frame is decoded.

    The shards are compared with their checksums first: training may take days.

    Args:
        crops: crops/SHARD.tar.
        rejected: ids of clips that are left out.

    Raises:
        UserError: if there is none, or a shard is missing, damaged or none of crops.
    """
    verify_shards(crops)
    found = []
    for shard in crops:
        by_clip: dict[str, dict[str, Any]] = {}
        members = list_members(shard)
        with shard.open("rb") as file:
            for member in members:
                properties = by_clip.setdefault(member.clip_id, {})
                if member.extension == "mp4":
                    properties["member"] = member
                elif member.extension == "json":
                    properties["json"] = member.read(shard, file)
        for clip_id, properties in by_clip.items():
            try:
                info = json.loads(properties["json"])
                video = CropVideo(
                    clip_id, shard, properties["member"], int(info["frames"]), int(info["size"])
                )
            except (KeyError, ValueError, TypeError) as e:
                raise UserError(f"{shard} is no shard of `difftalk crops`: {clip_id}: {e!r}") from None
            if clip_id not in rejected:
                found.append(video)
    if not found:
        raise UserError("autoencoder: the train crops hold no clip to train on")
    return found


def hold_out(videos: list[CropVideo], fraction: float) -> tuple[list[CropVideo], list[CropVideo]]:
    """Split clips into those to train on and those to measure on, by a hash of their names.

    At least one is held out where there are several, unless `fraction` is 0; the only clip never is.
    """
    count = min(len(videos) - 1, max(1, round(fraction * len(videos)))) if fraction else 0
    ranked = sorted(videos, key=lambda v: hashlib.sha256(v.clip_id.encode()).digest())
    out = {v.clip_id for v in ranked[:count]}
    return [v for v in videos if v.clip_id not in out], [v for v in videos if v.clip_id in out]


def held_out_frames(videos: list[CropVideo]) -> np.ndarray | None:
    """Decode frames (N, H, W, 3) to measure on; None without clips.

    They are at most `HELD_OUT_FRAMES`, spread evenly over the clips.
    """
    if not videos:
        return None
    each = max(1, HELD_OUT_FRAMES // len(videos))
    chosen = videos[:HELD_OUT_FRAMES]
    return np.concatenate([v.read_frames(_spread(v.frames, each, np.full(each, 0.5))) for v in chosen])


def load_batches(videos: list[CropVideo], batch_size: int, seed: int, memory_mb: float) -> FrameBatches:
    """Hold all frames in memory where they fit into `memory_mb`, else a pool of that size."""
    capacity = int(memory_mb * 1e6 / (3 * max(v.pixels for v in videos) ** 2))  # frames
    if sum(v.frames for v in videos) <= capacity:
        frames = np.concatenate([v.read_frames(np.arange(v.frames)) for v in videos])
        return Batches(frames, batch_size, seed)
    return PooledBatches(videos, batch_size, seed, max(1, capacity // STRETCH - DECODED_AHEAD))


class PooledBatches:
    """Batches out of a moving window over an endless order of stretches.

    Stretch p is up to `STRETCH` frames, spread over one clip and drawn again each time; every clip has one
    turn per epoch, in a new order. The window holds `stretches` of them and moves on by one for every
    `STRETCH` frames drawn, so that a frame in it is drawn once on average. Its content is a function of seed
    and step: a resumed training decodes the window again and sees the same batches.
    """

    def __init__(self, videos: list[CropVideo], batch_size: int, seed: int, stretches: int) -> None:
        self.videos, self.batch_size, self.seed, self.stretches = videos, batch_size, seed, stretches
        self._decoder = ThreadPoolExecutor(2, "decode")
        self._pool: dict[int, Future[np.ndarray]] = {}

    @property
    def frames_per_epoch(self) -> int:
        """Frames of one stretch of every clip."""
        return sum(min(STRETCH, v.frames) for v in self.videos)

    def at(self, step: int) -> torch.Tensor:
        """Draw a batch (B, 3, H, W) in [-1, 1] from the stretches in the window at `step`."""
        first = step * self.batch_size // STRETCH
        window = range(first, first + self.stretches)
        for position in [p for p in self._pool if p < first or p >= window.stop + DECODED_AHEAD]:
            self._pool.pop(position).cancel()
        for position in range(first, window.stop + DECODED_AHEAD):
            if position not in self._pool:
                self._pool[position] = self._decoder.submit(self.stretch, position)
        held = [self._pool[p].result() for p in window]
        ends = np.cumsum([len(s) for s in held])
        rng = np.random.default_rng((self.seed, step))
        drawn = rng.integers(ends[-1], size=self.batch_size)
        inside = np.searchsorted(ends, drawn, side="right")
        chosen = np.stack([held[s][d - ends[s]] for s, d in zip(inside, drawn, strict=True)])
        return mirrored(chosen, rng)

    def stretch(self, position: int) -> np.ndarray:
        """Decode stretch `position` of the endless order, frames (n, H, W, 3)."""
        epoch, turn = divmod(position, len(self.videos))
        order = np.random.default_rng((self.seed, epoch, 2)).permutation(len(self.videos))
        video = self.videos[order[turn]]
        count = min(STRETCH, video.frames)
        within = np.random.default_rng((self.seed, position, 3)).random(count)
        return video.read_frames(_spread(video.frames, count, within))

    def identifying_arrays(self) -> Iterator[np.ndarray]:
        """Yield each clip's name and length, and the size and checksum of its file."""
        for video in self.videos:
            crc32 = video.member.crc32 if video.member.crc32 is not None else zlib.crc32(video.read())
            described = f"{video.clip_id} {video.frames} {video.member.size} {crc32}"
            yield np.frombuffer(described.encode(), np.uint8)


def _spread(frames: int, count: int, within: np.ndarray) -> np.ndarray:
    """Return `count` rising frame numbers, one in each of as many equal parts.

    `within`, in [0, 1), is the place in the part.
    """
    count = min(count, frames)
    return ((np.arange(count) + within[:count]) * frames / count).astype(int).clip(max=frames - 1)


def mirrored(chosen: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
    """Convert frames (B, H, W, 3) uint8, half of them mirrored in place, to (B, 3, H, W) in [-1, 1]."""
    flipped = rng.random(len(chosen)) < 0.5
    chosen[flipped] = chosen[flipped, :, ::-1]
    return to_pixels(chosen)
