"""A small video site on loopback, for tests and benchmarks: pages by id, each with its own behaviour."""

import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np

Behaviour = Callable[["Handler", str], None]


@dataclass
class Site:
    """What the site shows.

    `pages[id]` answers for a video, `files[name]` is what it serves, `asked` counts requests of
    pages and `sent` whole transfers of files.
    """

    pages: dict[str, Behaviour] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    sent: Counter[str] = field(default_factory=Counter)
    url: str = ""


class Handler(BaseHTTPRequestHandler):
    """Answers for the pages and files of one site."""

    site: Site
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        """Answer as to GET, without a body."""
        self.do_GET()

    def do_GET(self) -> None:
        """Answer for a page, or send a file."""
        watched = re.fullmatch(r"/watch/([\w-]{11})", self.path)
        if watched and watched[1] in self.site.pages:
            if self.command == "GET":
                self.site.asked[watched[1]] += 1
            self.site.pages[watched[1]](self, watched[1])
        elif self.path.startswith("/files/") and self.path[7:] in self.site.files:
            self.send_file(self.path[7:])
        else:
            self.fail(404)

    def fail(self, status: int) -> None:
        """Answer with a status alone."""
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send_text(self, kind: str, text: str) -> None:
        """Send a text of a content type."""
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(text.encode())

    def send_file(self, name: str, cut_at: int | None = None) -> None:
        """Send a file or the requested part of it; with `cut_at` the connection ends after so many bytes."""
        data = self.site.files[name].read_bytes()
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        first = int(asked[1]) if asked else 0
        last = int(asked[2]) if asked and asked[2] else len(data) - 1
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Type", "video/mp4")
        self.send_header("Content-Length", str(last + 1 - first))
        self.end_headers()
        if self.command == "HEAD":
            return
        if cut_at is not None:
            self.wfile.write(data[first : first + cut_at])
            self.close_connection = True
            return
        self.wfile.write(data[first : last + 1])
        if last == len(data) - 1:
            self.site.sent[name] += 1

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """A server whose clients may hang up."""

    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients hang up when they have seen enough, or are killed."""


@contextmanager
def running(site: Site) -> Iterator[Site]:
    """Serve the site until the block ends; `site.url` takes an id in the place of `{id}`."""
    handler = type("SiteHandler", (Handler,), {"site": site})
    server = Server(("127.0.0.1", 0), handler)
    site.url = f"http://127.0.0.1:{server.server_port}/watch/{{id}}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def plays(name: str) -> Behaviour:
    """The page is the video itself."""
    return lambda handler, _: handler.send_file(name)


def fails(status: int, times: int | None = None, then: Behaviour | None = None) -> Behaviour:
    """The page fails with a status, at every request or at the first few."""

    def behave(handler: Handler, video_id: str) -> None:
        if times is None or handler.site.asked[video_id] <= times:
            handler.fail(status)
        else:
            assert then is not None
            then(handler, video_id)

    return behave


def breaks_off(name: str, after: int) -> Behaviour:
    """The first whole transfer breaks off after so many bytes; later requests are served."""

    def behave(handler: Handler, video_id: str) -> None:
        key = f"broken {video_id}"
        is_transfer = handler.command == "GET" and handler.site.asked[video_id] >= 2
        if is_transfer and not handler.site.sent[key]:
            handler.site.sent[key] += 1
            handler.send_file(name, cut_at=after)
        else:
            handler.send_file(name)

    return behave


def says(text: str) -> Behaviour:
    """A page of words without a video."""
    return lambda handler, _: handler.send_text("text/html", f"<html><title>{text}</title><p>{text}</html>")


def in_parts(video: str, audio: str) -> Behaviour:
    """A DASH manifest whose video and audio are files of their own."""

    def behave(handler: Handler, _: str) -> None:
        sets = "".join(
            f'<AdaptationSet mimeType="{mime}">'
            f'<Representation id="{name.split(".")[0]}" bandwidth="100000" {more}>'
            f"<BaseURL>/files/{name}</BaseURL></Representation></AdaptationSet>"
            for name, mime, more in [
                (video, "video/mp4", 'codecs="avc1.64001F" width="256" height="256"'),
                (audio, "audio/mp4", 'codecs="mp4a.40.2" audioSamplingRate="16000"'),
            ]
        )
        mpd = (
            '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
            f'mediaPresentationDuration="PT3S"><Period>{sets}</Period></MPD>'
        )
        handler.send_text("application/dash+xml", mpd)

    return behave


def in_a_room(frame: np.ndarray, width: int, height: int) -> np.ndarray:
    """The frame, twice as large, in the middle of a grey room."""
    room = np.full((height, width, 3), 90, np.uint8)
    large = frame.repeat(2, axis=0).repeat(2, axis=1)
    top, left = (height - len(large)) // 2, (width - len(large)) // 2
    room[top : top + len(large), left : left + len(large)] = large
    return room
