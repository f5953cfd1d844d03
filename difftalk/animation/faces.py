"""The face of a source: its tracks, and where in each frame the crop lies."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from difftalk.animation.source import Source
from difftalk.face import dlib_backend
from difftalk.face.align import mean_square, similarities
from difftalk.face.choice import FaceChoice
from difftalk.face.geometry import Placement, square
from difftalk.face.measures import mouth_opening
from difftalk.face.tracks import Face, fill_gaps, smooth_track, split_tracks
from difftalk.media.lazy_frame import LazyFrame
from difftalk.runtime.progress import Progress

# The detector confirms a known face in every so many frames, as the workflow's default does.
DETECT_EVERY = 5
SMALLEST_FACE_PX = 48
# A track of fewer frames is taken for a mistake of the detector; a picture has one frame.
SHORTEST_TRACK = 5


@dataclass(frozen=True)
class CropRule:
    """How the crops of a model's training were cut.

    Args:
        size: width and height in pixels.
        margin: space around the face, as of `crops.margin`.
        aligned: whether each frame was rotated, moved and scaled to a template.
    """

    size: int
    margin: float
    aligned: bool


@dataclass(frozen=True)
class Faces:
    """The face of each frame of a source.

    Args:
        track: (N,) int32 number of the track that a frame belongs to; -1: it has no face.
        points: (N, 68, 2) float32, smoothed, pixels of the source.
    """

    track: np.ndarray
    points: np.ndarray

    def __len__(self) -> int:
        """Return N."""
        return len(self.track)

    def placements(self, rule: CropRule, frame_size: tuple[int, int]) -> dict[int, Placement]:
        """Return where the crop of each track lies: one square, or a map for each of its frames."""
        found = {}
        for track in sorted({int(t) for t in self.track if t >= 0}):
            points = self.points[self.track == track]
            if rule.aligned:
                maps = similarities(points, rule.size, rule.margin)
                found[track] = Placement("aligned", mean_square(maps, rule.size), maps)
            else:
                found[track] = Placement("track", square(points, frame_size, rule.margin))
        return found

    def first_of(self, track: int) -> int:
        """Return the first frame of a track."""
        return int(np.argmax(self.track == track))

    def most_closed(self, track: int) -> int:
        """Return the frame of a track in which the inner lips are closest, by the size of the face."""
        return int(np.argmin(np.where(self.track == track, mouth_opening(self.points), np.inf)))


def find_faces(source: Source, most: int, face: str = "largest") -> Faces:
    """Follow a face through a source.

    Args:
        source: the video or picture.
        most: frames that are needed; later ones are not looked at.
        face: `largest`, `left`, `right`, or which from the left, beginning with `1`.
    """
    choice = FaceChoice.of(face)
    total = min(source.frames, most)
    seen: list[Face | None] = []
    with Progress(total, "faces", "frames") as shown:
        for found in dlib_backend.follow(source.read(0, total), DETECT_EVERY, SMALLEST_FACE_PX, choice):
            seen.append(found)
            shown.advance()
    track = np.full(len(seen), -1, np.int32)
    points = np.zeros((len(seen), 68, 2), np.float32)
    kept = 0
    for numbers in split_tracks(seen):
        if len(numbers) < min(SHORTEST_TRACK, len(seen)):
            continue
        smoothed = smooth_track(seen, numbers)
        first, last = numbers[0], numbers[-1]
        points[first : last + 1] = fill_gaps(smoothed.frames - first, smoothed.points, last - first + 1)
        track[first : last + 1] = kept
        kept += 1
    return Faces(track, points)


def cut(
    frames: Sequence[np.ndarray | LazyFrame],
    numbers: Sequence[int],
    faces: Faces,
    placement: Placement,
    rule: CropRule,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut the crops of some frames of one track.

    Args:
        frames: T frames.
        numbers: of them in the source.
        faces: of the source.
        placement: of the track.
        rule: how crops are cut.

    Returns:
        The crops (T, size, size, 3) uint8, landmarks (T, 68, 2) in pixels of the crop, and the maps (T, 2, 3)
        from pixels of the crop to pixels of the frame.
    """  # fmt: skip
    chosen = np.asarray(numbers)
    own = placement
    if placement.maps is not None:
        first = faces.first_of(int(faces.track[chosen[0]]))
        own = Placement(placement.mode, placement.box, placement.maps[chosen - first])
    crops = np.stack(own.cut(frames, rule.size))
    return crops, own.landmarks(faces.points[chosen], rule.size), _to_frame(own, len(frames), rule.size)


def _to_frame(placement: Placement, count: int, size: int) -> np.ndarray:
    """The maps (T, 2, 3) from pixels of the crop to pixels of the frame."""
    if placement.maps is None:
        x0, y0, x1, _ = placement.box
        scale = (x1 - x0) / size
        shift = 0.5 * scale - 0.5
        return np.repeat(np.array([[[scale, 0, x0 + shift], [0, scale, y0 + shift]]]), count, axis=0)
    turn = placement.maps[:, :, :2]
    back = np.linalg.inv(turn)
    return np.concatenate([back, -back @ placement.maps[:, :, 2:]], axis=2)
