"""A folder's files over HTTP, for a browser on this machine alone."""

import logging
import sys
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, final

from abscert_plugin.errors import ConfigError

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


def folder_server(folder: Path, port: int) -> ThreadingHTTPServer:
    """Return a server of a folder's files, which listens; `serve_forever` runs it, `server_close` ends it.

    It answers this machine alone, and requests to this machine's name alone, so that no page from elsewhere can read
    the folder through a name of its own. A file outside the folder is not there, whatever the path or a link says.

    Args:
        folder: what is served.
        port: from 0 to 65,535; 0 takes any that is free, `server_port` tells which.

    Raises:
        ConfigError: if there is no such folder, or the port cannot be had.
    """
    if not folder.is_dir():
        raise ConfigError(f"expected a folder to serve, got {folder}")
    if not 0 <= port <= 65_535:
        raise ConfigError(f"expected --port from 0 to 65535, got {port}")
    try:
        return _Server((HOST, port), partial(_Handler, directory=str(folder.resolve())))
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"cannot serve on port {port}: {reason}; choose another --port, or 0 for any") from error


@final
class _Server(ThreadingHTTPServer):
    """Keeps what goes wrong with one request, such as a browser that has left, off the terminal."""

    daemon_threads = True

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
        return super().send_head()

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
