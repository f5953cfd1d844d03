"""VoxCeleb2: the folder `txt` of https://www.robots.ox.ac.uk/~vgg/data/voxceleb/vox2.html.

`txt/IDENTITY/YOUTUBE_ID/00001.txt` is an utterance: a head (Identity, Reference, Offset, FV Conf, ASD Conf)
and a line per frame:

    FRAME   X       Y       W       H
    008809  0.123   0.136   0.422   0.749

Frames are counted at 25 per second, whatever the video's own rate. Boxes are in parts of the frame.
`vox2_meta.csv` has the columns VoxCeleb2 ID, VGGFace2 ID, Gender, Set.
"""

import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from difftalk.datasets.adapters.published import YOUTUBE, Entry, entry, labels, read_text, text_files
from difftalk.datasets.table_file import Row
from difftalk.runtime.errors import UserError
from difftalk.runtime.tabular import read_tabular

ANNOTATED_FPS = 25
SPLITS = {"dev": "train", "test": "test"}
FRAME = re.compile(r"([0-9]{1,9})\s+(\S+)\s+(\S+)\s+(\S+)\s+(\S+)\s*")


def read_voxceleb2(folder: Path, meta: Path | None = None) -> Iterator[Entry]:
    """Yield the utterances; the box holds the face of all frames.

    Args:
        folder: the folder `txt`.
        meta: vox2_meta.csv, for gender (a tag) and split (`dev` is train).

    Raises:
        UserError: if the folder has no text files, or `meta` is none of VoxCeleb2.
    """
    known = {} if meta is None else _read_meta(meta)
    for file in text_files(folder, "the folder txt of VoxCeleb2"):
        name = file.relative_to(folder).as_posix()
        yield entry(name, partial(_row, file, known))


def _read_meta(path: Path) -> dict[str, tuple[str, str]]:
    """Return `{identity: (gender, split)}`."""
    found = {}
    for where, row in read_tabular(path):
        if not {"VoxCeleb2 ID", "Gender", "Set"} <= row.keys():
            raise UserError(f"{path}: no columns VoxCeleb2 ID, Gender and Set, as vox2_meta.csv has")
        if row["Set"] not in SPLITS:
            raise UserError(f"{where}: the set is {row['Set']!a}, not dev or test")
        found[row["VoxCeleb2 ID"]] = row["Gender"], SPLITS[row["Set"]]
    return found


def _row(file: Path, known: Mapping[str, tuple[str, str]]) -> Row:
    head: dict[str, str] = {}
    frames: list[int] = []
    boxes: list[list[float]] = []
    for line in read_text(file).splitlines():
        key, colon, value = line.partition(":")
        if colon:
            head[key.strip()] = value.strip()
        elif found := FRAME.fullmatch(line.strip()):
            x, y, w, h = (float(v) for v in found.groups()[1:])
            frames.append(int(found[1]))
            boxes.append([x, y, x + w, y + h])
    if not frames:
        raise ValueError("no line with FRAME X Y W H")
    low, high = ([pick(side) for side in zip(*boxes, strict=True)] for pick in (min, max))
    if max(high) > 2:
        raise ValueError("boxes in pixels, as in VoxCeleb1: without the size of the frame they have no place")
    identity, video = head["Identity"], head["Reference"]
    gender, split = known.get(identity, ("", ""))
    return Row(
        url=f"{YOUTUBE}{video}",
        start_s=min(frames) / ANNOTATED_FPS,
        end_s=(max(frames) + 1) / ANNOTATED_FPS,
        clip_id=f"{identity}_{video}_{file.stem}",
        identity=identity,
        split=split,
        tags=labels(gender={"m": "male", "f": "female"}.get(gender, gender)),
        box=(low[0], low[1], high[2], high[3]),
        box_width=1.0,
        box_height=1.0,
    )
