"""Measure how well lips and audio of the crops of a shard are in sync."""

from typing import TYPE_CHECKING

from difftalk.runtime.arguments import InputFile, InputFolder, OutputFile

if TYPE_CHECKING:
    from difftalk.evaluation.sync import Sync
    from difftalk.media.shards import Crop


def run(*, crops: InputFile, syncnet: InputFolder, out: OutputFile) -> None:
    """Write offset and confidence of each crop, as the run's sync expert finds them.

    A clip that is too short to tell, or fails, has no row.

    Args:
        crops: crops/SHARD.tar.
        syncnet: folder of the sync expert.
        out: sync/SHARD.csv, to be written.
    """
    from difftalk.face.sync_gate import measure_crop
    from difftalk.face.sync_table import write_sync
    from difftalk.media.shards import read_crops
    from difftalk.runtime.device import default_device, tell
    from difftalk.runtime.errors import ClipError
    from difftalk.runtime.parallel import guarded
    from difftalk.runtime.progress import progress

    def measure(crop: "Crop") -> "Sync | None":
        return measure_crop(crop.frames(), crop.landmarks, crop.audio, syncnet)

    tell("sync", default_device(), "float32")
    measured = []
    clips = list(read_crops(crops))
    for crop in progress(clips, len(clips), "sync", "clips"):
        found = guarded(measure, crop, crop.clip_id)
        if found is not None and not isinstance(found, ClipError):
            measured.append((crop.clip_id, found.offset, found.confidence))
    write_sync(out, measured)
