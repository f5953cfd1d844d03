"""Section `methods`: rows of the tables that come from elsewhere, as a folder of videos or a command."""

import re
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from difftalk.config.crops import CropsSettings
from difftalk.config.numbers import Seconds
from difftalk.config.section import List, Section

# What a word of a command may name in braces.
PLACEHOLDERS = ("image", "video", "audio", "landmarks", "out", "folder", "clip_id")

Part = Annotated[float, Field(ge=0, le=1)]


class Method(Section):
    """A row of the tables that comes from elsewhere: a folder of videos, or a command run for each clip."""

    videos: str | None = Field(
        None,
        description="Folder of its videos, named by clip id, of any rate, size and container (.mp4 .mov .avi "
        ".mkv .webm); they may be in sub-folders named by shard.",
    )
    command: List[str] | None = Field(
        None,
        description="Words of a command that is run for each clip, never through a shell. In braces they "
        f"name files: {', '.join(f'`{{{name}}}`' for name in PLACEHOLDERS)} (docs/methods.md).",
    )
    environment: str | None = Field(
        None,
        description="Where the command finds its programs: a Python interpreter, a `bin` folder, or the "
        "folder of a conda or virtual environment. Null: where this run does.",
    )
    directory: str | None = Field(
        None,
        description="Working directory of the command, such as the method's code; null: that of the run.",
    )
    variables: dict[str, Annotated[str, Field(description="Value of a variable.")]] = Field(
        {}, description="Environment variables of the command."
    )
    input: Literal["crop", "full_frame"] = Field(
        "crop", description="What `{image}` and `{video}` show: the face crop, or whole frames of the source."
    )
    mask: Literal["none", "lower_face"] = Field(
        "none", description="`lower_face`: `{video}` is black from the nose tip down, as a model sees it."
    )
    landmarks: Literal["npy", "csv"] = Field("npy", description="Format of `{landmarks}`.")
    place: Literal["crop", "full_frame"] = Field(
        "crop",
        description="What the method's videos show: the face crop, at any size, or whole frames of the "
        "source, out of which it is then cut.",
    )
    box: List[Part] | None = Field(
        None,
        min_length=4,
        max_length=4,
        description="Where the videos lie in the crop, if they do not fill it: x0, y0, x1, y1 in parts of "
        "its side. Around them the true frame is shown.",
    )
    rate: Literal["timestamps", "frames"] = Field(
        "timestamps",
        description="Which frame belongs to which of the truth: the one that is shown at its time, or the "
        "one of the same number, whatever rate the file says.",
    )
    timeout_s: Seconds = Field(
        600.0, description="Seconds after which the command is ended, with all that it started."
    )
    gpu: int | None = Field(
        None, ge=0, description="GPUs that each of its jobs requests; null: as the key `gpu` of the run."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.videos is None) == (self.command is None):
            raise ValueError("needs one of the keys `videos` and `command`, and not both")
        if self.command is None:
            own = ("environment", "directory", "variables", "input", "mask", "landmarks", "timeout_s", "gpu")
            if given := [key for key in own if getattr(self, key) != type(self).model_fields[key].default]:
                raise ValueError(f"has videos, so that {given[0]} has no meaning: it is for a command")
        elif not self.command or not self.command[0]:
            raise ValueError("has a command without a word")
        for word in self.command or ():
            for name in re.findall(r"\{(\w+)\}", word):
                if name not in PLACEHOLDERS:
                    known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
                    raise ValueError(f"has {{{name}}} in its command, which is none of {known}")
        if self.box is not None:
            if self.place != "crop":
                raise ValueError("has a box, which is one in the crop: place: full_frame has none")
            x0, y0, x1, y1 = self.box
            if x1 <= x0 or y1 <= y0:
                raise ValueError("has an empty box: it is x0, y0, x1, y1 with x0 < x1 and y0 < y1")
        return self

    @property
    def needs_sources(self) -> bool:
        """Whether whole frames of the source are read."""
        return self.place == "full_frame" or (self.command is not None and self.input == "full_frame")

    def uses(self, name: str) -> bool:
        """Whether the command names a placeholder."""
        return any(f"{{{name}}}" in word for word in self.command or ())


class MethodSettings(Method):
    """What the stage `run_method` reads."""

    max_missing_frames: int = Field(
        5, ge=0, description="As `evaluation.max_missing_frames`: what is longer or shorter has no score."
    )
    reference: Literal["first", "random", "training"] = Field(
        "first", description="As `sampling.reference`; of `training`, too, `{image}` is the first frame."
    )
    seed: int = Field(1, description="As `sampling.seed`, which draws a random reference.")
    crops: CropsSettings | None = Field(None, description="How the crops were cut out of whole frames.")
