"""Write the videos of one method for the clips of a shard, with their audio."""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from difftalk.config.sampling import Sampling
from difftalk.runtime.arguments import InputFile, InputFolder, KeptFolder, OutputFolder

if TYPE_CHECKING:
    from difftalk.runtime.errors import ClipError
    from difftalk.sampling.methods import Made
    from difftalk.sampling.unfinished import Unfinished

# Full colour resolution: halved, it would cap what is measured on small crops at 35 dB around the mouth.
PIXEL_FORMAT = "yuv444p"
# Clips that wait to be written while the next is sampled.
WAITING = 2


def run(
    *,
    method: str,
    crops: InputFile,
    shard_file: InputFile,
    autoencoder: InputFolder,
    settings: Sampling,
    out: OutputFolder,
    model: InputFolder | None = None,
    references: list[InputFile] = [],  # noqa: B006 - read, never changed
    state: KeptFolder | None = None,
) -> None:
    """Write `{clip_id}.mp4` into the folder `out` for each clip of the encoded shard.

    A clip that fails has no video, which `score` notes as its problem, and its reason is in the log.

    Args:
        method: ground_truth, reconstruction, reference_copy or the name of a model.
        crops: crops/SHARD.tar, for audio and ground truth.
        shard_file: shards/SHARD.tar, the same clips encoded.
        autoencoder: folder of the first stage.
        settings: the config's section `sampling`.
        out: folder for the videos.
        model: folder of the trained model, for methods that have one.
        references: crops/SHARD.tar of the training split, for `reference: training`.
        state: folder for videos and latents until all are done; a killed command goes on from there.

    Raises:
        UserError: where no clip could be sampled.
    """
    from difftalk.media.encode import SYNTHETIC
    from difftalk.media.shards import map_arrays
    from difftalk.runtime.errors import ClipError, UserError
    from difftalk.runtime.files import atomic_folder
    from difftalk.runtime.progress import say
    from difftalk.sampling.methods import make_clips
    from difftalk.sampling.unfinished import Unfinished, provenance

    encoded = set(map_arrays(shard_file))  # empty where every clip of the shard was rejected
    # Where nothing is to go on from, the videos are in the output's own temporary folder at once.
    with atomic_folder(out) as tmp:
        made_from = provenance(method, settings, crops, shard_file, autoencoder, model, references, __name__)
        unfinished = Unfinished(state or tmp / "state", made_from)
        done = unfinished.finished(encoded)
        if done:
            say(f"sample: {len(done)} of {len(encoded)} clips are there from before")
        failed: dict[str, ClipError] = {}
        waiting: list[tuple[str, Future[Path | ClipError]]] = []

        def settle(most: int) -> None:
            while len(waiting) > most:
                clip_id, written = waiting.pop(0)
                if isinstance(result := written.result(), ClipError):
                    say(f"sample: {clip_id} has no video: {result}")
                    failed[clip_id] = result

        with ThreadPoolExecutor(1) as writer:
            for made in make_clips(
                method, sorted(encoded - done), crops=crops, shard_file=shard_file, autoencoder=autoencoder,
                model=model, settings=settings, references=references, unfinished=unfinished,
            ) if encoded - done else ():  # fmt: skip
                clip_id = made[0].clip_id
                tag = {} if method == "ground_truth" else SYNTHETIC
                written = writer.submit(_write, made, unfinished, settings.crf, tag)
                waiting.append((clip_id, written))
                settle(WAITING)
            settle(0)
        if failed and len(failed) == len(encoded):
            raise UserError(
                f"sample: none of {len(failed)} clips could be sampled with {method}; the log says why"
            )
        unfinished.move_videos(encoded - failed.keys(), tmp)
        if state is None:
            unfinished.remove()
    if state is not None:  # not before the output is in its place
        unfinished.remove()


def _write(made: "Made", unfinished: "Unfinished", crf: int, tag: dict[str, str]) -> "Path | ClipError":
    """Write one clip as its video, and record it; a clip that failed, or does, gives its reason."""
    from difftalk.media.encode import write_video
    from difftalk.runtime.errors import ClipError
    from difftalk.runtime.parallel import guarded

    crop, frames = made
    if isinstance(frames, ClipError):
        unfinished.close_clip(crop.clip_id)
        return frames

    def write(target: Path) -> Path:
        write_video(target, frames, audio=crop.audio, crf=crf, pix_fmt=PIXEL_FORMAT, metadata=tag)
        return target

    written = guarded(write, unfinished.video(crop.clip_id), crop.clip_id)
    unfinished.close_clip(crop.clip_id)
    return written
