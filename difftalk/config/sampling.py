"""Section `sampling`: how the trained models sample videos."""

from typing import Literal, Self

from pydantic import Field, model_validator

from difftalk.config.section import Section

TRAINING_STEPS = 1000  # noise levels of the denoiser's schedule


class Sampling(Section):
    """How the trained models sample videos. The paper's setting is 200 DDIM steps with eta 0."""

    sampler: Literal["ddim", "dpm++", "unipc"] = Field(
        "ddim",
        description="DDIM as in the paper; `dpm++` (DPM-Solver++ of order 2) and `unipc` need fewer steps.",
    )
    steps: int = Field(
        200,
        ge=1,
        le=TRAINING_STEPS,
        description="Steps of the sampler; the paper takes 200. DDIM takes a divisor of 1000.",
    )
    eta: float = Field(
        0.0, ge=0, le=1, description="Of DDIM: 0 is deterministic after the first noise, 1 is DDPM's noise."
    )
    mask: Literal["hull", "released"] = Field(
        "hull",
        description="Latent cells that are generated: every cell that the convex hull of jaw, nose tip and "
        "mouth touches, or those of the released code (polygon of jaw and nose base, scaled bicubically).",
    )
    mask_line: Literal["nose_tip", "nose_base"] = Field(
        "nose_tip",
        description="Where the masked frame begins to be black: `nose_tip` as in training, `nose_base` as "
        "in the released inference.",
    )
    keep_known: bool = Field(
        True,
        description="Put the true latents back outside the inpainting mask after the last step; the released "
        "code does not.",
    )
    reference: Literal["first", "random", "training"] = Field(
        "first",
        description="Frame that shows the identity: the first of the clip, one drawn from it, or the first "
        "of the speaker's training clips, so that nothing of the tested part is seen. The last is for splits "
        "with a speaker on both sides, such as `dataset.split: time`.",
    )
    progressive: Literal["none", "latent", "pixels"] = Field(
        "none",
        description="Progressive reference (Sec. 3.4 of the paper): each frame takes the generated one "
        "before it as its reference, as latents or decoded and encoded again; `none` keeps the reference.",
    )
    anchor: Literal["none", "every", "mean"] = Field(
        "none",
        description="Against drift of the progressive reference: `every` takes the first reference again "
        "every `anchor_every` frames, `mean` the mean of both references' latents.",
    )
    anchor_every: int = Field(25, ge=1, description="Frames between two anchors of `anchor: every`.")
    interpolation: Literal["none", "smooth", "between"] = Field(
        "none",
        description="Against jitter, by optical flow: `smooth` re-makes each frame with its neighbours, "
        "`between` samples every second frame and interpolates the others, for half the time.",
    )
    batch_size: int = Field(
        64, ge=1, description="Frames sampled at once; of the progressive reference, clips in lock-step."
    )
    frames_per_pass: int | None = Field(
        None,
        ge=1,
        description="Frames in one pass of a network, filled up where there are fewer: the one number on "
        "which rounding depends. Null: 8 on a CPU, 16 on a GPU.",
    )
    precision: Literal["no", "bf16"] = Field(
        "no", description="`bf16`: the denoiser in half of the memory, and sooner on a GPU."
    )
    compile: Literal["auto", True, False] = Field(
        "auto", description="torch.compile of the denoiser; `auto`: on a GPU."
    )
    crf: int = Field(10, ge=0, le=51, description="H.264 quality of the written videos; 0 is lossless.")
    seed: int = Field(1, description="Seed of the noise.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.sampler == "ddim" and TRAINING_STEPS % self.steps:
            divisors = [n for n in range(1, TRAINING_STEPS + 1) if TRAINING_STEPS % n == 0]
            below = max(n for n in divisors if n < self.steps)
            above = min(n for n in divisors if n > self.steps)
            raise ValueError(
                f"steps {self.steps} does not divide {TRAINING_STEPS}, as steps of DDIM have to: {below} and "
                f"{above} do, and `sampler: dpm++` or `unipc` take any number"
            )
        if self.eta and self.sampler != "ddim":
            raise ValueError(f"eta {self.eta:g} is for `sampler: ddim`; {self.sampler} adds no noise")
        if self.anchor != "none" and self.progressive == "none":
            raise ValueError(f"anchor: {self.anchor} needs `progressive: latent` or `pixels`")
        return self
