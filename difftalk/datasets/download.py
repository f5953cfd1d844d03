"""Download videos with yt-dlp: once into a store, with retries; videos that are gone are remembered.

Of a video `ID` the store holds `ID.mp4` (or another suffix) and `ID.json`, which says where it came from and
what its checksum is: a file that is torn or has changed is downloaded again. Or it holds `ID.gone.json` with
the reason for which the site does not give it, and the day: after `ask_again_days` it is asked again. A
partial download lies in `.ID.part/` and is resumed. No ffmpeg program is needed: separate video and audio
streams are put into one file with PyAV.
"""

import json
import logging
import re
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import av

from difftalk.config.download import Download
from difftalk.datasets.site_errors import GONE, BusySite, Forbidden, classify_error
from difftalk.media.encode import mux
from difftalk.runtime.checksums import checksum
from difftalk.runtime.errors import ClipError, UserError
from difftalk.runtime.files import sync, write_json
from difftalk.runtime.lock import file_lock
from difftalk.runtime.progress import say

logger = logging.getLogger(__name__)

FORBIDDEN_ATTEMPTS = 2
# FFmpeg's decoders of codecs that sites call otherwise, by how their names begin.
DECODERS = {
    "avc": "h264",
    "hev": "hevc",
    "hvc": "hevc",
    "vp09": "vp9",
    "av01": "av1",
    "mp4a": "aac",
    "mp4v": "mpeg4",
}


class _QuietLogger:
    """Send what yt-dlp prints to the debug log; it raises its errors too."""

    debug = info = warning = error = staticmethod(logger.debug)


def fetch_video(video_id: str, folder: Path, settings: Download, url: str | None = None) -> Path:
    """Return the file of a video, from the folder or else from the site.

    Other jobs that want the same video wait for this one.

    Args:
        video_id: letters, digits, `-` and `_`; it names the files in the store.
        folder: the store's folder of this site.
        settings: how to download.
        url: http or https, of a page or a file; None: by `settings.url`.

    Raises:
        ClipError: with the site's words, where it does not give the video: `removed`, `private`,
            `geo_blocked`, `age_restricted`; this is remembered for some days. `cannot_fetch` where it
            forbids it, or has no format that decodes.
        UserError: where the site was busy, or not understood, at every attempt. A partial download is kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with file_lock(folder / f".{video_id}.lock"):
        if (file := stored(video_id, folder)) is not None:
            return file
        gone = folder / f"{video_id}.gone.json"
        if (refused := _refused(gone, settings.ask_again_days)) is not None:
            raise refused
        try:
            file = fetch_with_retries(video_id, folder, settings, url)
        except ClipError as e:
            shutil.rmtree(_partial(video_id, folder), ignore_errors=True)
            if e.reason in GONE:
                write_json(gone, {"reason": e.reason, "detail": e.detail, "asked": date.today().isoformat()})
            raise
        gone.unlink(missing_ok=True)
        return file


def stored(video_id: str, folder: Path) -> Path | None:
    """Return the file of a video that has been fetched before, if it is whole; None where there is none."""
    note = _note(folder / f"{video_id}.json")
    file = folder / Path(str(note.get("file", ""))).name
    if file == folder or not file.is_file():
        return None
    # Notes of earlier versions have no checksum.
    if file.stat().st_size == note.get("bytes") and note.get("sha256") in (None, checksum(file)):
        return file
    say(f"fetch: {file} is not what was downloaded on {note.get('fetched')}: it is downloaded again")
    return None


def _refused(gone: Path, days: int) -> ClipError | None:
    """Return why the site did not give a video, less than so many days ago; None where it is to be asked."""
    said = _note(gone)
    try:
        reason, detail, asked = said["reason"], said["detail"], date.fromisoformat(said["asked"])
    except (KeyError, ValueError, TypeError):
        return None
    if (date.today() - asked).days >= days:
        return None
    again = asked + timedelta(days)
    return ClipError(reason, f"{detail} (asked on {asked}, again from {again}; or delete {gone})")


def _note(path: Path) -> dict[str, Any]:
    """Return what a note says; nothing where there is none, or it is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def fetch_with_retries(video_id: str, folder: Path, settings: Download, url: str | None = None) -> Path:
    """Download a video, again after a growing wait while the site is busy.

    Raises:
        ClipError, UserError: as `fetch_video`.
    """
    time.sleep(settings.sleep_s)
    for attempt in range(1, settings.attempts + 1):
        try:
            return _fetch(video_id, folder, settings, url or settings.url.format(id=video_id))
        except (BusySite, Forbidden) as e:
            if isinstance(e, Forbidden) and attempt >= FORBIDDEN_ATTEMPTS:
                raise ClipError("cannot_fetch", f"{e} (asked {attempt} times)") from None
            said = f"{video_id}: attempt {attempt} of {settings.attempts}: {e}"
        if attempt < settings.attempts:
            wait_s = settings.backoff_s * 2 ** (attempt - 1)
            say(f"fetch: {said}; again in {wait_s:g} s")
            time.sleep(wait_s)
    raise UserError(
        f"fetch: {said}. Nothing that was fetched is lost: run the same command later; download.cookies, "
        "proxy, sleep_s and attempts may help. To go on without this video, add it to dataset.skip"
    )


