"""Train the denoiser of one experiment, fault-tolerant and resumable."""

from difftalk.config.numbers import TrainingNodes, TrainingProcesses, TrainingWorkers
from difftalk.config.training import TrainingSettings
from difftalk.runtime.arguments import InputFile, InputFolder, KeptFolder, OutputFolder
from difftalk.training import launcher


def run(
    *,
    shards: list[InputFile],
    autoencoder: InputFolder,
    settings: TrainingSettings,
    state: KeptFolder,
    out: OutputFolder,
    curves: KeptFolder | None = None,
    data_workers: TrainingWorkers = 0,
    processes: TrainingProcesses = 1,
    nodes: TrainingNodes = 1,
    plan: InputFile | None = None,
    rejects: list[InputFile] = [],  # noqa: B006 - read, never changed
) -> None:
    """Train one experiment and write it as a pipeline, with `log.jsonl` and `training.json`.

    Args:
        shards: training shards, shards/SHARD.tar.
        autoencoder: folder of the first stage, which becomes part of the pipeline.
        settings: what the stage reads of the config, as JSON or a file of it.
        state: folder for checkpoints and the log while it trains; the latest checkpoint is resumed from.
        out: folder of the model.
        curves: folder for TensorBoard.
        data_workers: worker processes that prepare batches ahead, for each that trains; 0: none.
        processes: processes of each node that train together, one a GPU.
        nodes: nodes of the SLURM job on which they are.
        plan: the clip table, where both sides of the split must have a clip left.
        rejects: rejects/STAGE/SHARD.csv of the stages before, to say why a side has none.

    Raises:
        UserError: if a side of the split is empty, the processes are not those that were started or more than
            there are GPUs, the batch cannot be shared out evenly, the checkpoint is of another training, a
            write fails, or the loss is not finite.
        SystemExit: with status 128 + the signal's number, when a step is saved after SIGTERM or SIGUSR1; with
            2 where the first process says why.
    """
    launcher.check_started("train", processes, nodes)
    if plan is not None:
        from difftalk.datasets.sides import require_both_sides

        require_both_sides("train", plan, rejects)

    launcher.check_devices("train")
    from difftalk.models.examples import LatentClips
    from difftalk.training.loop import train_denoiser

    smoothed = settings.smoothing and "audio" in settings.conditions
    # One process of each machine checks them for all.
    clips = LatentClips(shards, settings.smoothing_frames if smoothed else 1, check=not launcher.local_rank())
    train_denoiser(clips, autoencoder, settings, state, out, curves, data_workers)
