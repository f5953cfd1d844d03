"""Draw what frames a face: background, body, head with jaw and beard, hair."""

from functools import lru_cache

import cv2
import numpy as np

from difftalk.datasets.demo.canvas import CIRCLE, fill, shade, smoothstep, stroke
from difftalk.datasets.demo.identity import Identity, Mouth
from difftalk.datasets.demo.view import LIGHT_SCALE, Light, View

_JAW_STILL_Y, _JAW_MOVES_Y = 0.66, 1.18  # flesh above the first stays, below the second follows the chin
_CHIN_DROP = 0.25  # of a wide open mouth, in E


@lru_cache(maxsize=16)
def draw_background(identity: Identity, size: int) -> np.ndarray:
    """Return what is behind the speaker, (size, size, 3) uint8 RGB."""
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


def jaw_outline(identity: Identity, mouth: Mouth) -> np.ndarray:
    """Return the side of the face from the temple over the chin to the other temple, (N, 2) in E."""
    angle = np.linspace(0, np.pi, 61)
    power = 2 / identity.jaw_square
    cos, sin = np.cos(angle), np.sin(angle)
    x = -identity.half_width * np.sign(cos) * np.abs(cos) ** power
    y = -0.06 + (identity.chin + 0.06) * sin**power
    x = x * (1 - 0.05 * smoothstep((y - 0.3) / 0.9))
    low = smoothstep((y - _JAW_STILL_Y) / (_JAW_MOVES_Y - _JAW_STILL_Y))
    y = y + low * (_CHIN_DROP * mouth.open - 0.012 * mouth.press)
    return np.stack([x * (1 - 0.03 * low * mouth.open), y], axis=1)


