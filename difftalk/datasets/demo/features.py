"""Draw the features of a face: nose, mouth, eyes, brows, glasses."""

import numpy as np

from difftalk.datasets.demo.canvas import CIRCLE, fill, mix, rgb, shade, smoothstep, stroke
from difftalk.datasets.demo.identity import Identity, Mouth, Pose
from difftalk.datasets.demo.view import View

_GAP = 0.40  # inner lip distance of a wide open mouth, in E


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


def draw_nose(image: np.ndarray, view: View, identity: Identity, points: np.ndarray) -> None:
    """Wings, nostrils and a shadow below; points 27-35."""
    w, tip = identity.nose_width, identity.nose_length
    base = tip + 0.115
    dark = shade(identity.skin, 0.58)
    for side in (-1, 1):
        angle = np.linspace(-0.9, 1.75, 12)
        x = side * (w - 0.055 + 0.065 * np.cos(angle))
        stroke(image, view.pixels(x, base - 0.05 + 0.062 * np.sin(angle), 0.18), 0.022 * view.unit, dark)
        nostril = view.pixels(
            side * 0.43 * w + side * 0.042 * CIRCLE[:, 0], base - 0.012 + 0.022 * CIRCLE[:, 1], 0.24
        )
        fill(image, nostril, shade(identity.skin, 0.30))
    s = np.linspace(-1, 1, 11)
    under = view.pixels(0.55 * w * s, base + 0.018 * (1 - s * s), 0.24)
    stroke(image, under, 0.026 * view.unit * (1 - 0.7 * s * s), dark)
    points[27:31] = view.pixels(0, np.linspace(0.0, tip, 4), np.array([0.10, 0.18, 0.27, 0.36]))
    s = np.array([-1, -0.5, 0, 0.5, 1])
    points[31:36] = view.pixels(s * 0.86 * w, base + np.array([-0.005, 0.015, 0.035, 0.015, -0.005]), 0.22)


