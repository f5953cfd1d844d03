"""One job at a time: who waits for whom, what is made, and what is removed when a page is closed."""

import logging
import shutil
import threading
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from difftalk.app.isolated import OF_OURS, POLL_S, Cancelled, Isolated, Step, result_of
from difftalk.app.uploads import (
    Limits,
    Upload,
    check_length,
    in_the_persons_words,
    look_at_face,
    look_at_sound,
    new_folder,
    take,
)
from difftalk.config.sampling import Sampling
from difftalk.runtime.errors import UserError

# Pages that may wait at once.
MOST_WAITING = 8
# A file that takes longer to look at is not one that a person means to use.
LOOK_S = 60.0
RESULT = "difftalk.mp4"
# Folders: of what the server keeps, and of what belongs to pages.
UPLOADS, PAGES = "uploads", "pages"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """What a person chooses on the page.

    Args:
        settings: of the sampling.
        length: as of `animate`, and so all others.
        face: which.
        silence: what the mouth does.
        marked: whether there is a visible note.
    """

    settings: Sampling
    length: Literal["audio", "video"] = "audio"
    face: str = "largest"
    silence: Literal["audio", "closed"] = "audio"
    marked: bool = False


@dataclass(frozen=True)
class Made:
    """What came out.

    Args:
        path: the mp4.
        frames: of it.
        seconds: that it took.
        notes: what the report says beside the times, a sentence each.
    """

    path: Path
    frames: int
    seconds: float
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Waiting:
    """How many jobs are before this one."""

    before: int


@dataclass
class Job:
    """One video that is to be made.

    Attributes:
        session: the page that wants it.
        face: its face.
        sound: its sound.
        options: how.
        state: how far it is: None while it waits, or begins.
        error: why there is no video.
        cancel: set when it is not wanted any more.
        finished: set when there is nothing more to come.
    """

    session: "Session"
    face: Upload
    sound: Upload
    options: Options
    state: Step | Made | None = None
    error: UserError | Cancelled | None = None
    cancel: threading.Event = field(default_factory=threading.Event)
    finished: threading.Event = field(default_factory=threading.Event)


@dataclass
class Session:
    """What belongs to one open page.

    Attributes:
        folder: all of its files.
        uploads: its face and its sound, once looked at, by role.
        given: where the server had put what was chosen, by role.
        refused: why that cannot be used, by role.
        job: what is made for it now.
        made: the folder of its last video.
        closed: whether the page is gone.
        lock: held while an upload is looked at.
    """

    folder: Path
    uploads: dict[str, Upload] = field(default_factory=dict)
    given: dict[str, Path] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    job: Job | None = None
    made: Path | None = None
    closed: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)


