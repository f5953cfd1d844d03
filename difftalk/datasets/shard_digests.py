"""What the jobs of a shard depend on in the plan: a hash over its clips and over the user's files of them.

Each shard has a file of its own, so that a plan with one more video reruns the jobs of the shards in which a
clip or a file has changed, and of no other.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from difftalk.datasets.clips import Clip, values_of


def write_digests(
    folder: Path, clips: Iterable[Clip], shards: Iterable[str], files: Mapping[str, Path]
) -> None:
    """Write `{shard}.sha256` of all shards.

    They have no checksum and are not synchronised with the disk: nothing is read from them, and one that is
    torn by a loss of power reruns its shard.

    Args:
        folder: where they are written.
        clips: of all shards, sorted by shard.
        shards: names of all shards, since one may have no clip.
        files: the user's own file of each source that has one; its size and time count.
    """
    whole = {shard: hashlib.sha256() for shard in shards}
    stamps = {source_id: _stamp(file) for source_id, file in files.items()}
    for clip in clips:
        facts = (*values_of(clip), stamps.get(clip.source_id))
        whole[clip.shard].update(f"{facts!a}\n".encode())
    folder.mkdir(parents=True, exist_ok=True)
    for shard, found in whole.items():
        tmp = folder / f".{shard}.{os.getpid()}.part"
        tmp.write_text(f"{found.hexdigest()}\n", encoding="ascii")
        os.replace(tmp, folder / f"{shard}.sha256")


def _stamp(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except (OSError, ValueError):
        return None
    return found.st_size, found.st_mtime_ns
