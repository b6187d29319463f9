"""Requests a second of a guard and of the bare classifier, served side by side by examples/serve, in turns.

usage: python benchmarks/serving.py GUARD.ONNX MODEL.ONNX [--rounds 10] [--seconds 3] [--clients 32]

Needs `pip install "ray[serve]"`. The load comes from threads of this process, over connections that stay open.
"""

import argparse
import http.client
import json
import os
import secrets
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx

SCRIPT = Path(__file__).resolve().parents[1] / "examples" / "serve" / "serve_guard.py"
IMAGES = 64


@contextmanager
def serving(files: list[Path], port: int, *options: str) -> Iterator[None]:
    """Serve files while the context lasts, on a cluster of their own."""
    own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
    command = [sys.executable, str(SCRIPT), *map(str, files), "--port", str(port), *options]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(command, env={**os.environ, **own}, start_new_session=True, **pipes) as process:
        try:
            line = process.stdout.readline()
            assert line.startswith("serving "), line
            yield
        finally:
            process.send_signal(signal.SIGINT)  # so that Ray ends what it has started
            process.wait(60)


def requests_per_second(port: int, name: str, bodies: list[bytes], clients: int, seconds: float) -> float:
    """Return how many requests were answered in a second."""
    until = time.perf_counter() + seconds

    def client(number: int) -> int:
        connection, count = http.client.HTTPConnection("127.0.0.1", port, timeout=60), 0
        while time.perf_counter() < until:
            body = bodies[(number + count) % len(bodies)]
            connection.request("POST", f"/{name}", body, {"content-type": "application/octet-stream"})
            answer = connection.getresponse()
            text = answer.read()
            assert answer.status == 200, text
            count += 1
        connection.close()
        return count

    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        total = sum(pool.map(client, range(clients)))
    return total / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("guard", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--clients", type=int, default=32)
    asked = parser.parse_args()
    shape = [axis.dim_value for axis in onnx.load(str(asked.guard)).graph.input[0].type.tensor_type.shape.dim[1:]]
    images = np.random.default_rng(0).random((IMAGES, *shape), dtype=np.float32)
    bodies = [image.tobytes() for image in images]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    names = (asked.guard.stem, asked.model.stem)
    rates: dict[str, list[float]] = {name: [] for name in names}
    with serving([asked.guard, asked.model], port):
        for number in range(asked.rounds + 1):
            for name in names if number % 2 else reversed(names):
                rate = requests_per_second(port, name, bodies, asked.clients, asked.seconds)
                rates[name] += [rate] if number else []  # the first round warms up
    middle = {name: round(statistics.median(found), 1) for name, found in rates.items()}
    ratio = statistics.median(one / other for one, other in zip(*rates.values(), strict=True))
    print(json.dumps({"requests_per_second": middle, "ratio": round(ratio, 3), "rounds": asked.rounds}))


if __name__ == "__main__":
    main()
