"""Write the videos of one method for the clips of a shard, with their audio."""

from difftalk.config.sampling import Sampling
from difftalk.runtime.arguments import InputFile, InputFolder, KeptFolder, OutputFolder


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
    only: InputFile | None = None,
    state: KeptFolder | None = None,
) -> None:
    """Write `{clip_id}.mp4` into the folder `out` for each clip of the encoded shard.

    A clip that fails has no video, which `score` notes as its problem, and its reason is in the log. What
    sampling took by a model is in `timing.csv`.

    Args:
        method: ground_truth, reconstruction, reference_copy, recompressed or the name of a model.
        crops: crops/SHARD.tar, for audio and ground truth.
        shard_file: shards/SHARD.tar, the same clips encoded.
        autoencoder: folder of the first stage.
        settings: the config's section `sampling`.
        out: folder for the videos.
        model: folder of the trained model, for methods that have one.
        references: crops/SHARD.tar of the training split, for `reference: training`.
        only: plan/evaluated.csv: the clips that are evaluated, and how much of each; without, all and whole.
        state: folder for latents until a clip is done, and for links to the videos: a killed command goes on
            from there, and one whose output was deleted samples nothing again.

    Raises:
        UserError: where no clip could be sampled.
    """
    from difftalk.datasets.chosen import read_chosen
    from difftalk.media.shards import map_arrays
    from difftalk.runtime.errors import UserError
    from difftalk.runtime.files import atomic_folder
    from difftalk.runtime.progress import say
    from difftalk.sampling.methods import make_clips
    from difftalk.sampling.timing import write_timing
    from difftalk.sampling.unfinished import Unfinished, provenance
    from difftalk.sampling.write_clips import write_clips, writer_of

    wanted = set(map_arrays(shard_file))  # empty where every clip of the shard was rejected
    limits = read_chosen(only) if only is not None else dict.fromkeys(wanted)
    wanted &= limits.keys()
    # Where nothing is to go on from, the videos are in the output's own temporary folder at once.
    with atomic_folder(out) as tmp:
        inputs = [crops, shard_file, *references, *([only] if only is not None else [])]
        networks = [autoencoder] if model is None else [autoencoder, model]
        made_from = provenance(method, settings, inputs, networks, __name__)
        unfinished = Unfinished(state or tmp / "state", made_from)
        done = unfinished.finished(wanted)
        if done:
            say(f"sample: {len(done)} of {len(wanted)} clips are there from before")
        made = make_clips(
            method, sorted(wanted - done), crops=crops, shard_file=shard_file, autoencoder=autoencoder,
            model=model, settings=settings, references=references, unfinished=unfinished, limits=limits,
        ) if wanted - done else ()  # fmt: skip
        failed = write_clips(made, unfinished, writer_of(method, settings.crf), "sample")
        if failed and len(failed) == len(wanted):
            raise UserError(
                f"sample: none of {len(failed)} clips could be sampled with {method}; the log says why"
            )
        linked = unfinished.link_videos(wanted - failed.keys(), tmp)
        write_timing(tmp, unfinished.times(wanted - failed.keys()))
        if state is None:
            unfinished.remove()
    # Links stay: where Snakemake loses track of the job, or of one of its group, it deletes the output.
    if state is not None and not linked:
        unfinished.remove()
