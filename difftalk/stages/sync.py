"""Measure how well lips and audio of the crops of a shard are in sync."""

from pathlib import Path


def run(*, crops: Path, syncnet: Path, out: Path) -> None:
    """Write offset and confidence of each crop, as the run's sync expert finds them.

    A clip that is too short to tell has no row.

    Args:
        crops: crops/SHARD.tar.
        syncnet: folder of the sync expert.
        out: sync/SHARD.csv, to be written.
    """
    from difftalk.face.sync_gate import measure_crop
    from difftalk.face.sync_table import write_sync
    from difftalk.media.shards import read_crops
    from difftalk.runtime.progress import progress

    measured = []
    clips = list(read_crops(crops))
    for crop in progress(clips, len(clips), "sync", "clips"):
        found = measure_crop(crop.frames(), crop.landmarks, crop.audio, syncnet)
        if found is not None:
            measured.append((crop.clip_id, found.offset, found.confidence))
    write_sync(out, measured)
