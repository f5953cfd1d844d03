"""CelebV-HQ: `celebvhq_info.json` of https://github.com/CelebV-HQ/CelebV-HQ.

    {"meta_info": {"appearance_mapping": [...], "action_mapping": [...]},
     "clips": {NAME: {"ytb_id", "duration": {"start_sec", "end_sec"},
                      "bbox": {"top", "bottom", "left", "right"},
                      "attributes": {"appearance": [0, 1, ...], "action": [...], "emotion": {"labels"}}}}}

Boxes are in parts of the frame. Identities are not published: each video counts as one speaker.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from difftalk.datasets.adapters.published import YOUTUBE, Entry, entry, labels, read_json
from difftalk.datasets.table_file import Row
from difftalk.runtime.errors import UserError


def read_celebv_hq(path: Path) -> Iterator[Entry]:
    """Yield the clips, with the attributes that hold and the emotions as tags.

    Raises:
        UserError: if the file is none of CelebV-HQ.
    """
    whole = read_json(path)
    clips = whole.get("clips") if isinstance(whole, dict) else None
    if not isinstance(clips, dict):
        raise UserError(f"{path}: no `clips` in it, as celebvhq_info.json has")
    meta = whole.get("meta_info") or {}
    for name, clip in clips.items():
        yield entry(name, partial(_row, name, clip, meta))


def _row(name: str, clip: dict[str, Any], meta: dict[str, Any]) -> Row:
    times, box = clip["duration"], clip["bbox"]
    attributes = clip.get("attributes") or {}
    tags: list[str] = []
    for kind in ("appearance", "action"):
        names, flags = meta.get(f"{kind}_mapping") or [], attributes.get(kind) or []
        if names:
            tags += [str(tag) for tag, holds in zip(names, flags, strict=bool(flags)) if holds]
    said = (attributes.get("emotion") or {}).get("labels") or []
    emotions = [said] if isinstance(said, str) else [part["emotion"] for part in said]
    tags += [tag for emotion in emotions for tag in labels(emotion=emotion)]
    return Row(
        url=f"{YOUTUBE}{clip['ytb_id']}",
        start_s=float(times["start_sec"]),
        end_s=float(times["end_sec"]),
        clip_id=name,
        tags=tuple(dict.fromkeys(tags)),
        box=tuple(float(box[side]) for side in ("left", "top", "right", "bottom")),
        box_width=1.0,
        box_height=1.0,
    )
