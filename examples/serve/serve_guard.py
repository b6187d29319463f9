"""Serve guards, or any classifiers of `abscert export`, on Ray Serve: images that come at once are run as one batch.

    python examples/serve/serve_guard.py guard.onnx --port 8000

Each file is served at its own name, here at http://127.0.0.1:8000/guard. POST an image, as {"image": ...} or as float32
bytes; the answer is JSON with each output of the file: label, logits, certified, margin, and the certified `radius`
(pixel scale) of a guard written by `abscert guard --largest`. What is no image gets a status of 400 to 499 and one
line. Needs `pip install "ray[serve]" onnxruntime`.
"""

import argparse
import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import image_request
import numpy as np
import onnxruntime
import ray
from image_request import BadRequestError, byte_limit, read_image
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response


@serve.deployment(max_ongoing_requests=512, max_queued_requests=4096)
class Classifier:
    """One ONNX file, run on batches of what is asked at once."""

    def __init__(self, content: bytes, threads: int, most: int, wait: float) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        (port,) = self._session.get_inputs()
        self._input, self._shape = port.name, tuple(port.shape[1:])
        self._outputs = [output.name for output in self._session.get_outputs()]
        self.answers.set_max_batch_size(most)
        self.answers.set_batch_wait_timeout_s(wait)

    @serve.batch
    async def answers(self, images: list[np.ndarray]) -> list[dict[str, Any]]:
        """Return each image's outputs, by name; called with one image, it waits for others."""
        # in a thread: meanwhile, the next batch is read
        found = await asyncio.to_thread(self._session.run, None, {self._input: np.stack(images)})
        columns = [column.tolist() for column in found]
        return [dict(zip(self._outputs, row, strict=True)) for row in zip(*columns, strict=True)]

    async def __call__(self, request: Request) -> Response:
        """Return the answer to a request."""
        try:
            if request.method != "POST":
                raise BadRequestError("expected POST", 405)
            if int(request.headers.get("content-length") or 0) > byte_limit(self._shape):
                raise BadRequestError(f"expected at most {byte_limit(self._shape)} bytes", 413)
            image = read_image(await request.body(), request.headers.get("content-type", ""), self._shape)
        except BadRequestError as error:
            return PlainTextResponse(f"{error}\n", error.status)
        return JSONResponse(await self.answers(image))


def start(paths: Sequence[Path], address: str, port: int, threads: int, most: int, wait: float) -> None:
    """Serve files at their names."""
    ray.cloudpickle.register_pickle_by_value(image_request)  # nodes need no copy of examples/
    own: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
    ray.init(address, log_to_driver=False, logging_level="error", **own)
    serve.start(http_options={"host": "127.0.0.1", "port": port}, logging_config={"log_level": "ERROR"})
    for path in paths:
        options = {"num_cpus": threads}
        application = Classifier.options(ray_actor_options=options).bind(path.read_bytes(), threads, most, wait)
        serve.run(application, name=path.stem, route_prefix=f"/{path.stem}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--address", default="local", help="of a Ray cluster; local starts one for this process")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--threads", type=int, default=1, help="CPU cores a file")
    parser.add_argument("--batch", type=int, default=64, help="images a batch at most")
    parser.add_argument("--wait", type=float, default=0.002, help="seconds that a batch waits to be full")
    asked = parser.parse_args()
    start(asked.files, asked.address, asked.port, asked.threads, asked.batch, asked.wait)
    print("serving " + " ".join(f"http://127.0.0.1:{asked.port}/{path.stem}" for path in asked.files), flush=True)
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main()