class Studio:
    """All open pages, the queue of their jobs, and the processes that work.

    Args:
        model: folder of the trained model.
        limits: what is taken.
        folder: for all files; everything in it may be removed.
    """

    def __init__(self, model: Path, limits: Limits, folder: Path) -> None:
        self.model, self.limits = model, limits
        self.uploads, self.pages = folder / UPLOADS, folder / PAGES
        self._maker, self._looker = Isolated(), Isolated()
        self._sessions: dict[str, Session] = {}
        self._queue: list[Job] = []  # the first is being worked on
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, daemon=True)

    def start(self) -> Sampling:
        """Start the processes, and return the settings that suit the model.

        Raises:
            UserError: if the model cannot be used.
        """
        self._looker.start()
        settings = result_of(self._maker.call(suggested, self.model))
        self._thread.start()
        return settings

    def close(self) -> None:
        """End all work."""
        with self._changed:
            self._closed = True
            for job in self._queue:
                job.cancel.set()
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()
        self._looker.end()
        self._maker.end()

    def session(self, name: str) -> Session:
        """Return what belongs to a page; of a new page, nothing yet."""
        with self._changed:
            if name not in self._sessions:
                self._sessions[name] = Session(new_folder(self.pages))
            return self._sessions[name]

    def leave(self, name: str) -> None:
        """Remove what belongs to a page that is closed, and cancel its job."""
        with self._changed:
            session = self._sessions.pop(name, None)
            if session is None:
                return
        session.closed = True
        self.cancel(session)
        for given in session.given.values():
            self._forget(given)
        if session.job is None:
            shutil.rmtree(session.folder, ignore_errors=True)

    def cancel(self, session: Session) -> None:
        """Cancel the job of a page, if it has one: at once where it waits, else as soon as it is noticed."""
        with self._changed:
            job = session.job
            if job is None:
                return
            job.cancel.set()
            if job in self._queue[1:]:
                self._queue.remove(job)
                session.job = None
                job.error = Cancelled()
                job.finished.set()

    def take(self, session: Session, role: Literal["face", "sound"], given: Path | None, name: str) -> None:
        """Take an upload of a page in place of an earlier one, or none; look at it in another process.

        Raises:
            UserError: in the person's words, if it cannot be used.
        """
        with session.lock:
            self._take(session, role, given, name)

    def _take(self, session: Session, role: str, given: Path | None, name: str) -> None:
        if given is not None and session.given.get(role) == given:
            if role in session.refused:
                raise UserError(session.refused[role])
            return
        session.refused.pop(role, None)
        before, upload_before = session.given.pop(role, None), session.uploads.pop(role, None)
        if upload_before is not None and session.job is None:
            shutil.rmtree(upload_before.path.parent, ignore_errors=True)
        self._forget(before)
        if given is None:
            return
        if not given.resolve().is_relative_to(self.uploads.resolve()):
            raise UserError("That is not a file that was uploaded here.")
        session.given[role] = given
        look = look_at_face if role == "face" else look_at_sound
        folder = new_folder(session.folder)
        try:
            upload = take(given, name, folder / role)
            found = result_of(self._looker.call(look, upload, self.limits, most_s=LOOK_S))
        except UserError as e:
            session.refused[role] = in_the_persons_words(str(e), folder, name)
            shutil.rmtree(folder, ignore_errors=True)
            raise UserError(session.refused[role]) from None
        session.uploads[role] = found

    def _forget(self, given: Path | None) -> None:
        """Remove what the server keeps of an upload, unless another page has the same file."""
        with self._changed:
            if given is not None and not any(given in s.given.values() for s in self._sessions.values()):
                given.unlink(missing_ok=True)

    def enter(self, session: Session, options: Options) -> Job:
        """Put the job of a page at the end of the queue.

        Raises:
            UserError: in the person's words, if there is nothing to be made of it.
        """
        for role in ("face", "sound"):
            if role not in session.uploads:
                raise UserError(f"There is no {role} yet: choose one, then press Run.")
        face, sound = session.uploads["face"], session.uploads["sound"]
        check_length(face, options.length, self.limits)
        job = Job(session, face, sound, options)
        with self._changed:
            if session.job is not None:
                raise UserError("This page has a job already.")
            if len(self._queue) > MOST_WAITING:
                raise UserError(f"{MOST_WAITING} jobs are waiting already: try it again in some minutes.")
            session.job = job
            if session.made is not None:
                shutil.rmtree(session.made, ignore_errors=True)
                session.made = None
            self._queue.append(job)
            self._changed.notify_all()
        return job

    def watch(self, job: Job) -> Iterator[Waiting | Step | Made | None]:
        """Yield every `POLL_S` how far a job is; None: it begins. Closed early, it cancels the job.

        Raises:
            UserError: in the person's words, if there is no video.
            Cancelled: if the job was cancelled.
        """
        try:
            while not job.finished.wait(POLL_S):
                with self._changed:
                    before = self._queue.index(job) if job in self._queue else 0
                yield Waiting(before) if before else job.state
            if job.error is not None:
                raise job.error
            yield job.state
        finally:
            if not job.finished.is_set():
                self.cancel(job.session)

    def _work(self) -> None:
        """Do one job after the other, whoever still watches."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closed)
                if self._closed:
                    return
                job = self._queue[0]
            try:
                self._do(job)
            except (UserError, Cancelled) as e:
                job.error = e
            except Exception:
                logger.exception("unexpected error")
                job.error = UserError(OF_OURS)
            with self._changed:
                self._queue.remove(job)
                job.session.job = None
                gone = job.session.closed
            if gone:
                shutil.rmtree(job.session.folder, ignore_errors=True)
            job.finished.set()
            if not self._closed:
                self._maker.start()

    def _do(self, job: Job) -> None:
        if job.cancel.is_set():
            raise Cancelled
        folder = new_folder(job.session.folder)
        files = job.face.path, job.sound.path, self.model, folder / RESULT
        try:
            _note_steps(job, self._maker.call(make, *files, job.options, cancelled=job.cancel))
            job.session.made = folder
        except BaseException as e:
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(e, UserError):
                said = str(e)
                for upload in (job.face, job.sound):
                    said = in_the_persons_words(said, upload.path.parent, upload.name)
                raise UserError(said) from None
            raise


def _note_steps(job: Job, call: Generator[Step | None, None, Made]) -> None:
    """Note in a job how far a call is, and what it made."""
    while True:
        try:
            job.state = next(call) or job.state
        except StopIteration as end:
            job.state = end.value
            return


def suggested(model: Path) -> Sampling:
    """Load a model, and return the settings that suit it."""
    from difftalk.animation.animate import suggested_settings
    from difftalk.runtime.device import default_device
    from difftalk.sampling.pipeline import DiffTalkPipeline

    return suggested_settings(DiffTalkPipeline.from_pretrained(model, default_device()))


def make(video: Path, audio: Path, model: Path, out: Path, options: Options) -> Made:
    """Make the video."""
    from difftalk.animation.animate import animate

    report = animate(
        video, audio, model, out, settings=options.settings, length=options.length, face=options.face,
        silence=options.silence, marked=options.marked,
    )  # fmt: skip
    said = report.lines()
    return Made(out, report.frames, sum(report.seconds.values()), tuple(said[len(report.seconds) + 1 :]))
