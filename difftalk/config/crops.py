"""Section `crops`: the square face crop."""

from typing import Literal

from pydantic import Field

from difftalk.config.gates import AudioGates
from difftalk.config.section import Section


class Crops(Section):
    """The square face crop."""

    size: int = Field(ge=16, multiple_of=2, description="Width and height of the crops, pixels, even.")
    mode: Literal["track", "box", "aligned"] = Field(
        "track",
        description="What is cropped. `track`: one square per clip around the face in all frames; `box`: the "
        "dataset's own box, and `track` for clips without one; `aligned`: each frame rotated, moved and "
        "scaled to a template.",
    )
    margin: float = Field(
        0.1,
        ge=0,
        description="Space on each side of the face, forehead and chin included, in parts of its longer "
        "side.",
    )
    min_frames: int | None = Field(50, ge=1, description="Shorter clips are rejected; null takes them all.")
    crf: int = Field(
        10, ge=0, le=51, description="H.264 quality of the crops at full colour resolution; 0 is lossless."
    )


class CropsSettings(Crops):
    """What the stage `crops` reads."""

    gates: AudioGates = Field(AudioGates(), description="Gates on the audio.")
