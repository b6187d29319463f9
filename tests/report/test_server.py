"""A served folder: what of it is answered, to whom, and as what type."""

import http.client
import mimetypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
from command_line import refused

from abscert_plugin.errors import ConfigError
from abscert_plugin.report.server import folder_server


@contextmanager
def running(folder: Path) -> Iterator[ThreadingHTTPServer]:
    with folder_server(folder, 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThreadingHTTPServer]:
    home = tmp_path_factory.mktemp("home")
    folder = home / "served"
    (folder / "web").mkdir(parents=True)
    for name in ("try.html", "guard.onnx", "web/run.mjs", "web/run.wasm", "rows.jsonl", "a b.html"):
        (folder / name).write_text(name)
    (home / "secret").write_text("secret")
    (home / "served-too").mkdir()
    (home / "served-too" / "secret").write_text("secret")
    (folder / "link").symlink_to(home / "secret")
    (folder / "out").symlink_to(home)
    (folder / "sibling").symlink_to(home / "served-too")  # a name that begins as the folder's does
    (folder / "circle").symlink_to(folder / "circle")
    (folder / "inner").symlink_to(folder / "try.html")
    os.mkfifo(folder / "pipe")
    with running(folder) as server:
        yield server


def ask(
    server: ThreadingHTTPServer, path: str, method: str = "GET", host: str | None = None
) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", host or f"127.0.0.1:{server.server_port}")
    connection.endheaders()
    return connection.getresponse()


@pytest.mark.parametrize(
    ("path", "content", "kind"),
    [
        ("/try.html", "try.html", "text/html; charset=utf-8"),
        ("/guard.onnx?again", "guard.onnx", "application/octet-stream"),
        ("/web/run.mjs", "web/run.mjs", "text/javascript"),
        ("/web/../web/run.wasm", "web/run.wasm", "application/wasm"),
        ("/rows.jsonl", "rows.jsonl", "text/plain; charset=utf-8"),
        ("/a%20b.html", "a b.html", "text/html; charset=utf-8"),
        ("/inner", "try.html", "from/system"),
    ],
)
def test_files_of_the_folder_are_served_by_their_type(
    server: ThreadingHTTPServer, path: str, content: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("guess_type", "guess_file_type"):  # by the version of Python
        monkeypatch.setattr(mimetypes, name, lambda *_, **__: ("from/system", None), raising=False)
    answer = ask(server, path)
    assert (answer.status, answer.headers["Content-Type"]) == (200, kind)
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.read().decode() == content
    assert ask(server, path, "HEAD").status == 200


def test_a_folder_is_listed(server: ThreadingHTTPServer) -> None:
    assert b'href="guard.onnx"' in ask(server, "/").read()


@pytest.mark.parametrize(
    "path",
    [
        "/../secret",
        "/web/../../secret",
        "/%2e%2e/secret",
        "/%2e%2e%2fsecret",
        "/..%5csecret",
        "/../served-too/secret",
        "//etc/passwd",
        "/%2fetc/passwd",
        "/link",
        "/out/secret",
        "/out/",
        "/sibling/secret",
        "/circle",
        "/pipe",
        "/try.html%00",
        "/" + 300 * "a",
        "/none",
    ],
)
def test_nothing_else_is_served(server: ThreadingHTTPServer, path: str) -> None:
    answer = ask(server, path)
    assert answer.status == 404
    assert b"secret" not in answer.read()


@pytest.mark.parametrize("host", ["elsewhere.example", "elsewhere.example:{port}", "127.0.0.1", "127.0.0.1:1"])
def test_a_page_from_elsewhere_reads_nothing_through_a_name_of_its_own(server: ThreadingHTTPServer, host: str) -> None:
    answer = ask(server, "/try.html", host=host.format(port=server.server_port))
    assert answer.status == 421
    assert b"try.html" not in answer.read()


def test_it_listens_on_this_machine_alone_and_takes_nothing(server: ThreadingHTTPServer) -> None:
    assert server.server_address[0] == "127.0.0.1"
    assert ask(server, "/try.html", host=f"localhost:{server.server_port}").status == 200
    assert ask(server, "/try.html", "POST").status == 501
    assert ask(server, "/try.html", "PUT").status == 501


def test_a_port_that_is_taken_is_refused(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"cannot serve on port {server.server_port}: .*choose another --port"):
        folder_server(tmp_path, server.server_port)


def test_bad_input_of_show_serve_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "expected a folder to serve" in refused("show", tmp_path / "file", "--serve")
    assert "expected a folder to serve" in refused("show", tmp_path / "none", "--serve")
    assert "expected one folder" in refused("show", tmp_path, tmp_path, "--serve")
    assert "got both" in refused("show", tmp_path, "--serve", "--html", tmp_path / "page.html")
    assert "expected --port with --serve" in refused("show", tmp_path, "--port", 8080)
    for port in (-1, 65_536):
        assert "expected --port from 0 to 65535" in refused("show", tmp_path, "--serve", "--port", port)
