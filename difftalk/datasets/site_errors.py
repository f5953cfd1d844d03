"""Classify what a video site answers: gone for good, forbidden, or busy."""

import re
from collections.abc import Iterator
from typing import Any

from difftalk.runtime.errors import ClipError

# Patterns of messages, in the order in which they are tried: a busy site may call a video
# unavailable as well.
BUSY = (
    "not a bot|rate.?limit|too many requests|try again later|timed? ?out|temporar|connection|network|resolve"
)
GONE = {
    "private": "private|members[- ]only|join this channel|log ?in required|account.{0,20}required",
    "age_restricted": "confirm your age|age[- ]restricted|inappropriate for some",
    "geo_blocked": "(your|this) (country|location|region)|geo.?(restrict|block)",
    "removed": "unavailable|not available|no longer|removed|terminated|deleted|does ?n[o']t exist|not found",
}
# HTTP statuses that mean the same. 403 is neither: a video site sends it for expired links too.
BUSY_STATUS = {408, 425, 429, *range(500, 600)}
GONE_STATUS = {401: "private", 404: "removed", 410: "removed", 451: "geo_blocked"}


class BusySite(Exception):
    """The site may give the video later."""


class Forbidden(Exception):
    """The site may give the video at the next attempt, or never."""


def classify_error(error: Exception) -> Exception:
    """Return what an error of yt-dlp means: a `ClipError`, `Forbidden` or `BusySite`.

    A `ClipError` means that the site does not give the video at all. An error that is not recognised
    counts as a busy site.
    """
    chain = list(_causes(error))
    words = " ".join(re.sub(r"\x1b\[[0-9;]*m|^ERROR: ", "", str(error)).split())[:300]
    status = next((int(s) for e in chain if isinstance(s := getattr(e, "status", None), int)), None)
    if status in BUSY_STATUS or (status is None and re.search(BUSY, words, re.IGNORECASE)):
        return BusySite(words)
    if status in GONE_STATUS:
        return ClipError(GONE_STATUS[status], words)
    if status == 403:
        return Forbidden(words)
    if any(type(e).__name__ == "GeoRestrictedError" for e in chain):
        return ClipError("geo_blocked", words)
    if "requested format is not available" in words.lower() or "no video formats" in words.lower():
        return ClipError("cannot_fetch", f"no format with a video stream that can be read: {words}")
    reason = next(
        (reason for reason, pattern in GONE.items() if re.search(pattern, words, re.IGNORECASE)), None
    )
    return ClipError(reason, words) if reason else BusySite(words)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield `error` and the errors that led to it, as yt-dlp records them."""
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