def _fetch(video_id: str, folder: Path, settings: Download, url: str) -> Path:
    """Download in one attempt; write the video and its note to `folder`."""
    import yt_dlp

    part = _partial(video_id, folder)
    part.mkdir(exist_ok=True)
    options = {
        "format": format_selector(settings.max_height),
        "outtmpl": {"default": f"{part}/%(format_id)s.%(ext)s"},
        "restrictfilenames": True,
        "continuedl": True,
        "retries": 2,
        "fixup": "never",
        "ratelimit": settings.rate_limit,
        "sleep_interval_requests": settings.request_sleep_s,
        "socket_timeout": settings.timeout_s,
        "cookiefile": _copy_of_cookies(settings.cookies, part),
        "proxy": settings.proxy,
        "js_runtimes": {settings.js_runtime: {}},
        "noplaylist": True,
        "cachedir": False,
        "quiet": True,
        "noprogress": True,
        "logger": _QuietLogger(),
    }
    try:
        with yt_dlp.YoutubeDL({k: v for k, v in options.items() if v is not None}) as site:
            info = site.extract_info(url, download=True)
    except yt_dlp.utils.YoutubeDLError as e:
        raise classify_error(e) from None
    finally:
        (part / "cookies.txt").unlink(missing_ok=True)
    parts = [(Path(f["filepath"]), f) for f in (info or {}).get("requested_downloads") or []]
    if not parts:
        raise ClipError("cannot_fetch", f"{url}: yt-dlp found no video there")
    file = _place(video_id, folder, [path for path, _ in parts])
    sync(file)
    facts = {
        "file": file.name,
        "url": url,
        "formats": [str(f.get("format_id")) for _, f in parts],
        "bytes": file.stat().st_size,
        "sha256": checksum(file),
        "fetched": date.today().isoformat(),
        "yt_dlp": yt_dlp.version.__version__,
    }
    # The note comes last: without it the video counts as not fetched.
    write_json(folder / f"{video_id}.json", facts)
    shutil.rmtree(part, ignore_errors=True)
    return file


def _partial(video_id: str, folder: Path) -> Path:
    return folder / f".{video_id}.part"


def _copy_of_cookies(cookies: str | None, part: Path) -> str | None:
    """Copy the cookies file: yt-dlp writes changed cookies back, into this copy, which is deleted."""
    if cookies is None:
        return None
    if not Path(cookies).is_file():
        raise UserError(f"config: download.cookies: no file {cookies}")
    shutil.copyfile(cookies, part / "cookies.txt")
    (part / "cookies.txt").chmod(0o600)
    return str(part / "cookies.txt")


def _place(video_id: str, folder: Path, parts: list[Path]) -> Path:
    """Move the downloaded file to its place in the store; two parts, video and audio, become one file."""
    if len(parts) == 1:
        suffix = parts[0].suffix if re.fullmatch(r"\.[a-z0-9]{2,5}", parts[0].suffix) else ".mp4"
        file = folder / f"{video_id}{suffix}"
        parts[0].replace(file)
        return file
    file = folder / f"{video_id}.mkv"
    mux(parts[0], parts[1], file)
    return file


def format_selector(max_height: int) -> Callable[[dict[str, Any]], Iterator[dict[str, Any]]]:
    """Return yt-dlp's `format` function: it chooses the best format of at most `max_height` pixels.

    yt-dlp lists formats from the worst to the best.
    """

    def choose(about: dict[str, Any]) -> Iterator[dict[str, Any]]:
        formats = [f for f in about["formats"] if _readable(f)]
        videos = [f for f in formats if f.get("vcodec") != "none"]
        fitting = [f for f in videos if (f.get("height") or 0) <= max_height]
        # Nothing small enough: the smallest there is.
        lowest = sorted(videos, key=lambda f: f.get("height") or 0)[:1]
        for video in fitting[-1:] or lowest:
            yield video
            if video.get("acodec") == "none":
                audio = [f for f in formats if f.get("vcodec") == "none" and f.get("acodec") != "none"]
                yield from audio[-1:]

    return choose


def _readable(found: dict[str, Any]) -> bool:
    """Whether PyAV can decode a format; one that does not say its codecs is assumed to be readable."""
    return not found.get("has_drm") and all(
        _decodes(str(found.get(kind) or "")) for kind in ("vcodec", "acodec")
    )


def _decodes(codec: str) -> bool:
    """Whether PyAV decodes a codec, as yt-dlp names it."""
    name = codec.lower().split(".")[0]
    name = next((known for mark, known in DECODERS.items() if name.startswith(mark)), name)
    if name in {"", "none", "unknown"}:
        return True
    try:
        av.Codec(name, "r")
    except ValueError:
        return False
    return True
