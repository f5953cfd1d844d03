"""Your own videos: the video files of a folder, with who speaks in them, copies, and cuts."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from difftalk.config.dataset import LocalSettings
from difftalk.config.download import Download
from difftalk.datasets.clips import Clip
from difftalk.datasets.disjoint_sets import DisjointSets
from difftalk.datasets.features_cache import CachedJob, entry_of, look_and_remember, recall
from difftalk.datasets.file_features import CutMonitor, FeaturesJob, FileFeatures
from difftalk.datasets.groups import Nearest, near_duplicates, same_bytes, same_identity_pairs
from difftalk.datasets.ids import safe_identities, safe_ids, unlike
from difftalk.datasets.split import split_groups
from difftalk.datasets.survey import Survey
from difftalk.media.clock import FPS
from difftalk.runtime.cache import Cache
from difftalk.runtime.errors import ClipError, UserError
from difftalk.runtime.parallel import map_clips
from difftalk.runtime.progress import say
from difftalk.runtime.rejects import Reject
from difftalk.runtime.suggest import did_you_mean
from difftalk.runtime.tabular import read_tabular
from difftalk.runtime.video_folder import SPEAKERS, SUFFIXES, VideoFolder, from_uri, list_videos, to_uri

# The rest of a source after whole clips is a clip of its own if it is at least this long; so is what lies
# between two cuts.
MIN_REST_S = 2.0


class LocalDataset:
    """The video files of a folder. No content is in both splits, and no identity unless the split is by time.

    Args:
        settings: the section `dataset`, with the folder.
        monitor: makes what finds cuts, such as `difftalk.face.scenes.CutFinder`; None cuts no video there.
        workers: processes that look at files.
        cache: folder that keeps what was found in each file; None keeps nothing.
    """

    def __init__(
        self,
        settings: LocalSettings,
        monitor: Callable[[], CutMonitor] | None = None,
        workers: int = 1,
        cache: Path | None = None,
    ) -> None:
        self.settings = settings
        self._cache = Cache(cache, "plan")
        self._monitor = monitor if settings.clip_at_cuts else None
        self._workers = workers

    grows = True

    @property
    def shares_no_identity(self) -> bool:
        """Whether no identity is on both sides: the split by time has every one on both."""
        return self.settings.split == "identity"

    def clips(self) -> list[Clip]:
        """Return the clips of all files, each with its split."""
        return self.survey().clips

    def survey(self) -> Survey:
        """Look at every file of the folder.

        Raises:
            UserError: for a folder that gives no two sides of a split.
        """
        folder, settings = Path(self.settings.videos), self.settings
        if settings.clip_seconds is not None and settings.clip_seconds < MIN_REST_S:
            raise UserError(
                f"dataset: clip_seconds must be at least {MIN_REST_S:g}, it is {settings.clip_seconds:g}"
            )
        listed = _videos(folder)
        names = list(listed.videos)
        ids = safe_ids(names)
        speakers = read_speakers(folder, names)
        repeated = same_bytes(folder, names)
        looks = self._look([name for name in names if name not in repeated])
        copies = near_duplicates(looks) if settings.near_duplicates != "ignore" else {}
        limit = settings.same_person_distance
        people, nearest = same_identity_pairs(looks, limit, speakers) if limit is not None else ([], {})
        usable = [n for n, look in looks.items() if not look.unusable]
        by_time = settings.split == "time"
        # The parts of a copy need not be on the side of the same parts of its original.
        drops_copies = settings.near_duplicates == "reject" or by_time
        if drops_copies:
            usable = [name for name in usable if name not in copies]
        least = 1 if by_time else 2
        groups = _grouped(names, speakers, [*copies.items(), *repeated.items()], people, usable, least)
        identities = _identities(groups, names, ids, speakers)
        sides = self._sides(groups, usable, looks, repeated, identities)
        survey = Survey([], [(to_uri(name), why) for name, why in listed.others])
        for name in names:
            original = repeated.get(name, name)
            identity = identities[original]
            split = "both" if by_time else sides.get(groups.of(original), "train")
            left_out = ""
            if name in repeated:
                left_out = f"duplicate: the same bytes as {to_uri(original)}"
            elif drops_copies and name in copies:
                left_out = f"duplicate: the same frames and audio as {to_uri(copies[name])}"
            survey.clips += self._clips_of(name, ids[name], identity, split, looks[original], left_out)
            near = nearest.get(name, Nearest("", math.nan))
            survey.identities.append(
                (
                    *(ids[name], to_uri(name), identity, split, to_uri(near.name)),
                    f"{near.distance:.3f}" if near.name else "",
                    to_uri(original if name in repeated else copies.get(name, "")),
                )
            )
        return survey

    def own_files(self, clips: Iterable[Clip]) -> dict[str, Path]:
        """Return the file of each source, by its id."""
        uris = {clip.source_id: clip.uri for clip in clips}
        return {source_id: Path(self.settings.videos) / from_uri(uri) for source_id, uri in uris.items()}

    def fetch(self, source_id: str, uri: str, store: Path, download: Download) -> dict[str, Path]:
        """Return the file of a source, where it lies."""
        file = Path(self.settings.videos) / from_uri(uri)
        if not file.is_file():
            raise ClipError("cannot_fetch", f"{file} is gone since the plan was made")
        return {f"{source_id}{file.suffix.lower()}": file.resolve()}

    def _sides(
        self,
        groups: DisjointSets,
        usable: Sequence[str],
        looks: Mapping[str, FileFeatures],
        repeated: Mapping[str, str],
        identities: Mapping[str, str],
    ) -> dict[str, str]:
        """Return `{group: split}`. A file that will be lost does not count, unless nothing better is there.

        It is drawn by the identity, so that a group stays where it is whichever of its files is the first.

        Of a split by time, none has a side as a whole.

        Raises:
            UserError: where fewer than two groups can be used (by time: no file), with what is wrong.
        """
        by_time = self.settings.split == "time"
        if by_time and usable:
            return {}
        faces = self.settings.same_person_distance is not None
        good = [n for n in usable if not looks[n].silent and (looks[n].face is not None or not faces)]
        for counted in (good, usable):
            sizes = groups.sizes(counted)
            if len(sizes) > 1:
                of_identity = {identities[group]: size for group, size in sizes.items()}
                split = split_groups(of_identity, self.settings.test_fraction, self.settings.seed)
                return {group: split[identities[group]] for group in sizes}
        lost = {name: look.unusable.split(":")[0] for name, look in looks.items() if look.unusable}
        lost |= dict.fromkeys(repeated, "duplicate")
        examples: dict[str, list[str]] = {}
        for name, reason in lost.items():
            examples.setdefault(reason, []).append(to_uri(name))
        said = ", ".join(
            f"{reason} {len(of)} ({', '.join(of[:3])}{', ...' if len(of) > 3 else ''})"
            for reason, of in examples.items()
        )
        why = "" if by_time else ": too few for train and test, which share no speaker"
        raise UserError(
            f"dataset: of {len(looks) + len(repeated)} video files in {self.settings.videos}, {len(usable)} "
            f"can be used, of {len(sizes)} speaker(s){why}"
            f"{f'; lost: {said}' if said else ''}: add at least one more video"
        )

    def _look(self, names: Sequence[str]) -> dict[str, FileFeatures]:
        settings = self.settings
        faces, compare = settings.same_person_distance is not None, settings.near_duplicates != "ignore"
        found: dict[str, FileFeatures] = {}
        jobs = []
        for name in names:
            job = FeaturesJob(Path(settings.videos) / name, faces, compare, self._monitor)
            entry = entry_of(self._cache, job)
            known = recall(self._cache, entry)
            if known is None:
                jobs.append((name, CachedJob(job, self._cache, entry)))
            else:
                found[name] = known
        for name, features in map_clips(
            look_and_remember, jobs, stage="plan", workers=self._workers, unit="files"
        ):
            if isinstance(features, Reject):
                features = FileFeatures(0.0, f"{features.reason}: {features.detail}")
            found[name] = features
        return {name: found[name] for name in names}

    def _clips_of(
        self, name: str, source_id: str, identity: str, split: str, look: FileFeatures, left_out: str
    ) -> list[Clip]:
        failed = look.unusable if look.unusable.startswith("failed:") else ""
        clips: list[Clip] = []
        test_from = round(look.length_s * (1 - self.settings.test_fraction) * FPS)
        test_from_s = round(test_from / FPS, 6)
        cuts = sorted({*look.cuts, test_from}) if split == "both" and look.length_s else look.cuts
        spans = cut_scenes(look.length_s, cuts, self.settings.clip_seconds)
        if look.lost_s:
            set_back = f"cannot_decode: the clock of the stream is set back at {look.length_s:.2f} s"
            rest = f"{set_back}, and what follows is not read: split the file there"
            spans.append((look.length_s, look.length_s + look.lost_s, rest))
        for start_s, end_s, why in spans:
            clips.append(
                Clip(
                    f"{source_id}-{len(clips):03d}",
                    source_id,
                    start_s,
                    end_s,
                    identity,
                    ("test" if start_s >= test_from_s else "train") if split == "both" else split,
                    uri=to_uri(name),
                    left_out=left_out or why or failed,
                )  # fmt: skip
            )
        return clips


def read_speakers(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """Return `{file name: speaker}` where the speaker is known: by `speakers.csv`, or else by sub-folder.

    Raises:
        UserError: naming the line of `speakers.csv` that is wrong.
    """
    speakers = {name: name.split("/")[0] for name in names if "/" in name}
    table = folder / SPEAKERS
    if not table.is_file():
        return speakers
    said: dict[str, str] = {}
    known = set(names)
    for where, row in read_tabular(table):
        if not {"file", "speaker"} <= row.keys():
            raise UserError(f"{table}:1: the columns are not file,speaker but {','.join(row)}")
        name, speaker = from_uri(row["file"]), row["speaker"]
        if name not in known:
            hint = did_you_mean(row["file"], [to_uri(n) for n in names])
            raise UserError(f"{where}: no video {row['file']!a} in the folder; {hint}")
        if not speaker:
            raise UserError(f"{where}: {row['file']} has no speaker")
        if said.setdefault(name, speaker) != speaker:
            raise UserError(f"{where}: {row['file']} has two speakers, {said[name]} and {speaker}")
    return speakers | said


def cut(length_s: float, clip_seconds: float | None) -> list[tuple[float, float]]:
    """Return (start, end) of the clips of a source, in seconds; a rest shorter than 2 s is left out.

    >>> cut(25.0, 10.0)
    [(0.0, 10.0), (10.0, 20.0), (20.0, 25.0)]
    >>> cut(21.0, 10.0)
    [(0.0, 10.0), (10.0, 20.0)]
    """
    if clip_seconds is None or length_s <= clip_seconds:
        return [(0.0, length_s)]
    whole = math.floor(length_s / clip_seconds + 1e-9)
    clips = [(k * clip_seconds, (k + 1) * clip_seconds) for k in range(whole)]
    if length_s - whole * clip_seconds >= MIN_REST_S:
        clips.append((whole * clip_seconds, length_s))
    return clips


def cut_scenes(
    length_s: float, cuts: Sequence[int], clip_seconds: float | None
) -> list[tuple[float, float, str]]:
    """Return (start, end, why it is left out) of the clips of a source that is cut at some frames of 1/25 s.

    What is left between two cuts, or before one, is a clip or, below 2 s, a row that says so.

    >>> cut_scenes(25.0, [100, 120], 10.0)[:2]
    [(0.0, 4.0, ''), (4.0, 4.8, 'too_short: 0.80 s between cuts at 4.00 s and 4.80 s')]
    """
    if not cuts:
        return [(start_s, end_s, "") for start_s, end_s in cut(length_s, clip_seconds)]
    edges = [0.0, *(k / FPS for k in cuts if 0 < k / FPS < length_s), length_s]
    clips = []
    for begin_s, end_s in zip(edges[:-1], edges[1:], strict=True):
        between = f"between cuts at {begin_s:.2f} s and {end_s:.2f} s"
        parts = cut(end_s - begin_s, clip_seconds)
        rest_s = begin_s + parts[-1][1]
        for start, end in parts:
            short = f"too_short: {end - start:.2f} s {between}" if end - start < MIN_REST_S else ""
            clips.append((round(begin_s + start, 6), round(begin_s + end, 6), short))
        if end_s - rest_s > 0.5 / FPS:
            clips.append((round(rest_s, 6), end_s, f"too_short: rest of {end_s - rest_s:.2f} s {between}"))
    return clips


def _videos(folder: Path) -> VideoFolder:
    if not folder.is_dir():
        raise UserError(f"dataset: the folder of videos, {folder}, does not exist")
    listed = list_videos(folder)
    if not listed.videos:
        raise UserError(f"dataset: no video file in {folder} (known: {' '.join(sorted(SUFFIXES))})")
    return listed


def _grouped(
    names: Sequence[str],
    speakers: Mapping[str, str],
    copies: Sequence[tuple[str, str]],
    people: Sequence[tuple[str, str]],
    usable: Sequence[str],
    least: int,
) -> DisjointSets:
    """Return the groups of one speaker, of one content, of one face; of fewer than `least`, not by face."""
    for faces in (people, ()):
        groups = DisjointSets(names)
        first: dict[str, str] = {}
        for name, speaker in speakers.items():
            groups.join(first.setdefault(speaker, name), name)
        for a, b in (*copies, *faces):
            groups.join(a, b)
        if len(groups.sizes(usable)) >= least:
            break
        if faces:
            say(
                "plan: by their faces, one person speaks in all videos: the split is by file and not by face "
                "(plan/identities.csv has the distances)"
            )
    return groups


def _identities(
    groups: DisjointSets, names: Sequence[str], ids: Mapping[str, str], speakers: Mapping[str, str]
) -> dict[str, str]:
    """Return `{file name: identity}`: its speaker, or that of its group, or else the group's first file."""
    spoken_by = safe_identities(set(speakers.values()))
    of_group: dict[str, str] = {}
    for name in sorted(names, key=lambda n: n not in speakers):
        of_group.setdefault(groups.of(name), spoken_by[speakers[name]] if name in speakers else "")
    named = set(spoken_by.values())
    return {
        name: spoken_by[speakers[name]]
        if name in speakers
        else of_group[groups.of(name)] or unlike(ids[groups.of(name)], named)
        for name in names
    }
