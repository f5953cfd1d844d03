"""Section `autoencoder_training`: how the first stage is trained."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from difftalk.config.section import List, Section


class AutoencoderTraining(Section):
    """How the first stage is trained, where `autoencoder` is `train`.

    The defaults suit 64-px crops on a CPU.
    """

    base: str | None = Field(
        None,
        alias="from",
        description="First stage to start from: `embedded` (the one in the package) or a folder; with one, "
        "latents are quantised from the first step on. Null starts from random weights.",
    )
    initial: Literal["random", "block_means"] = Field(
        "random",
        description="Weights to start from without `from`: `random`, or `block_means`, where latents are the "
        "mean colours of blocks before anything is learnt; it needs 16 channels or more at each resolution.",
    )
    channels: List[Annotated[int, Field(ge=4)]] = Field(
        (32, 64, 96),
        min_length=2,
        description="Channels at each resolution; the latent is smaller than the crop by one factor of 2 "
        "fewer than these.",
    )
    layers: int = Field(1, ge=1, description="Residual blocks per resolution.")
    codes: int = Field(2048, ge=2, description="Size of the codebook.")
    steps: int = Field(2000, ge=1, description="Training steps.")
    batch_size: int = Field(16, ge=1, description="Frames in a step.")
    gradient_accumulation_steps: int = Field(
        1,
        ge=1,
        description="Parts that a batch is cut into and taken one by one, to save memory; `batch_size` is a "
        "multiple. The discriminator's norms and the adaptive weight are of a part.",
    )
    gradient_checkpointing: bool = Field(
        False,
        description="Compute activations anew in the backward pass: a third of the memory, a quarter more "
        "computing, the same result.",
    )
    learning_rate: float = Field(
        1.0e-3,
        gt=0,
        description="Peak of the learning rate; warm-up over 5 % of the steps, then a cosine to zero.",
    )
    optimiser: Literal["adamw", "muon"] = Field(
        "adamw", description="`muon` takes orthogonal steps with matrices and convolutions, at the same rate."
    )
    quantise_from: float = Field(
        0.3, ge=0, le=1, description="Part of the steps after which latents are quantised."
    )
    codebook_weight: float = Field(0.5, ge=0, description="Weight of the codebook and commitment loss.")
    squared_weight: float = Field(
        1.0, ge=0, description="Weight of the squared error, beside the absolute one; VQGAN has none of it."
    )
    perceptual_weight: float = Field(
        0.0,
        ge=0,
        description="Weight of LPIPS (VGG16, weights to be fetched); VQGAN has 1, 0 switches it off.",
    )
    discriminator_weight: float = Field(
        0.0,
        ge=0,
        description="Weight of the adversarial loss, on top of the adaptive weight; LDM has 0.75, 0 "
        "switches it off.",
    )
    discriminator_from: float = Field(
        0.5, ge=0, le=1, description="Part of the steps after which the adversarial loss is enabled."
    )
    discriminator_channels: int = Field(64, ge=1, description="Channels of the discriminator's first layer.")
    discriminator_layers: int = Field(
        3, ge=1, description="Strided layers of the discriminator; 3 judge patches of 70 pixels, 2 of 34."
    )
    bf16: bool = Field(
        False, description="Convolutions in bfloat16, twice as fast where the processor has it."
    )
    held_out: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="Part of the clips that is measured on and not trained on; above 0, at least one of "
        "several.",
    )
    memory_mb: float = Field(
        1000.0,
        gt=0,
        description="Megabytes for decoded frames; crops that need more go through a pool of this size.",
    )
    log_every: int = Field(100, ge=1, description="Steps between lines of the training log.")
    checkpoint_every: int = Field(500, ge=1, description="Steps between checkpoints.")
    seed: int = Field(1, description="Seed of weights and batches.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.batch_size % self.gradient_accumulation_steps:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of gradient_accumulation_steps "
                f"{self.gradient_accumulation_steps}"
            )
        return self
