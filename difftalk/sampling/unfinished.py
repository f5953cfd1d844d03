"""Keep what a killed sampling had made: finished videos, and the latents of clips that were begun."""

import os
import shutil
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from difftalk.config.sampling import Sampling
from difftalk.runtime.checksums import (
    FOREIGN,
    checksum,
    is_whole,
    line_of,
    read_record,
    read_sums,
    record_of,
    write_record,
)
from difftalk.runtime.errors import UserError
from difftalk.runtime.files import atomic_file, inside, read_json, write_json
from difftalk.runtime.fingerprint import fingerprint
from difftalk.sampling.timing import Took

if TYPE_CHECKING:
    import torch

    from difftalk.sampling.clip_sampler import ClipJob

SECONDS_BETWEEN = 30.0


def provenance(
    method: str,
    settings: Sampling,
    files: Sequence[Path],
    networks: Sequence[Path],
    module: str,
) -> dict[str, object]:
    """Return what samples depend on: settings, data, networks and code.

    Args:
        method: its name.
        settings: of the sampling.
        files: shards, and lists of clips.
        networks: folders of the first stage and of the model.
        module: name of the module that reaches all of the code by its imports.
    """
    return {
        "method": method,
        "settings": settings.as_dict(),
        "files": [read_record(file) or _signature(file) for file in files],
        "folders": [
            read_sums(folder) or {str(p): _signature(p) for p in sorted(folder.rglob("*")) if p.is_file()}
            for folder in networks
        ],
        "code": fingerprint(module),
    }


def _signature(file: Path) -> str:
    found = file.stat()
    return f"{found.st_size} {found.st_mtime_ns}"


def claim(folder: Path, provenance: dict[str, object]) -> None:
    """Make a folder that of one piece of work: emptied where it is of another.

    Args:
        folder: of files that no person wrote.
        provenance: what the work depends on, as JSON has it.
    """
    about = folder / "provenance.json"
    try:
        same = about.is_file() and read_json(about) == provenance
    except UserError:
        same = False
    if not same:
        if folder.is_dir() and any(folder.iterdir()) and not about.exists():
            raise UserError(f"{folder}: {FOREIGN}")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(about, provenance)


class Unfinished:
    """A folder of one sampling, which the same sampling goes on from.

    Args:
        folder: of this sampling alone; emptied where it is of another one.
        provenance: what the samples depend on.
        seconds_between: between two writings of a clip's latents.
    """

    def __init__(
        self, folder: Path, provenance: dict[str, object], seconds_between: float = SECONDS_BETWEEN
    ) -> None:
        self.folder, self._seconds = folder, seconds_between
        self._written: dict[str, float] = {}
        claim(folder, provenance)

    def video(self, clip_id: str) -> Path:
        """Return where the finished video of a clip belongs."""
        return inside(self.folder, f"{clip_id}.mp4")

    def finished(self, wanted: Collection[str]) -> set[str]:
        """Return the clips that have their video, whole."""
        return {clip_id for clip_id in wanted if is_whole(self.video(clip_id))}

    def close_clip(self, clip_id: str) -> None:
        """Record the video of a clip, where there is one, and forget its latents."""
        if (video := self.video(clip_id)).is_file():
            write_record(video, line_of(checksum(video), video.name))
        for file in (self._latents(clip_id), record_of(self._latents(clip_id))):
            file.unlink(missing_ok=True)

    def keep_time(self, clip_id: str, took: Took) -> None:
        """Note what a clip took."""
        write_json(inside(self.folder, f"{clip_id}.took.json"), asdict(took))

    def times(self, clip_ids: Collection[str]) -> dict[str, Took]:
        """Return what those of the clips took of which it was noted."""
        files = {clip_id: inside(self.folder, f"{clip_id}.took.json") for clip_id in clip_ids}
        return {clip_id: Took(**read_json(file)) for clip_id, file in files.items() if file.is_file()}

    def load(self, job: "ClipJob") -> "list[torch.Tensor]":
        """Return the latents (C, h, w) that a clip had, of its first frames to sample."""
        import torch

        kept = self._latents(job.clip.clip_id)
        if not is_whole(kept):
            return []
        found = np.load(kept, allow_pickle=False)
        if found.shape[1:] != job.reference.shape or len(found) > len(job.numbers):
            return []
        return list(torch.from_numpy(found))

    def keep(self, job: "ClipJob") -> None:
        """Write the latents of a clip that was begun, if the last time is long ago."""
        now, clip_id = time.monotonic(), job.clip.clip_id
        if now - self._written.setdefault(clip_id, now) < self._seconds:
            return
        self._written[clip_id] = now
        with atomic_file(self._latents(clip_id), recorded=True) as tmp, tmp.open("wb") as file:
            np.save(file, job.latents().numpy())

    def link_videos(self, clip_ids: Collection[str], out: Path) -> bool:
        """Link the videos of clips into the folder `out`, or copy them to another file system.

        Returns:
            Whether they are links, so that to keep them here takes no space.
        """
        linked = True
        for clip_id in sorted(clip_ids):
            target = inside(out, f"{clip_id}.mp4")
            try:
                os.link(self.video(clip_id), target)
            except OSError:
                linked = False
                shutil.copyfile(self.video(clip_id), target)
        return linked

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _latents(self, clip_id: str) -> Path:
        return inside(self.folder, f"{clip_id}.latents.npy")
