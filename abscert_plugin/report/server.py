"""A folder's files over HTTP, and pages made of them as they are asked for; for a browser on this machine alone."""

import io
import logging
import sys
import threading
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, final
from urllib.parse import urlsplit

from abscert_plugin.errors import AbscertError, ConfigError

HOST: Final = "127.0.0.1"
_NAMES: Final = (HOST, "localhost")
_TYPES: Final = {
    ".css": "text/css",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript",
    ".json": "application/json",
    ".jsonl": "text/plain; charset=utf-8",
    ".mjs": "text/javascript",
    ".onnx": "application/octet-stream",
    ".png": "image/png",
    ".wasm": "application/wasm",
}
"""What the system's own table may lack, or say otherwise; a browser runs scripts and WebAssembly of no other type."""
_DEFAULT_PORT: Final = 80  # which browsers leave out
_LOG: Final = logging.getLogger(__name__)
_OWN_PAGES: Final = ("index.html", "index.htm")
_AS_FILES: Final = "files"  # the query that lists a folder which has a page

Pages = Callable[[Path], str | None]
"""Makes the page of a folder, of what it holds now; None where it has none. An AbscertError is shown in its place."""


def folder_server(folder: Path, port: int, pages: Pages = lambda _: None) -> ThreadingHTTPServer:
    """Return a server of a folder's files, which listens; `serve_forever` runs it, `server_close` ends it.

    It answers this machine alone, and requests to this machine's name alone, so that no page from elsewhere can read
    the folder through a name of its own. A file outside the folder is not there, whatever the path or a link says.

    Args:
        folder: what is served.
        port: from 0 to 65,535; 0 takes any that is free, `server_port` tells which.
        pages: makes the pages of folders without an index.html; `FOLDER/?files` lists one all the same.

    Raises:
        ConfigError: if there is no such folder, or the port cannot be had.
    """
    if not folder.is_dir():
        raise ConfigError(f"expected a folder to serve, got {folder}")
    if not 0 <= port <= 65_535:
        raise ConfigError(f"expected --port from 0 to 65535, got {port}")
    try:
        return _Server((HOST, port), partial(_Handler, directory=str(folder.resolve())), pages)
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"cannot serve on port {port}: {reason}; choose another --port, or 0 for any") from error


@final
class _Server(ThreadingHTTPServer):
    """Keeps what goes wrong with one request, such as a browser that has left, off the terminal."""

    daemon_threads = True

    def __init__(
        self, address: tuple[str, int], handler: Callable[..., SimpleHTTPRequestHandler], pages: Pages
    ) -> None:
        super().__init__(address, handler)
        self._pages = pages
        self._one_at_a_time = threading.Lock()

    def page(self, folder: Path) -> str | None:
        """Return the page of a folder; they are made one at a time."""
        with self._one_at_a_time:
            return self._pages(folder)

    def handle_error(self, request: Any, client_address: Any) -> None:
        del request
        _LOG.info("a request of %s failed: %s", client_address, sys.exc_info()[1])


@final
class _Handler(SimpleHTTPRequestHandler):
    """Answers GET and HEAD."""

    extensions_map = _TYPES

    def send_head(self) -> Any:
        if not self._asks_for_us():
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST)
            return None
        if not self._is_served():
            self.send_error(HTTPStatus.NOT_FOUND)
            return None
        path = Path(self.translate_path(self.path))
        asked = urlsplit(self.path)
        is_listed = asked.query == _AS_FILES or any((path / name).is_file() for name in _OWN_PAGES)
        if path.is_dir() and asked.path.endswith("/") and not is_listed:
            return self._send_page(path)
        return super().send_head()

    def _send_page(self, folder: Path) -> Any:
        assert isinstance(self.server, _Server)
        try:
            page = self.server.page(folder)
        except AbscertError as error:
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR, explain=f"{error} ({folder.name}/?{_AS_FILES} lists it)")
            return None
        if page is None:
            return super().send_head()
        content = page.encode("utf-8", errors="replace")
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", _TYPES[".html"])
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        return io.BytesIO(content)

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-store")  # a file may be written anew, and within the second too
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name that its callers use
        _LOG.debug(format, *args)

    def _asks_for_us(self) -> bool:
        assert isinstance(self.server, _Server)
        port = self.server.server_port
        return self.headers.get("Host") in [name if port == _DEFAULT_PORT else f"{name}:{port}" for name in _NAMES]

    def _is_served(self) -> bool:
        """Tell whether a path is a file or a folder that lies in ours, links followed."""
        try:
            path = Path(self.translate_path(self.path)).resolve()
            return path.is_relative_to(self.directory) and (path.is_file() or path.is_dir())
        except (OSError, ValueError, RuntimeError):  # a name that no file can have, or links in a circle
            return False
