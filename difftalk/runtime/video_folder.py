"""What is in a folder of videos: which entries are videos, which are none and why, how names are written.

Light at import, since the workflow asks it when the rules are read.
"""

import os
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter
from pathlib import Path

from difftalk.runtime.errors import UserError

# Files that are taken for videos.
SUFFIXES = frozenset(
    (".3g2", ".3gp", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".m1v", ".m2t", ".m2ts", ".m2v", ".m4v")
    + (".mjpeg", ".mjpg", ".mk3d", ".mkv", ".mov", ".mp4", ".mp4v", ".mpe", ".mpeg", ".mpg", ".mpv")
    + (".mts", ".mxf", ".nut", ".ogm", ".ogv", ".qt", ".rm", ".rmvb", ".trp", ".ts", ".vob")
    + (".webm", ".wmv", ".wtv", ".y4m")
)
# A table of the folder that says who speaks in which file.
SPEAKERS = "speakers.csv"
BYTES = "bytes:"


@dataclass(frozen=True)
class VideoFolder:
    """The entries of a folder.

    Args:
        videos: names of the video files, `name` or `sub-folder/name`, sorted.
        others: names of all other entries, sub-folders that are entered excepted, with what they are.
    """

    videos: tuple[str, ...]
    others: tuple[tuple[str, str], ...]


def list_videos(folder: str | Path) -> VideoFolder:
    """Return the entries of a folder, and of the sub-folders right below it that have a video. Opens no file.

    Raises:
        UserError: if the folder cannot be listed.
    """
    top = _listed(folder)
    videos: list[str] = []
    others: list[tuple[str, str]] = []
    for entry in top:
        if _is_entered(entry):
            inner, said = _below(entry)
            videos += inner
            others += said
        elif (why := _no_video(entry)) is None:
            videos.append(entry.name)
        elif entry.name != SPEAKERS or not _holds(entry.is_file):
            others.append((entry.name, why))
    return VideoFolder(tuple(sorted(videos)), tuple(sorted(others)))


def sub_folders(folder: str | Path) -> list[str]:
    """Return the paths of the folders in which `list_videos` looks besides `folder`."""
    return [entry.path for entry in _listed(folder) if _is_entered(entry)]


def _listed(folder: str | Path) -> list[os.DirEntry[str]]:
    try:
        return _entries(folder)
    except OSError as e:
        raise UserError(f"{folder}: not a folder that can be listed ({e.strerror})") from None


def videos_by_stem(folder: str | Path) -> dict[str, Path]:
    """Return the video files right in a folder by their names without suffix, of several the first by name.

    It is listed once in a process, as long as nothing is added to it or taken away.

    Raises:
        UserError: if the folder cannot be listed.
    """
    try:
        return _by_stem(os.fspath(folder), os.stat(folder).st_mtime_ns)
    except OSError as e:
        raise UserError(f"{folder}: not a folder that can be listed ({e.strerror})") from None


@lru_cache
def _by_stem(folder: str, mtime_ns: int) -> dict[str, Path]:
    with os.scandir(folder) as entries:
        names = sorted(e.name for e in entries if _suffix(e.name).lower() in SUFFIXES and _holds(e.is_file))
    return {Path(name).stem: Path(folder, name) for name in reversed(names)}


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    """The entries of a folder by name. They know what they are, so that no file need be asked for it."""
    with os.scandir(folder) as entries:
        return sorted(entries, key=attrgetter("name"))


def _is_entered(entry: os.DirEntry[str]) -> bool:
    return not entry.name.startswith(".") and _holds(entry.is_dir)


def _holds(asked: Callable[[], bool]) -> bool:
    """Whether an entry is of a kind; a link that leads in a circle is of none."""
    try:
        return asked()
    except OSError:
        return False


def _below(folder: os.DirEntry[str]) -> tuple[list[str], list[tuple[str, str]]]:
    name = folder.name
    try:
        entries = _entries(folder.path)
    except OSError as e:
        return [], [(name, f"folder that cannot be listed ({e.strerror})")]
    whys = {f"{name}/{entry.name}": _no_video(entry) for entry in entries}
    videos = [entry for entry, why in whys.items() if why is None]
    if not videos:
        return [], [(name, "folder without videos")]
    return videos, [(entry, why) for entry, why in whys.items() if why is not None]


def _no_video(entry: os.DirEntry[str]) -> str | None:
    """Return why an entry is not taken for a video; None for a video."""
    if entry.name.startswith("."):
        return "hidden"
    if _holds(entry.is_dir):
        return "folder"
    is_file = _holds(entry.is_file)
    if not is_file and not os.path.exists(entry.path):
        return "dangling link"
    suffix = _suffix(entry.name)
    if suffix.lower() not in SUFFIXES:
        return f"unknown suffix {suffix}" if suffix else "no suffix"
    return None if is_file else "no regular file"


def _suffix(name: str) -> str:
    """As `Path(name).suffix`, which takes much longer."""
    at = name.rfind(".")
    return name[at:] if 0 < at < len(name) - 1 else ""


def to_uri(name: str) -> str:
    """Return a file's name as printable text: as it is, or its bytes percent-encoded.

    >>> to_uri("Ann B.mp4"), to_uri("x" + chr(0xDCFF) + ".mp4")
    ('Ann B.mp4', 'bytes:x%FF.mp4')
    """
    if name.isprintable() and not name.startswith(BYTES):
        return name
    return BYTES + urllib.parse.quote(os.fsencode(name))


def from_uri(uri: str) -> str:
    """Return the name that `to_uri` wrote down.

    >>> from_uri("100% Ann.mp4"), from_uri("bytes:x%FF.mp4") == "x" + chr(0xDCFF) + ".mp4"
    ('100% Ann.mp4', True)
    """
    if not uri.startswith(BYTES):
        return uri
    return os.fsdecode(urllib.parse.unquote_to_bytes(uri.removeprefix(BYTES)))
