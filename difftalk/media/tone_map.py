"""Tone mapping: video of high dynamic range (PQ, HLG) on a screen of standard range.

Light is absolute, in cd/m2. Diffuse white is at 203 (ITU-R BT.2408), and becomes the screen's white at most.
What is brighter is compressed into the range above 92 by the curve of ITU-R BT.2390 (5.4.1), from a peak of
1,000, for which nearly all such video is graded; so that a face, at 20 to 90, keeps the light of the same
scene in standard range.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np

WHITE, PEAK = 203.0, 1000.0
GRID = 33
SCREEN_GAMMA = 2.4  # ITU-R BT.1886

# ITU-R BT.2087: linear light of BT.2020 primaries to those of BT.709.
TO_709 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]])
LUMA_2020 = np.array([0.2627, 0.6780, 0.0593])


def pq_light(code: np.ndarray) -> np.ndarray:
    """Return the light in cd/m2 of PQ codes 0..1 (SMPTE ST 2084).

    >>> float(pq_light(np.array(0.5081)).round())
    100.0
    """
    root = code ** (1 / 78.84375)
    light = np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)
    return 10_000 * light ** (1 / 0.1593017578125)


def pq_code(light: np.ndarray) -> np.ndarray:
    """Return the PQ codes 0..1 of light in cd/m2: the inverse of `pq_light`."""
    power = (np.maximum(light, 0) / 10_000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375


def hlg_light(code: np.ndarray) -> np.ndarray:
    """Return the light in cd/m2 of HLG codes `(..., 3)` 0..1 on a screen of 1,000 (ITU-R BT.2100)."""
    scene = np.where(code <= 0.5, code**2 / 3, (np.exp((code - 0.55991073) / 0.17883277) + 0.28466892) / 12)
    luma = scene @ LUMA_2020
    return PEAK * scene * np.maximum(luma, 1e-9)[..., None] ** 0.2


def compress(light: np.ndarray) -> np.ndarray:
    """Return light in cd/m2 compressed from `PEAK` to `WHITE` (ITU-R BT.2390, 5.4.1).

    >>> compress(np.array([26.0, 1000.0])).round(1).tolist()
    [26.0, 203.0]
    """
    peak = pq_code(np.array(PEAK))
    most = pq_code(np.array(WHITE)) / peak
    knee = 1.5 * most - 0.5
    code = np.minimum(pq_code(light) / peak, 1)
    t = np.maximum(code - knee, 0) / (1 - knee)
    spline = (
        (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (-2 * t**3 + 3 * t**2) * most
    )
    return pq_light(np.where(code < knee, code, spline) * peak)


def tone_map(code: np.ndarray, transfer: Literal["pq", "hlg"]) -> np.ndarray:
    """Return codes `(..., 3)` 0..1 of BT.2020 RGB as those of BT.709 on a screen of standard range.

    The brightest of the three colours is compressed and the others with it, so that hues stay.
    """
    light = (pq_light(code) if transfer == "pq" else hlg_light(code)) @ TO_709.T
    light = np.maximum(light, 0)
    brightest = np.maximum(light.max(axis=-1, keepdims=True), 1e-6)
    shown = light * compress(brightest) / brightest / WHITE
    return np.clip(shown, 0, 1) ** (1 / SCREEN_GAMMA)


@contextmanager
def cube_file(transfer: Literal["pq", "hlg"]) -> Iterator[Path]:
    """Yield a file with the table of `tone_map` for FFmpeg's `lut3d`; it is removed at the end."""
    axis = np.linspace(0, 1, GRID)
    # Red changes fastest.
    blue, green, red = np.meshgrid(axis, axis, axis, indexing="ij")
    table = tone_map(np.stack([red, green, blue], -1).reshape(-1, 3), transfer)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "table.cube"
        with file.open("w", encoding="ascii") as out:
            out.write(f"LUT_3D_SIZE {GRID}\n")
            np.savetxt(out, table, "%.6f")
        yield file
