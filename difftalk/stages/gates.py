"""Decide which clips of a shard are used, by what was measured of them."""

from difftalk.config.gates import GatesSettings
from difftalk.config.numbers import Share
from difftalk.runtime.arguments import InputFile, OutputFile

# The rejects are those of the stage that measured: scripts read them under its name.
STAGE = "landmarks"


def run(
    *, scores: InputFile, settings: GatesSettings, rejects: OutputFile, max_reject_fraction: Share
) -> None:
    """Write the clips that do not pass the gates or could not be decoded; no video is opened.

    Args:
        scores: landmarks/SHARD.scores.parquet.
        settings: the gates of the sections `landmarks` and `gates` of the configuration.
        rejects: rejects/landmarks/SHARD.csv, to be written.
        max_reject_fraction: fail where more than this part of the clips is rejected.

    Raises:
        UserError: as `RejectLog`.
    """
    from difftalk.face.clip_scores import read_scores
    from difftalk.face.gates import verdict
    from difftalk.runtime.rejects import Reject, RejectLog

    clips = read_scores(scores)
    with RejectLog(STAGE, rejects, max_reject_fraction, len(clips)) as lost:
        for of_clip in clips:
            if (error := verdict(of_clip, settings)) is not None:
                lost.add(Reject.of(of_clip.clip_id, STAGE, error))
