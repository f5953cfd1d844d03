"""Compute the speech features of a shard, 50 steps a second."""

from difftalk.config.numbers import Share
from difftalk.config.speech import Speech
from difftalk.runtime.arguments import InputFile, OutputFile

STAGE = "speech"


def run(
    *, crops: InputFile, settings: Speech, out: OutputFile, rejects: OutputFile, max_reject_fraction: Share
) -> None:
    """Write the speech features of a shard, two steps per video frame.

    The table has clip_id, step and features (list of float32). Clips are processed one after another in this
    process: `mfcc` takes less time than other processes would to start, and `deepspeech` uses all threads, or
    the GPU, by itself.

    Args:
        crops: crops/SHARD.tar, whose audio is in time with its frames.
        settings: the section `speech` of the configuration.
        out: speech/SHARD.parquet, to be written.
        rejects: rejects/speech/SHARD.csv, to be written.
        max_reject_fraction: fail where more than this part of the clips is rejected.

    Raises:
        UserError: as `RejectLog`, and where the weights of the backend are missing.
    """
    from difftalk.media.shards import read_crops
    from difftalk.runtime.device import default_device, tell
    from difftalk.runtime.parallel import map_clips
    from difftalk.runtime.rejects import RejectLog
    from difftalk.speech.features import SpeechJob, clip_features, load_backend
    from difftalk.speech.table import speech_writer

    backend = load_backend(settings.backend)
    if settings.backend == "deepspeech":
        tell(STAGE, default_device(), "float32")
    jobs = [
        (crop.clip_id, SpeechJob(crop.without_video(), settings.silence_db, backend))
        for crop in read_crops(crops)
    ]
    with (
        RejectLog(STAGE, rejects, max_reject_fraction, len(jobs)) as lost,
        speech_writer(out) as write,
    ):
        for clip_id, features in lost.kept(map_clips(clip_features, jobs, stage=STAGE, workers=1)):
            write(clip_id, features)
