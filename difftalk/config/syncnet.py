"""Section `syncnet_training`: how the sync expert is trained."""

from pydantic import Field

from difftalk.config.section import Section


class SyncnetTraining(Section):
    """How the sync expert is trained, where `syncnet` is `train`. The defaults suit 64-px crops on a CPU."""

    base: str | None = Field(
        None,
        alias="from",
        description="Small expert to start from: `embedded` (the one in the package) or a folder. Null "
        "starts from random weights.",
    )
    lip_size: int = Field(32, ge=8, description="Side of the expert's crop around the mouth, pixels.")
    steps: int = Field(3000, ge=1, description="Training steps.")
    batch_size: int = Field(4, ge=1, description="Clips in a step, one stretch of each.")
    stretch: int = Field(
        48, ge=2, description="Consecutive windows of a clip that are contrasted with one another."
    )
    learning_rate: float = Field(
        2.0e-3,
        gt=0,
        description="Peak of the learning rate; warm-up over 5 % of the steps, then a cosine to zero.",
    )
    temperature: float = Field(0.07, gt=0, description="Temperature of the similarities, which are cosines.")
    checkpoint_every: int = Field(250, ge=1, description="Steps between checkpoints.")
    seed: int = Field(1, description="Seed of weights and batches.")
