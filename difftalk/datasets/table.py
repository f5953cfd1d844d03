"""A dataset given as a table of clips: videos of any site or files of one's own, with their times."""

import dataclasses
import os
import sys
from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from collections.abc import Iterable, Sequence
from operator import itemgetter
from pathlib import Path, PurePath
from urllib.parse import urlsplit

from difftalk.config.dataset import Table
from difftalk.config.download import Download
from difftalk.datasets.clips import Clip
from difftalk.datasets.disjoint_sets import DisjointSets
from difftalk.datasets.download import fetch_video
from difftalk.datasets.ids import USABLE_ID, hash_of, reduced, safe_ids, unlike
from difftalk.datasets.split import split_groups
from difftalk.datasets.table_file import Row, read_rows, youtube_id
from difftalk.media.boxes import iou
from difftalk.media.clock import FPS
from difftalk.media.probe import length_s
from difftalk.runtime.errors import ClipError, UserError
from difftalk.runtime.video_folder import SUFFIXES, videos_by_stem

# Folders of the store: YouTube's videos are shared with other datasets.
YOUTUBE, WEB = "youtube", "web"
# Two boxes with less of their union in common are of two faces.
SAME_FACE_IOU = 0.3
LONGEST_ID = 60


class TableDataset:
    """The clips of a table."""

    grows = True

    def __init__(self, settings: Table) -> None:
        self.settings = settings
        self.root = Path(settings.table).parent if settings.root is None else Path(settings.root)

    @property
    def shares_no_identity(self) -> bool:
        """Whether no identity is on both sides of the split; a published split may have some."""
        return not self.settings.shared_identities

    def clips(self) -> list[Clip]:
        """Return the clips of the table, in its order."""
        rows = read_rows(Path(self.settings.table))
        uris = self._one_of_each(self._uri(row) for row in rows)
        of_uri = source_ids(uris)
        sources = [of_uri[uri] for uri in uris]
        names = clip_ids(rows, sources)
        named = {row.identity for row in rows}
        identities = [row.identity or unlike(s, named) for row, s in zip(rows, sources, strict=True)]
        splits = self._splits(rows, sources, identities)
        clips = list(map(self._clip, rows, uris, sources, names, identities, splits))
        del rows, uris, sources, names, identities, splits  # as much memory as the clips
        marked = mark_shared_stretches(clips)
        return marked if self.settings.max_frames is None else list(map(self._shortened, marked))

    def own_files(self, clips: Iterable[Clip]) -> dict[str, Path]:
        """Return the file of each source that is on this machine, by its id."""
        uris = {clip.source_id: clip.uri for clip in clips}
        named = {s: self.root / uri[len("file:") :] for s, uri in uris.items() if uri.startswith("file:")}
        here = self._own_files() | named
        return {source_id: here[source_id] for source_id in uris if source_id in here}

    def fetch(self, source_id: str, uri: str, store: Path, download: Download) -> dict[str, Path]:
        """Return the file of a source, downloaded where it is no file of the user's own."""
        if source_id in self.settings.skip:
            raise ClipError("cannot_fetch", "left out by dataset.skip")
        if uri.startswith("file:"):
            file = self._file(uri.removeprefix("file:"), self.settings.table)
            if not file.is_file():
                raise ClipError("cannot_fetch", f"no file {file}")
        elif (own := self._own_files().get(source_id)) is not None:
            file = own
        elif uri.startswith("youtube:"):
            file = fetch_video(source_id, store / YOUTUBE, download)
        else:
            file = fetch_video(source_id, store / WEB, download, url=uri)
        suffix = file.suffix.lower()
        # The content says what it is; the suffix names a file in the folder of sources.
        return {f"{source_id}{suffix if suffix in SUFFIXES else '.video'}": file.resolve()}

    def _uri(self, row: Row) -> str:
        """Return where a row's source is: `youtube:ID`, an address, or `file:` and its path."""
        if row.path:
            self._file(row.path, row.where)
            return f"file:{PurePath(row.path)}"
        video = youtube_id(row.url)
        return row.url if video is None else f"youtube:{video}"

    def _clip(self, row: Row, uri: str, source_id: str, name: str, identity: str, split: str) -> Clip:
        start_s, end_s = self._span(row)
        return Clip(
            clip_id=name,
            source_id=source_id,
            start_s=start_s,
            end_s=end_s,
            identity=identity,
            split=split,
            uri=uri,
            box=row.box,
            box_height=row.box_height,
            subset=row.subset,
            crop_ratio=row.crop_ratio,
            tags=sys.intern(";".join(row.tags)),
            box_width=row.box_width,
        )

    def _one_of_each(self, uris: Iterable[str]) -> list[str]:
        """Return the sources, each under its first name: a file may have several, by links."""
        first: dict[object, str] = {}
        known: dict[str, str] = {}
        named = []
        for uri in uris:
            if uri not in known:
                known[uri] = first.setdefault(self._content_of(uri), uri) if uri.startswith("file:") else uri
            named.append(known[uri])
        return named

    def _content_of(self, uri: str) -> object:
        """Return what tells a file apart from others, whatever its name."""
        file = self.root / uri.removeprefix("file:")
        try:
            found = file.stat()
        except (OSError, ValueError):
            return uri
        return found.st_dev, found.st_ino

    def _file(self, path: str, where: str) -> Path:
        """Return the file of a path, which may not lead out of the dataset's folder."""
        pure = PurePath(path)
        if "\0" in path or ".." in pure.parts:
            raise UserError(f"{where}: path {path!a} leads out of {self.root}: a path has no `..`")
        if pure.is_absolute() and not self.settings.absolute_paths:
            raise UserError(
                f"{where}: path {path!a} is absolute: give it relative to {self.root}, or set "
                "dataset.absolute_paths: true"
            )
        return self.root / pure

    def _own_files(self) -> dict[str, Path]:
        """Return the files of the folder `files`, which stand for downloads, by the ids of their sources."""
        return {} if self.settings.files is None else videos_by_stem(self.settings.files)

    def _span(self, row: Row) -> tuple[float, float]:
        """Return start and end of a clip in seconds."""
        end_s = row.end_s
        if end_s is None:
            file = self._file(row.path, row.where)
            end_s = length_s(file) if os.path.isfile(file) else 0.0
            if end_s <= row.start_s:  # not readable, not there, or shorter: `fetch` says which
                return (0.0, 0.0) if end_s == 0.0 else (row.start_s, row.start_s + 1 / FPS)
        return row.start_s, end_s

    def _shortened(self, clip: Clip) -> Clip:
        assert self.settings.max_frames is not None
        return dataclasses.replace(clip, end_s=min(clip.end_s, clip.start_s + self.settings.max_frames / FPS))

    def _splits(self, rows: Sequence[Row], sources: list[str], identities: list[str]) -> list[str]:
        """Return the split of each row: the table's, else drawn, never through a speaker or a source."""
        group = linked(sources, identities)
        of_row = [group[f"identity {identity}"] for identity in identities]
        given = {name: row.split for name, row in zip(of_row, rows, strict=True) if row.split}
        undecided = dict.fromkeys((name for name in of_row if name not in given), 1)
        if not given or len(undecided) > 1:
            drawn = split_groups(undecided, self.settings.test_fraction, self.settings.seed)
        else:
            drawn = dict.fromkeys(undecided, "train")
        return [row.split or given.get(name) or drawn[name] for row, name in zip(rows, of_row, strict=True)]


