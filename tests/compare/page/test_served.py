"""`abscert show --serve` on a results folder: its page, the page of each run and training, and faults as pages."""

import http.client
import json
import re
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import msgspec
import pytest
from registered import write_package
from stored_records import RUN, store

from abscert_plugin.cli.show import _pages
from abscert_plugin.report.run_content import images_of
from abscert_plugin.report.server import folder_server

CODE = "from compare.page.served import results_page as PAGES"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = store(tmp_path / "results", msgspec.structs.replace(RUN, epochs=1), {"cell": 3, "ball": 50})
    row = {"epoch": 1, "loss": 0.5, "validation_error": 0.25, "seconds": 1.0}
    (made / "training" / "history.jsonl").write_text(json.dumps(row) + "\n")
    return made


@pytest.fixture
def server(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    registered = write_package(tmp_path / "site", "served_results", CODE, {"abscert.pages": {"a": "PAGES"}})
    monkeypatch.syspath_prepend(str(registered))
    with folder_server(folder.parents[1], 0, _pages(images_of(None, None), None)) as found:
        thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield found
        found.shutdown()
        thread.join()


def get(server: ThreadingHTTPServer, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    connection.request("GET", path)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_every_page_is_reached_from_the_first(server: ThreadingHTTPServer, folder: Path) -> None:
    status, text = get(server, "/")
    assert (status, "Comparison of methods" in text) == (200, True)
    links = re.findall(r'<a href="(runs/[^"]*)"', text)
    pages = {link: get(server, f"/{link}") for link in links}
    assert {status for status, _ in pages.values()} == {200}
    key = folder.name
    assert "Verification of an ONNX file, claim cell" in pages[f"runs/{key}/verify-cell/"][1]
    assert "Verification of an ONNX file, claim ball" in pages[f"runs/{key}/verify-ball-0.15/"][1]
    assert "Validation error of the epoch that is kept" in pages[f"runs/{key}/training/"][1]
    assert "records.jsonl" in get(server, f"/runs/{key}/verify-cell/?files")[1]
    assert 'href="verify-cell/"' in pages[f"runs/{key}/"][1]


def test_a_damaged_run_is_named_where_its_page_would_be(server: ThreadingHTTPServer, folder: Path) -> None:
    (folder / "verify-cell" / "records.jsonl").write_text("<b>\n")
    status, text = get(server, f"/runs/{folder.name}/verify-cell/")
    assert status == 500
    assert "records.jsonl, line 1: expected a record" in text
    assert "<b>" not in text
    (folder / "training" / "history.jsonl").write_text("{}\n")
    status, text = get(server, f"/runs/{folder.name}/training/")
    assert (status, "is no history of a training" in text) == (500, True)


def test_pages_are_of_what_is_there_when_they_are_asked_for(server: ThreadingHTTPServer, folder: Path) -> None:
    rows = folder / "verify-ball-0.15" / "records.jsonl"
    assert ">150<" in get(server, f"/runs/{folder.name}/verify-ball-0.15/")[1]
    rows.write_text("".join(rows.read_text().splitlines(keepends=True)[:100]))
    assert ">50<" in get(server, f"/runs/{folder.name}/verify-ball-0.15/")[1]
