"""Colours, and antialiased polygons and strokes in fractions of pixels, for the drawn faces."""

import cv2
import numpy as np

Colour = tuple[float, float, float]  # RGB, 0..255

_SHIFT = 8  # fractional bits of the coordinates that are handed to OpenCV
_ANGLES = np.linspace(0, 2 * np.pi, 33)[:-1]
# A circle of radius 1, (32, 2).
CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)


def rgb(values: np.ndarray) -> Colour:
    """Return an array of three as a colour."""
    return float(values[0]), float(values[1]), float(values[2])


def mix(a: Colour, b: Colour, t: float) -> Colour:
    """Return `a` at t = 0, `b` at t = 1, and colours between them in between."""
    return a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t, a[2] + (b[2] - a[2]) * t


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """Return the colour of hue, saturation and value in 0..1."""
    ramp = np.clip(np.abs((hue * 6 + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    return rgb(255 * value * (1 - saturation * (1 - ramp)))


def shade(colour: Colour, factor: float) -> Colour:
    """Return a colour darkened (factor below 1) or brightened."""
    return min(255.0, colour[0] * factor), min(255.0, colour[1] * factor), min(255.0, colour[2] * factor)


def fill(image: np.ndarray, polygon: np.ndarray, colour: tuple[float, ...]) -> None:
    """Fill a polygon (N, 2) of pixel coordinates, antialiased, to fractions of a pixel."""
    fixed = np.rint(polygon * (1 << _SHIFT)).astype(np.int32)
    cv2.fillPoly(image, [fixed], colour, lineType=cv2.LINE_AA, shift=_SHIFT)


def stroke(image: np.ndarray, line: np.ndarray, width: np.ndarray | float, colour: Colour) -> None:
    """Fill a ribbon of the given width(s) in pixels along a line (N, 2). OpenCV's own widths are integers."""
    along = np.empty_like(line)
    along[1:-1] = line[2:] - line[:-2]
    along[0], along[-1] = line[1] - line[0], line[-1] - line[-2]
    scale = 0.5 * width / np.maximum(np.hypot(along[:, 0], along[:, 1]), 1e-6)
    half = np.empty_like(line)
    half[:, 0], half[:, 1] = -along[:, 1] * scale, along[:, 0] * scale
    fill(image, np.concatenate([line + half, (line - half)[::-1]]), colour)


def smoothstep(x: np.ndarray) -> np.ndarray:
    """Return 0 below x = 0, 1 above x = 1, and a smooth step between them."""
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)
