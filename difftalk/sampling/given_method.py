"""A method from elsewhere on the clips of a shard: its videos taken, or its command run, clip by clip."""

import os
import re
import shutil
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path

from difftalk.config.methods import PLACEHOLDERS, MethodSettings
from difftalk.media.shards import Crop
from difftalk.runtime.checksums import read_record
from difftalk.runtime.command import environment_of, last_lines, program_of, run_program
from difftalk.runtime.errors import ClipError, UserError
from difftalk.runtime.files import inside, read_json, write_json
from difftalk.runtime.fingerprint import fingerprint
from difftalk.runtime.progress import note
from difftalk.runtime.sample_folder import SUFFIXES
from difftalk.sampling.full_frames import FullFrames, Sources
from difftalk.sampling.method_inputs import lay_out
from difftalk.sampling.method_videos import Difference, find_in_folders, find_output, take_video
from difftalk.sampling.unfinished import claim

# Of what a command that failed has printed, lines that go into the log of the job.
LOGGED_LINES = 100


def provenance(method: str, entry: MethodSettings, files: Sequence[Path], module: str) -> dict[str, object]:
    """Return what the videos depend on, as far as it can be told: the entry, the clips and the code."""
    return {
        "method": method,
        "entry": entry.as_dict(),
        "files": [read_record(f) or f"{f.stat().st_size} {f.stat().st_mtime_ns}" for f in files],
        "code": fingerprint(module),
    }


class GivenMethod:
    """One method from elsewhere on one shard; what is done is kept in a folder.

    Args:
        method: its name.
        entry: of the configuration.
        shard: its name.
        whole: the sources, where whole frames are read.
        state: folder for what is done, emptied where it is of other work.
        made_from: as `provenance`.

    Raises:
        UserError: if the folder of videos is missing, or the command's program.
    """

    def __init__(
        self,
        method: str,
        entry: MethodSettings,
        shard: str,
        whole: Sources | None,
        state: Path,
        made_from: dict[str, object],
    ) -> None:
        self._method, self._entry, self._shard, self._whole = method, entry, shard, whole
        self._directory = Path(entry.directory or ".").absolute()
        self._words: list[str] = []
        try:
            if entry.videos is not None and not Path(entry.videos).is_dir():
                raise UserError(f"{entry.videos}: no such folder of videos")
            if entry.command is not None:
                if not self._directory.is_dir():
                    raise UserError(f"{self._directory}: no such folder")
                self._environment = environment_of(entry.environment, entry.variables)
                first, *others = entry.command
                program = program_of(first, entry.environment, self._directory, self._environment)
                self._words = [program, *others]
        except UserError as e:
            raise UserError(f"methods.{method}: {e}") from None
        claim(state, made_from)
        self.folder = state

    def finished(self, wanted: Collection[str]) -> list[str]:
        """Return the clips that are done, with or without a video."""
        return [clip_id for clip_id in wanted if self._record(clip_id).is_file()]

    def row(self, clip_id: str) -> Difference:
        """Return the row of a clip that is done."""
        return Difference(**read_json(self._record(clip_id)))

    def take(self, crop: Crop) -> Difference:
        """Make or find the video of a clip, and keep it aligned with the truth.

        Raises:
            ClipError: if the true clip cannot be read. What the method fails on is in the row.
        """
        row = Difference(crop.clip_id, len(crop.landmarks))
        whole = self._whole.of(crop.clip_id, len(crop.landmarks)) if self._whole is not None else None
        shown = whole if self._entry.place == "full_frame" else None
        work = inside(self.folder, f"{crop.clip_id}.work")
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        try:
            given = self._videos(crop) if self._entry.command is None else self._run(work, crop, whole, row)
            take_video(given, inside(self.folder, crop.clip_id), crop, shown, self._entry, row)
        except ClipError as e:
            row.problem = str(e)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        write_json(self._record(crop.clip_id), asdict(row))
        return row

    def failed(self, crop: Crop, error: ClipError) -> Difference:
        """Return the row of a clip that could not be tried, and keep it."""
        row = Difference(crop.clip_id, 0, problem=str(error))
        write_json(self._record(crop.clip_id), asdict(row))
        return row

    def move(self, out: Path) -> None:
        """Link the videos into the folder `out`, or copy them to another file system."""
        for video in sorted(p for p in self.folder.iterdir() if p.suffix in SUFFIXES):
            try:
                os.link(video, out / video.name)
            except OSError:
                shutil.copyfile(video, out / video.name)

    def remove(self) -> None:
        """Delete the folder: all is done."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _record(self, clip_id: str) -> Path:
        return inside(self.folder, f"{clip_id}.json")

    def _videos(self, crop: Crop) -> Path:
        assert self._entry.videos is not None
        return find_in_folders(Path(self._entry.videos), self._shard, crop.clip_id)

    def _run(self, work: Path, crop: Crop, whole: FullFrames | None, row: Difference) -> Path:
        """Run the command, and return the video that it has written."""
        files = lay_out(work, crop, whole if self._entry.input == "full_frame" else None, self._entry)
        names = {name: str(path) for name, path in files.items()} | {"clip_id": crop.clip_id}
        words = [self._words[0], *(_filled(word, names) for word in self._words[1:])]
        said, started = work / "said", time.monotonic()
        try:
            run_program(
                words,
                environment=self._environment,
                directory=self._directory,
                said=said,
                timeout_s=self._entry.timeout_s,
            )
            row.seconds = round(time.monotonic() - started, 3)
            return find_output(files["out"])
        except UserError as e:
            raise UserError(f"methods.{self._method}: {e}") from None
        except ClipError:
            _log(crop.clip_id, words, said)
            raise


def _filled(word: str, names: dict[str, str]) -> str:
    known = "|".join(PLACEHOLDERS)
    return re.sub(rf"\{{({known})\}}", lambda found: names[found[1]], word)


def _log(clip_id: str, words: list[str], said: Path) -> None:
    """Put what a command has printed into the log of the job."""
    note(f"{clip_id}: {' '.join(words)}")
    for file in (said, said.with_name(f"{said.name}.err")):
        for line in last_lines(file, LOGGED_LINES):
            note(f"  {line}")
