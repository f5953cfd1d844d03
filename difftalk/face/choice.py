"""Which of several faces in a picture is followed."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from difftalk.runtime.errors import UserError

# Faces less than half as wide as the widest are bystanders, and do not count.
SMALLEST_SHARE = 0.5


@dataclass
class FaceChoice:
    """One face by its place in the picture, from the left.

    Args:
        place: 0 for the leftmost, 1 for the next, -1 for the rightmost.
        faces: that were there when one was chosen last. With fewer in the picture, a face elsewhere than the
            chosen one was may be another person, and is not taken.
    """

    place: int
    faces: int = 0

    @classmethod
    def of(cls, name: str) -> Self | None:
        """Return what `largest`, `left`, `right` or a number from 1 on means; None for the largest.

        Raises:
            UserError: for another name.
        """
        if name == "largest":
            return None
        if name in ("left", "right"):
            return cls(0 if name == "left" else -1)
        if name.isdecimal() and 0 < int(name) < 1000:
            return cls(int(name) - 1)
        raise UserError(f"--face: {name}: largest, left, right, or a number from the left, beginning with 1")

    def among(
        self, found: list[tuple[np.ndarray, float]], last: np.ndarray | None
    ) -> tuple[np.ndarray, float] | None:
        """Return the chosen one of the faces in a picture; None where it is not there.

        Args:
            found: box (x0, y0, x1, y1) and score of each face.
            last: box where it was last, if it was lost.
        """
        if last is not None:
            width = last[2] - last[0]
            near = [f for f in found if abs(f[0] - last).max() < width]
            if near:
                return min(near, key=lambda f: abs(f[0] - last).max())
        widest = max((box[2] - box[0] for box, _ in found), default=0.0)
        counted = [f for f in found if f[0][2] - f[0][0] >= SMALLEST_SHARE * widest]
        if len(counted) < max(self.faces, self.place + 1, 1):
            return None
        self.faces = len(counted)
        return sorted(counted, key=lambda f: f[0][0] + f[0][2])[self.place]
