"""Train the first stage on face crops, or copy one that is trained already."""

import shutil
from pathlib import Path
from typing import Any

from difftalk.config.autoencoder import AutoencoderTraining
from difftalk.pretrained import table as weights
from difftalk.pretrained.model_folder import FIRST_STAGE, folder_of
from difftalk.runtime.arguments import InputFile, KeptFolder, OutputFolder
from difftalk.runtime.files import atomic_folder, read_json, write_json, write_json_lines
from difftalk.runtime.rejects import read_rejects

EMBEDDED = folder_of("embedded", "autoencoder")


def run(
    *,
    crops: list[InputFile],
    settings: AutoencoderTraining,
    source: str,
    state: KeptFolder,
    out: OutputFolder,
    plan: InputFile | None = None,
    rejects: list[InputFile] = [],  # noqa: B006 - read, never changed
) -> None:
    """Write the first stage to the folder `out`.

    `training.json` goes with it and, where it was trained, `log.jsonl`.

    Args:
        crops: crop shards to train on; read only where `source` is `train`.
        settings: the section `autoencoder_training` as JSON, or a file of it.
        source: `embedded` (in the package), `train`, `vq-f4`, or a folder in diffusers' format.
        state: folder for the checkpoints of an unfinished training.
        out: folder of the first stage.
        plan: the clip table, where both sides of the split must have a clip left.
        rejects: rejects/STAGE/SHARD.csv of the stages before: their clips are not trained on.

    Raises:
        UserError: if the weights that `source` names are not there, or a side of the split is empty.
    """
    if plan is not None:
        from difftalk.datasets.sides import require_both_sides

        require_both_sides("autoencoder", plan, rejects)
    if source == "train":
        _train(crops, {r.clip_id for path in rejects for r in read_rejects(path)}, settings, state, out)
    else:
        _copy(source, out)
        shutil.rmtree(state, ignore_errors=True)


def _train(
    crops: list[Path], rejected: set[str], settings: AutoencoderTraining, state: Path, out: Path
) -> None:
    from difftalk.runtime.checksums import digest_of_model
    from difftalk.runtime.device import default_device, tell
    from difftalk.runtime.owner import owned
    from difftalk.training.checkpoint import keep_finished, restore_finished
    from difftalk.training.first_stage import MAY_CHANGE, load_perceptual, origin_of, train_autoencoder
    from difftalk.training.frames import find_videos, held_out_frames, hold_out, load_batches

    tell("autoencoder", default_device(), "bf16" if settings.bf16 else "float32")
    perceptual = load_perceptual(settings)
    train, held_out = hold_out(find_videos(crops, rejected), settings.held_out)
    batches = load_batches(train, settings.batch_size, settings.seed, settings.memory_mb)
    base = None if settings.base is None else folder_of(settings.base, "autoencoder")
    origin = origin_of(batches, settings, base)
    with owned(state, "autoencoder"):
        if restore_finished(state, out, origin, MAY_CHANGE):
            return
        measured_on = held_out_frames(held_out)
        trained = train_autoencoder(batches, settings, state, measured_on, perceptual, base, origin)
        clips = {"clips": len(train), "held_out_clips": len(held_out), "settings": settings.as_dict()}
        if base is not None:
            clips["from_sha256"] = digest_of_model(base)
        with atomic_folder(out) as tmp:
            trained.model.save_pretrained(tmp, safe_serialization=True)
            write_json(tmp / "training.json", trained.report | clips)
            if trained.log:
                write_json_lines(tmp / "log.jsonl", trained.log)
        keep_finished(state, out, origin)


def _copy(source: str, out: Path) -> None:
    """Copy a trained first stage without loading it: no torch is imported."""
    folder = folder_of(source, "autoencoder")
    report: dict[str, Any] = {"imported_from": source}
    if weights.stands_for("autoencoder", source):
        folder = weights.locate(source, asked_by=f"autoencoder: {source}")
        report["sha256"] = weights.recorded(source)
    with atomic_folder(out) as tmp:
        FIRST_STAGE.copy(folder, tmp)
        record = tmp / "training.json"
        if record.is_file():
            report |= read_json(record)
        write_json(record, report)
