"""Section `evaluation`: the protocol by which videos are scored."""

from typing import Literal

from pydantic import Field

from difftalk.config.section import List, Section
from difftalk.media.clock import MAX_SHIFT_FRAMES


class EvaluatedClips(Section):
    """Which of the test clips are sampled and scored, and how much of each."""

    count: int | None = Field(
        None,
        ge=1,
        description="How many: one of each source, in the order of the MD5 of their ids; null: of all.",
    )
    seconds: float | None = Field(
        None,
        gt=0,
        description="Length to which each is cut; clips that are shorter are passed over. Null: whole clips.",
    )


class Evaluation(Section):
    """The protocol by which videos are scored."""

    mouth_margin: float = Field(
        0.15,
        ge=0,
        description="Margin around the mouth's points on each side, as part of the longer side of their box.",
    )
    max_shift: int = Field(
        MAX_SHIFT_FRAMES,
        ge=1,
        description="Frames that the audio is shifted either way, in search of the sync offset.",
    )
    max_missing_frames: int = Field(
        5, ge=0, description="Frames that a video may lack, or have too many of, and still be scored."
    )
    every: int = Field(
        25, ge=1, description="Frames from one to the next that ST-LPIPS, identity and CSIM look at."
    )
    sync_frames: Literal["jpeg", "plain"] = Field(
        "jpeg",
        description="What SyncNet v2 sees: `jpeg`, crops written to JPEG files by ffmpeg's default quality, "
        "as in its authors' code and so in published LSE-C and LSE-D; `plain`, the crops. Other experts see "
        "the crops.",
    )
    lpips_backbone: str | None = Field(
        None,
        description="File of AlexNet's weights for LPIPS; null: `alexnet` of `difftalk weights`, or "
        "torch.hub's, or else LPIPS is missing.",
    )
    device: Literal["cpu", "cuda"] = Field("cpu", description="Device that metrics are computed on.")
    clips: EvaluatedClips | None = Field(
        None,
        description="Which test clips are sampled and scored, by every method; the list is "
        "`plan/evaluated.csv`. Null: all of them, whole.",
    )
    cross_driven: List[str] = Field(
        (),
        description="Models that are also driven by another person's voice and by silence, on the same "
        "clips: three times their sampling. `ground_truth` is added, with its own frames. Empty: none.",
    )
