"""Which files of a folder belong on one side of the split: copies, and videos of one person."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from difftalk.datasets.fingerprints import frames_differ, sounds_differ
from difftalk.datasets.looks import Look
from difftalk.runtime.errors import UserError
from difftalk.runtime.files import checksum

# Largest shares of differing bits between a copy and its original: docs/videos.md has the measurement.
COPY_FRAMES, COPY_SOUND = 0.15, 0.35


@dataclass(frozen=True)
class Nearest:
    """The file whose face is most like that of another: its name, and the distance of the descriptors."""

    name: str
    distance: float


class Groups:
    """Disjoint groups of names, each called by its first name in the given order."""

    def __init__(self, names: Sequence[str]) -> None:
        self._order = {name: k for k, name in enumerate(names)}
        self._above = {name: name for name in names}

    def join(self, a: str, b: str) -> None:
        """Put the groups of two names together."""
        a, b = self.of(a), self.of(b)
        first, second = sorted((a, b), key=self._order.__getitem__)
        self._above[second] = first

    def of(self, name: str) -> str:
        """Return the first name of the group."""
        while self._above[name] != name:
            name = self._above[name]
        return name

    def sizes(self, names: Iterable[str]) -> dict[str, int]:
        """Return how many of some names are in each group."""
        sizes: dict[str, int] = {}
        for name in names:
            sizes[self.of(name)] = sizes.get(self.of(name), 0) + 1
        return sizes


def same_bytes(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """Return `{name: first name with the same content}` of repeated files. Reads those of equal size.

    Raises:
        UserError: naming the file that cannot be read.
    """
    of_size: dict[int, list[str]] = {}
    for name in names:
        of_size.setdefault((folder / name).stat().st_size, []).append(name)
    repeated = {}
    for alike in of_size.values():
        first: dict[str, str] = {}
        for name in alike if len(alike) > 1 else ():
            try:
                found = first.setdefault(checksum(folder / name), name)
            except OSError as e:
                raise UserError(f"dataset: {folder / name}: {e.strerror}") from None
            if found != name:
                repeated[name] = found
    return repeated


def near_copies(looks: Mapping[str, Look]) -> dict[str, str]:
    """Return `{name: first name of which it is a copy}`: encoded or scaled anew, from the same start.

    Both frames and sound must agree: one speaker in one room fills many frames alike.
    """
    names = [name for name, look in looks.items() if look.hashes is not None and look.sound is not None]
    copies: dict[str, str] = {}
    for k, name in enumerate(names):
        mine = looks[name]
        for other in names[:k]:
            theirs = looks[other]
            assert mine.hashes is not None and theirs.hashes is not None
            if frames_differ(mine.hashes, theirs.hashes) > COPY_FRAMES:
                continue
            assert mine.sound is not None and theirs.sound is not None
            if sounds_differ(mine.sound, theirs.sound) <= COPY_SOUND:
                copies[name] = other
                break
    return copies


def same_people(
    looks: Mapping[str, Look], limit: float, speakers: Mapping[str, str]
) -> tuple[list[tuple[str, str]], dict[str, Nearest]]:
    """Return the pairs of files in which one person is taken to speak, and the nearest other of each file.

    Args:
        looks: of the files.
        limit: Euclidean distance of the descriptors below which two faces are one person's.
        speakers: of the files whose speaker is known; two known ones are compared by name, not by face.
    """
    names = [name for name, look in looks.items() if look.face is not None]
    faces = np.array([looks[name].face for name in names])
    pairs, nearest = [], {}
    for k, name in enumerate(names):
        distances = np.linalg.norm(faces - faces[k], axis=1)
        distances[k] = np.inf
        alike = [other for other, distance in zip(names[:k], distances, strict=False) if distance < limit]
        pairs += [(other, name) for other in alike if not (name in speakers and other in speakers)]
        if len(names) > 1:
            closest = int(np.argmin(distances))
            nearest[name] = Nearest(names[closest], float(distances[closest]))
    return pairs, nearest
