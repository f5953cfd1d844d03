"""Section `sampling`: how the trained models sample videos."""

from typing import Literal

from pydantic import Field

from difftalk.config.section import Section


class Sampling(Section):
    """How the trained models sample videos. The paper's setting is 200 steps with eta 0."""

    steps: int = Field(200, ge=1, le=1000, description="DDIM steps; the paper takes 200.")
    eta: float = Field(0.0, ge=0, le=1, description="0: deterministic after the first noise (DDIM), 1: DDPM.")
    reference: Literal["first", "random"] = Field(
        "first", description="Frame of the clip that shows the identity."
    )
    batch_size: int = Field(64, ge=1, description="Frames sampled at once.")
    precision: Literal["no", "bf16"] = Field(
        "no", description="`bf16`: autocast, half of the memory and time on a GPU."
    )
    crf: int = Field(10, ge=0, le=51, description="H.264 quality of the written videos; 0 is lossless.")
    seed: int = Field(1, description="Seed of the noise.")
