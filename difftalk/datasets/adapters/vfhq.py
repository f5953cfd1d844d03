"""VFHQ: the folder `meta_info` of https://liangbinxie.github.io/projects/vfhq, a text file per clip.

A file is called `Clip+YOUTUBE_ID+P0+C0+F1234-1500.txt`: the person in the video, the clip, its frames. Lines
begin with H, W (size of the frame), FPS, and CROP (x0 y0 x1 y1, pixels); others are not read. As the authors'
script has it, the clip is the frames after the first and before the last, counted from 0 at the FPS of the
file.
"""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from difftalk.datasets.adapters.published import YOUTUBE, Entry, entry, read_text, text_files
from difftalk.datasets.table_file import Row

NAME = re.compile(r"Clip\+([A-Za-z0-9_-]{11})\+P([0-9]+)\+C([0-9]+)\+F([0-9]{1,9})-([0-9]{1,9})")
FIELDS = {"H": 1, "W": 1, "FPS": 1, "CROP": 4}


def read_vfhq(folder: Path) -> Iterator[Entry]:
    """Yield the clips: a person of a video is an identity, the authors' crop is the box.

    Raises:
        UserError: if the folder has no text files.
    """
    for file in text_files(folder, "the folder meta_info of VFHQ"):
        yield entry(file.name, partial(_row, file))


def _row(file: Path) -> Row:
    found = NAME.fullmatch(file.stem)
    if not found:
        raise ValueError("its name is not Clip+YOUTUBE_ID+P0+C0+F1234-1500.txt")
    video, person, clip, first, last = found.groups()
    values: dict[str, list[float]] = {}
    for line in read_text(file).splitlines():
        key = re.match(r"(H|W|FPS|CROP)\b", line)
        if key:
            values[key[1]] = [float(v) for v in re.split(r"[\s:,]+", line.strip())[-FIELDS[key[1]] :]]
    (fps,), (width,), (height,) = values["FPS"], values["W"], values["H"]
    if fps <= 0:
        raise ValueError(f"FPS is {fps:g}")
    return Row(
        url=f"{YOUTUBE}{video}",
        start_s=(int(first) + 1) / fps,
        end_s=int(last) / fps,
        clip_id=f"{video}_P{person}_C{clip}_F{first}-{last}",
        identity=f"{video}_P{person}",
        box=tuple(values["CROP"]),
        box_width=width,
        box_height=height,
    )
