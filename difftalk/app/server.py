"""Serve the page: to this machine alone unless asked, and without a request to any other."""

import ipaddress
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from difftalk.app.jobs import UPLOADS, Studio
from difftalk.app.uploads import Limits, own_folder
from difftalk.config.sampling import Sampling
from difftalk.runtime.errors import UserError
from difftalk.runtime.progress import say

# Read by Gradio when it is imported.
ENVIRONMENT = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_RUN_HISTORY": "False",
    "GRADIO_MCP_SERVER": "False",
    "GRADIO_SSR_MODE": "False",
    "GRADIO_SHARE": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
}
# Whatever a library has in its page, the browser loads nothing from elsewhere; no other page frames it.
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' blob: 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; frame-ancestors 'none'; form-action 'self'; base-uri 'self'"
)
HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


class Guard:
    """Let no other site's page use this one through the browser of somebody who has both open.

    A request must be for this server by a name of this machine (a site may let its own name point here), and
    come from a page of this server, if it comes from a page. Every answer carries `HEADERS`.

    Args:
        app: the ASGI application behind it.
        hosts: names by which it is asked for; empty: any.
    """

    def __init__(self, app: Any, hosts: frozenset[str]) -> None:
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *HEADERS]
            await send(message)

        if scope["type"] == "http" and not self._is_allowed(scope):
            await with_headers({"type": "http.response.start", "status": 403, "headers": []})
            await send({"type": "http.response.body", "body": b"this page is for the machine it runs on"})
            return
        await self._app(scope, receive, with_headers)

    def _is_allowed(self, scope: Scope) -> bool:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        asked = headers.get("host", "")
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != asked:
            return False
        return not self._hosts or (urlsplit(f"//{asked}").hostname or "") in self._hosts


def check_installed() -> None:
    """Check that the packages of the page are there.

    Raises:
        UserError: saying what to install.
    """
    try:
        import gradio  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as e:
        raise UserError(
            f'the page needs the extra `app`, which is not installed ({e}): pip install -e ".[app]"'
        ) from None


def serve(model: Path, settings: Sampling | None, limits: Limits, host: str, port: int) -> None:
    """Serve the page until the process is told to end.

    Args:
        model: folder of a trained model.
        settings: of the sampling; None: as suits the model.
        limits: of what is taken.
        host: address to listen at.
        port: 0: any that is free.

    Raises:
        UserError: if the model cannot be used, or the address.
    """
    with own_folder() as folder:
        os.environ.update(ENVIRONMENT, GRADIO_TEMP_DIR=str(folder / UPLOADS))
        check_installed()
        with _listen(host, port) as listening:
            studio = Studio(model, limits, folder)
            try:
                suggested = studio.start()
                _serve(studio, settings or suggested, limits, listening, host)
            finally:
                studio.close()


def _serve(studio: Studio, settings: Sampling, limits: Limits, listening: socket.socket, host: str) -> None:
    import gradio as gr
    import uvicorn
    from fastapi import FastAPI

    from difftalk.app.page import CSS, SCRIPT, build, theme

    logging.getLogger("httpx").setLevel(logging.WARNING)
    page = build(studio, settings)
    app = gr.mount_gradio_app(
        FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
        page,
        path="",
        allowed_paths=[str(studio.pages)],
        max_file_size=int(limits.megabytes * 1e6),
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
        show_error=False,  # the words of an exception are for the terminal
        enable_monitoring=False,
        theme=theme(),
        css=CSS,
        head=f"<script>{SCRIPT}</script>",
    )
    # Or Gradio takes any path on this machine, in a request made by hand, for that of an upload.
    page.has_launched = True
    is_loopback = _is_loopback(host)
    hosts = frozenset(("localhost", "127.0.0.1", "::1", host)) if is_loopback else frozenset[str]()
    port = listening.getsockname()[1]
    shown = f"[{host}]" if ":" in host else host
    if not is_loopback:
        say(
            f"difftalk app: --host {host}: whoever reaches this machine can use the page; it has no "
            "password, and what is sent is not encrypted"
        )
    say(f"difftalk app: http://{shown}:{port} (ctrl-c ends it)")
    config = uvicorn.Config(
        Guard(app, hosts), log_level="warning", timeout_graceful_shutdown=1, lifespan="on", ws="none"
    )
    server = uvicorn.Server(config)
    # At the end connections are open, and are cut: no reason for a traceback.
    logging.getLogger("uvicorn.error").addFilter(lambda record: not server.should_exit)
    server.run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        UserError: if the address is not one of this machine, or taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(address)
            found.listen(128)
        except BaseException:
            found.close()
            raise
    except (OSError, UnicodeError) as e:
        raise UserError(f"--host {host} --port {port}: {e}: choose another, or --port 0 for any") from None
    return found


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
