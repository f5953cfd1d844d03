"""Videos from a site, by yt-dlp: each fetched once into a store, dead ones remembered, busy sites waited for.

Of a video `ID` the store holds `ID.mp4` (or another suffix) with `ID.json` beside it, which says where it came from; or
`ID.gone.json` with the reason for which the site does not give it. What is unfinished lies in `.ID.part/` and is
continued. No ffmpeg program is needed: pictures and sound that come apart are put into one file with PyAV.
"""

import fcntl
import heapq
import json
import logging
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal

import av

from difftalk.runtime.errors import ClipError, UserError
from difftalk.runtime.files import atomic_file
from difftalk.runtime.progress import say

logger = logging.getLogger(__name__)

# What sites say, in the order in which it is looked for. A busy site may call a video unavailable in the same breath.
BUSY = (
    "not a bot|rate.?limit|too many requests|try again later|timed? ?out|temporar|connection|network|resolve"
)
GONE = {
    "private": "private|members[- ]only|join this channel|log ?in required|account.{0,20}required",
    "age_restricted": "confirm your age|age[- ]restricted|inappropriate for some",
    "geo_blocked": "(your|this) (country|location|region)|geo.?(restrict|block)",
    "removed": "unavailable|not available|no longer|removed|terminated|deleted|does ?n[o']t exist|not found",
}
# HTTP answers that mean the same. 403 is neither: a video site gives it for links that are too old, too.
BUSY_STATUS = {408, 425, 429, *range(500, 600)}
GONE_STATUS = {401: "private", 404: "removed", 410: "removed", 451: "geo_blocked"}
FORBIDDEN_ATTEMPTS = 2


@dataclass(frozen=True)
class Download:
    """The config's `download` section: how to go about it. Nothing here changes what a clip is.

    Args:
        url: address of a video, with `{id}` in the place of its id.
        max_height: pixels; the best version that is no higher is taken. What the store has already is used as it is.
        rate_limit: bytes per second of one download; None is as fast as it comes.
        sleep_s: seconds to wait before each video.
        request_sleep_s: seconds between the requests that find out about a video.
        attempts: how often a busy site is asked. backoff_s: seconds before the second time, doubled each time after.
        timeout_s: seconds without an answer after which a request has failed.
        cookies: file of cookies in Netscape's format, read and never written or kept.
        proxy: URL of a proxy.
        js_runtime: program on the PATH that yt-dlp runs a site's JavaScript with.
    """

    url: str = "https://www.youtube.com/watch?v={id}"
    max_height: int = 1080
    rate_limit: int | None = None
    sleep_s: float = 3.0
    request_sleep_s: float = 0.75
    attempts: int = 5
    backoff_s: float = 30.0
    timeout_s: float = 30.0
    cookies: str | None = None
    proxy: str | None = None
    js_runtime: Literal["deno", "node", "bun", "quickjs"] = "deno"


class _Busy(Exception):
    """It may work later."""


class _Forbidden(Exception):
    """It may work once more, or never."""


class _Quiet:
    """What yt-dlp prints as it goes, for those who look for it: its errors are raised, too."""

    debug = info = warning = error = staticmethod(logger.debug)


