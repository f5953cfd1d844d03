"""Frame interpolation against jitter: `smooth` re-makes each frame, `between` makes every second one.

Motion is the dense optical flow of OpenCV (DIS, Kroeger et al. 2016) in both directions. Where the two do not
lead back to where they began, a pixel is hidden in one of the frames. Nothing needs
weights. A network takes the place of `dis_flow` or of `flow_middle` by the arguments of that name.

Frames are (H, W, 3) uint8 RGB. Regions are (H, W) in [0, 1], 1 where a frame is generated: pixels with 0 keep
what is known, exactly. Both ways stream, with one frame of look-ahead.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any

import cv2
import numpy as np

# (before, after) -> (H, W, 2): pixel (x, y) of `before` is at (x, y) + flow[y, x] in `after`.
Flow = Callable[[np.ndarray, np.ndarray], np.ndarray]
# (before, after) -> the frame halfway.
Middle = Callable[[np.ndarray, np.ndarray], np.ndarray]

_NO_MAP: Any = None  # of `cv2.remap`, where x and y are one array
_FLOW_SIDE = 256  # pixels: smaller frames are enlarged, as the patches of DIS have 8 pixels
_HIDDEN = 1 / 256  # of the width: how far from its start a pixel of weight 1/2 comes back
_GUESSED = 0.2  # weight of a pixel in the middle of two frames that only one of them shows
_IN_PLACE = 0.3  # weight of the unmoved mean in the middle of two frames; 1 for each that is moved
_NEIGHBOUR = 1.0  # weight of a neighbour in `smooth`; the frame's own is 1
_UNLIKE = 24.0  # of 255: difference after alignment at which a neighbour's weight has fallen to 1/e


def sampled_frames(count: int) -> list[int]:
    """Return the frames that `between` needs of a clip of `count`: 0, 2, 4, ... and the last.

    >>> sampled_frames(6)
    [0, 2, 4, 5]
    """
    return [n for n in range(count) if n % 2 == 0 or n == count - 1]


def smooth(
    frames: Iterable[np.ndarray], regions: Iterable[np.ndarray], flow: Flow | None = None
) -> Iterator[np.ndarray]:
    """Yield each frame averaged with its neighbours, which are first moved onto it along the flow.

    What flickers is averaged out; what moves stays where it is in its frame. A neighbour does not count where
    a pixel is hidden in it, or where it looks different after all.

    Args:
        frames: T frames.
        regions: T regions.
        flow: `dis_flow` by default.

    Raises:
        ValueError: if there are more frames than regions, or fewer.
    """
    flow = flow or dis_flow
    before: np.ndarray | None = None
    here: tuple[np.ndarray, np.ndarray] | None = None
    for after in zip(frames, regions, strict=True):
        if here is not None:
            yield _smoothed(here, before, after[0], flow)
            before = here[0]
        here = after
    if here is not None:
        yield _smoothed(here, before, None, flow)


def between(
    sampled: Iterable[np.ndarray],
    known: Iterable[np.ndarray],
    regions: Iterable[np.ndarray],
    middle: Middle | None = None,
) -> Iterator[np.ndarray]:
    """Yield every frame of a clip of which only the frames `sampled_frames` were sampled.

    Sampled frames are yielded as they are. Those between are interpolated inside their region, and are
    `known` outside it.

    Args:
        sampled: the frames `sampled_frames(T)`, in their order.
        known: T frames, right outside the regions: the first stage's reconstruction.
        regions: T regions.
        middle: `flow_middle` by default.

    Raises:
        ValueError: if `sampled` has more or fewer frames than T known ones need, or `regions` than `known`.
    """
    middle = middle or flow_middle
    samples = iter(sampled)
    before: np.ndarray | None = None
    waiting: tuple[np.ndarray, np.ndarray] | None = None  # the known frame and the region of an odd number
    for n, item in enumerate(zip(known, regions, strict=True)):
        if n % 2:
            waiting = item
            continue
        after = _next(samples)
        if waiting is not None and before is not None:
            yield composite(waiting[0], middle(before, after), waiting[1])
            waiting = None
        yield after
        before = after
    if waiting is not None:  # the last frame has an odd number, and is sampled
        yield _next(samples)
    if next(samples, None) is not None:
        raise ValueError("more sampled frames than the known frames need")


def dis_flow(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return the optical flow from one frame to another, (H, W, 2) float32 in pixels, by OpenCV's DIS."""
    height, width = before.shape[:2]
    scale = max(1.0, _FLOW_SIDE / min(height, width))
    size = round(width * scale), round(height * scale)
    gray = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (before, after)]
    if scale > 1:
        gray = [cv2.resize(image, size, interpolation=cv2.INTER_CUBIC) for image in gray]
    flow = _dis().calc(gray[0], gray[1], None)
    if scale > 1:
        flow = cv2.resize(flow, (width, height), interpolation=cv2.INTER_AREA) / np.float32(scale)
    return np.asarray(flow, np.float32)


