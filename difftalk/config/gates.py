"""Section `gates`: quality gates, each held by the settings of the one stage that applies it."""

from pydantic import Field

from difftalk.config.section import Section
from difftalk.media.clock import MAX_SHIFT_FRAMES


class FrameGates(Section):
    """The gates of the stage `landmarks`."""

    scene_cut_ratio: float | None = Field(
        4.5,
        gt=1,
        description="Change from one frame to the next, as a multiple of that of the four frames around, "
        "from which it is a scene cut.",
    )
    several_faces_share: float | None = Field(
        0.2,
        ge=0,
        le=1,
        description="Part of the inspected frames in which another face, at least half as wide, is "
        "tolerated.",
    )
    frozen_seconds: float | None = Field(1.0, ge=0.2, description="Longest tolerated freeze of the video.")


class SyncGate(Section):
    """What the sync expert must find; null asks nothing."""

    min_confidence: float | None = Field(
        3.0, ge=0, description="Least confidence, on the scale of the expert."
    )
    max_offset: int | None = Field(
        5,
        ge=0,
        le=MAX_SHIFT_FRAMES,
        description="Largest offset of the audio, frames either way; a smaller one is corrected.",
    )


class AudioGates(Section):
    """The gates of the stage `crops`."""

    length_mismatch_seconds: float | None = Field(
        0.04, ge=0, description="Tolerated difference in length between the audio and the video of a clip."
    )
    sync: SyncGate | None = Field(
        None,
        description="Have the run's sync expert check that lips and audio are in sync, and correct a "
        "constant offset; null does not check.",
    )


class Gates(FrameGates, AudioGates):
    """All gates, as the configuration has them."""
