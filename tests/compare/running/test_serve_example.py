"""examples/serve on a cluster of two nodes: what it answers is what the file gives, however requests are batched."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray_cluster import ray_cluster
from tiny_networks import SHAPE, export_tiny, run_onnx, tiny_network

from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.ball import Ball
from abscert_plugin.blackbox import Provider
from abscert_plugin.claim import Radius
from abscert_plugin.guards.write import write_guard

SCRIPT = Path(__file__).resolve().parents[3] / "examples" / "serve" / "serve_guard.py"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(map(find_spec, ("ray", "starlette", "fastapi", "opentelemetry"))),
        reason='Ray Serve is not installed: pip install "ray[serve]"',
    ),
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="this system has no /proc"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a classifier and its guard."""
    folder = tmp_path_factory.mktemp("serve")
    artifact = Artifact.open(export_tiny(tiny_network(3), 3, folder).deploy, Provider.CPU)
    balls = [Ball(Radius.parse(text)) for text in ("1/50", "1/10")]
    write_guard(artifact, balls, folder / "guard.onnx", has_largest=True)
    return folder


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[str]:
    """Return where the guard and the classifier are served."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with ray_cluster() as cluster, tempfile.TemporaryFile("w+") as log:
        files = [folder / "guard.onnx", folder / "deploy.onnx"]
        command = [sys.executable, str(SCRIPT), *map(str, files), "--address", cluster.address, "--port", str(port)]
        environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
        with subprocess.Popen(command, stdout=log, stderr=log, env=environment) as process:
            try:
                until = time.monotonic() + 120
                while "serving http://" not in (text := Path(f"/proc/self/fd/{log.fileno()}").read_text()):
                    assert process.poll() is None, text
                    assert time.monotonic() < until, text
                    time.sleep(0.2)
                yield f"http://127.0.0.1:{port}"
            finally:
                process.kill()


def ask(url: str, body: bytes | None, kind: str = "application/json", method: str = "POST") -> tuple[int, str]:
    """Return status and text of the answer to a request."""
    request = urllib.request.Request(url, body, {"content-type": kind}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_images_that_come_at_once_get_what_the_file_gives(served: str, folder: Path) -> None:
    images = np.random.default_rng(0).random((60, *SHAPE), dtype=np.float32)
    names = ["logits", "label", "certified", "margin", "radius"]
    expected = dict(zip(names, run_onnx(folder / "guard.onnx", images, names), strict=True))
    assert len(set(expected["radius"].tolist())) == 3

    def answer(place: int) -> dict[str, Any]:
        as_bytes = place % 2 == 0
        body = images[place].tobytes() if as_bytes else json.dumps({"image": images[place].tolist()}).encode()
        kind = "application/octet-stream" if as_bytes else "application/json"
        status, text = ask(f"{served}/guard", body, kind)
        assert status == 200, text
        return dict(json.loads(text))

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(answer, range(len(images))))
    assert all(found.keys() == set(names) for found in answers)
    for name in ("label", "certified", "radius"):
        assert [found[name] for found in answers] == expected[name].tolist()
    for name in ("logits", "margin"):  # sums in another order, as the batch has another size
        assert np.allclose([found[name] for found in answers], expected[name], rtol=0, atol=1e-5)
    status, text = ask(f"{served}/deploy", images[0].tobytes(), "application/octet-stream")
    assert (status, json.loads(text).keys()) == (200, {"logits"})


def test_what_is_no_image_gets_one_line(served: str) -> None:
    wrong = [
        (json.dumps({"image": [[0.5, 0.5]]}).encode(), "application/json", "POST", 400),
        (json.dumps({"image": np.full(SHAPE, np.nan).tolist()}).encode(), "application/json", "POST", 400),
        (json.dumps({"image": np.full(SHAPE, 2.0).tolist()}).encode(), "application/json", "POST", 400),
        (b"\0" * 7, "application/octet-stream", "POST", 400),
        (b"x" * 100_000, "application/json", "POST", 413),
        (b"x", "text/plain", "POST", 415),
        (None, "application/json", "GET", 405),
    ]
    for body, kind, method, expected in wrong:
        status, text = ask(f"{served}/guard", body, kind, method)
        assert (status, text.count("\n")) == (expected, 1), text
        assert text.startswith("expected "), text