def have(video_id: str, folder: Path, how: Download) -> Path:
    """The file of a video: from the folder, else from the site. Other jobs that want the same one wait for it.

    Args:
        video_id: letters, digits, `-` and `_`. folder: the store's folder of this site.

    Raises:
        ClipError: with the site's words, where it does not give the video: `removed`, `private`, `geo_blocked`,
            `age_restricted`; this is remembered. `cannot_fetch` where it forbids it, or has nothing that can be read.
        UserError: where the site was busy, or not understood, at every attempt. Nothing that was fetched is lost.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder / f".{video_id}.lock"):
        if (file := stored(video_id, folder)) is not None:
            return file
        gone = folder / f"{video_id}.gone.json"
        if gone.is_file():
            said = json.loads(gone.read_text(encoding="utf-8"))
            detail = f"{said['detail']} (asked on {said['asked']}; to ask again, delete {gone})"
            raise ClipError(said["reason"], detail)
        try:
            return _patiently(video_id, folder, how)
        except ClipError as e:
            shutil.rmtree(_unfinished(video_id, folder), ignore_errors=True)
            if e.reason in GONE:
                _write_json(gone, {"reason": e.reason, "detail": e.detail, "asked": date.today().isoformat()})
            raise


def stored(video_id: str, folder: Path) -> Path | None:
    """The file of a video that has been fetched whole before."""
    note = folder / f"{video_id}.json"
    if not note.is_file():
        return None
    file = folder / json.loads(note.read_text(encoding="utf-8"))["file"]
    return file if file.is_file() else None


def _patiently(video_id: str, folder: Path, how: Download) -> Path:
    time.sleep(how.sleep_s)
    for attempt in range(1, how.attempts + 1):
        try:
            return _fetch(video_id, folder, how)
        except (_Busy, _Forbidden) as e:
            if isinstance(e, _Forbidden) and attempt >= FORBIDDEN_ATTEMPTS:
                raise ClipError("cannot_fetch", f"{e} (asked {attempt} times)") from None
            said = f"{video_id}: attempt {attempt} of {how.attempts}: {e}"
        if attempt < how.attempts:
            wait_s = how.backoff_s * 2 ** (attempt - 1)
            say(f"fetch: {said}; again in {wait_s:g} s")
            time.sleep(wait_s)
    raise UserError(
        f"fetch: {said}. Nothing that was fetched is lost: run the same command later; download.cookies, proxy, sleep_s "
        "and attempts may help. To go on without this video, add it to dataset.skip"
    )


def _fetch(video_id: str, folder: Path, how: Download) -> Path:
    """One attempt; the video with its note in `folder`."""
    import yt_dlp

    part = _unfinished(video_id, folder)
    part.mkdir(exist_ok=True)
    url = how.url.format(id=video_id)
    options = {
        "format": _chooser(how.max_height),
        "outtmpl": {"default": f"{part}/%(format_id)s.%(ext)s"},
        "restrictfilenames": True,
        "continuedl": True,
        "retries": 2,
        "fixup": "never",
        "ratelimit": how.rate_limit,
        "sleep_interval_requests": how.request_sleep_s,
        "socket_timeout": how.timeout_s,
        "cookiefile": _copy_of_cookies(how.cookies, part),
        "proxy": how.proxy,
        "js_runtimes": {how.js_runtime: {}},
        "noplaylist": True,
        "cachedir": False,
        "quiet": True,
        "noprogress": True,
        "logger": _Quiet(),
    }
    try:
        with yt_dlp.YoutubeDL({k: v for k, v in options.items() if v is not None}) as site:
            info = site.extract_info(url, download=True)
    except yt_dlp.utils.YoutubeDLError as e:
        raise _understood(e) from None
    finally:
        (part / "cookies.txt").unlink(missing_ok=True)
    parts = [(Path(f["filepath"]), f) for f in (info or {}).get("requested_downloads") or []]
    if not parts:
        raise ClipError("cannot_fetch", f"{url}: yt-dlp found no video there")
    file = _place(video_id, folder, [path for path, _ in parts])
    facts = {
        "file": file.name,
        "url": url,
        "formats": [str(f.get("format_id")) for _, f in parts],
        "bytes": file.stat().st_size,
        "fetched": date.today().isoformat(),
        "yt_dlp": yt_dlp.version.__version__,
    }
    # The note comes last: without it the video counts as not fetched.
    _write_json(folder / f"{video_id}.json", facts)
    shutil.rmtree(part, ignore_errors=True)
    return file


def _unfinished(video_id: str, folder: Path) -> Path:
    return folder / f".{video_id}.part"


def _copy_of_cookies(cookies: str | None, part: Path) -> str | None:
    """yt-dlp writes changed cookies back: into a copy, which goes away."""
    if cookies is None:
        return None
    if not Path(cookies).is_file():
        raise UserError(f"config: download.cookies: no file {cookies}")
    shutil.copyfile(cookies, part / "cookies.txt")
    (part / "cookies.txt").chmod(0o600)
    return str(part / "cookies.txt")


def _place(video_id: str, folder: Path, parts: list[Path]) -> Path:
    if len(parts) == 1:
        suffix = parts[0].suffix if re.fullmatch(r"\.[a-z0-9]{2,5}", parts[0].suffix) else ".mp4"
        file = folder / f"{video_id}{suffix}"
        parts[0].replace(file)
        return file
    file = folder / f"{video_id}.mkv"
    join(parts[0], parts[1], file)
    return file


def join(pictures: Path, sound: Path, out: Path) -> None:
    """Copy the video stream of one file and the audio stream of another into one Matroska file, without decoding.

    Raises:
        ClipError: `cannot_decode` if one of them does not hold its stream.
    """
    try:
        with (
            atomic_file(out) as beside,
            av.open(str(pictures)) as video,
            av.open(str(sound)) as audio,
            # The same packets give the same bytes, so that checksums hold.
            av.open(str(beside), "w", format="matroska", options={"fflags": "+bitexact"}) as both,
        ):
            streams = [video.streams.video[0], audio.streams.audio[0]]
            targets = [both.add_stream_from_template(s) for s in streams]
            packets = [_packets(video, streams[0], 0), _packets(audio, streams[1], 1)]
            for _, number, packet in heapq.merge(*packets, key=lambda p: p[:2]):
                packet.stream = targets[number]
                both.mux(packet)
    except (av.FFmpegError, IndexError) as e:
        raise ClipError("cannot_decode", f"{pictures.name}, {sound.name}: {e}") from e


def _packets(container: Any, stream: Any, number: int) -> Iterator[tuple[float, int, Any]]:
    """(seconds, number, packet) of a stream, in the order of decoding."""
    for packet in container.demux(stream):
        if packet.dts is not None:
            yield float(packet.dts * packet.time_base), number, packet


def _chooser(max_height: int) -> Callable[[dict[str, Any]], Iterator[dict[str, Any]]]:
    """yt-dlp's question which formats to take, of a list from the worst to the best, as a function."""

    def choose(about: dict[str, Any]) -> Iterator[dict[str, Any]]:
        formats = [f for f in about["formats"] if _readable(f)]
        videos = [f for f in formats if f.get("vcodec") != "none"]
        fitting = [f for f in videos if (f.get("height") or 0) <= max_height]
        # Nothing small enough: the smallest there is.
        lowest = sorted(videos, key=lambda f: f.get("height") or 0)[:1]
        for video in fitting[-1:] or lowest:
            yield video
            if video.get("acodec") == "none":
                yield from [f for f in formats if f.get("vcodec") == "none" and f.get("acodec") != "none"][
                    -1:
                ]

    return choose


