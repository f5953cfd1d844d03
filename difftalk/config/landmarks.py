"""Section `landmarks`: face track and 68 points per frame."""

from typing import Literal

from pydantic import Field

from difftalk.config.gates import FrameGates
from difftalk.config.section import Section


class Landmarks(Section):
    """Face track and 68 points per frame."""

    backend: Literal["dlib", "face_alignment"] = Field(
        "dlib",
        description="`dlib`: weights from the package index; `face_alignment`: more accurate, weights to be "
        "fetched.",
    )
    detect_every: int = Field(
        5,
        ge=1,
        description="Frames from one run of the face detector to the next; in between the box follows the "
        "points.",
    )
    min_detection_rate: float | None = Field(
        0.95,
        ge=0,
        le=1,
        description="Part of a clip's frames in which the face must be found; null takes a clip with one "
        "in any frame.",
    )
    min_face_px: int | None = Field(
        48,
        ge=1,
        description="Median width of the face box below which a clip is rejected, pixels of the source; "
        "null takes all.",
    )


class LandmarksSettings(Landmarks):
    """What the stage `landmarks` reads."""

    gates: FrameGates = Field(FrameGates(), description="Gates on the frames.")
