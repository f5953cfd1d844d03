"""Draw talking cartoon people, together with the true 68 iBUG landmarks of every picture.

A face is described in units of its outer eye distance E: the origin lies between the eyes, x points to the
right of the picture, y down, z towards the camera. `_View` takes such points to pixels, where pixel centres
have integer coordinates (the convention of OpenCV and dlib).
"""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

# Speakers of the demo are drawn from seeds in [0, DEMO_SEEDS); faces that networks are trained on come from
# seeds in [TRAINING_SEEDS, 2 * TRAINING_SEEDS). So no network trained on `random_frame` has met a speaker.
DEMO_SEEDS = 1_000_000
TRAINING_SEEDS = 1_000_000_000

HAIR_STYLES = ("bald", "short", "parted", "fringe", "long", "curly", "bun")
BACKGROUNDS = ("plain", "vertical", "diagonal", "stripes", "panels", "spots")

Colour = tuple[float, float, float]
Numbers = float | list[float] | np.ndarray

_E = 0.295  # outer eye distance of a face of scale 1, fractions of the frame
_PIVOT_Y = 0.45  # heads roll about this height
_JAW_STILL_Y, _JAW_MOVES_Y = 0.66, 1.18  # flesh above the first stays, below the second follows the chin
_GAP, _CHIN_DROP = 0.40, 0.25  # inner lip distance and chin drop of a wide open mouth, in E
_FINE = 2  # pictures are drawn this much larger: OpenCV's antialiasing alone jitters by 0.1 pixels
_LIGHT = 4  # light and shade are kept this much smaller than what is drawn
_SHIFT = 8  # fractional bits of the coordinates that are handed to OpenCV

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
    """What stays the same about a speaker. Lengths are in outer eye distances, colours RGB 0..255."""

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
        skin = _mix(_SKINS[below], _SKINS[below + 1], tone - below)
        skin = _rgb(np.clip(np.add(skin, rng.normal(0, 4, 3)), 0, 255))
        # Walls are bright behind dark skin and dark behind bright skin: the outline must be seen.
        brightest = 0.98 - 0.30 * (sum(skin) > 480)
        darkest = 0.62 - 0.32 * (sum(skin) > 480)

        def behind() -> Colour:
            return _hsv(between(0, 1), between(0.08, 0.5), between(darkest, brightest))

        redness = _mix((196, 78, 82), (166, 62, 74), between(0, 1))
        lip = _mix(_shade(skin, 0.80), redness, between(0.45, 0.95))
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
            hair=_rgb(np.clip(np.add(hair, rng.normal(0, 6, 3)), 8, 230)),
            clothes=_hsv(between(0, 1), between(0.2, 0.8), between(0.3, 0.85)),
            collar=_hsv(between(0, 1), between(0.0, 0.5), between(0.6, 0.97)),
            background=BACKGROUNDS[int(rng.integers(len(BACKGROUNDS)))],
            background_colours=(behind(), behind()),
            background_angle=between(-0.6, 0.6),
        )


@dataclass(frozen=True)
class Pose:
    """Where a head is and how it looks.

    shift_x, shift_y: fractions of the frame. scale: 1 is the identity's own size. roll: radians, clockwise in
    the picture. yaw, pitch: radians, to the right of the picture and down. blink: 0 open to 1 closed.
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

    open: 0 closed to 1 wide open. width: -1 rounded to 1 spread. press: 0 relaxed to 1 lips pressed together
    (p, b, m). bite: 0 to 1 lower lip below the upper teeth (f, v). tongue: 0 down to 1 at the teeth (l, d).
    """

    open: float = 0.0
    width: float = 0.0
    press: float = 0.0
    bite: float = 0.0
    tongue: float = 0.0