def linked(sources: Sequence[str], identities: Sequence[str]) -> dict[str, str]:
    """Return the group of `source NAME` and `identity NAME`: what shares a source or a speaker is in one.

    >>> groups = linked(["s1", "s1", "s2"], ["ann", "bob", "carl"])
    >>> groups["identity ann"] == groups["identity bob"] != groups["identity carl"]
    True
    """
    of_rows = dict.fromkeys(zip(sources, identities, strict=True))
    pairs = [(f"source {source}", f"identity {identity}") for source, identity in of_rows]
    # Sorted, so that a group is called the same whatever the order of the rows.
    groups = DisjointSets(sorted({name for pair in pairs for name in pair}))
    for source, identity in pairs:
        groups.join(source, identity)
    return {name: groups.of(name) for pair in pairs for name in pair}


def source_ids(uris: Sequence[str]) -> dict[str, str]:
    """Return `{uri: source id}`: YouTube's own, part of an address and its hash, the name of a file."""
    distinct = list(dict.fromkeys(uris))
    names = safe_ids([uri.removeprefix("file:") for uri in distinct if uri.startswith("file:")])
    ids: dict[str, str] = {}
    for uri in distinct:
        if uri.startswith("youtube:"):
            ids[uri] = uri.removeprefix("youtube:")
        elif uri.startswith("file:"):
            ids[uri] = names[uri.removeprefix("file:")]
        else:
            ids[uri] = web_id(uri)
    others = {i.lower() for uri, i in ids.items() if not uri.startswith("file:")}
    clashing = [uri for uri, i in ids.items() if uri.startswith("file:") and i.lower() in others]
    return ids | {uri: f"{ids[uri][:LONGEST_ID]}_{hash_of(uri)[:8]}" for uri in clashing}


