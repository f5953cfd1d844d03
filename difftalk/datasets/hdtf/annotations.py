"""The table of HDTF's clips: parse the authors' annotation files, write and read the table as CSV.

The annotations are `HDTF_dataset` of https://github.com/MRzzm/HDTF: five text files for each of RD, WDA and
WRA, fields separated by spaces, no header. `tools/hdtf_table.py` makes the package's `clips.csv` from them.
"""

import csv
import dataclasses
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from difftalk.runtime.errors import UserError
from difftalk.runtime.files import write_csv

TABLE = Path(__file__).with_name("clips.csv")
SUBSETS = ("RD", "WDA", "WRA")
# From the gravest: a clip has the first that applies.
VERDICTS = {
    "no_time": "the video has a URL and no times: it has no clip, and this one row",
    "duplicate_of": "same video and same times as the clip named after the colon, which comes earlier",
    "overlaps": "shares a stretch of its video with the clip named after the colon, which comes earlier",
    "no_box": "the authors give no crop box (and no crop ratio)",
    "box_exceeds_frame": "the box is higher than the annotated frame: `height` and the box are doubtful",
    "resolution_inferred": "the annotated height is 0: `height` is the first of 720, 1080 that holds the box",
    "ok": "none of the above",
}
# Heights that HDTF's videos usually have, in pixels.
USUAL_HEIGHTS = (720, 1080)

# [0-9], since \d and int() take the digits of every script, and bounded, since int() refuses to be flooded.
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_URL = re.compile(
    r"https?://(?:(?:www\.|m\.)?youtube\.com/watch\?(?:[^#]*&)?v=|youtu\.be/)([A-Za-z0-9_-]{11})(?:[?&#].*)?"
)
_INTERVAL = re.compile(r"([0-9]{1,3}):([0-5][0-9])-([0-9]{1,3}):([0-5][0-9])")
_WHOLE = re.compile(r"[0-9]{1,5}")
_RATIO = re.compile(r"[0-9]{1,2}(?:\.[0-9]{1,4})?")


@dataclass(frozen=True)
class AnnotatedClip:
    """A row of the table: a clip as the authors annotated it, or a video without times.

    Args:
        subset: `RD`, `WDA` or `WRA`.
        name: of the video, such as `Radio11`.
        index: position of the interval on the video's line, from 0; None where the video has no times.
        clip_id: universome's name without suffix, `RD_Radio11_001`; `RD_Radio24` if the video has no times.
        youtube_id: 11 characters; two videos may share one.
        start_s, end_s: seconds of the video; None where it has no times.
        x, y, w, h: the crop box, in pixels of a frame `height` high, which it may leave; None without box.
        height: pixels, of the frame that the box refers to, repaired where it must be; None without box.
        crop_ratio: by how much the authors enlarge the square around the landmarks; None where not given.
        speaker: the name without digits at its end; empty for RD, whose names tell no speaker.
        verdict: one of `VERDICTS`, after `duplicate_of` and `overlaps` with `:CLIP_ID`.
    """

    subset: str
    name: str
    index: int | None
    clip_id: str
    youtube_id: str
    start_s: int | None
    end_s: int | None
    x: int | None
    y: int | None
    w: int | None
    h: int | None
    height: int | None
    crop_ratio: float | None
    speaker: str
    verdict: str

    @property
    def seconds(self) -> int:
        """Length of the clip; 0 where the video has no times."""
        return 0 if self.start_s is None or self.end_s is None else self.end_s - self.start_s


COLUMNS = tuple(f.name for f in dataclasses.fields(AnnotatedClip))


@dataclass(frozen=True)
class _Line:
    """A line of an annotation file: where it stands (`FILE:LINE`), and its fields after the name."""

    where: str
    fields: list[str]


def read_annotations(folder: str | Path) -> list[AnnotatedClip]:
    """Return the rows of the table from the 15 files in `folder`, ordered by subset, name and index.

    Raises:
        UserError: naming the file and the line that cannot be read, or the file that is missing.
    """
    rows = [row for subset in SUBSETS for row in _read_subset(Path(folder), subset)]
    return _mark_shared_stretches(rows)


