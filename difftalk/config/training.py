"""Sections `training` and `experiments`: how the denoiser is trained, and which models there are."""

import re
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field, create_model

from difftalk.config.section import List, Section

Condition = Literal["audio", "landmarks", "masked", "reference"]
CONDITIONS: tuple[str, ...] = get_args(Condition)
Auto = Literal["auto", True, False]
# Methods that have no model: the truth, the ceiling and the floor.
UNTRAINED_METHODS = ("ground_truth", "reconstruction", "reference_copy", "recompressed")
# Of these, those that need no network.
COPIED_METHODS = ("ground_truth", "reference_copy", "recompressed")
# Scored with the audio of their own files, and not with that of the true clips.
OWN_AUDIO = frozenset({"recompressed"})
RESERVED = (*UNTRAINED_METHODS, "autoencoder", "syncnet")


def _unique(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) < len(values):
        raise ValueError("has a value twice")
    return values


class Training(Section):
    """How the denoiser is trained.

    The defaults are the paper's where it states them, at its published sizes.
    """

    base: str | None = Field(
        None,
        alias="from",
        description="Folder of a trained model to start from (fine-tuning), such as "
        "`results/demo/models/difftalk`; null starts from random weights.",
    )
    smoothing_frames: int = Field(
        8,
        ge=1,
        description="Neighbouring frames that the temporal filter sees: 8 in the released code, 17 for "
        "the paper's w = 8.",
    )
    channels: List[Annotated[int, Field(ge=1)]] = Field(
        (256, 512, 768, 1024),
        min_length=2,
        description="Channels of the UNet, from the highest resolution down.",
    )
    layers: int = Field(2, ge=1, description="Residual blocks per resolution.")
    head_channels: int = Field(32, ge=1, description="Channels per attention head.")
    one_token_shortcut: bool = Field(
        True,
        description="Compute cross-attention to the one context token as the bias that it is: the same "
        "result, sooner.",
    )
    steps: int = Field(100_000, ge=1, description="Optimiser steps.")
    batch_size: int = Field(
        64,
        ge=1,
        description="Frames in a step, of all processes together: a multiple of `training_processes` x "
        "`gradient_accumulation_steps`.",
    )
    gradient_accumulation_steps: int = Field(
        1,
        ge=1,
        description="Parts that each process cuts its share of a batch into and takes one by one, to save "
        "memory.",
    )
    base_learning_rate: float = Field(
        1.0e-6, gt=0, description="LDM's rule: the learning rate is this times `batch_size`."
    )
    learning_rate: float | None = Field(
        None, gt=0, description="Peak of the learning rate; null: by LDM's rule."
    )
    conditioner_lr_scale: float = Field(
        1.0, gt=0, description="Learning rate of the condition encoders, as a multiple of the UNet's."
    )
    warmup_steps: int = Field(0, ge=0, description="Steps in which the learning rate rises from zero.")
    final_lr_fraction: float = Field(
        1.0,
        ge=0,
        le=1,
        description="The learning rate falls linearly to this fraction over the run; 1 keeps it constant.",
    )
    weight_decay: float = Field(0.01, ge=0, description="Of AdamW.")
    gradient_clip: float = Field(0.1, gt=0, description="Largest norm of the gradient.")
    ema_decay: float = Field(
        0.9999,
        ge=0,
        lt=1,
        description="Of the moving average of every trained weight, which is what is kept.",
    )
    prediction_type: Literal["epsilon", "v_prediction"] = Field(
        "epsilon", description="What the denoiser predicts: the noise, as in the paper, or the velocity."
    )
    loss_region: Literal["all", "generated"] = Field(
        "all", description="Latent cells that count in the loss: all, or those of the inpainting mask."
    )
    known_region: Literal["noised", "clean"] = Field(
        "noised",
        description="What the denoiser sees outside the inpainting mask, in training and in sampling: "
        "latents with the noise of the step, as in the released code, or the true ones (the paper's masked "
        "z_T). With `clean`, the generated cells alone count in the loss.",
    )
    noise_power: float = Field(
        1.0,
        gt=0,
        description="Above 1, more of the high noise levels are drawn, where the mouth's shape is decided.",
    )
    reference_distance: int = Field(
        60, ge=1, description="Frames between a frame and its reference, at least."
    )
    precision: Literal["no", "bf16"] = Field(
        "no", description="`bf16`: autocast, half of the memory and time on a GPU."
    )
    channels_last: Auto = Field(
        "auto", description="Memory format of the UNet; `auto`: channels last on a GPU."
    )
    compile: Auto = Field("auto", description="torch.compile; `auto`: on a GPU, where it pays.")
    log_every: int = Field(50, ge=1, description="Steps between lines of the training log.")
    checkpoint_every: int = Field(500, ge=1, description="Steps between checkpoints.")
    samples_every: int = Field(
        5000,
        ge=0,
        description="Steps between sample strips (target, masked, reference, generated) in TensorBoard; "
        "0: never.",
    )
    accept_changed_code: bool = Field(
        False, description="Resume from a checkpoint although the training's code was edited since."
    )


Conditions = Annotated[List[Condition], AfterValidator(_unique)]


class TrainingSettings(Training):
    """What the stage `train` reads: the section, and what tells one model from another."""

    conditions: Conditions = Field(("audio", "landmarks", "masked", "reference"), min_length=1)
    smoothing: bool = Field(True, description="Audio smoothing by the learned temporal filter.")
    seed: int = Field(1, description="Seed of weights, batches and noise.")


TrainingOverrides = create_model(
    "TrainingOverrides",
    __base__=Section,
    __doc__="Keys of the section `training` that differ for one experiment.",
    **{name: (field.annotation, field) for name, field in Training.model_fields.items()},  # type: ignore[call-overload]
)


class Experiment(Section):
    """One experiment: a model for each of its seeds."""

    conditions: Conditions = Field(
        min_length=1, description=f"Conditioning inputs of the denoiser: any of {', '.join(CONDITIONS)}."
    )
    smoothing: bool = Field(description="Audio smoothing by the learned temporal filter.")
    seeds: Annotated[List[int], AfterValidator(_unique)] = Field(
        (1,),
        min_length=1,
        description="One model is trained for each; all but the first get a suffix such as `-seed2`.",
    )
    training: TrainingOverrides = Field(  # type: ignore[valid-type]
        TrainingOverrides(),
        description="Keys of the section `training` that differ for this experiment alone.",
        json_schema_extra={"x-overrides": True},
    )

    def settings(self, common: Training, seed: int) -> TrainingSettings:
        """What `difftalk train` reads for one seed: `common`, with this experiment's own keys over it."""
        own = self.training.model_dump(exclude_unset=True)  # type: ignore[attr-defined]
        values = common.model_dump() | own
        return TrainingSettings(**values, conditions=self.conditions, smoothing=self.smoothing, seed=seed)


def _usable_name(name: str) -> str:
    if not re.fullmatch("[A-Za-z][A-Za-z0-9_]*", name):
        raise ValueError("is not usable as a name: letters, digits and _ make one")
    if name in RESERVED:
        raise ValueError("is not usable as a name: it has a meaning of its own in results/")
    return name


ExperimentName = Annotated[str, AfterValidator(_usable_name)]
