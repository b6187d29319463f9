"""A real headless Chromium, driven through its debugging pipe: sizes, colour schemes, scripts, console and requests."""

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_PATIENCE = 60.0
CONTRASTS = """(() => {
  const parse = (text) => (text.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
  const channel = (part) => (part /= 255, part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
  const light = (rgb) => 0.2126 * channel(rgb[0]) + 0.7152 * channel(rgb[1]) + 0.0722 * channel(rgb[2]);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length < 4 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const text = [...element.childNodes].filter((node) => node.nodeType === 3).map((node) => node.data).join("").trim();
    if (!text || ["SCRIPT", "STYLE", "title"].includes(element.tagName)) continue;
    const style = getComputedStyle(element);
    const ink = light(parse(element instanceof SVGElement ? style.fill : style.color)), page = light(behind(element));
    found.push([(Math.max(ink, page) + 0.05) / (Math.min(ink, page) + 0.05), text.slice(0, 40)]);
  }
  return found;
})()"""
"""Of every element with text of its own: its colour against what lies behind it, and the text."""


class Browser:
    """One page of a browser.

    `complaints` are its console errors and exceptions, `requests` the addresses that it asked for.
    """

    def __init__(self, read: int, write: int) -> None:
        self._read, self._write = read, write
        self._numbers = itertools.count(1)
        self._rest = b""
        self._session: str | None = None
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self._loaded = False
        target = self._send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._send(f"{domain}.enable")

    def open(self, path: Path) -> None:
        """Open a file and wait until it is loaded."""
        self.visit(path.as_uri())

    def visit(self, address: str) -> None:
        """Open an address and wait until it is loaded."""
        self._loaded = False
        self.requests.clear()
        self._send("Page.navigate", url=address)
        while not self._loaded:
            self._handle(self._receive())

    def resize(self, width: int, height: int, dark: bool = False) -> None:
        """Give the page the size of a screen, and a colour scheme."""
        self._send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._send("Emulation.setEmulatedMedia", features=[scheme])

    def run(self, script: str) -> Any:
        """Return the value of an expression in the page."""
        result = self._send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def await_that(self, script: str) -> Any:
        """Return the value of an expression once it is true."""
        until = time.monotonic() + _PATIENCE
        while not (found := self.run(script)):
            assert time.monotonic() < until, f"{script} stays {found!r}"
            time.sleep(0.02)
        return found

    def mouse(self, *points: tuple[float, float]) -> None:
        """Press the left button at the first point of the window, move to the others, and let go."""
        (first, *_), last = points, points[-1]
        self._mouse("mousePressed", first, buttons=1, clickCount=1)
        for point in points[1:]:
            self._mouse("mouseMoved", point, buttons=1)
        self._mouse("mouseReleased", last, clickCount=1)

    def _mouse(self, kind: str, point: tuple[float, float], **more: int) -> None:
        self._send("Input.dispatchMouseEvent", type=kind, x=point[0], y=point[1], button="left", **more)

    def finger(self, *points: tuple[float, float]) -> None:
        """Touch the first point of the window, move to the others, and let go."""
        for number, (x, y) in enumerate(points):
            kind = "touchMove" if number else "touchStart"
            self._send("Input.dispatchTouchEvent", type=kind, touchPoints=[{"x": x, "y": y}])
        self._send("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def press(self, *keys: str) -> None:
        """Press keys one after the other; each is a letter or a name such as ArrowLeft."""
        for key in keys:
            text = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
            self._send("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
            self._send("Input.dispatchKeyEvent", type="keyUp", key=key)

    def photograph(self, into: Path, whole: bool = True) -> None:
        """Write a PNG of the page."""
        data = self._send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        into.write_bytes(base64.b64decode(data))

    def _send(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != number:
            self._handle(answer)
        assert "error" not in answer, answer
        return dict(answer["result"])

    def _receive(self) -> dict[str, Any]:
        until = time.monotonic() + _PATIENCE
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._read], [], [], max(0.0, until - time.monotonic()))
            part = os.read(self._read, 1 << 16) if ready else b""
            if not part:
                raise TimeoutError("the browser does not answer")
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(line))

    def _handle(self, event: dict[str, Any]) -> None:
        name, said = event.get("method"), event.get("params", {})
        if name == "Page.loadEventFired":
            self._loaded = True
        elif name == "Network.requestWillBeSent":
            self.requests.append(said["request"]["url"])
        elif name == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(said["exceptionDetails"]))
        elif name == "Log.entryAdded" and said["entry"]["level"] in ("warning", "error"):
            self.complaints.append(said["entry"]["text"])
        elif name == "Runtime.consoleAPICalled":
            self.complaints.append(json.dumps(said["args"]))


@contextmanager
def browser() -> Iterator[Browser]:
    """Yield a browser, and end it afterwards."""
    to_browser, from_us = os.pipe()
    to_us, from_browser = os.pipe()
    with tempfile.TemporaryDirectory() as home:
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", f"--user-data-dir={home}"]
        flags += ["--disable-background-networking", "--no-first-run", "--hide-scrollbars"]
        # Chromium reads from descriptor 3 and writes to 4
        line = f'exec "$0" "$@" 3<&{to_browser} 4>&{from_browser}'
        process = subprocess.Popen(
            ["/bin/bash", "-c", line, str(BROWSER), *flags],
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        try:
            yield Browser(to_us, from_us)
        finally:
            os.close(from_us)  # it ends when its pipe does
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            os.close(to_us)