def _read_subset(folder: Path, subset: str) -> list[AnnotatedClip]:
    def lines(kind: str, fields: int | None, suffix: str = ".mp4") -> dict[str, _Line]:
        return _read_lines(folder / f"{subset}_{kind}.txt", fields, suffix)

    urls = lines("video_url", 1, suffix="")
    times = lines("annotion_time", None)
    heights = lines("resolution", 1)
    boxes = lines("crop_wh", 4)
    ratios = lines("crop_ratio", 1)

    ids = {name: _youtube_id(line) for name, line in urls.items()}
    intervals = {name: [_interval(text, line.where) for text in line.fields] for name, line in times.items()}
    annotated = {name: _whole(line.fields[0], line.where) for name, line in heights.items()}
    _refuse_unknown(times, ids, f"video of {subset}_video_url.txt")
    _refuse_unknown(heights, ids, f"video of {subset}_video_url.txt")
    clips = {f"{name}_{k}" for name, found in intervals.items() for k in range(len(found))}
    _refuse_unknown(boxes, clips, f"clip of {subset}_annotion_time.txt")
    _refuse_unknown(ratios, clips, f"clip of {subset}_annotion_time.txt")

    rows = []
    for name in sorted(ids):
        video = AnnotatedClip(
            subset=subset,
            name=name,
            index=None,
            clip_id=f"{subset}_{name}",
            youtube_id=ids[name],
            start_s=None,
            end_s=None,
            x=None,
            y=None,
            w=None,
            h=None,
            height=None,
            crop_ratio=None,
            speaker="" if subset == "RD" else name.rstrip("0123456789"),
            verdict="no_time",
        )
        if name not in intervals:
            rows.append(video)
        for index, (start_s, end_s) in enumerate(intervals.get(name, [])):
            ratio = ratios.get(f"{name}_{index}")
            clip = dataclasses.replace(
                video,
                index=index,
                clip_id=f"{subset}_{name}_{index:03d}",
                start_s=start_s,
                end_s=end_s,
                crop_ratio=None if ratio is None else _ratio(ratio),
                verdict="no_box",
            )
            box = boxes.get(f"{name}_{index}")
            rows.append(clip if box is None else _with_box(clip, box, annotated.get(name)))
    return rows


def _with_box(clip: AnnotatedClip, line: _Line, annotated: int | None) -> AnnotatedClip:
    """Return the clip with its box, the height that the box refers to, and the verdict on both.

    Heights such as 360, 700, 714 and 2160 are kept: the boxes are centred on frames of such videos. The width
    of the frame is not annotated, so a box is held against the height alone.
    """
    if annotated is None:
        raise UserError(
            f"{line.where}: no height of {clip.name!r} in {clip.subset}_resolution.txt: add its line"
        )
    # The order in the file, which is not that of the table.
    x, w, y, h = (_whole(text, line.where) for text in line.fields)
    if w == 0 or h == 0:
        raise UserError(f"{line.where}: a box {w} wide and {h} high: the fields are name x width y height")
    height, verdict = annotated, "ok"
    if y + h > annotated:
        verdict = "box_exceeds_frame" if annotated else "resolution_inferred"
        height = next((usual for usual in USUAL_HEIGHTS if usual >= y + h), USUAL_HEIGHTS[-1])
        height = max(height, annotated)
    return dataclasses.replace(clip, x=x, y=y, w=w, h=h, height=height, verdict=verdict)


def _mark_shared_stretches(rows: list[AnnotatedClip]) -> list[AnnotatedClip]:
    """Return the rows, with the verdict of those that share time with an earlier one of the same video."""
    marked: list[AnnotatedClip] = []
    seen: dict[str, list[tuple[int, int, str]]] = {}
    for row in rows:
        if row.start_s is not None and row.end_s is not None:
            earlier = seen.setdefault(row.youtube_id, [])
            same = [i for start_s, end_s, i in earlier if (start_s, end_s) == (row.start_s, row.end_s)]
            shared = [i for start_s, end_s, i in earlier if row.start_s < end_s and start_s < row.end_s]
            earlier.append((row.start_s, row.end_s, row.clip_id))
            if shared:
                verdict = f"duplicate_of:{same[0]}" if same else f"overlaps:{shared[0]}"
                row = dataclasses.replace(row, verdict=verdict)
        marked.append(row)
    return marked


