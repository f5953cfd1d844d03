"""Write a shard for training: first-stage latents, speech, landmarks."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from difftalk.config.encode import Encode
from difftalk.config.numbers import Share
from difftalk.runtime.arguments import CacheFolder, InputFile, InputFolder, OutputFile

if TYPE_CHECKING:
    from difftalk.runtime.rejects import Reject

STAGE = "encode"


def run(
    *,
    crops: InputFile,
    speech: InputFile,
    autoencoder: InputFolder,
    settings: Encode,
    out: OutputFile,
    rejects: OutputFile,
    max_reject_fraction: Share,
    rejected: InputFile | None = None,
    cache: CacheFolder | None = None,
) -> None:
    """Write a training shard: one sample per clip that has a crop and speech features.

    Training reads no other file. `difftalk.models.encoding.encode_clip` says what a sample holds.

    Args:
        crops: crops/SHARD.tar.
        speech: speech/SHARD.parquet.
        autoencoder: folder of the first stage.
        settings: the section `encode` of the configuration.
        out: shards/SHARD.tar, to be written.
        rejects: rejects/encode/SHARD.csv, to be written.
        max_reject_fraction: fail where more than this part of the clips is rejected.
        rejected: rejects/overlap/SHARD.csv, whose clips are left out; none where nothing is rejected there.
        cache: folder that keeps the latents of clips, for other runs.

    Raises:
        UserError: as `RejectLog`; if the folder is no first stage, or its factor does not divide the size of
            the crops.
    """
    from difftalk.media.shards import write_shard
    from difftalk.runtime.rejects import RejectLog, read_rejects
    from difftalk.speech.table import read_speech

    gone = {reject.clip_id for reject in read_rejects(rejected)} if rejected is not None else set()
    features = {clip_id: of for clip_id, of in read_speech(speech).items() if clip_id not in gone}
    with RejectLog(STAGE, rejects, max_reject_fraction, len(features)) as lost:
        write_shard(out, lost.kept(_encoded(crops, features, autoencoder, settings, cache)))


def _encoded(
    crops: Path, features: dict[str, Any], autoencoder: Path, settings: Encode, cache: Path | None
) -> Iterator[tuple[str, "dict[str, Any] | Reject"]]:
    """Yield each clip that has speech features: `speech` rejected the others and says why."""
    from difftalk.media.shards import Crop, read_crops
    from difftalk.models.autoencoder import downsampling, load_autoencoder
    from difftalk.models.encoding import PreparedClip, encode_clip, prepare_clip
    from difftalk.models.kept_latents import entry_finder, pack, unpack
    from difftalk.runtime.cache import Arrays, Cache
    from difftalk.runtime.device import default_device, tell
    from difftalk.runtime.errors import ClipError
    from difftalk.runtime.parallel import guarded, one_ahead
    from difftalk.runtime.progress import progress, say
    from difftalk.runtime.rejects import Reject

    device = default_device()
    tell(STAGE, device, "float32")
    model = load_autoencoder(autoencoder, device)
    factor = downsampling(model)

    kept = Cache(cache, STAGE)
    entry_of = entry_finder(kept, autoencoder, settings, str(device))

    def prepare(crop: Crop) -> tuple[str, Path | None, PreparedClip | Arrays | ClipError]:
        speech = features[crop.clip_id]
        entry = entry_of(crop, speech)
        if (arrays := kept.read(entry)) is not None:
            return crop.clip_id, entry, arrays
        return crop.clip_id, entry, guarded(lambda c: prepare_clip(c, speech, factor), crop, crop.clip_id)

    # While one clip is encoded, the next is decoded and masked.
    clips = one_ahead(prepare, read_crops(crops, features))
    taken_over = 0
    for clip_id, entry, clip in progress(clips, len(features), STAGE, "clips"):
        if isinstance(clip, dict):
            yield clip_id, unpack(clip)
            taken_over += 1
            continue
        if isinstance(clip, ClipError):
            yield clip_id, Reject.of(clip_id, STAGE, clip)
            continue
        done = guarded(lambda c: encode_clip(model, c, settings), clip, clip_id)
        if isinstance(done, ClipError):
            yield clip_id, Reject.of(clip_id, STAGE, done)
            continue
        if entry is not None:
            kept.write(entry, pack(done))
        yield clip_id, done
    if taken_over:
        say(f"{STAGE}: {taken_over} of {len(features)} clips were in the cache")