def web_id(url: str) -> str:
    """Return the id of an address: its host and the end of its path, to be read, and a hash of all.

    >>> web_id("https://example.org/talks/1.mp4?key=2")
    'example_org_1_560fe9e512c6e8bb'
    """
    parts = urlsplit(url)
    last = PurePath(parts.path).stem
    return f"{reduced(f'{parts.hostname}_{last}')[:40].strip('_')}_{hash_of(url)[:16]}"


def clip_ids(rows: Sequence[Row], sources: Sequence[str]) -> list[str]:
    """Return an id for each row: that of the table where it can name a file, else one made from it.

    Without one it is the source's, and the position among its rows.

    Raises:
        UserError: where two rows that differ have one id.
    """
    seen: dict[str, Row] = {}
    for row in rows:
        if row.clip_id and row.clip_id in seen:
            other = seen[row.clip_id]
            if dataclasses.replace(row, where="") != dataclasses.replace(other, where=""):
                raise UserError(
                    f"{row.where}: clip_id {row.clip_id!a} is that of {other.where}, another clip"
                )
        seen.setdefault(row.clip_id, row)
    count: dict[str, int] = defaultdict(int)
    # Names that are taken, of which some file systems ignore the case; and how often each was asked for.
    taken: dict[str, int] = {}
    ids = []
    for row, source_id in zip(rows, sources, strict=True):
        name = row.clip_id or f"{source_id}-{count[source_id]:03d}"
        count[source_id] += 1
        usable = bool(USABLE_ID.fullmatch(name)) and len(name) <= LONGEST_ID + 20
        made = name if usable else f"{reduced(name) or 'clip'}_{hash_of(name)[:8]}"
        clip_id, key = made, made.lower()
        while clip_id.lower() in taken:
            taken[key] += 1
            clip_id = f"{made}-{taken[key]}"
        taken[clip_id.lower()] = 1
        ids.append(clip_id)
    return ids


def mark_shared_stretches(clips: Sequence[Clip]) -> list[Clip]:
    """Return the clips, with those left out that show a stretch of an earlier one, by more than a frame.

    Two clips whose boxes are of two faces are not the same.
    """
    kept: dict[str, _Stretches] = defaultdict(_Stretches)
    marked = []
    for clip in clips:
        of_source = kept[clip.source_id]
        other = next((k for k in of_source.around(clip) if _is_same(clip, k)), None)
        if other is None:
            of_source.add(clip)
        else:
            detail = f"duplicate: shows a stretch that is in {other.clip_id} too"
            clip = dataclasses.replace(clip, left_out=detail)
        marked.append(clip)
    return marked


class _Stretches:
    """Clips of one source, of which those around another are found without a look at all."""

    __slots__ = ("_by_start", "_longest_s")

    def __init__(self) -> None:
        self._by_start: list[tuple[float, int, Clip]] = []
        self._longest_s = 0.0

    def add(self, clip: Clip) -> None:
        insort(self._by_start, (clip.start_s, len(self._by_start), clip))
        self._longest_s = max(self._longest_s, clip.end_s - clip.start_s)

    def around(self, clip: Clip) -> list[Clip]:
        """Return the clips that may share time with one, in the order in which they were added."""
        begin = bisect_left(self._by_start, (clip.start_s - self._longest_s,))
        end = bisect_right(self._by_start, (clip.end_s, len(self._by_start)))
        return [found for _, _, found in sorted(self._by_start[begin:end], key=itemgetter(1))]


def _is_same(clip: Clip, other: Clip) -> bool:
    shared_s = min(clip.end_s, other.end_s) - max(clip.start_s, other.start_s)
    is_whole = (clip.start_s, clip.end_s) == (other.start_s, other.end_s)
    if shared_s <= 1 / FPS and not is_whole:
        return False
    if clip.box is None or other.box is None:
        return True
    if (clip.box_width, clip.box_height) != (other.box_width, other.box_height):
        return True
    return iou(clip.box, other.box) >= SAME_FACE_IOU
