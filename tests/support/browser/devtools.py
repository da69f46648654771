"""Headless Chromium over a pipe, by the DevTools protocol: enough to open a page, run words in it and look at it."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-extensions",
    "--disable-component-update",
    "--disable-background-networking",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)
"""Root needs no sandbox, and nothing outside is to be reached."""
DEADLINE_S = 120.0
POLL_S = 0.02
ABOVE = 20


def find_browser() -> str | None:
    """Where Chromium is, None without."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def browser_version() -> str:
    """As it calls itself."""
    browser = find_browser()
    assert browser is not None
    return subprocess.run([browser, "--version"], capture_output=True, text=True, check=True, timeout=60).stdout.strip()


def seconds_to_open(page: Path) -> tuple[float, float]:
    """From when the page is asked for until what is in view is drawn: by the wall, and CPU of its main thread."""
    with Browser() as browser:
        browser.ask("Performance.enable", timeDomain="threadTicks")
        begin = time.perf_counter()
        browser.open(page)
        wall = time.perf_counter() - begin
        metrics = {one["name"]: one["value"] for one in browser.ask("Performance.getMetrics")["metrics"]}
        return wall, metrics["TaskDuration"]


class Browser:
    """One browser with one page of a laptop's size."""

    def __init__(self, width: int = 1366, height: int = 768) -> None:
        self._size = (width, height)
        self._profile = tempfile.mkdtemp(prefix="browser-")
        self._number = 0
        self._rest = b""
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        browser = find_browser()
        assert browser is not None
        command_out, self._out = os.pipe()
        self._in, answer_in = os.pipe()
        # The protocol's pipe is at descriptors 3 and 4, which may be others' here: ours are moved above them first.
        high = [fcntl.fcntl(one, fcntl.F_DUPFD, ABOVE) for one in (command_out, answer_in)]
        words = [browser, *FLAGS, f"--user-data-dir={self._profile}", f"--window-size={self._size[0]},{self._size[1]}"]
        shell = ["bash", "-c", f'exec "$@" 3<&{high[0]} 4>&{high[1]}', "bash", *words, "about:blank"]
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(
            shell, pass_fds=high, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True
        )
        for one in (command_out, answer_in, *high):
            os.close(one)
        try:
            self._attach()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _attach(self) -> None:
        targets = self.ask("Target.getTargets", page=False)["targetInfos"]
        target = next(one["targetId"] for one in targets if one["type"] == "page")
        self._session = self.ask("Target.attachToTarget", page=False, targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.ask(f"{domain}.enable")
        width, height = self._size
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.close(self._out)
        os.close(self._in)
        self._process.terminate()
        self._process.wait(30)
        shutil.rmtree(self._profile, ignore_errors=True)

    def ask(self, method: str, *, page: bool = True, **parameters: Any) -> dict[str, Any]:
        """One command and its answer; what else came meanwhile is in `events`."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if page:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._out, data) :]
        while (answer := self._next()).get("id") != self._number:
            self.events.append(answer)
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def _next(self) -> dict[str, Any]:
        deadline = time.monotonic() + DEADLINE_S
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._in], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, "the browser did not answer in time"
            piece = os.read(self._in, 1 << 20)
            assert piece, "the browser ended"
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message

    def run(self, script: str) -> Any:
        """The value of an expression in the page; a promise is waited for."""
        answer = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def open(self, path: Path) -> None:
        """Until the page says that it is ready, and what it drew is on the screen."""
        self.ask("Page.navigate", url=path.absolute().as_uri())
        deadline = time.monotonic() + DEADLINE_S
        while self.run("document.documentElement?.dataset.ready") != "yes":
            assert time.monotonic() < deadline, self.faults()
            time.sleep(POLL_S)
        self.run("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")

    def faults(self) -> list[str]:
        """What the page threw, or was refused by its own policy."""
        thrown = [e["params"]["exceptionDetails"] for e in self.events if e.get("method") == "Runtime.exceptionThrown"]
        logged = [e["params"]["entry"] for e in self.events if e.get("method") == "Log.entryAdded"]
        texts = [one.get("exception", {}).get("description", one["text"]) for one in thrown]
        return texts + [entry["text"] for entry in logged if entry["level"] == "error"]

    def picture(self, whole: bool = False) -> bytes:
        """A PNG of what is on the screen, or of the whole page."""
        answer = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        return base64.b64decode(answer["data"])

    def printed(self) -> bytes:
        """The page as PDF."""
        answer = self.ask("Page.printToPDF", preferCSSPageSize=True, printBackground=True)
        return base64.b64decode(answer["data"])
