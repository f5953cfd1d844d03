"""Section `encode`: frozen first-stage latents of the crops."""

from typing import Literal

from pydantic import Field

from difftalk.config.section import Section


class Encode(Section):
    """Frozen first-stage latents of the crops."""

    dtype: Literal["float16", "float32"] = Field("float16", description="How latents are stored.")
    batch_size: int = Field(
        64, ge=1, description="Frames encoded at once; fewer, where these would need too much memory."
    )
