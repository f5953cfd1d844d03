"""HDTF: the clips of the package's own table, with one of its splits."""

from collections.abc import Iterator
from functools import partial

from difftalk.config.dataset import Hdtf
from difftalk.datasets.adapters.published import YOUTUBE, Entry, entry
from difftalk.datasets.clips import Clip
from difftalk.datasets.hdtf.dataset import HdtfDataset
from difftalk.datasets.table_file import Row
from difftalk.runtime.errors import UserError


def read_hdtf(settings: Hdtf) -> Iterator[Entry]:
    """Yield the clips as `dataset.name: hdtf` plans them, at full length, split as `settings` has it.

    A table of clips that are cut short would not show which of them share a stretch: `dataset.max_frames` of
    the run cuts them.

    Raises:
        UserError: if `settings` names files of one machine.
    """
    if settings.files is not None:
        raise UserError("files: copies at hand belong into dataset.files of the run, not into the table")
    for clip in HdtfDataset(settings.model_copy(update={"max_frames": None})).clips():
        yield entry(clip.clip_id, partial(_row, clip))


def _row(clip: Clip) -> Row:
    return Row(
        url=f"{YOUTUBE}{clip.source_id}",
        start_s=clip.start_s,
        end_s=clip.end_s,
        clip_id=clip.clip_id,
        identity=clip.identity,
        split=clip.split,
        subset=clip.subset,
        box=clip.box,
        box_height=clip.box_height,
        crop_ratio=clip.crop_ratio,
    )