def _readable(found: dict[str, Any]) -> bool:
    """Whether the decoders that PyAV brings can read a format; what does not say its codecs is given a chance."""
    return not found.get("has_drm") and all(
        _decoder(str(found.get(kind) or "")) for kind in ("vcodec", "acodec")
    )


def _decoder(codec: str) -> bool:
    families = {
        "avc": "h264",
        "hev": "hevc",
        "hvc": "hevc",
        "vp09": "vp9",
        "av01": "av1",
        "mp4a": "aac",
        "mp4v": "mpeg4",
    }
    name = codec.lower().split(".")[0]
    name = next((known for mark, known in families.items() if name.startswith(mark)), name)
    if name in {"", "none", "unknown"}:
        return True
    try:
        av.Codec(name, "r")
    except ValueError:
        return False
    return True


def _understood(error: Exception) -> Exception:
    """What a fault of yt-dlp means for the clip: gone for good, forbidden, or busy, which is also what is not known."""
    chain = list(_causes(error))
    words = " ".join(re.sub(r"\x1b\[[0-9;]*m|^ERROR: ", "", str(error)).split())[:300]
    status = next((int(s) for e in chain if isinstance(s := getattr(e, "status", None), int)), None)
    if status in BUSY_STATUS or (status is None and re.search(BUSY, words, re.IGNORECASE)):
        return _Busy(words)
    if status in GONE_STATUS:
        return ClipError(GONE_STATUS[status], words)
    if status == 403:
        return _Forbidden(words)
    if any(type(e).__name__ == "GeoRestrictedError" for e in chain):
        return ClipError("geo_blocked", words)
    if "requested format is not available" in words.lower() or "no video formats" in words.lower():
        return ClipError("cannot_fetch", f"no version with pictures that can be read: {words}")
    reason = next(
        (reason for reason, pattern in GONE.items() if re.search(pattern, words, re.IGNORECASE)), None
    )
    return ClipError(reason, words) if reason else _Busy(words)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """`error`, and what yt-dlp says led to it."""
    seen: set[int] = set()
    waiting: list[Any] = [error]
    while waiting:
        e = waiting.pop()
        if isinstance(e, BaseException) and id(e) not in seen:
            seen.add(id(e))
            yield e
            waiting += [
                (getattr(e, "exc_info", None) or (None, None))[1],
                getattr(e, "cause", None),
                e.__cause__,
            ]


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Hold a lock that ends with the process."""
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with atomic_file(path) as beside:
        beside.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
