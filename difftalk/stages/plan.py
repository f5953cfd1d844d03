"""Decide which clips there are, the split of each, and the shard that works on it.

No network is used, and no video is opened but local files.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from difftalk.config.dataset import DatasetSettings, LocalSettings, Shards
from difftalk.config.numbers import Workers
from difftalk.runtime.arguments import CacheFolder, InputFile, KeptFolder, OutputFile

if TYPE_CHECKING:
    from difftalk.datasets.survey import Survey

# Of a CPU core for landmarks and crops of a 1080p frame: docs/speed.md.
PREPARE_S = 0.03


def run(
    *,
    dataset: DatasetSettings,
    shards: Shards,
    out: OutputFile,
    frozen: InputFile | None = None,
    not_videos: OutputFile | None = None,
    identities: OutputFile | None = None,
    digests: KeptFolder | None = None,
    cache: CacheFolder | None = None,
    workers: Workers = 1,
) -> None:
    """Write the clip table.

    Args:
        dataset: the config's section `dataset`, as JSON.
        shards: number of shards of each split, as JSON such as `{"train": 56, "test": 8}`.
        out: the clip table to write, plan/clips.parquet.
        frozen: a file of `difftalk freeze`: its clips alone are planned, from files with the same checksums.
        not_videos: CSV file to write: the entries of a folder of videos that are none (name, why).
        identities: CSV file to write: of each file of a folder the speaker, the side of the split, the file
            with the most similar face, its distance, and the file of which it is a copy.
        digests: folder for SHARD.sha256 of each shard, a hash over its rows and the user's files of them.
        cache: folder that keeps what was found in local files, so that another look at them is not needed.
        workers: processes that look at local files.

    Raises:
        UserError: for settings that give no plan.
    """
    from difftalk.datasets.clips import write_plan
    from difftalk.datasets.dataset import open_dataset
    from difftalk.datasets.frozen import read_frozen
    from difftalk.datasets.shard_digests import write_digests
    from difftalk.datasets.split import assign_shards, refuse_shared_identities
    from difftalk.datasets.survey import IDENTITY_COLUMNS, OTHERS_COLUMNS, Survey
    from difftalk.runtime.files import write_csv

    opened = open_dataset(dataset)
    if frozen is not None:
        survey = Survey(read_frozen(frozen))
    elif isinstance(dataset, LocalSettings):
        survey = _survey(dataset, workers, cache)
    else:
        survey = Survey(opened.clips())
    if opened.shares_no_identity:
        refuse_shared_identities(survey.clips)
    if not_videos is not None:
        write_csv(not_videos, OTHERS_COLUMNS, survey.others)
    if identities is not None:
        write_csv(identities, IDENTITY_COLUMNS, survey.identities)
    survey.clips = assign_shards(survey.clips, shards, grows=opened.grows and frozen is None)
    write_plan(out, survey.clips, shards.names())
    if digests is not None:
        write_digests(digests, survey.clips, shards.names(), opened.own_files(survey.clips))


def _survey(dataset: LocalSettings, workers: int, cache: Path | None) -> "Survey":
    """Look at every file of a folder, and say how much work it is."""
    import math
    from functools import partial

    from difftalk.config.gates import FrameGates
    from difftalk.datasets.local import LocalDataset
    from difftalk.face.scenes import CutFinder
    from difftalk.runtime.progress import say

    # A decode of every file that the gate on frames would make anyway: what it finds, is cut before.
    monitor = partial(CutFinder, FrameGates.model_fields["scene_cut_ratio"].default)
    survey = LocalDataset(dataset, monitor, workers, cache).survey()
    frames = sum(clip.frames for clip in survey.clips if not clip.left_out)
    minutes = max(math.ceil(frames * PREPARE_S / 60), 1)
    say(
        f"plan: {len(survey.clips)} clips, {frames} frames: landmarks and crops take about {minutes} min of "
        "one CPU core in all"
    )
    return survey
