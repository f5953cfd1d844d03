"""The parameters of a drawn face: who it is, where the head is, and the shape of its mouth."""

from dataclasses import dataclass

import numpy as np

from difftalk.datasets.demo.canvas import Colour, hsv, mix, rgb, shade

# Speakers of the demo are drawn from seeds in [0, DEMO_SEEDS); faces that networks are trained on come from
# seeds in [TRAINING_SEEDS, 2 * TRAINING_SEEDS). So no network trained on `random_frame` has met a speaker.
DEMO_SEEDS = 1_000_000
TRAINING_SEEDS = 1_000_000_000

HAIR_STYLES = ("bald", "short", "parted", "fringe", "long", "curly", "bun")
BACKGROUNDS = ("plain", "vertical", "diagonal", "stripes", "panels", "spots")

_SKINS = ((244, 212, 190), (238, 196, 166), (226, 178, 144), (205, 155, 118), (176, 124, 90), (142, 98, 72))
_HAIRS = (
    (32, 26, 24),
    (62, 42, 30),
    (104, 66, 38),
    (150, 98, 52),
    (196, 154, 92),
    (158, 66, 36),
    (176, 176, 180),
)
_EYES = ((78, 50, 30), (104, 72, 40), (70, 110, 140), (84, 120, 76), (110, 124, 130))


@dataclass(frozen=True)
class Identity:
    """What is constant about a speaker. Lengths are in outer eye distances, colours RGB 0..255."""

    seed: int
    size: float
    half_width: float
    chin: float
    jaw_square: float
    crown: float
    eye_height: float
    eye_length: float
    eye_tilt: float
    brow_height: float
    brow_thickness: float
    brow_arch: float
    nose_length: float
    nose_width: float
    mouth_y: float
    mouth_half_width: float
    upper_lip: float
    lower_lip: float
    ear: float
    hair_style: str
    hair_line: float
    hair_side: float
    beard: float
    glasses: str
    freckles: bool
    light: float
    skin: Colour
    lip: Colour
    iris: Colour
    hair: Colour
    clothes: Colour
    collar: Colour
    background: str
    background_colours: tuple[Colour, Colour]
    background_angle: float

    @classmethod
    def draw(cls, seed: int) -> "Identity":
        """Draw a person from an integer seed: the same seed is the same person, on every machine."""
        rng = np.random.default_rng(seed)

        def between(low: float, high: float) -> float:
            return float(rng.uniform(low, high))

        def chance(probability: float) -> bool:
            return bool(rng.random() < probability)

        tone = between(0, len(_SKINS) - 1)
        below = min(int(tone), len(_SKINS) - 2)
        skin = mix(_SKINS[below], _SKINS[below + 1], tone - below)
        skin = rgb(np.clip(np.add(skin, rng.normal(0, 4, 3)), 0, 255))
        # Walls are bright behind dark skin and dark behind bright skin: the outline must be seen.
        brightest = 0.98 - 0.30 * (sum(skin) > 480)
        darkest = 0.62 - 0.32 * (sum(skin) > 480)

        def behind() -> Colour:
            return hsv(between(0, 1), between(0.08, 0.5), between(darkest, brightest))

        redness = mix((196, 78, 82), (166, 62, 74), between(0, 1))
        lip = mix(shade(skin, 0.80), redness, between(0.45, 0.95))
        hair = _HAIRS[int(rng.integers(len(_HAIRS)))]
        iris = _EYES[int(rng.integers(len(_EYES)))]
        bearded = chance(0.18)
        style = HAIR_STYLES[int(rng.choice(len(HAIR_STYLES), p=(0.08, 0.18, 0.16, 0.15, 0.18, 0.13, 0.12)))]
        return cls(
            seed=int(seed),
            size=between(0.95, 1.05),
            half_width=between(0.74, 0.84),
            chin=between(1.14, 1.28),
            jaw_square=between(1.85, 2.3),
            crown=between(0.98, 1.14),
            eye_height=between(0.105, 0.150),
            eye_length=between(0.270, 0.310),
            eye_tilt=between(-0.025, 0.03),
            brow_height=between(0.185, 0.235),
            brow_thickness=between(0.045, 0.085),
            brow_arch=between(0.02, 0.07),
            nose_length=between(0.40, 0.46),
            nose_width=between(0.145, 0.19),
            mouth_y=between(0.765, 0.81),
            mouth_half_width=between(0.31, 0.375),
            upper_lip=between(0.055, 0.085),
            lower_lip=between(0.075, 0.115),
            ear=between(0.8, 1.15),
            hair_style=style,
            hair_line=between(-0.70, -0.56),
            hair_side=1.0 if chance(0.5) else -1.0,
            beard=between(0.3, 0.7) if bearded else 0.0,
            glasses=("none", "none", "none", "round", "square")[int(rng.integers(5))],
            freckles=chance(0.18),
            light=between(-1, 1),
            skin=skin,
            lip=lip,
            iris=iris,
            hair=rgb(np.clip(np.add(hair, rng.normal(0, 6, 3)), 8, 230)),
            clothes=hsv(between(0, 1), between(0.2, 0.8), between(0.3, 0.85)),
            collar=hsv(between(0, 1), between(0.0, 0.5), between(0.6, 0.97)),
            background=BACKGROUNDS[int(rng.integers(len(BACKGROUNDS)))],
            background_colours=(behind(), behind()),
            background_angle=between(-0.6, 0.6),
        )


@dataclass(frozen=True)
class Pose:
    """Position and rotation of a head, and what its eyes and brows do.

    Args:
        shift_x, shift_y: fractions of the frame.
        scale: 1 is the identity's own size.
        roll: radians, clockwise in the frame.
        yaw, pitch: radians, to the right of the frame and down.
        blink: 0 open to 1 closed.
        brow_raise, gaze_x, gaze_y: -1 to 1.
    """

    shift_x: float = 0.0
    shift_y: float = 0.0
    scale: float = 1.0
    roll: float = 0.0
    yaw: float = 0.0
    pitch: float = 0.0
    blink: float = 0.0
    brow_raise: float = 0.0
    gaze_x: float = 0.0
    gaze_y: float = 0.0


@dataclass(frozen=True)
class Mouth:
    """Shape of a mouth.

    Args:
        open: 0 closed to 1 wide open.
        width: -1 rounded to 1 spread.
        press: 0 relaxed to 1 lips pressed together (p, b, m).
        bite: 0 to 1 lower lip below the upper teeth (f, v).
        tongue: 0 down to 1 at the teeth (l, d).
    """

    open: float = 0.0
    width: float = 0.0
    press: float = 0.0
    bite: float = 0.0
    tongue: float = 0.0
