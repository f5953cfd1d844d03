"""Section `speech`: speech features."""

from typing import Literal

from pydantic import Field

from difftalk.config.section import Section


class Speech(Section):
    """Speech features, 50 steps a second."""

    backend: Literal["mfcc", "deepspeech"] = Field(
        "mfcc",
        description="`mfcc`: 13 cepstra with first and second differences, 39 numbers a step, no weights; "
        "`deepspeech`: logits of DeepSpeech 0.1.0, 29 numbers, as in the paper, weights to be fetched.",
    )
    silence_db: float = Field(
        -50.0,
        le=0,
        description="A clip whose audio is below this level is rejected, dB of a full-scale square wave.",
    )
