"""Drawn people in clothes and before walls of any colour, to train and measure first stages on."""

import dataclasses

import numpy as np

from difftalk.datasets.demo.canvas import Colour, hsv, rgb
from difftalk.datasets.demo.identity import Identity


def in_any_colour(identity: Identity, rng: np.random.Generator) -> Identity:
    """Give a person clothes and walls of any colour: half of them even in RGB, half in hue and saturation."""

    def colour() -> Colour:
        if rng.random() < 0.5:
            return rgb(rng.uniform(0, 255, 3))
        return hsv(float(rng.uniform(0, 1)), float(rng.uniform(0, 1)), float(rng.uniform(0.15, 1)))

    return dataclasses.replace(
        identity, clothes=colour(), collar=colour(), background_colours=(colour(), colour())
    )
