"""Draw talking cartoon people, together with the true 68 iBUG landmarks of every frame."""

import cv2
import numpy as np

from difftalk.datasets.demo.features import draw_brows, draw_eyes, draw_glasses, draw_mouth, draw_nose
from difftalk.datasets.demo.head import (
    draw_background,
    draw_body,
    draw_hair,
    draw_head,
    jaw_landmarks,
    jaw_outline,
)
from difftalk.datasets.demo.identity import TRAINING_SEEDS, Identity, Mouth, Pose
from difftalk.datasets.demo.view import View

_FINE = 2  # frames are drawn this much larger: OpenCV's antialiasing alone jitters by 0.1 pixels


def draw_face(identity: Identity, pose: Pose, mouth: Mouth, size: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """Draw one frame of a speaker. Nothing above the nose tip (point 30) depends on the mouth.

    Args:
        identity: who is drawn.
        pose: position and rotation of the head.
        mouth: shape of the mouth.
        size: width and height in pixels.

    Returns:
        The image, (size, size, 3) uint8 RGB, and its 68 landmarks, (68, 2) float32, x and y in pixels.
    """
    view = View(identity, pose, size * _FINE)
    image = draw_background(identity, size * _FINE).copy()
    points = np.empty((68, 2))

    jaw = jaw_outline(identity, mouth)
    draw_body(image, view, identity)
    draw_head(image, view, identity, mouth, jaw)
    draw_nose(image, view, identity, points)
    draw_mouth(image, view, identity, mouth, points)
    draw_eyes(image, view, identity, pose, points)
    draw_hair(image, view, identity)
    draw_brows(image, view, identity, pose, points)
    if identity.glasses != "none":
        draw_glasses(image, view, identity)

    points[:17] = view.pixels(*jaw_landmarks(jaw_outline(identity, Mouth()), jaw))
    image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    return image, ((points + 0.5) / _FINE - 0.5).astype(np.float32)


def random_identity(rng: np.random.Generator) -> Identity:
    """Draw a random person to train networks on. Seeds are disjoint from those of the demo's speakers."""
    return Identity.draw(TRAINING_SEEDS + int(rng.integers(TRAINING_SEEDS)))


def random_frame(
    rng: np.random.Generator, size: int = 256, identity: Identity | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a person with random pose and mouth, to train networks on.

    Args:
        rng: of the pose and the mouth, and of the person where none is given.
        size: width and height in pixels.
        identity: who is drawn; a random person by default.

    Returns:
        What `draw_face` returns.
    """
    identity = identity or random_identity(rng)
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