def _read_lines(path: Path, fields: int | None, suffix: str) -> dict[str, _Line]:
    """Return the lines of an annotation file by their name, which stands first, here without `suffix`.

    A byte order mark, CRLF, spaces at the end and blank lines are accepted.

    Args:
        path: of the file.
        fields: how many follow the name; None for one or more.
        suffix: what names in this file end with, such as `.mp4`.
    """
    try:
        content = path.read_bytes()
    except OSError as e:
        raise UserError(
            f"{path}: cannot be read ({e.strerror}): the folder needs the 15 text files of HDTF_dataset "
            "(https://github.com/MRzzm/HDTF)"
        ) from None
    lines: dict[str, _Line] = {}
    for number, raw in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        where = f"{path}:{number}"
        try:
            found = raw.decode("utf-8").split()
        except UnicodeDecodeError:
            raise UserError(f"{where}: not UTF-8: {raw[:80]!r}") from None
        if not found:
            continue
        name = found[0].removesuffix(suffix)
        if not found[0].endswith(suffix) or not _NAME.fullmatch(name):
            raise UserError(
                f"{where}: {found[0]!a} is no name: ASCII letters, digits, - and _"
                + (f", then {suffix}" if suffix else "")
            )
        given = len(found) - 1
        if given == 0 or (fields is not None and given != fields):
            raise UserError(f"{where}: {given} fields after the name, {fields or 'one or more'} expected")
        if name in lines:
            raise UserError(f"{where}: a second line of {name!r}, the first is {lines[name].where}")
        lines[name] = _Line(where, found[1:])
    if not lines:
        raise UserError(f"{path}:1: empty file: there is no annotation in it; check it out again")
    return lines


def _refuse_unknown(lines: dict[str, _Line], known: Iterable[str], what: str) -> None:
    allowed = set(known)
    for name, line in lines.items():
        if name not in allowed:
            raise UserError(f"{line.where}: {name!r} is no {what}")


def _youtube_id(line: _Line) -> str:
    found = _URL.fullmatch(line.fields[0])
    if not found:
        raise UserError(f"{line.where}: no YouTube URL with a video id of 11 characters: {line.fields[0]!a}")
    return found[1]


def _interval(text: str, where: str) -> tuple[int, int]:
    """Return start and end in seconds of `MM:SS-MM:SS`."""
    found = _INTERVAL.fullmatch(text)
    if not found:
        raise UserError(f"{where}: {text!a} is no interval MM:SS-MM:SS")
    start_s, end_s = int(found[1]) * 60 + int(found[2]), int(found[3]) * 60 + int(found[4])
    if start_s >= end_s:
        raise UserError(
            f"{where}: {text} ends before it starts, or where it starts: swap or correct the times"
        )
    return start_s, end_s


def _whole(text: str, where: str) -> int:
    if not _WHOLE.fullmatch(text):
        raise UserError(f"{where}: {text!a} is no whole number of pixels from 0 to 99999")
    return int(text)


def _ratio(line: _Line) -> float:
    if not _RATIO.fullmatch(line.fields[0]) or float(line.fields[0]) == 0:
        raise UserError(f"{line.where}: {line.fields[0]!a} is no crop ratio, such as 1.2")
    return float(line.fields[0])


def write_table(path: str | Path, rows: Iterable[AnnotatedClip]) -> None:
    """Write the rows as CSV with a header; an attribute that is None is an empty field."""
    write_csv(path, COLUMNS, (dataclasses.astuple(row) for row in rows), recorded=False)


def read_table(path: str | Path = TABLE) -> list[AnnotatedClip]:
    """Return the rows that `write_table` wrote; without `path`, those that come with the package.

    Raises:
        UserError: naming the file and the line that is none of such a table.
    """
    try:
        with Path(path).open(encoding="utf-8", newline="") as source:
            reader = csv.reader(source, strict=True)
            header = next(reader, [])
            if tuple(header) != COLUMNS:
                raise UserError(f"{path}:1: no table of HDTF clips: the header is not {','.join(COLUMNS)}")
            return [_row(fields, f"{path}:{reader.line_num}") for fields in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise UserError(f"{path}: no table of HDTF clips ({e})") from None


def _row(fields: list[str], where: str) -> AnnotatedClip:
    if len(fields) != len(COLUMNS):
        raise UserError(f"{where}: {len(fields)} fields, {len(COLUMNS)} expected")
    text = dict(zip(COLUMNS, fields, strict=True))
    if text["verdict"].partition(":")[0] not in VERDICTS:
        raise UserError(f"{where}: {text['verdict']!a} is none of the verdicts {', '.join(VERDICTS)}")

    def number(column: str) -> int | None:
        if text[column] and not _WHOLE.fullmatch(text[column]):
            raise UserError(f"{where}: {column} {text[column]!a} is no whole number")
        return int(text[column]) if text[column] else None

    return AnnotatedClip(
        subset=text["subset"],
        name=text["name"],
        index=number("index"),
        clip_id=text["clip_id"],
        youtube_id=text["youtube_id"],
        start_s=number("start_s"),
        end_s=number("end_s"),
        x=number("x"),
        y=number("y"),
        w=number("w"),
        h=number("h"),
        height=number("height"),
        crop_ratio=_ratio(_Line(where, [text["crop_ratio"]])) if text["crop_ratio"] else None,
        speaker=text["speaker"],
        verdict=text["verdict"],
    )
