"""Compute the speech features of a shard, 50 steps a second."""

from difftalk.config.numbers import Share
from difftalk.config.speech import Speech
from difftalk.runtime.arguments import CacheFolder, InputFile, OutputFile

STAGE = "speech"


def run(
    *,
    crops: InputFile,
    settings: Speech,
    out: OutputFile,
    rejects: OutputFile,
    max_reject_fraction: Share,
    cache: CacheFolder | None = None,
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
        cache: folder that keeps the features of clips, for other runs and sizes of crops.

    Raises:
        UserError: as `RejectLog`, and where the weights of the backend are missing.
    """
    import functools

    from difftalk.media.shards import read_crops
    from difftalk.runtime.cache import Cache, Keeping, map_kept
    from difftalk.runtime.device import default_device, tell
    from difftalk.runtime.rejects import RejectLog
    from difftalk.speech.features import Backend, SpeechJob, clip_features, load_backend
    from difftalk.speech.kept_features import entries_of, pack, unpack
    from difftalk.speech.table import speech_writer

    @functools.cache
    def backend() -> Backend:
        if settings.backend == "deepspeech":
            tell(STAGE, default_device(), "float32")
        return load_backend(settings.backend)

    # Its weights are not read where all clips are in the cache.
    jobs = [
        (
            crop.clip_id,
            SpeechJob(
                crop.without_video(), settings.silence_db, lambda audio, steps: backend()(audio, steps)
            ),
        )
        for crop in read_crops(crops)
    ]
    keeping = Keeping(Cache(cache, STAGE), clip_features, pack)
    entries = entries_of(keeping.cache, [job.crop for _, job in jobs], settings)
    with (
        RejectLog(STAGE, rejects, max_reject_fraction, len(jobs)) as lost,
        speech_writer(out) as write,
    ):
        clips = map_kept(keeping, unpack, jobs, entries, stage=STAGE, workers=1)
        for clip_id, features in lost.kept(clips):
            write(clip_id, features)
