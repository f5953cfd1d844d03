"""Section `report`: the page of a run."""

from typing import Any, Literal

from pydantic import Field

from difftalk.config.section import List, Section

# Columns of the plan by which clips are grouped; `tags` holds several values, separated by `;`.
Subgroup = Literal["identity", "subset", "tags"]


class Report(Section):
    """The page of a run."""

    gallery_clips: int = Field(6, ge=0, description="Test clips shown, spread over the identities.")
    panel_pixels: int = Field(
        192, ge=1, description="Least side of a panel; crops are enlarged by a whole factor."
    )
    crf: int = Field(20, ge=0, le=51, description="H.264 quality of the videos side by side.")
    methods: List[str] = Field(
        (), description="Methods shown, in this order; an empty list shows all, first seeds only."
    )
    subgroups: List[Subgroup] = Field(
        (),
        description="Columns of the plan, any of identity, subset, tags: the table `subgroups` has a row for "
        "each of their values and each method.",
    )
    published: List[str] = Field(
        (),
        description="Sources of difftalk/reporting/published.csv whose figures stand below the run's in "
        "`audio_smoothing` and `comparison`, marked as of another protocol.",
    )


class ReportSettings(Report):
    """What the stage `report` reads."""

    run: str = Field("", description="Name of the run.")


class TablesSettings(Section):
    """What the stage `tables` reads: what the tables say about themselves beside the figures."""

    run: str = Field("", description="Name of the run.")
    subgroups: List[Subgroup] = Field((), description="Columns of the plan that the table `subgroups` is by.")
    published: List[str] = Field((), description="Sources of published figures shown below those of the run.")
    notes: dict[str, Any] = Field({}, description="Further lines of the protocol, such as the sampling's.")