def flow_middle(before: np.ndarray, after: np.ndarray, flow: Flow | None = None) -> np.ndarray:
    """Return the frame halfway between two, by optical flow in both directions.

    Each pixel of the middle is followed along half of the flow into either frame, and is the mean of what is
    found there. A pixel that is hidden in one of them is taken from the other, and the mean of both frames at
    its place counts where it is hidden in both.
    """
    flow = flow or dis_flow
    forward, backward = flow(before, after), flow(after, before)
    total = np.full((*before.shape[:2], 1), _IN_PLACE, np.float32)
    colour = np.float32(_IN_PLACE / 2) * (before.astype(np.float32) + after)
    grid = _grid(*before.shape[:2])
    for frame, there, back in ((before, forward, backward), (after, backward, forward)):
        start = _halfway(there)
        missed = np.linalg.norm(start + 0.5 * _warp(there, start) - grid, axis=2)
        # Where nothing of this frame moves to a pixel, the pixel is hidden in it: the other frame shows it.
        # What does, but is hidden in the other frame, has a flow that is a guess: it weighs less.
        reached = 1 / (1 + (missed / 0.5) ** 2)
        found = _GUESSED + (1 - _GUESSED) * _warp(_unhidden(there, back), start)
        weight = (reached * found)[..., None].astype(np.float32)
        colour += weight * _moved(frame, start)
        total += weight
    return np.clip(np.rint(colour / total), 0, 255).astype(np.uint8)


def composite(known: np.ndarray, made: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Return `made` where `region` is 1, `known` where it is 0, exactly, and their blend in between."""
    part = region.astype(np.float32)[..., None]
    return np.clip(np.rint(known + part * (made.astype(np.float32) - known)), 0, 255).astype(np.uint8)


def _smoothed(
    here: tuple[np.ndarray, np.ndarray], before: np.ndarray | None, after: np.ndarray | None, flow: Flow
) -> np.ndarray:
    """The frame `here`, (frame, region), averaged with the neighbours that it has."""
    frame, region = here
    own = frame.astype(np.float32)
    colour, total = own.copy(), np.ones((*own.shape[:2], 1), np.float32)
    for neighbour in (before, after):
        if neighbour is None:
            continue
        there, back = flow(frame, neighbour), flow(neighbour, frame)
        moved = _moved(neighbour, _grid(*own.shape[:2]) + there)
        unlike = cv2.GaussianBlur(np.abs(moved - own).max(axis=2), (0, 0), max(1.0, own.shape[1] / 128))
        weight = _NEIGHBOUR * _unhidden(there, back) * np.exp(-((unlike / _UNLIKE) ** 2))
        colour += weight[..., None] * moved
        total += weight[..., None]
    return composite(frame, colour / total, region)


def _next(samples: Iterator[np.ndarray]) -> np.ndarray:
    try:
        return next(samples)
    except StopIteration:
        raise ValueError("fewer sampled frames than the known frames need") from None


@cache
def _dis() -> Any:
    return cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)


@cache
def _grid(height: int, width: int) -> np.ndarray:
    """The x and y of each pixel, (H, W, 2) float32."""
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=2).astype(np.float32)


def _moved(frame: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The colours of a frame at the positions `at`, (H, W, 3) float32, bicubically, to stay sharp."""
    how = cv2.INTER_CUBIC
    return np.asarray(cv2.remap(frame.astype(np.float32), at, _NO_MAP, how, borderMode=cv2.BORDER_REPLICATE))


def _warp(image: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The values of `image` at the positions `at`, (H, W, 2): x and y."""
    return np.asarray(cv2.remap(image, at, _NO_MAP, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))


def _halfway(flow: np.ndarray) -> np.ndarray:
    """The positions from which half of `flow` leads to each pixel, by fixed-point iteration, (H, W, 2)."""
    grid = _grid(*flow.shape[:2])
    start = grid
    for _ in range(4):
        start = grid - 0.5 * _warp(flow, start)
    return start


def _unhidden(there: np.ndarray, back: np.ndarray) -> np.ndarray:
    """How well `back` leads each pixel back to where `there` began, (H, W) from 0 (hidden) to 1 (exactly)."""
    missed = np.linalg.norm(there + _warp(back, _grid(*there.shape[:2]) + there), axis=2)
    allowed = max(_HIDDEN * there.shape[1], 0.5)
    return np.asarray(1 / (1 + (missed / allowed) ** 2), np.float32)
