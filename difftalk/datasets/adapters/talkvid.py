"""TalkVid: the JSON lists of https://huggingface.co/datasets/FreedomIntelligence/TalkVid.

    [{"id", "height", "width", "fps", "start-time", "end-time", "start-frame", "end-frame",
      "info": {"Person ID", "Ethnicity", "Age Group", "Gender", "Video Link", "Language", "Video Category"}}]

Times are in seconds of the whole video. There are no boxes.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from difftalk.datasets.adapters.published import Entry, entry, labels, read_json
from difftalk.datasets.table_file import Row
from difftalk.runtime.errors import UserError


def read_talkvid(path: Path) -> Iterator[Entry]:
    """Yield the clips: the person as identity; gender, age, ethnicity, language and category as tags.

    Raises:
        UserError: if the file is none of TalkVid.
    """
    clips = read_json(path)
    if not isinstance(clips, list):
        raise UserError(f"{path}: no list of clips, as TalkVid has")
    for number, clip in enumerate(clips, start=1):
        name = str(clip.get("id") or f"entry {number}") if isinstance(clip, dict) else f"entry {number}"
        yield entry(name, partial(_row, clip))


def _row(clip: dict[str, Any]) -> Row:
    info = clip["info"]
    person = str("" if info.get("Person ID") is None else info["Person ID"]).strip()
    return Row(
        url=str(info["Video Link"]).strip(),
        start_s=float(clip["start-time"]),
        end_s=float(clip["end-time"]),
        clip_id=str(clip.get("id") or ""),
        identity=f"person-{person}" if person else "",
        tags=labels(
            gender=info.get("Gender"),
            age=info.get("Age Group"),
            ethnicity=info.get("Ethnicity"),
            language=info.get("Language"),
            category=info.get("Video Category"),
        ),
    )
