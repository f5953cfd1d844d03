"""Sample the clips of a shard driven by another voice, and by silence."""

from difftalk.config.sampling import Sampling
from difftalk.config.speech import Speech
from difftalk.runtime.arguments import InputFile, InputFolder, KeptFolder, OutputFolder


def run(
    *,
    method: str,
    crops: InputFile,
    shard_file: InputFile,
    pairs: InputFile,
    voice_crops: list[InputFile],
    voice_shards: list[InputFile],
    settings: Sampling,
    speech: Speech,
    other: OutputFolder,
    silence: OutputFolder,
    autoencoder: InputFolder | None = None,
    model: InputFolder | None = None,
    references: list[InputFile] = [],  # noqa: B006 - read, never changed
    only: InputFile | None = None,
    state: KeptFolder | None = None,
) -> None:
    """Write `{clip_id}.mp4` with the driving sound for each clip, into a folder for each voice.

    `ground_truth` shows its own frames with that sound: what a method scores that has not heard it at all.

    Args:
        method: ground_truth, or the name of a model.
        crops: crops/SHARD.tar.
        shard_file: shards/SHARD.tar, the same clips encoded.
        pairs: cross_driven/pairs.csv: whose voice drives which clip.
        voice_crops: crops/SHARD.tar of all test shards, for the voices.
        voice_shards: shards/SHARD.tar of the same, for their speech features.
        settings: the config's section `sampling`.
        speech: the config's section `speech`, for the features of silence.
        other: folder for the videos driven by another voice; clips of a person who is alone have none.
        silence: folder for the videos driven by silence.
        autoencoder: folder of the first stage, for a model.
        model: folder of the trained model, for methods that have one.
        references: crops/SHARD.tar of the training split, for `reference: training`.
        only: plan/evaluated.csv: how much of each clip is evaluated; without, the whole.
        state: folder for latents until a clip is done, and for links to the videos: a killed command goes on
            from there, and one whose output was deleted samples nothing again.

    Raises:
        UserError: where a method has no model; where no clip could be sampled.
    """
    import shutil

    from difftalk.datasets.chosen import read_chosen
    from difftalk.datasets.pairs import read_pairs
    from difftalk.runtime.errors import UserError
    from difftalk.runtime.files import atomic_folder
    from difftalk.sampling.drive import Driver
    from difftalk.sampling.unfinished import Unfinished, provenance
    from difftalk.sampling.voices import VOICES
    from difftalk.sampling.write_clips import write_clips, writer_of

    if method != "ground_truth" and (model is None or autoencoder is None):
        raise UserError(f"cross_drive: {method} needs --model and --autoencoder; ground_truth alone has none")
    limits = read_chosen(only) if only is not None else {}
    sources = (shard_file, autoencoder, model)
    driver = Driver(crops, sources, read_pairs(pairs, crops.stem), limits, settings)  # type: ignore[arg-type]
    inputs = [crops, shard_file, pairs, *voice_crops, *voice_shards, *references]
    networks = [folder for folder in (autoencoder, model) if folder is not None]
    linked = True
    for voice, out in zip(VOICES, (other, silence), strict=True):
        with atomic_folder(out) as tmp:
            made_from = provenance(f"{method} {voice}", settings, inputs, networks, __name__)
            unfinished = Unfinished((state or tmp) / f"state-{voice}", made_from)
            wanted = driver.wanted(voice)
            left = wanted - unfinished.finished(wanted)
            driven = driver.made(voice, left, voice_crops, voice_shards, speech, references, unfinished)
            failed = write_clips(driven, unfinished, writer_of(method, settings.crf), "cross_drive")
            if failed and len(failed) == len(wanted):
                raise UserError(
                    f"cross_drive: none of {len(failed)} clips could be sampled by {method} with the voice "
                    f"{voice}; the log says why"
                )
            linked = unfinished.link_videos(wanted - failed.keys(), tmp) and linked
            if state is None:
                unfinished.remove()
    if state is not None and not linked:  # as in `sample`
        shutil.rmtree(state, ignore_errors=True)
