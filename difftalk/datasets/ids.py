"""Ids that may name files: made from any names, unique among them."""

import hashlib
import re
from collections import Counter
from collections.abc import Container, Iterable, Mapping
from pathlib import PurePosixPath

USABLE_ID = re.compile(r"[A-Za-z0-9_-]+")


def safe_ids(names: Iterable[str]) -> dict[str, str]:
    """Return `{file name: source id}`: the name without its suffix, reduced to letters, digits, `-` and `_`.

    Names that come out alike, or empty, carry a hash of the full name, so that ids are unique.

    >>> safe_ids(["Ann B.mp4", "carl/1.mp4"])
    {'Ann B.mp4': 'Ann_B', 'carl/1.mp4': 'carl_1'}
    """
    return _unique({name: str(PurePosixPath(name).parent / PurePosixPath(name).stem) for name in names})


def safe_identities(speakers: Iterable[str]) -> dict[str, str]:
    """Return `{speaker: identity}`, as `safe_ids` does for files."""
    return _unique({speaker: speaker for speaker in sorted(speakers)})


def _unique(names: Mapping[str, str]) -> dict[str, str]:
    stems = {name: reduced(stem) for name, stem in names.items()}
    # Case is ignored, since some file systems do.
    count = Counter(stem.lower() for stem in stems.values())
    ids = {}
    for name, stem in stems.items():
        ids[name] = stem if stem and count[stem.lower()] == 1 else f"{stem or 'video'}_{hash_of(name)[:8]}"
    return ids


def unlike(name: str, others: Container[str]) -> str:
    """Return a name that is none of the others: itself, or with a part of its hash.

    >>> unlike("ann", {"bob"})
    'ann'
    """
    return name if name not in others else f"{name}_{hash_of(name)[:8]}"


def reduced(name: str) -> str:
    """Return at most 60 characters of a name, with `_` for all but letters, digits, `-` and `_`.

    >>> reduced("Ann B. & Carl")
    'Ann_B_Carl'
    """
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_")[:60]


def hash_of(name: str) -> str:
    """Return the sha256 of a name, in hexadecimal digits; names that are no UTF-8 have one too."""
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()
