"""Section `cache`: what is kept of clips for other runs."""

from typing import Literal

from pydantic import Field

from difftalk.config.section import List, Section


class Cache(Section):
    """What is kept of clips for other runs; nothing here causes a rerun."""

    folder: str | None = Field(
        None, description="Folder of the cache, which runs and users may share; null: `cache` in `store`."
    )
    keeps: List[Literal["plan", "landmarks", "crops", "speech", "encode", "score"]] = Field(
        ("plan", "landmarks", "speech", "score"),
        description="Stages whose results are kept by clip; of `plan`, what was found in files. `crops` and "
        "`encode` take as much room as their shards. An empty list switches the cache off.",
    )
