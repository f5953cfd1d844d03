"""Section `gates`: quality gates on clips, each held by the settings of the one stage that applies it."""

from typing import Literal

from pydantic import Field

from difftalk.config.section import Section
from difftalk.media.clock import MAX_SHIFT_FRAMES


class FaceGates(Section):
    """Gates of the stage `gates` that the section `landmarks` has."""

    min_detection_rate: float | None = Field(
        0.95,
        ge=0,
        le=1,
        description="Part of a clip's frames in which the face must be found; null takes a clip with one "
        "in any frame, if there is one in the first 100.",
    )
    min_face_px: int | None = Field(
        48,
        ge=1,
        description="Median width of the face box below which a clip is rejected, pixels of the source; "
        "null takes all.",
    )


class FrameGates(Section):
    """Gates of the stage `gates` that the section `gates` has."""

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
    mouth_outside_frames: int | None = Field(
        5,
        ge=0,
        description="Frames of a clip in which a point of chin or mouth (5-11, 48-67) may lie outside the "
        "frame.",
    )
    max_yaw_degrees: float | None = Field(
        None, ge=0, le=90, description="Largest angle by which the head may be turned to a side."
    )
    max_pitch_degrees: float | None = Field(
        None, ge=0, le=90, description="Largest angle by which the head may be turned up or down."
    )
    min_sharpness: float | None = Field(
        None, ge=0, description="Least variance of the Laplacian of the face at 128 pixels."
    )
    min_mouth_score: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Least confidence of the backend in the points of the mouth: a hand or a microphone "
        "before it lowers the confidence.",
    )


class GatesSettings(FrameGates, FaceGates):
    """What the stage `gates` reads."""


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


class OverlapGates(Section):
    """The gates of the stage `overlap`, on what both sides of the split of a downloaded dataset have."""

    overlap: Literal["reject", "report", "ignore"] | None = Field(
        None,
        description="Of `hdtf` and `table`: what becomes of training clips that have content or a person of "
        "the test side. Null: `reject` where the dataset's split promises to share no speaker, else "
        "`report`. `ignore` does not look.",
    )
    same_person_distance: float | None = Field(
        0.6,
        gt=0,
        description="Of `hdtf` and `table`: distance of two faces (dlib's descriptor) below which they are "
        "one person's; null compares no faces.",
    )


class OverlapSettings(OverlapGates):
    """What the stage `overlap` reads."""

    named_speakers: bool = Field(
        False, description="Whether two speakers whom the dataset names are compared by their names alone."
    )


class Gates(FrameGates, AudioGates, OverlapGates):
    """All gates, as the configuration has them."""
