"""Section `landmarks`: face track and 68 points per frame, and two gates on them."""

from typing import Literal

from pydantic import Field

from difftalk.config.gates import FaceGates
from difftalk.config.section import Section

# Faces are searched for down to this width in pixels; further down where the gate lets smaller ones through,
# to the second where it lets all.
SEARCHED_FACE_PX, SMALLEST_FACE_PX = 48, 40


class Tracking(Section):
    """How faces are found and followed."""

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
    reader: Literal["pyav", "torchcodec"] = Field(
        "pyav",
        description="What decodes the videos for `face_alignment`; `torchcodec`, an optional package, uses "
        "the GPU where there is one.",
    )


class Landmarks(FaceGates, Tracking):
    """Face track and 68 points per frame."""


class LandmarksSettings(Tracking):
    """What the stage `landmarks` reads: no threshold of a gate, so that none of them reruns it."""

    searched_face_px: int = Field(
        SEARCHED_FACE_PX, ge=1, description="Width in pixels down to which faces are searched for."
    )

    @classmethod
    def of(cls, section: Landmarks) -> "LandmarksSettings":
        """Return the settings for a section; faces that its gate lets through are searched for."""
        searched = min(section.min_face_px or SMALLEST_FACE_PX, SEARCHED_FACE_PX)
        tracking = {key: getattr(section, key) for key in Tracking.model_fields}
        return cls(**tracking, searched_face_px=searched)
