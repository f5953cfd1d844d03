"""Train the small sync expert on face crops, or copy one that is trained already."""

import shutil
from pathlib import Path

from difftalk.config.syncnet import SyncnetTraining
from difftalk.pretrained import table as weights
from difftalk.pretrained.model_folder import SYNC_EXPERT, folder_of
from difftalk.runtime.arguments import InputFile, KeptFolder, OutputFolder
from difftalk.runtime.files import atomic_folder
from difftalk.runtime.rejects import read_rejects

EMBEDDED = folder_of("embedded", "syncnet")


def run(
    *,
    crops: list[InputFile],
    settings: SyncnetTraining,
    source: str,
    state: KeptFolder,
    out: OutputFolder,
    plan: InputFile | None = None,
    rejects: list[InputFile] = [],  # noqa: B006 - read, never changed
) -> None:
    """Write the sync expert to the folder `out`.

    Args:
        crops: crop shards to train on; read only where `source` is `train`.
        settings: the section `syncnet_training` as JSON, or a file of it.
        source: `embedded` (in the package), `train`, `syncnet-v2`, a folder of this stage, or
            `syncnet_v2.model`.
        state: folder for the checkpoints of an unfinished training.
        out: folder of the sync expert.
        plan: the clip table, where both sides of the split must have a clip left.
        rejects: rejects/STAGE/SHARD.csv of the stages before: their clips are not trained on.

    Raises:
        UserError: if the weights that `source` names are not there, or a side of the split is empty.
    """
    if plan is not None:
        from difftalk.datasets.sides import require_both_sides

        require_both_sides("syncnet", plan, rejects)
    if source == "train":
        _train(crops, {r.clip_id for path in rejects for r in read_rejects(path)}, settings, state, out)
    else:
        path = folder_of(source, "syncnet")
        if weights.stands_for("syncnet", source):
            path = weights.locate(source, asked_by=f"syncnet: {source}")
        with atomic_folder(out) as tmp:
            if path.is_file():
                _convert(path, tmp)
            else:
                SYNC_EXPERT.copy(path, tmp)  # without loading it: no torch is imported
        shutil.rmtree(state, ignore_errors=True)


def _train(crops: list[Path], rejected: set[str], settings: SyncnetTraining, state: Path, out: Path) -> None:
    from difftalk.media.shards import Crop, read_crops
    from difftalk.models.syncnet import save_syncnet
    from difftalk.runtime.checksums import digest_of_model
    from difftalk.runtime.device import default_device, tell
    from difftalk.runtime.errors import ClipError
    from difftalk.runtime.owner import owned
    from difftalk.runtime.parallel import guarded
    from difftalk.runtime.progress import say
    from difftalk.training.checkpoint import keep_finished, restore_finished
    from difftalk.training.sync_expert import SyncClip, origin_of, syncnet_config, train_syncnet

    def windows(crop: Crop) -> SyncClip:
        return SyncClip.of(crop.frames(), crop.landmarks, crop.audio, settings.lip_size)

    tell("syncnet", default_device(), "float32")
    clips = []
    for crop in (crop for path in crops for crop in read_crops(path) if crop.clip_id not in rejected):
        found = guarded(windows, crop, crop.clip_id)
        if isinstance(found, ClipError):
            say(f"syncnet: {crop.clip_id} is not trained on: {found}")
        else:
            clips.append(found)
    base = None if settings.base is None else folder_of(settings.base, "syncnet")
    origin = origin_of(clips, settings, base)
    with owned(state, "syncnet"):
        if restore_finished(state, out, origin):
            return
        network, report = train_syncnet(clips, settings, state, base, origin)
        if base is not None:
            report["from_sha256"] = digest_of_model(base)
        config = syncnet_config(settings, {**report, "source": "trained on the train split of this run"})
        with atomic_folder(out) as tmp:
            save_syncnet(tmp, config, network)
        keep_finished(state, out, origin)


def _convert(file: Path, folder: Path) -> None:
    """Convert the released `syncnet_v2.model`."""
    from difftalk.models.formats.syncnet_v2 import import_syncnet_v2
    from difftalk.models.syncnet import SyncnetConfig, save_syncnet

    save_syncnet(folder, SyncnetConfig("syncnet_v2", about={"source": file.name}), import_syncnet_v2(file))
