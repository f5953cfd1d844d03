"""Put a generated crop back into its frame; outside the inpainting mask every pixel stays what it was."""

import cv2
import numpy as np

# Width of the soft edge, in parts of the crop's side; it lies inside the mask.
EDGE = 1 / 32
MARK = "synthetic"


def soft_mask(generated: np.ndarray, size: int) -> np.ndarray:
    """Return how much of a crop is pasted: `(size, size)` float32, 0 outside the mask, 1 well inside.

    Args:
        generated: `(h, w)` bool, True where the latent cell is generated.
        size: of the crop, pixels.
    """
    region = cv2.resize(generated.astype(np.uint8), (size, size), interpolation=cv2.INTER_NEAREST)
    edge = max(size * EDGE, 1.0)
    distance = cv2.distanceTransform(np.pad(region, 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    part = np.clip((distance - 0.5) / edge, 0, 1)
    return np.asarray(part * part * (3 - 2 * part), np.float32)


def paste(frame: np.ndarray, crop: np.ndarray, mask: np.ndarray, to_frame: np.ndarray) -> np.ndarray:
    """Return the frame with the crop in it, where the mask is above 0.

    Args:
        frame: `(H, W, 3)` uint8.
        crop: `(size, size, 3)` uint8.
        mask: `(size, size)` in 0..1.
        to_frame: `(2, 3)` from pixels of the crop to pixels of the frame.
    """
    height, width = frame.shape[:2]
    side = len(crop) - 0.5
    corners = np.array([[-0.5, -0.5], [side, -0.5], [-0.5, side], [side, side]]) @ to_frame[:, :2].T
    corners += to_frame[:, 2]
    x0, y0 = np.maximum(np.floor(corners.min(axis=0)), 0).astype(int)
    x1, y1 = np.minimum(np.ceil(corners.max(axis=0)) + 1, (width, height)).astype(int)
    if x1 <= x0 or y1 <= y0:
        return frame
    there = to_frame - np.array([[0, 0, x0], [0, 0, y0]])
    size = (int(x1 - x0), int(y1 - y0))
    part = cv2.warpAffine(mask, there, size, flags=cv2.INTER_LINEAR, borderValue=0.0)[..., None]
    made = cv2.warpAffine(crop, there, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    out = frame.copy()
    own = out[y0:y1, x0:x1].astype(np.float32)
    out[y0:y1, x0:x1] = np.clip(np.rint(own + part * (made - own)), 0, 255).astype(np.uint8)
    return out


def mark(frame: np.ndarray) -> np.ndarray:
    """Return the frame with a visible note in its lower left corner that it is synthetic."""
    out = np.ascontiguousarray(frame).copy()
    scale = max(out.shape[0] / 600, 0.3)
    at, font = (round(8 * scale), out.shape[0] - round(10 * scale)), cv2.FONT_HERSHEY_SIMPLEX
    for colour, extra in ((0, 2), (255, 0)):
        thick = max(round(scale), 1) + extra
        cv2.putText(out, MARK, at, font, 0.6 * scale, (colour,) * 3, thick, cv2.LINE_AA)
    return out