def _jaw_depth(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The sides of a head lie behind the eyes, the chin in front of them."""
    return -0.22 + 0.34 * smoothstep(y / 1.2)


def jaw_landmarks(rest: np.ndarray, jaw: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return landmarks 0-16 of an outline, given the same outline with the mouth closed.

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
    """Return the top of the head from the right temple over the crown to the left temple, (N, 2) in E."""
    angle = np.linspace(0, np.pi, 33)
    x = (identity.half_width + grow) * np.sign(np.cos(angle)) * np.abs(np.cos(angle)) ** 0.9
    y = -0.06 - (identity.crown - 0.06 + grow) * np.sin(angle) ** 0.9
    return np.stack([x, y], axis=1)


def draw_body(image: np.ndarray, view: View, identity: Identity) -> None:
    """Draw the hair behind the head, neck, shoulders and ears."""
    skin, hair = identity.skin, identity.hair
    if identity.hair_style == "long":
        angle = np.linspace(0, np.pi, 24)
        crown = view.pixels(0.95 * np.cos(angle), -0.1 - (identity.crown + 0.04) * np.sin(angle), -0.3)
        ends = view.body_pixels([-0.98, -1.02, -0.85, 0.85, 1.02, 0.98], [0.9, 1.4, 1.62, 1.62, 1.4, 0.9])
        fill(image, np.concatenate([crown, ends]), shade(hair, 0.72))
    elif identity.hair_style == "bun":
        fill(
            image,
            view.pixels(0.34 * CIRCLE[:, 0], -identity.crown - 0.04 + 0.32 * CIRCLE[:, 1], -0.3),
            hair,
        )
    elif identity.hair_style == "curly":
        wave = 1 + 0.05 * np.cos(np.linspace(0, 2 * np.pi, 161)[:-1] * 18)
        angle = np.linspace(0, 2 * np.pi, 161)[:-1]
        x, y = (identity.half_width + 0.24) * wave * np.cos(angle), -0.28 + 1.02 * wave * np.sin(angle)
        fill(image, view.pixels(x, y, -0.3), shade(hair, 0.85))

    s = np.linspace(-1, 1, 25)
    shoulders = view.body_pixels(
        np.concatenate([1.75 * s, [2.2, -2.2]]),
        np.concatenate([1.42 + 0.55 * np.abs(s) ** 2.2, [3.5, 3.5]]),
    )
    neck_top = view.pixels([-0.43, 0.43], [0.75, 0.75], -0.3)
    neck = np.concatenate(
        [neck_top, view.body_pixels([0.46, 0.62, 0.0, -0.62, -0.46], [1.38, 1.5, 1.85, 1.5, 1.38])]
    )
    fill(image, shoulders, identity.clothes)
    collar = view.body_pixels([-0.50, -0.66, 0, 0.66, 0.50, 0], [1.34, 1.52, 2.0, 1.52, 1.34, 1.85])
    fill(image, neck, shade(skin, 0.58))
    fill(image, collar, identity.collar)

    for side in (-1, 1):
        x = side * (identity.half_width + 0.015 + 0.10 * identity.ear * CIRCLE[:, 0])
        y = 0.17 + 0.21 * identity.ear * CIRCLE[:, 1]
        fill(image, view.pixels(x, y, -0.34), shade(skin, 0.82))
        x = side * (identity.half_width + 0.04 + 0.045 * identity.ear * CIRCLE[:, 0])
        y = 0.16 + 0.12 * identity.ear * CIRCLE[:, 1]
        fill(image, view.pixels(x, y, -0.34), shade(skin, 0.66))


def draw_head(image: np.ndarray, view: View, identity: Identity, mouth: Mouth, jaw: np.ndarray) -> None:
    """Draw the skin with its light and shade, and the beard."""
    skull = _skull(identity)
    jaw_pixels = view.pixels(jaw[:, 0], jaw[:, 1], _jaw_depth(jaw[:, 0], jaw[:, 1]))
    outline = np.concatenate([jaw_pixels, view.pixels(skull[:, 0], skull[:, 1], -0.22)[1:-1]])
    size = view.size
    x0, y0 = (max(0, int(v) - LIGHT_SCALE) // LIGHT_SCALE * LIGHT_SCALE for v in outline.min(axis=0))
    x1, y1 = (min(size, int(v) // LIGHT_SCALE * LIGHT_SCALE + 2 * LIGHT_SCALE) for v in outline.max(axis=0))
    drop = _CHIN_DROP * mouth.open
    light = Light(view, (x0, y0, x1, y1), shade(identity.skin, 0.80))
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
    fill(mask, outline - (x0, y0), (1.0,))
    part = image[y0:y1, x0:x1]
    part[:] = cv2.blendLinear(light.pixels(), part, mask, 1 - mask)

    edge = np.hypot(*np.diff(jaw_pixels[[0, -1]], axis=0)[0]) * 0.013
    width = edge * (0.25 + 0.75 * np.sin(np.linspace(0, np.pi, len(jaw_pixels))))
    stroke(image, jaw_pixels, width, shade(identity.skin, 0.52))

    if identity.freckles:
        rng = np.random.default_rng(identity.seed)
        for side in (-1, 1):
            for x, y in rng.normal((0.36, 0.36), (0.09, 0.04), (7, 2)):
                dot = view.pixels(side * x + 0.011 * CIRCLE[::4, 0], y + 0.011 * CIRCLE[::4, 1], 0.08)
                fill(image, dot, shade(identity.skin, 0.78))


def _grow_beard(light: Light, identity: Identity, mouth: Mouth, jaw: np.ndarray) -> None:
    """Darken a band along the jaw, below the mouth."""
    low = jaw[jaw[:, 1] > 0.42]
    x, y = low[:, 0], low[:, 1]
    t = x / np.abs(x).max()
    chin = identity.mouth_y + identity.lower_lip + 0.14
    top = 0.45 + (chin - 0.45) * (1 - np.abs(t) ** 6)
    top = np.minimum(top + 1.1 * _CHIN_DROP * mouth.open * smoothstep((top - _JAW_STILL_Y) / 0.4), y)
    outer = light.view.pixels(1.03 * x, y + 0.03, _jaw_depth(x, y))
    inner = light.view.pixels(0.94 * x, top, 0.0)
    mask = np.zeros(light.map.shape[:2], np.uint8)
    fill(mask, light.inside(np.concatenate([outer, inner[::-1]])), (255,))
    # Never lighter than the skin: a pale beard would wash out the chin.
    tone = [min(h, 0.62 * s) for h, s in zip(identity.hair, identity.skin, strict=True)]
    light.map += (np.array(tone, np.float32) - light.map) * (
        mask.astype(np.float32)[..., None] * (identity.beard / 255)
    )


def draw_hair(image: np.ndarray, view: View, identity: Identity) -> None:
    """Draw the hair on top of the head, from the hair line up, clear of the brows."""
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
    fill(image, np.concatenate([top, hem]), identity.hair)
    if style == "long":
        for side in (-1, 1):
            edge = side * identity.half_width
            outer = view.pixels([edge * 1.10, edge * 1.17, edge * 1.20], [-0.30, 0.2, 0.7], -0.24)
            inner = view.pixels([edge * 1.00, edge * 0.99, edge * 0.96], [0.7, 0.3, -0.30], -0.22)
            ends = view.body_pixels([side * 1.0, side * 0.82, side * 0.72], [1.35, 1.56, 1.4])
            fill(image, np.concatenate([outer, ends, inner]), identity.hair)
    u = np.linspace(0, 1, 7)[:, None]
    for k in (3, 7, 11, 16, 21, 25, 29):
        above, below = top[32 - k], hem[k]
        sideways = 0.10 * view.unit * identity.hair_side * np.array([view.cos, view.sin])
        strand = above + (0.15 + 0.70 * u) * (below - above) + u * (1 - u) * 2 * sideways
        width = 0.030 * view.unit * np.sin(np.pi * u[:, 0])
        stroke(image, strand, width, shade(identity.hair, 1.14 if k % 2 else 0.86))
