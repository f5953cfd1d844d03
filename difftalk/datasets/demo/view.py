"""Project a face's own coordinates to pixels, and keep the light that falls on it.

A face is described in units of its outer eye distance E: the origin lies between the eyes, x points to the
right of the frame, y down, z towards the camera. `View` takes such points to pixels, where pixel centres have
integer coordinates (the convention of OpenCV and dlib).
"""

import cv2
import numpy as np

from difftalk.datasets.demo.canvas import Colour
from difftalk.datasets.demo.identity import Identity, Pose

Numbers = float | list[float] | np.ndarray

_E = 0.295  # outer eye distance of a face of scale 1, fractions of the frame
_PIVOT_Y = 0.45  # heads roll about this height
LIGHT_SCALE = 4  # light and shade are kept this much smaller than what is drawn


class View:
    """Project points of a face to pixels. A rotation is a parallax of depth: enough for small angles."""

    def __init__(self, identity: Identity, pose: Pose, size: int):
        self.size = size
        self.unit = _E * identity.size * pose.scale * size
        self.centre = np.array([0.5 + pose.shift_x, 0.455 + pose.shift_y]) * size - 0.5
        self.body = np.array([0.5 + 0.5 * pose.shift_x, 0.455 + 0.4 * pose.shift_y]) * size - 0.5
        self.cos, self.sin = np.cos(pose.roll), np.sin(pose.roll)
        self.squeeze = np.cos(pose.yaw), np.cos(pose.pitch)
        self.parallax = np.sin(pose.yaw), np.sin(pose.pitch)

    def pixels(self, x: Numbers, y: Numbers, z: Numbers = 0.0) -> np.ndarray:
        """Return points of the head, (N,) each, in pixels (N, 2)."""
        depth = np.asarray(z, float)
        right = np.asarray(x, float) * self.squeeze[0] + depth * self.parallax[0]
        down = np.asarray(y, float) * self.squeeze[1] + depth * self.parallax[1] - _PIVOT_Y
        points = np.empty((*np.broadcast_shapes(right.shape, down.shape), 2))
        points[..., 0] = self.centre[0] + self.unit * (self.cos * right - self.sin * down)
        points[..., 1] = self.centre[1] + self.unit * (self.sin * right + self.cos * down + _PIVOT_Y)
        return points

    def body_pixels(self, x: Numbers, y: Numbers) -> np.ndarray:
        """Return points of neck and shoulders, which follow the head only in part, in pixels (N, 2)."""
        return self.body + self.unit * np.stack(np.broadcast_arrays(np.asarray(x, float), y), axis=-1)


class Light:
    """Smooth light and shade on the skin, kept at a fraction of the resolution of the frame."""

    def __init__(self, view: View, box: tuple[int, int, int, int], skin: Colour):
        self.view = view
        self.x0, self.y0, self.x1, self.y1 = box
        self.width, self.height = (self.x1 - self.x0) // LIGHT_SCALE, (self.y1 - self.y0) // LIGHT_SCALE
        self.map = np.empty((self.height, self.width, 3), np.float32)
        self.map[:] = skin

    def inside(self, points: np.ndarray) -> np.ndarray:
        """Return pixels of the frame in pixels of the map."""
        return (points - (self.x0, self.y0) + 0.5) / LIGHT_SCALE - 0.5

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
        rx, ry = radii[0] * view.unit / LIGHT_SCALE, radii[1] * view.unit / LIGHT_SCALE
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
