"""Which of the 68 landmarks (iBUG 300-W, numbered from 0) are what."""

import numpy as np

# Points that speech does not move: brows and nose (17-35), eyes (36-47). They give the pose of the head.
RIGID = np.arange(17, 48)
MOUTH = slice(48, 68)
# Outer corners of the eyes; the distance between them is the unit of what is measured on a face.
EYE_CORNERS = (36, 45)
# Brows and eyes by side, the left of the frame first.
BROWS = (slice(17, 22), slice(22, 27))
EYES = (slice(36, 42), slice(42, 48))
# Points of the upper inner lip, and those of the lower below them.
UPPER_INNER, LOWER_INNER = (61, 62, 63), (67, 66, 65)


def eye_unit(points: np.ndarray) -> float:
    """Return the median over a clip of the distance of the outer eye corners.

    Args:
        points: `(T, 68, 2)`.
    """
    left, right = EYE_CORNERS
    return float(np.median(np.linalg.norm(points[:, right] - points[:, left], axis=1)))
