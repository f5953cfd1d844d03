"""Download one file over HTTP, resuming where an earlier attempt was cut, with a progress bar."""

import errno
import http.client
import re
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import BinaryIO

from difftalk.runtime.errors import UserError
from difftalk.runtime.lock import file_lock
from difftalk.runtime.progress import Progress

TIMEOUT_S = 30.0
ATTEMPTS = 4  # in one command; the partial file is kept for the next
PAUSE_S = 1.0  # before the second attempt; twice as long before each one after
BLOCK = 1 << 20
DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}


class Interrupted(Exception):
    """The connection failed; another attempt may succeed."""


def download(url: str, part: Path, name: str) -> None:
    """Download the file at `url` to `part`, resuming if `part` is a beginning of the same file.

    `PART.origin` records what the server calls this version of the file. Without such a name, or with another
    one, the download starts from the first byte.

    Args:
        url: http or https.
        part: the file to write or to continue.
        name: for the progress bar.

    Raises:
        UserError: if there is no such file, the connection keeps failing, the disk is full, or another
            process is downloading to `part`.
    """
    part.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(part, wait=False), part.open("ab") as out:
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(PAUSE_S * 2 ** (attempt - 1))
            try:
                _attempt(url, out, _origin_of(part), name)
                return
            except Interrupted as e:
                why = str(e)
            except OSError as e:
                if e.errno not in DISK:
                    raise
                raise UserError(f"{part}: {e.strerror}") from None
        have = out.seek(0, 2)
    raise UserError(
        f"{url}: {why}, {ATTEMPTS} times; {have} bytes are kept, and the same command goes on from there"
    )


def discard(part: Path) -> None:
    """Remove what `download` left of a file."""
    part.unlink(missing_ok=True)
    _origin_of(part).unlink(missing_ok=True)


def _origin_of(part: Path) -> Path:
    return part.with_name(f"{part.name}.origin")


def _attempt(url: str, out: BinaryIO, origin: Path, name: str) -> None:
    """Download what is missing, in one attempt; `out` is open for appending."""
    have, version = out.seek(0, 2), origin.read_text() if origin.exists() else ""
    headers = {"User-Agent": "difftalk", "Accept-Encoding": "identity"}
    if have and version:
        # The server sends the rest if its file is still that version, and else the whole of the new one.
        headers |= {"Range": f"bytes={have}-", "If-Range": version}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S
        ) as answer:
            begins = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
            if answer.status != 206 or begins is None or int(begins[1]) != have:
                if answer.status == 206:
                    origin.unlink(missing_ok=True)
                    raise Interrupted("it sends another part than asked for")
                out.truncate(0)
                have = 0
                origin.write_text(_version(answer.headers))
            length = answer.headers.get("Content-Length")
            _copy(answer, out, None if length is None else int(length), have, name)
    except urllib.error.HTTPError as e:
        if e.code == 416:  # nothing lies beyond what is there: that is the whole, or of no use
            if e.headers.get("Content-Range") == f"bytes */{have}":
                return
            out.truncate(0)
            raise Interrupted("what was there did not fit") from None
        if e.code >= 500 or e.code in (408, 429):
            raise Interrupted(f"HTTP {e.code} {e.reason}") from None
        raise UserError(f"{url}: HTTP {e.code} {e.reason}") from None
    except urllib.error.URLError as e:
        raise Interrupted(str(e.reason)) from None
    except (TimeoutError, ConnectionError, http.client.HTTPException) as e:
        raise Interrupted(str(e) or type(e).__name__) from None


def _copy(answer: http.client.HTTPResponse, out: BinaryIO, length: int | None, have: int, name: str) -> None:
    """Append the body, of `length` bytes if that is known, to the `have` bytes that are there already."""
    got, shown_mb = 0, 0
    with Progress(max(1, (length or 0) >> 20), f"download {name}", "MB") as shown:
        while block := answer.read(BLOCK):
            out.write(block)
            got += len(block)
            if length is not None and got >> 20 > shown_mb:
                shown.advance((got >> 20) - shown_mb)
                shown_mb = got >> 20
        out.flush()
    if length is not None and got < length:
        raise Interrupted(f"the connection ended at byte {have + got} of {have + length}")


def _version(headers: http.client.HTTPMessage) -> str:
    """Return what identifies this version of a file in an `If-Range` header; a weak ETag does not."""
    tag = headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified", "")
