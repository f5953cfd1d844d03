"""Hallo3's training data: https://huggingface.co/datasets/fudan-generative-ai/hallo3_training_data, unpacked.

It is published as archives of clips that are cut already, without a list of addresses and without
identities: `videos/0001.mp4`, and `caption/0001.txt` where one has made captions. Each clip is taken whole,
and counts as a speaker of its own.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from difftalk.datasets.adapters.published import Entry, entry
from difftalk.datasets.table_file import Row
from difftalk.runtime.errors import UserError
from difftalk.runtime.video_folder import SUFFIXES


def read_hallo3(folder: Path) -> Iterator[Entry]:
    """Yield the clips below `videos/`, with paths relative to `folder`.

    Raises:
        UserError: if there are none.
    """
    files = sorted(p for p in (folder / "videos").rglob("*") if not p.is_dir() and not p.name.startswith("."))
    if not files:
        raise UserError(f"{folder}: no files below {folder / 'videos'}: unpack the archives of Hallo3 there")
    for file in files:
        name = file.relative_to(folder).as_posix()
        yield entry(name, partial(_row, file, name))


def _row(file: Path, name: str) -> Row:
    if file.suffix.lower() not in SUFFIXES:
        raise ValueError("no video by its suffix")
    if not file.is_file():
        raise ValueError("a link to no file")
    if not name.isprintable():
        raise ValueError("a name that no table can hold")
    return Row(path=name)