def draw_mouth(image: np.ndarray, view: View, identity: Identity, mouth: Mouth, points: np.ndarray) -> None:
    """Lips, and between them the cavity, teeth and tongue; points 48-67."""
    lips = _Lips(identity, mouth)
    depth = 0.16

    def place(t: np.ndarray, half: float, y: np.ndarray) -> np.ndarray:
        return view.pixels(t * half, y, depth - 0.10 * t**2)

    def area(half: float, top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
        return np.concatenate([place(_T, half, top), place(_T, half, bottom)[::-1]])

    top, bottom = lips.inner_upper(_T), lips.inner_lower(_T)
    crease = shade(identity.lip, 0.38)
    fill(image, area(lips.half, lips.outer_upper(_T), 0.5 * (top + bottom)), shade(identity.lip, 0.84))
    fill(image, area(lips.half, 0.5 * (top + bottom), lips.outer_lower(_T)), identity.lip)

    if lips.gap > 0.004:
        fill(image, area(lips.inner_half, top, bottom), (46, 14, 18))
        rise = (0.24 + 0.26 * mouth.tongue) * lips.gap
        bump = rise * np.maximum(1 - (_T / 0.8) ** 2, 0) ** 0.6
        fill(image, area(lips.inner_half, np.maximum(bottom - bump, top), bottom), (176, 70, 78))
        # The upper teeth belong to the skull: a falling jaw uncovers them, a raised lip shows more of them.
        t = 0.86 * _T
        top_in, bottom_in = lips.inner_upper(t), lips.inner_lower(t)
        edge = np.clip(identity.mouth_y + 0.05 - 0.03 * _T**2, top_in, bottom_in)
        teeth = np.concatenate([place(t, lips.inner_half, top_in), place(t, lips.inner_half, edge)[::-1]])
        fill(image, teeth, (246, 242, 234))
    if mouth.bite > 0.05:
        t = 0.7 * _T
        top_in = lips.inner_upper(t)
        edge = np.minimum(top_in + 0.06 * mouth.bite * (1 - 0.5 * _T**4), lips.outer_lower(t))
        teeth = np.concatenate([place(t, lips.inner_half, top_in), place(t, lips.inner_half, edge)[::-1]])
        fill(image, teeth, (246, 242, 234))
    line = max(0.030 * (1 - lips.gap / 0.08), 0.012)
    stroke(image, place(_T, lips.inner_half, top), line * view.unit, crease)
    stroke(image, place(_T, lips.inner_half, bottom), 0.012 * view.unit, crease)

    shine = np.linspace(-0.45, 0.45, 9)
    y = 0.45 * lips.inner_lower(shine) + 0.55 * lips.outer_lower(shine)
    width = 0.22 * lips.lower * view.unit * (1 - (shine / 0.46) ** 2)
    stroke(image, place(shine, lips.half, y), width, mix(identity.lip, (255, 255, 255), 0.25))

    t = np.array([-0.97, -0.63, -0.26, 0, 0.26, 0.63, 0.97])
    points[48:55] = place(t, lips.half, lips.outer_upper(t))
    t = np.array([0.64, 0.28, 0, -0.28, -0.64])
    points[55:60] = place(t, lips.half, lips.outer_lower(t))
    t = np.array([-0.96, -0.32, 0, 0.32, 0.96])
    points[60:65] = place(t, lips.inner_half, lips.inner_upper(t))
    t = np.array([0.32, 0, -0.32])
    points[65:68] = place(t, lips.inner_half, lips.inner_lower(t))


def draw_eyes(image: np.ndarray, view: View, identity: Identity, pose: Pose, points: np.ndarray) -> None:
    """Draw both eyes; points 36-47, from the left of the frame to the right."""
    points[36:42] = _draw_eye(image, view, identity, pose, -1)
    points[42:48] = _draw_eye(image, view, identity, pose, 1)[[3, 2, 1, 0, 5, 4]]


def _draw_eye(image: np.ndarray, view: View, identity: Identity, pose: Pose, side: int) -> np.ndarray:
    """Draw one eye with its lids, side -1 left in the frame, 1 right.

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
    fill(image, lid, shade(identity.skin, 0.80))
    if pose.blink < 0.93:
        white = np.concatenate([place(_T, upper), place(_T, lower)[::-1]])
        fill(image, white, (246, 244, 240))
        look = -side * 0.3 * pose.gaze_x
        radius = 0.52 * identity.eye_height
        for scale, colour in ((1.0, identity.iris), (0.52, (16, 12, 12))):
            t = look + CIRCLE[:, 0] * radius * scale / half
            y = 0.02 * pose.gaze_y - 0.06 * height + CIRCLE[:, 1] * radius * scale
            y = np.clip(y, np.interp(t, _T, upper), np.interp(t, _T, lower))
            fill(image, place(t, y), colour)
        if pose.blink < 0.4:
            t = look - side * 0.12 + 0.11 * CIRCLE[::2, 0]
            glint = np.maximum(-0.16 * height + 0.11 * half * CIRCLE[::2, 1], np.interp(t, _T, upper))
            fill(image, place(t, glint), (255, 255, 255))
    stroke(image, place(_T, upper), (0.036 - 0.006 * _T) * view.unit, (38, 26, 24))
    stroke(image, place(_T, lower), 0.014 * view.unit, shade(identity.skin, 0.5))
    crease = place(0.9 * _T, upper - 0.045 - 0.01 * (1 - pose.blink))
    stroke(image, crease, 0.014 * view.unit, shade(identity.skin, 0.62 + 0.18 * pose.blink))

    t = np.array([-1, -0.36, 0.36, 1, 0.36, -0.36])
    return place(t, (1 - t * t) ** 0.7 * np.array([-raised, -raised, -raised, 0, lowered, lowered]))


def draw_brows(image: np.ndarray, view: View, identity: Identity, pose: Pose, points: np.ndarray) -> None:
    """Brows, always darker than the skin; points 17-26."""
    colour = mix(shade(identity.hair, 0.75), shade(identity.skin, 0.25), 0.35)
    colour = rgb(np.minimum(colour, np.multiply(identity.skin, 0.48)))

    def height(t: np.ndarray) -> np.ndarray:
        arch = identity.brow_arch * (1 - ((t - 0.40) / 0.6) ** 2)
        return -identity.brow_height - arch - 0.06 * pose.brow_raise + 0.06 * (1 - t) ** 2

    for side in (-1, 1):
        # t is 0 at the temple and 1 at the nose.
        t = np.linspace(0, 1, 17)
        line = view.pixels(side * (0.66 - 0.52 * t), height(t), 0.06 - 0.08 * (1 - t))
        width = identity.brow_thickness * view.unit * (0.30 + 0.70 * smoothstep(2.2 * t))
        stroke(image, line, width, colour)
        t = np.linspace(0, 1, 5)
        brow = view.pixels(side * (0.66 - 0.52 * t), height(t), 0.06 - 0.08 * (1 - t))
        if side < 0:
            points[17:22] = brow
        else:
            points[22:27] = brow[::-1]


def draw_glasses(image: np.ndarray, view: View, identity: Identity) -> None:
    """Thin frames around the eyes."""
    power = 1.0 if identity.glasses == "round" else 0.55
    ring = np.concatenate([CIRCLE, CIRCLE[:2]])
    shape = np.sign(ring) * np.abs(ring) ** power
    colour, width = (52, 46, 52), 0.020 * view.unit
    for side in (-1, 1):
        stroke(
            image,
            view.pixels(side * 0.36 + 0.235 * shape[:, 0], 0.03 + 0.195 * shape[:, 1], 0.16),
            width,
            colour,
        )
        temple = view.pixels(
            side * np.array([0.595, identity.half_width]), [-0.02, -0.05], np.array([0.14, -0.2])
        )
        stroke(image, temple, width, colour)
    bridge = np.linspace(-1, 1, 9)
    stroke(image, view.pixels(0.125 * bridge, 0.02 - 0.03 * (1 - bridge**2), 0.2), width, colour)