def draw_face(identity: Identity, pose: Pose, mouth: Mouth, size: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """Draw one picture of a speaker.

    Returns the image, (size, size, 3) uint8 RGB, and the 68 landmarks of what was drawn, (68, 2) float32, x
    and y in pixels. Nothing above the nose tip (point 30) depends on the mouth.
    """
    view = _View(identity, pose, size * _FINE)
    image = _background(identity, size * _FINE).copy()
    points = np.empty((68, 2))

    jaw = _jaw(identity, mouth)
    _draw_body(image, view, identity)
    _draw_head(image, view, identity, mouth, jaw)
    _draw_nose(image, view, identity, points)
    _draw_mouth(image, view, identity, mouth, points)
    _draw_eyes(image, view, identity, pose, points)
    _draw_hair(image, view, identity)
    _draw_brows(image, view, identity, pose, points)
    if identity.glasses != "none":
        _draw_glasses(image, view, identity)

    points[:17] = view.pixels(*_jaw_landmarks(_jaw(identity, Mouth()), jaw))
    image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    return image, ((points + 0.5) / _FINE - 0.5).astype(np.float32)


def random_frame(rng: np.random.Generator, size: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """Draw somebody new, in some pose, saying something: training material for networks.

    Returns what `draw_face` returns. Seeds are disjoint from those of the demo's speakers.
    """
    identity = Identity.draw(TRAINING_SEEDS + int(rng.integers(TRAINING_SEEDS)))
    pose = Pose(
        shift_x=float(rng.uniform(-0.05, 0.05)),
        shift_y=float(rng.uniform(-0.04, 0.03)),
        scale=float(rng.uniform(0.95, 1.05)),
        roll=float(rng.normal(0, 0.05)),
        yaw=float(rng.uniform(-0.25, 0.25)),
        pitch=float(rng.uniform(-0.12, 0.12)),
        blink=float(rng.choice([0.0, rng.uniform(0, 1), 1.0], p=[0.8, 0.12, 0.08])),
        brow_raise=float(rng.uniform(-0.4, 1)),
        gaze_x=float(rng.uniform(-1, 1)),
        gaze_y=float(rng.uniform(-0.6, 0.6)),
    )
    closed = rng.random() < 0.25
    mouth = Mouth(
        open=0.0 if closed else float(rng.uniform(0, 1)),
        width=float(rng.uniform(-1, 1)),
        press=float(rng.uniform(0, 1)) if closed else 0.0,
        bite=0.0 if closed else float(rng.choice([0.0, rng.uniform(0, 1)], p=[0.85, 0.15])),
        tongue=float(rng.choice([0.0, rng.uniform(0, 1)], p=[0.6, 0.4])),
    )
    return draw_face(identity, pose, mouth, size)


class _View:
    """Takes points of a face to pixels. Turning the head is a parallax of depth: enough for small angles."""

    def __init__(self, identity: Identity, pose: Pose, size: int):
        self.size = size
        self.unit = _E * identity.size * pose.scale * size
        self.centre = np.array([0.5 + pose.shift_x, 0.455 + pose.shift_y]) * size - 0.5
        self.body = np.array([0.5 + 0.5 * pose.shift_x, 0.455 + 0.4 * pose.shift_y]) * size - 0.5
        self.cos, self.sin = np.cos(pose.roll), np.sin(pose.roll)
        self.squeeze = np.cos(pose.yaw), np.cos(pose.pitch)
        self.parallax = np.sin(pose.yaw), np.sin(pose.pitch)

    def pixels(self, x: Numbers, y: Numbers, z: Numbers = 0.0) -> np.ndarray:
        """Points of the head, (N,) each, in pixels (N, 2)."""
        depth = np.asarray(z, float)
        right = np.asarray(x, float) * self.squeeze[0] + depth * self.parallax[0]
        down = np.asarray(y, float) * self.squeeze[1] + depth * self.parallax[1] - _PIVOT_Y
        points = np.empty((*np.broadcast_shapes(right.shape, down.shape), 2))
        points[..., 0] = self.centre[0] + self.unit * (self.cos * right - self.sin * down)
        points[..., 1] = self.centre[1] + self.unit * (self.sin * right + self.cos * down + _PIVOT_Y)
        return points

    def body_pixels(self, x: Numbers, y: Numbers) -> np.ndarray:
        """Points of neck and shoulders, which follow the head only in part, in pixels (N, 2)."""
        return self.body + self.unit * np.stack(np.broadcast_arrays(np.asarray(x, float), y), axis=-1)


def _rgb(values: np.ndarray) -> Colour:
    return float(values[0]), float(values[1]), float(values[2])


def _mix(a: Colour, b: Colour, t: float) -> Colour:
    return a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t, a[2] + (b[2] - a[2]) * t


def _hsv(hue: float, saturation: float, value: float) -> Colour:
    """RGB of hue, saturation and value in 0..1."""
    ramp = np.clip(np.abs((hue * 6 + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    return _rgb(255 * value * (1 - saturation * (1 - ramp)))


def _shade(colour: Colour, factor: float) -> Colour:
    return min(255.0, colour[0] * factor), min(255.0, colour[1] * factor), min(255.0, colour[2] * factor)


def _fill(image: np.ndarray, polygon: np.ndarray, colour: tuple[float, ...]) -> None:
    """Fill a polygon (N, 2) of pixel coordinates, antialiased, with its fractions of pixels kept."""
    fixed = np.rint(polygon * (1 << _SHIFT)).astype(np.int32)
    cv2.fillPoly(image, [fixed], colour, lineType=cv2.LINE_AA, shift=_SHIFT)


def _stroke(image: np.ndarray, line: np.ndarray, width: np.ndarray | float, colour: Colour) -> None:
    """Fill a ribbon of the given width(s) in pixels along a line (N, 2). OpenCV's own widths are integers."""
    along = np.empty_like(line)
    along[1:-1] = line[2:] - line[:-2]
    along[0], along[-1] = line[1] - line[0], line[-1] - line[-2]
    scale = 0.5 * width / np.maximum(np.hypot(along[:, 0], along[:, 1]), 1e-6)
    half = np.empty_like(line)
    half[:, 0], half[:, 1] = -along[:, 1] * scale, along[:, 0] * scale
    _fill(image, np.concatenate([line + half, (line - half)[::-1]]), colour)


def _smoothstep(x: np.ndarray) -> np.ndarray:
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


_ANGLES = np.linspace(0, 2 * np.pi, 33)[:-1]
_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)


@lru_cache(maxsize=16)
def _background(identity: Identity, size: int) -> np.ndarray:
    """What is behind the speaker, (size, size, 3) uint8."""
    a, b = (np.array(c, np.float32) for c in identity.background_colours)
    coarse = max(size // 4, 32)
    v, u = ((np.mgrid[0:coarse, 0:coarse] + 0.5) / coarse).astype(np.float32)
    tilted = (u - 0.5) * np.sin(identity.background_angle) + (v - 0.5) * np.cos(identity.background_angle)
    if identity.background == "plain":
        blend = 0.25 * v
    elif identity.background == "vertical":
        blend = v
    elif identity.background == "diagonal":
        blend = np.clip(tilted + 0.5, 0, 1)
    elif identity.background == "stripes":
        blend = 0.5 + 0.18 * np.clip(4 * np.sin(tilted * 50), -1, 1)
    elif identity.background == "panels":
        blend = 0.2 * v + 0.3 * np.clip(6 * np.sin((u + 0.1 * identity.background_angle) * 14), -1, 1) + 0.3
    else:
        blend = 0.3 * v + 0.35 * np.clip(3 * np.sin(u * 38) * np.sin(v * 38) - 1, 0, 1)
    image = a + (b - a) * blend[..., None]
    image *= (1.05 - 0.35 * ((u - 0.5) ** 2 + (v - 0.5) ** 2))[..., None]
    image = np.clip(image + 0.5, 0, 255).astype(np.uint8)
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR)


def _jaw(identity: Identity, mouth: Mouth) -> np.ndarray:
    """The side of the face from the temple over the chin to the other temple, (N, 2) in E."""
    angle = np.linspace(0, np.pi, 61)
    power = 2 / identity.jaw_square
    cos, sin = np.cos(angle), np.sin(angle)
    x = -identity.half_width * np.sign(cos) * np.abs(cos) ** power
    y = -0.06 + (identity.chin + 0.06) * sin**power
    x = x * (1 - 0.05 * _smoothstep((y - 0.3) / 0.9))
    low = _smoothstep((y - _JAW_STILL_Y) / (_JAW_MOVES_Y - _JAW_STILL_Y))
    y = y + low * (_CHIN_DROP * mouth.open - 0.012 * mouth.press)
    return np.stack([x * (1 - 0.03 * low * mouth.open), y], axis=1)


def _jaw_depth(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The sides of a head lie behind the eyes, the chin in front of them."""
    return -0.22 + 0.34 * _smoothstep(y / 1.2)


def _jaw_landmarks(rest: np.ndarray, jaw: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points 0-16 of an outline, given the same outline with the mouth closed.

    They begin at the height of the eyes, evenly spaced. As the mouth opens, the upper four of each side stay
    where they are and the others share the outline below them: those four must not tell what the mouth does.
    """
    middle = len(jaw) // 2
    step = np.hypot(*np.diff(rest[: middle + 1], axis=0).T)
    rest_length = np.concatenate([[0], np.cumsum(step)])
    step = np.hypot(*np.diff(jaw[: middle + 1], axis=0).T)
    length = np.concatenate([[0], np.cumsum(step)])
    start = np.interp(-0.02, rest[: middle + 1, 1], rest_length)
    part = np.linspace(0, 1, 9)
    at = start + (rest_length[-1] - start) * (part + 0.02 * np.sin(np.pi * part))
    at[4:] = at[3] + (at[4:] - at[3]) * (length[-1] - at[3]) / (rest_length[-1] - at[3])
    x, y = np.interp(at, length, jaw[: middle + 1, 0]), np.interp(at, length, jaw[: middle + 1, 1])
    x, y = np.concatenate([x, -x[-2::-1]]), np.concatenate([y, y[-2::-1]])
    return x, y, _jaw_depth(x, y)


def _skull(identity: Identity, grow: float = 0.0) -> np.ndarray:
    """Top of the head from the right temple over the crown to the left temple, (N, 2) in E."""
    angle = np.linspace(0, np.pi, 33)
    x = (identity.half_width + grow) * np.sign(np.cos(angle)) * np.abs(np.cos(angle)) ** 0.9
    y = -0.06 - (identity.crown - 0.06 + grow) * np.sin(angle) ** 0.9
    return np.stack([x, y], axis=1)


def _draw_body(image: np.ndarray, view: _View, identity: Identity) -> None:
    """Hair behind the head, neck, shoulders and ears."""
    skin, hair = identity.skin, identity.hair
    if identity.hair_style == "long":
        angle = np.linspace(0, np.pi, 24)
        crown = view.pixels(0.95 * np.cos(angle), -0.1 - (identity.crown + 0.04) * np.sin(angle), -0.3)
        ends = view.body_pixels([-0.98, -1.02, -0.85, 0.85, 1.02, 0.98], [0.9, 1.4, 1.62, 1.62, 1.4, 0.9])
        _fill(image, np.concatenate([crown, ends]), _shade(hair, 0.72))
    elif identity.hair_style == "bun":
        _fill(
            image,
            view.pixels(0.34 * _CIRCLE[:, 0], -identity.crown - 0.04 + 0.32 * _CIRCLE[:, 1], -0.3),
            hair,
        )
    elif identity.hair_style == "curly":
        wave = 1 + 0.05 * np.cos(np.linspace(0, 2 * np.pi, 161)[:-1] * 18)
        angle = np.linspace(0, 2 * np.pi, 161)[:-1]
        x, y = (identity.half_width + 0.24) * wave * np.cos(angle), -0.28 + 1.02 * wave * np.sin(angle)
        _fill(image, view.pixels(x, y, -0.3), _shade(hair, 0.85))

    s = np.linspace(-1, 1, 25)
    shoulders = view.body_pixels(
        np.concatenate([1.75 * s, [2.2, -2.2]]),
        np.concatenate([1.42 + 0.55 * np.abs(s) ** 2.2, [3.5, 3.5]]),
    )
    neck_top = view.pixels([-0.43, 0.43], [0.75, 0.75], -0.3)
    neck = np.concatenate(
        [neck_top, view.body_pixels([0.46, 0.62, 0.0, -0.62, -0.46], [1.38, 1.5, 1.85, 1.5, 1.38])]
    )
    _fill(image, shoulders, identity.clothes)
    collar = view.body_pixels([-0.50, -0.66, 0, 0.66, 0.50, 0], [1.34, 1.52, 2.0, 1.52, 1.34, 1.85])
    _fill(image, neck, _shade(skin, 0.58))
    _fill(image, collar, identity.collar)

    for side in (-1, 1):
        x = side * (identity.half_width + 0.015 + 0.10 * identity.ear * _CIRCLE[:, 0])
        y = 0.17 + 0.21 * identity.ear * _CIRCLE[:, 1]
        _fill(image, view.pixels(x, y, -0.34), _shade(skin, 0.82))
        x = side * (identity.half_width + 0.04 + 0.045 * identity.ear * _CIRCLE[:, 0])
        y = 0.16 + 0.12 * identity.ear * _CIRCLE[:, 1]
        _fill(image, view.pixels(x, y, -0.34), _shade(skin, 0.66))


class _Light:
    """Smooth light and shade on the skin, kept at a fraction of the resolution of the picture."""

    def __init__(self, view: _View, box: tuple[int, int, int, int], skin: Colour):
        self.view = view
        self.x0, self.y0, self.x1, self.y1 = box
        self.width, self.height = (self.x1 - self.x0) // _LIGHT, (self.y1 - self.y0) // _LIGHT
        self.map = np.empty((self.height, self.width, 3), np.float32)
        self.map[:] = skin

    def inside(self, points: np.ndarray) -> np.ndarray:
        """Pixels of the picture in pixels of the map."""
        return (points - (self.x0, self.y0) + 0.5) / _LIGHT - 0.5

    def add(
        self,
        centre: tuple[float, float],
        radii: tuple[float, float],
        colour: Colour | float,
        z: float = 0.0,
        tilt: float = 0.0,
    ) -> None:
        """Multiply by 1 + colour inside an ellipse, fading to its border, beyond which nothing changes."""
        view = self.view
        cx, cy = self.inside(view.pixels(centre[0], centre[1], z))
        rx, ry = radii[0] * view.unit / _LIGHT, radii[1] * view.unit / _LIGHT
        reach = max(rx, ry)
        left, right = max(0, int(cx - reach)), min(self.width, int(cx + reach) + 2)
        top, bottom = max(0, int(cy - reach)), min(self.height, int(cy + reach) + 2)
        if left >= right or top >= bottom:
            return
        dx = np.arange(left, right, dtype=np.float32)[None] - np.float32(cx)
        dy = np.arange(top, bottom, dtype=np.float32)[:, None] - np.float32(cy)
        cos, sin = np.cos(tilt), np.sin(tilt)
        cos, sin = view.cos * cos - view.sin * sin, view.sin * cos + view.cos * sin
        u = dx * np.float32(cos / rx) + dy * np.float32(sin / rx)
        v = dy * np.float32(cos / ry) - dx * np.float32(sin / ry)
        weight = np.maximum(1 - u * u - v * v, 0)
        weight *= weight
        self.map[top:bottom, left:right] *= 1 + weight[..., None] * np.asarray(colour, np.float32)

    def pixels(self) -> np.ndarray:
        """The lit skin at full resolution, (height, width, 3) uint8."""
        coarse = np.clip(self.map + 0.5, 0, 255).astype(np.uint8)
        return cv2.resize(coarse, (self.x1 - self.x0, self.y1 - self.y0), interpolation=cv2.INTER_LINEAR)


def _draw_head(image: np.ndarray, view: _View, identity: Identity, mouth: Mouth, jaw: np.ndarray) -> None:
    """Skin with its light and shade, and what grows on it."""
    skull = _skull(identity)
    jaw_pixels = view.pixels(jaw[:, 0], jaw[:, 1], _jaw_depth(jaw[:, 0], jaw[:, 1]))
    outline = np.concatenate([jaw_pixels, view.pixels(skull[:, 0], skull[:, 1], -0.22)[1:-1]])
    size = view.size
    x0, y0 = (max(0, int(v) - _LIGHT) // _LIGHT * _LIGHT for v in outline.min(axis=0))
    x1, y1 = (min(size, int(v) // _LIGHT * _LIGHT + 2 * _LIGHT) for v in outline.max(axis=0))
    drop = _CHIN_DROP * mouth.open
    light = _Light(view, (x0, y0, x1, y1), _shade(identity.skin, 0.80))
    light.add((0.10 * identity.light, 0.05), (1.15, 1.6), 0.28)
    for side in (-1, 1):
        light.add((0.36 * side, 0.0), (0.34, 0.26), -0.20, 0.05)
        light.add((0.38 * side, 0.52), (0.34, 0.26), (0.10, -0.03, -0.02), 0.05)
        dark = 0.16 - 0.10 * side * identity.light
        light.add((0.115 * side, 0.20), (0.10, 0.34), -max(dark, 0.05), 0.12, 0.12 * side)
        light.add((identity.nose_width * 1.15 * side, identity.nose_length + 0.07), (0.13, 0.13), -0.20, 0.15)
        corner = identity.mouth_half_width * (1 + 0.1 * mouth.width) + 0.06
        light.add((corner * side, identity.mouth_y + 0.3 * drop), (0.12, 0.14), -0.05, 0.08)
    light.add((0, 0.16), (0.07, 0.40), 0.12, 0.2)
    light.add((0, identity.nose_length - 0.02), (0.11, 0.10), 0.16, 0.35)
    light.add((0, identity.nose_length + 0.13), (0.24, 0.07), -0.30, 0.22)
    light.add((0, identity.mouth_y + identity.lower_lip + 0.06 + 1.25 * drop), (0.26, 0.09), -0.10, 0.15)
    light.add((0, identity.chin - 0.13 + drop), (0.24, 0.15), 0.10, 0.15)
    if identity.beard:
        _grow_beard(light, identity, mouth, jaw)

    mask = np.zeros((y1 - y0, x1 - x0), np.float32)
    _fill(mask, outline - (x0, y0), (1.0,))
    part = image[y0:y1, x0:x1]
    part[:] = cv2.blendLinear(light.pixels(), part, mask, 1 - mask)

    edge = np.hypot(*np.diff(jaw_pixels[[0, -1]], axis=0)[0]) * 0.013
    width = edge * (0.25 + 0.75 * np.sin(np.linspace(0, np.pi, len(jaw_pixels))))
    _stroke(image, jaw_pixels, width, _shade(identity.skin, 0.52))

    if identity.freckles:
        rng = np.random.default_rng(identity.seed)
        for side in (-1, 1):
            for x, y in rng.normal((0.36, 0.36), (0.09, 0.04), (7, 2)):
                dot = view.pixels(side * x + 0.011 * _CIRCLE[::4, 0], y + 0.011 * _CIRCLE[::4, 1], 0.08)
                _fill(image, dot, _shade(identity.skin, 0.78))


def _grow_beard(light: _Light, identity: Identity, mouth: Mouth, jaw: np.ndarray) -> None:
    """Darken a band along the jaw, below the mouth."""
    low = jaw[jaw[:, 1] > 0.42]
    x, y = low[:, 0], low[:, 1]
    t = x / np.abs(x).max()
    chin = identity.mouth_y + identity.lower_lip + 0.14
    top = 0.45 + (chin - 0.45) * (1 - np.abs(t) ** 6)
    top = np.minimum(top + 1.1 * _CHIN_DROP * mouth.open * _smoothstep((top - _JAW_STILL_Y) / 0.4), y)
    outer = light.view.pixels(1.03 * x, y + 0.03, _jaw_depth(x, y))
    inner = light.view.pixels(0.94 * x, top, 0.0)
    mask = np.zeros(light.map.shape[:2], np.uint8)
    _fill(mask, light.inside(np.concatenate([outer, inner[::-1]])), (255,))
    # Never lighter than the skin: a pale beard would wash out the chin.
    tone = [min(h, 0.62 * s) for h, s in zip(identity.hair, identity.skin)]
    light.map += (np.array(tone, np.float32) - light.map) * (
        mask.astype(np.float32)[..., None] * (identity.beard / 255)
    )


def _draw_nose(image: np.ndarray, view: _View, identity: Identity, points: np.ndarray) -> None:
    """Wings, nostrils and a shadow below; points 27-35."""
    w, tip = identity.nose_width, identity.nose_length
    base = tip + 0.115
    dark = _shade(identity.skin, 0.58)
    for side in (-1, 1):
        angle = np.linspace(-0.9, 1.75, 12)
        x = side * (w - 0.055 + 0.065 * np.cos(angle))
        _stroke(image, view.pixels(x, base - 0.05 + 0.062 * np.sin(angle), 0.18), 0.022 * view.unit, dark)
        nostril = view.pixels(
            side * 0.43 * w + side * 0.042 * _CIRCLE[:, 0], base - 0.012 + 0.022 * _CIRCLE[:, 1], 0.24
        )
        _fill(image, nostril, _shade(identity.skin, 0.30))
    s = np.linspace(-1, 1, 11)
    under = view.pixels(0.55 * w * s, base + 0.018 * (1 - s * s), 0.24)
    _stroke(image, under, 0.026 * view.unit * (1 - 0.7 * s * s), dark)
    points[27:31] = view.pixels(0, np.linspace(0.0, tip, 4), np.array([0.10, 0.18, 0.27, 0.36]))
    s = np.array([-1, -0.5, 0, 0.5, 1])
    points[31:36] = view.pixels(s * 0.86 * w, base + np.array([-0.005, 0.015, 0.035, 0.015, -0.005]), 0.22)


class _Lips:
    """Outer and inner outline of a mouth as functions of t, -1 (left corner) to 1 (right corner), in E."""

    def __init__(self, identity: Identity, mouth: Mouth):
        opening, width, press, bite = mouth.open, mouth.width, mouth.press, mouth.bite
        rounded, spread = max(-width, 0.0), max(width, 0.0)
        self.half = identity.mouth_half_width * (1 + 0.17 * spread - 0.40 * rounded - 0.07 * opening)
        self.inner_half = self.half * (0.84 + 0.06 * spread)
        self.gap = _GAP * opening * (1 - 0.12 * spread - 0.05 * rounded)
        self.y = identity.mouth_y - 0.015 * spread + 0.02 * rounded
        self.corner = self.y - 0.012 + 0.30 * self.gap - 0.025 * spread + 0.012 * press
        thick = (1 + 0.30 * rounded - 0.10 * spread) * (1 - 0.45 * press)
        self.upper = identity.upper_lip * thick
        self.lower = identity.lower_lip * thick * (1 - 0.55 * bite)
        self.round = 0.85 - 0.33 * max(opening, rounded)

    def _bulge(self, t: np.ndarray, power: float) -> np.ndarray:
        return np.maximum(1 - t * t, 0) ** power

    def inner_upper(self, t: np.ndarray) -> np.ndarray:
        return self._between(t, self.y - 0.14 * self.gap)

    def inner_lower(self, t: np.ndarray) -> np.ndarray:
        return self._between(t, self.y + 0.86 * self.gap)

    def _between(self, t: np.ndarray, middle: float) -> np.ndarray:
        return self.corner + (middle - self.corner) * self._bulge(t, self.round)

    def outer_upper(self, t: np.ndarray) -> np.ndarray:
        bow = 0.18 * self.upper * np.exp(-((t / 0.16) ** 2))
        return (
            self.corner
            + (self.y - 0.14 * self.gap - 1.1 * self.upper - self.corner) * self._bulge(t, 0.9)
            + bow
        )

    def outer_lower(self, t: np.ndarray) -> np.ndarray:
        middle = self.y + 0.86 * self.gap + self.lower
        return self.corner + (middle - self.corner) * self._bulge(t, 0.62)


_T = np.sin(np.linspace(-np.pi / 2, np.pi / 2, 25))


def _draw_mouth(image: np.ndarray, view: _View, identity: Identity, mouth: Mouth, points: np.ndarray) -> None:
    """Lips, and between them the cavity, teeth and tongue; points 48-67."""
    lips = _Lips(identity, mouth)
    depth = 0.16

    def place(t: np.ndarray, half: float, y: np.ndarray) -> np.ndarray:
        return view.pixels(t * half, y, depth - 0.10 * t**2)

    def area(half: float, top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
        return np.concatenate([place(_T, half, top), place(_T, half, bottom)[::-1]])

    top, bottom = lips.inner_upper(_T), lips.inner_lower(_T)
    crease = _shade(identity.lip, 0.38)
    _fill(image, area(lips.half, lips.outer_upper(_T), 0.5 * (top + bottom)), _shade(identity.lip, 0.84))
    _fill(image, area(lips.half, 0.5 * (top + bottom), lips.outer_lower(_T)), identity.lip)

    if lips.gap > 0.004:
        _fill(image, area(lips.inner_half, top, bottom), (46, 14, 18))
        rise = (0.24 + 0.26 * mouth.tongue) * lips.gap
        bump = rise * np.maximum(1 - (_T / 0.8) ** 2, 0) ** 0.6
        _fill(image, area(lips.inner_half, np.maximum(bottom - bump, top), bottom), (176, 70, 78))
        # The upper teeth belong to the skull: a falling jaw uncovers them, a raised lip shows more of them.
        t = 0.86 * _T
        top_in, bottom_in = lips.inner_upper(t), lips.inner_lower(t)
        edge = np.clip(identity.mouth_y + 0.05 - 0.03 * _T**2, top_in, bottom_in)
        teeth = np.concatenate([place(t, lips.inner_half, top_in), place(t, lips.inner_half, edge)[::-1]])
        _fill(image, teeth, (246, 242, 234))
    if mouth.bite > 0.05:
        t = 0.7 * _T
        top_in = lips.inner_upper(t)
        edge = np.minimum(top_in + 0.06 * mouth.bite * (1 - 0.5 * _T**4), lips.outer_lower(t))
        teeth = np.concatenate([place(t, lips.inner_half, top_in), place(t, lips.inner_half, edge)[::-1]])
        _fill(image, teeth, (246, 242, 234))
    line = max(0.030 * (1 - lips.gap / 0.08), 0.012)
    _stroke(image, place(_T, lips.inner_half, top), line * view.unit, crease)
    _stroke(image, place(_T, lips.inner_half, bottom), 0.012 * view.unit, crease)

    shine = np.linspace(-0.45, 0.45, 9)
    y = 0.45 * lips.inner_lower(shine) + 0.55 * lips.outer_lower(shine)
    width = 0.22 * lips.lower * view.unit * (1 - (shine / 0.46) ** 2)
    _stroke(image, place(shine, lips.half, y), width, _mix(identity.lip, (255, 255, 255), 0.25))

    t = np.array([-0.97, -0.63, -0.26, 0, 0.26, 0.63, 0.97])
    points[48:55] = place(t, lips.half, lips.outer_upper(t))
    t = np.array([0.64, 0.28, 0, -0.28, -0.64])
    points[55:60] = place(t, lips.half, lips.outer_lower(t))
    t = np.array([-0.96, -0.32, 0, 0.32, 0.96])
    points[60:65] = place(t, lips.inner_half, lips.inner_upper(t))
    t = np.array([0.32, 0, -0.32])
    points[65:68] = place(t, lips.inner_half, lips.inner_lower(t))


def _draw_eyes(image: np.ndarray, view: _View, identity: Identity, pose: Pose, points: np.ndarray) -> None:
    """Both eyes; points 36-47, from the left of the picture to the right."""
    points[36:42] = _draw_eye(image, view, identity, pose, -1)
    points[42:48] = _draw_eye(image, view, identity, pose, 1)[[3, 2, 1, 0, 5, 4]]


def _draw_eye(image: np.ndarray, view: _View, identity: Identity, pose: Pose, side: int) -> np.ndarray:
    """One eye with its lids, side -1 left in the picture, 1 right.

    Returns 6 points: outer corner, upper lid, inner corner, lower lid back to the outer corner.
    """
    half = identity.eye_length / 2
    height = identity.eye_height * (1 + 0.12 * pose.brow_raise)
    raised = 0.60 * height - 0.82 * height * pose.blink
    lowered = 0.40 * height - 0.18 * height * pose.blink
    bulge = (1 - _T**2) ** 0.7
    upper, lower = -raised * bulge, lowered * bulge

    def place(t: np.ndarray, y: np.ndarray) -> np.ndarray:
        # t runs from the outer corner, -1, to the inner one, 1.
        return view.pixels(side * (0.5 - half - t * half), y + identity.eye_tilt * t, 0.06)

    lid = np.concatenate([place(_T, upper - 0.05), place(_T, lower)[::-1]])
    _fill(image, lid, _shade(identity.skin, 0.80))
    if pose.blink < 0.93:
        white = np.concatenate([place(_T, upper), place(_T, lower)[::-1]])
        _fill(image, white, (246, 244, 240))
        look = -side * 0.3 * pose.gaze_x
        radius = 0.52 * identity.eye_height
        for scale, colour in ((1.0, identity.iris), (0.52, (16, 12, 12))):
            t = look + _CIRCLE[:, 0] * radius * scale / half
            y = 0.02 * pose.gaze_y - 0.06 * height + _CIRCLE[:, 1] * radius * scale
            y = np.clip(y, np.interp(t, _T, upper), np.interp(t, _T, lower))
            _fill(image, place(t, y), colour)
        if pose.blink < 0.4:
            t = look - side * 0.12 + 0.11 * _CIRCLE[::2, 0]
            glint = np.maximum(-0.16 * height + 0.11 * half * _CIRCLE[::2, 1], np.interp(t, _T, upper))
            _fill(image, place(t, glint), (255, 255, 255))
    _stroke(image, place(_T, upper), (0.036 - 0.006 * _T) * view.unit, (38, 26, 24))
    _stroke(image, place(_T, lower), 0.014 * view.unit, _shade(identity.skin, 0.5))
    crease = place(0.9 * _T, upper - 0.045 - 0.01 * (1 - pose.blink))
    _stroke(image, crease, 0.014 * view.unit, _shade(identity.skin, 0.62 + 0.18 * pose.blink))

    t = np.array([-1, -0.36, 0.36, 1, 0.36, -0.36])
    return place(t, (1 - t * t) ** 0.7 * np.array([-raised, -raised, -raised, 0, lowered, lowered]))


def _draw_brows(image: np.ndarray, view: _View, identity: Identity, pose: Pose, points: np.ndarray) -> None:
    """Brows, always darker than the skin; points 17-26."""
    colour = _mix(_shade(identity.hair, 0.75), _shade(identity.skin, 0.25), 0.35)
    colour = _rgb(np.minimum(colour, np.multiply(identity.skin, 0.48)))

    def height(t: np.ndarray) -> np.ndarray:
        arch = identity.brow_arch * (1 - ((t - 0.40) / 0.6) ** 2)
        return -identity.brow_height - arch - 0.06 * pose.brow_raise + 0.06 * (1 - t) ** 2

    for side in (-1, 1):
        # t is 0 at the temple and 1 at the nose.
        t = np.linspace(0, 1, 17)
        line = view.pixels(side * (0.66 - 0.52 * t), height(t), 0.06 - 0.08 * (1 - t))
        width = identity.brow_thickness * view.unit * (0.30 + 0.70 * _smoothstep(2.2 * t))
        _stroke(image, line, width, colour)
        t = np.linspace(0, 1, 5)
        brow = view.pixels(side * (0.66 - 0.52 * t), height(t), 0.06 - 0.08 * (1 - t))
        if side < 0:
            points[17:22] = brow
        else:
            points[22:27] = brow[::-1]


def _draw_hair(image: np.ndarray, view: _View, identity: Identity) -> None:
    """Hair on top of the head, from the hair line up, clear of the brows."""
    style, line = identity.hair_style, identity.hair_line
    if style == "bald":
        return
    grow = {"short": 0.05, "parted": 0.08, "fringe": 0.08, "long": 0.10, "curly": 0.16, "bun": 0.05}[style]
    skull = _skull(identity, grow)
    if style == "curly":
        angle = np.linspace(0, np.pi, len(skull))
        skull = skull * (1 + 0.03 * np.cos(angle * 22))[:, None]
    s = np.linspace(-1, 1, 33)
    if style == "parted":
        part = 0.45 * identity.hair_side
        fall = np.abs(s - part) / (1 + abs(part))
        front = line - 0.16 + 0.62 * fall**1.4
    elif style == "fringe":
        front = -0.42 + 0.02 * np.cos(s * 16) + 0.32 * np.abs(s) ** 8
    elif style == "curly":
        front = line + 0.03 * np.cos(s * 20) + 0.50 * np.abs(s) ** 5
    else:
        front = line + 0.55 * np.abs(s) ** (4 if style == "short" else 3)
    inner = np.stack([s * identity.half_width * 0.985, np.minimum(front, 0.02)], axis=1)
    top = view.pixels(skull[:, 0], skull[:, 1], -0.24)
    hem = view.pixels(inner[:, 0], inner[:, 1], -0.22 + 0.25 * (1 - s**2))
    _fill(image, np.concatenate([top, hem]), identity.hair)
    if style == "long":
        for side in (-1, 1):
            edge = side * identity.half_width
            outer = view.pixels([edge * 1.10, edge * 1.17, edge * 1.20], [-0.30, 0.2, 0.7], -0.24)
            inner = view.pixels([edge * 1.00, edge * 0.99, edge * 0.96], [0.7, 0.3, -0.30], -0.22)
            ends = view.body_pixels([side * 1.0, side * 0.82, side * 0.72], [1.35, 1.56, 1.4])
            _fill(image, np.concatenate([outer, ends, inner]), identity.hair)
    u = np.linspace(0, 1, 7)[:, None]
    for k in (3, 7, 11, 16, 21, 25, 29):
        above, below = top[32 - k], hem[k]
        sideways = 0.10 * view.unit * identity.hair_side * np.array([view.cos, view.sin])
        strand = above + (0.15 + 0.70 * u) * (below - above) + u * (1 - u) * 2 * sideways
        width = 0.030 * view.unit * np.sin(np.pi * u[:, 0])
        _stroke(image, strand, width, _shade(identity.hair, 1.14 if k % 2 else 0.86))


def _draw_glasses(image: np.ndarray, view: _View, identity: Identity) -> None:
    """Thin frames around the eyes."""
    power = 1.0 if identity.glasses == "round" else 0.55
    ring = np.concatenate([_CIRCLE, _CIRCLE[:2]])
    shape = np.sign(ring) * np.abs(ring) ** power
    colour, width = (52, 46, 52), 0.020 * view.unit
    for side in (-1, 1):
        _stroke(
            image,
            view.pixels(side * 0.36 + 0.235 * shape[:, 0], 0.03 + 0.195 * shape[:, 1], 0.16),
            width,
            colour,
        )
        temple = view.pixels(
            side * np.array([0.595, identity.half_width]), [-0.02, -0.05], np.array([0.14, -0.2])
        )
        _stroke(image, temple, width, colour)
    bridge = np.linspace(-1, 1, 9)
    _stroke(image, view.pixels(0.125 * bridge, 0.02 - 0.03 * (1 - bridge**2), 0.2), width, colour)
