"""What people upload: in a folder of this process, under names of ours, looked at before it is used."""

import html
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from difftalk.runtime.errors import ClipError, UserError
from difftalk.runtime.faults import readable
from difftalk.runtime.lock import file_lock

PREFIX = "difftalk-app-"
LOCK = "lock"
# Largest width and height that browsers and H.264 decoders take.
MOST_PX = 4096
# What browsers show by themselves; of other files they get the first frame.
SHOWN_VIDEOS = frozenset((".m4v", ".mov", ".mp4", ".webm"))
SHOWN_CODECS = frozenset(("av1", "h264", "vp8", "vp9"))
SHOWN_PICTURES = frozenset((".bmp", ".jpeg", ".jpg", ".png", ".webp"))
PREVIEW_PX = 1280
LONGEST_NAME = 60


@dataclass(frozen=True)
class Limits:
    """What is taken.

    Args:
        seconds: of sound, and of the video that comes out.
        megabytes: of a file.
    """

    seconds: float
    megabytes: float


@dataclass(frozen=True)
class Upload:
    """A file of a person's.

    Args:
        path: where it is, under a name of ours.
        name: as the person calls it; for their eyes alone.
        seconds: of video or sound; 0 of a picture.
        size: (width, height) in pixels; of a sound (0, 0).
        shown: what the browser can show of it.
        is_video: whether that is a video.
    """

    path: Path
    name: str
    seconds: float = 0.0
    size: tuple[int, int] = (0, 0)
    shown: Path | None = None
    is_video: bool = False


@contextmanager
def own_folder() -> Iterator[Path]:
    """Yield an empty folder that only this user can read; it is removed at the end.

    Folders of processes that were killed are removed first.
    """
    parent = Path(tempfile.gettempdir())
    for left in parent.glob(f"{PREFIX}*"):
        with suppress(OSError, UserError):
            if left.is_dir() and not left.is_symlink() and left.stat().st_uid == os.getuid():
                with file_lock(left / LOCK, wait=False):
                    shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX)).resolve()
    with ExitStack() as held:
        held.callback(shutil.rmtree, folder, ignore_errors=True)
        held.enter_context(file_lock(folder / LOCK, wait=False))
        yield folder


def new_folder(parent: Path) -> Path:
    """Return a new folder in `parent` whose name nobody guesses."""
    folder = parent / secrets.token_urlsafe(16)
    folder.mkdir(parents=True)
    return folder


def take(given: Path, name: str, place: Path) -> Upload:
    """Give an uploaded file a name of ours.

    Args:
        given: where the server put it.
        name: as the person calls it.
        place: path of ours, to which the suffix of `name` is added where it is one.

    Raises:
        UserError: if it is gone, or empty.
    """
    suffix = Path(name).suffix.lower()
    suffix = suffix if re.fullmatch(r"\.[a-z0-9]{1,5}", suffix) else ""
    path = place.with_name(place.name + suffix)
    shown = short(name)
    try:
        try:
            os.link(given, path)
        except FileNotFoundError:
            raise
        except OSError:  # a file system without links
            shutil.copyfile(given, path)
    except FileNotFoundError:
        raise UserError(f"{shown}: it was removed here after some time; choose it once more") from None
    if path.stat().st_size == 0:
        raise UserError(f"{shown}: an empty file")
    return Upload(path, shown)


def look_at_face(upload: Upload, limits: Limits) -> Upload:
    """Return what a face upload holds, with what the browser can show of it.

    Raises:
        UserError: if it is no video or picture that can be decoded, or too large.
    """
    from PIL import Image

    from difftalk.animation.source import PICTURES, Source
    from difftalk.media.clock import FPS
    from difftalk.media.probe import probe

    _check_bytes(upload, limits)
    suffix = upload.path.suffix
    if suffix in PICTURES:
        with suppress(OSError, ValueError, Image.DecompressionBombError), Image.open(upload.path) as opened:
            _check_pixels(upload, opened.size)  # before it is decoded
    try:
        source = Source.open(upload.path)
    except ClipError as e:
        raise UserError(f"{e.detail}: choose a video or a picture") from None
    _check_pixels(upload, source.size)
    is_picture = source.picture is not None
    if is_picture:
        can_be_shown = suffix in SHOWN_PICTURES
    else:
        can_be_shown = suffix in SHOWN_VIDEOS and probe(upload.path).codec in SHOWN_CODECS
    shown = upload.path
    if not can_be_shown:
        shown = upload.path.with_name("first_frame.jpg")
        frame = Image.fromarray(next(iter(source.read(0, 1)))[:, :])
        frame.thumbnail((PREVIEW_PX, PREVIEW_PX))
        frame.save(shown, quality=90)
    seconds = 0.0 if is_picture else source.frames / FPS
    return replace(
        upload, seconds=seconds, size=source.size, shown=shown, is_video=can_be_shown and not is_picture
    )


