"""Which files of a folder belong on one side of the split: copies, and videos of one person."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from difftalk.datasets.copies import Content, copies_among
from difftalk.datasets.file_features import FileFeatures
from difftalk.runtime.checksums import checksum
from difftalk.runtime.errors import UserError


@dataclass(frozen=True)
class Nearest:
    """The file whose face is most like that of another: its name, and the distance of the descriptors."""

    name: str
    distance: float


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


def near_duplicates(looks: Mapping[str, FileFeatures]) -> dict[str, str]:
    """Return `{name: first name of which it is a copy}`: encoded anew, scaled, cropped, mirrored, cut off."""
    videos = {
        name: Content(look.audio, look.hashes, look.face)
        for name, look in looks.items()
        if look.hashes is not None and look.audio is not None
    }
    names = list(videos)
    copies: dict[str, str] = {}
    for one, other in copies_among(list(videos.values())):
        copies.setdefault(names[other], names[one])
    return copies


def same_identity_pairs(
    looks: Mapping[str, FileFeatures], limit: float, speakers: Mapping[str, str]
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
        alike = [names[other] for other in np.flatnonzero(distances[:k] < limit)]
        pairs += [(other, name) for other in alike if not (name in speakers and other in speakers)]
        if len(names) > 1:
            closest = int(np.argmin(distances))
            nearest[name] = Nearest(names[closest], float(distances[closest]))
    return pairs, nearest