def look_at_sound(upload: Upload, limits: Limits) -> Upload:
    """Return how long a sound upload is.

    Raises:
        UserError: if it is too long or too large.
        ClipError: if it cannot be decoded, or has no sound.
    """
    import av

    from difftalk.media.damage import packets_of, reading
    from difftalk.media.probe import audio_stream, open_media

    _check_bytes(upload, limits)
    seconds, first = 0.0, None
    with reading(upload.path), open_media(upload.path) as container:
        stream = audio_stream(container)
        # Decoded, since headers lie, and no further than shows that it is too long.
        for packet in packets_of(container, stream) if stream is not None else ():
            with suppress(av.InvalidDataError):
                for frame in packet.decode():
                    first = frame.time if first is None else first
                    clock = frame.time - first if frame.time is not None and first is not None else 0.0
                    seconds = max(seconds, clock) + frame.samples / frame.sample_rate
            if seconds > limits.seconds:
                break
    if not seconds:
        raise ClipError("no_audio", f"{upload.name}: no sound in it")
    if seconds > limits.seconds:
        raise UserError(
            f"{upload.name}: longer than the {limits.seconds:g} s of sound that are taken here: cut it, "
            "with the scissors on this page for instance"
        )
    return replace(upload, seconds=seconds)


def check_length(face: Upload, length: str, limits: Limits) -> None:
    """Check a video that decides how long the result is.

    Raises:
        UserError: if that is too long.
    """
    if length == "video" and face.seconds > limits.seconds:
        raise UserError(
            f"{face.name}: {face.seconds:.1f} s, and videos of up to {limits.seconds:g} s are made here: "
            "cut it, or let the sound decide the length"
        )


def in_the_persons_words(said: str, folder: Path, name: str) -> str:
    """Return a sentence with the person's name of a file in place of ours.

    Args:
        said: by a library, of the file in `folder`.
        folder: of the upload, and of nothing else.
        name: as the person calls it.
    """
    for file in folder.iterdir() if folder.is_dir() else ():
        said = said.replace(str(file), short(name)).replace(file.name, short(name))
    return said


def short(name: str) -> str:
    """Return the last part of a name, without control characters, and not longer than fits on the page.

    >>> short("../a b.mp4"), len(short("x" * 300 + ".mp4"))
    ('a b.mp4', 60)
    """
    last = re.split(r"[/\\]", name)[-1] or "file"
    plain = "".join(c if c.isprintable() else "_" for c in last)
    if len(plain) <= LONGEST_NAME:
        return plain
    return f"{plain[: LONGEST_NAME - 12]}…{plain[-11:]}"


def escaped(text: str) -> str:
    """Return text as HTML; nor do braces and dollars mean anything to a template.

    >>> escaped('<b>${x} {{y}}')
    '&lt;b&gt;&#36;&#123;x&#125; &#123;&#123;y&#125;&#125;'
    """
    return re.sub(r"[{}$`]", lambda found: f"&#{ord(found[0])};", html.escape(text))


def _check_bytes(upload: Upload, limits: Limits) -> None:
    size = upload.path.stat().st_size
    if size > limits.megabytes * 1e6:
        raise UserError(
            f"{upload.name}: {readable(size)}, and files of up to {limits.megabytes:g} MB are taken here"
        )


def _check_pixels(upload: Upload, size: tuple[int, int]) -> None:
    if max(size) > MOST_PX:
        raise UserError(
            f"{upload.name}: {size[0]} x {size[1]} pixels, and up to {MOST_PX} a side are taken here: "
            "make it smaller"
        )
