"""A small program in the place of an engine: writes down what it was told, and says what it serves if it has a port."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Server(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        models = {"data": [{"id": after("--served-model-name") or "model", "max_model_len": 4096}]}
        pages = {"/health": "", "/metrics": "", "/v1/models": json.dumps(models)}
        self.send_response(200 if self.path in pages else 404)
        self.end_headers()
        self.wfile.write(pages.get(self.path, "").encode())

    def log_message(self, *words: object) -> None:
        """Silence."""


def after(flag: str) -> str | None:
    return sys.argv[sys.argv.index(flag) + 1] if flag in sys.argv else None


def main() -> None:
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    name = os.environ["DYNAMOC_PROCESS"] + "".join(
        f".{os.environ[key]}" for key in ["DYNAMOC_RANK"] if key in os.environ
    )
    told = {
        "words": sys.argv[1:],
        "module": sys.argv[0],
        "env": dict(os.environ),
        "files": {word: Path(word).read_text() for word in sys.argv[1:] if word.endswith(".yaml")},
        "pid": os.getpid(),
    }
    folder = Path(os.environ["DYNAMOC_RUN_DIR"]) / "told"
    folder.mkdir(exist_ok=True)
    draft = folder / f".{name}"
    draft.write_text(json.dumps(told))
    draft.replace(folder / f"{name}.json")
    if (host := after("--host")) and (port := after("--port")):
        server = ThreadingHTTPServer((host, int(port)), Server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
    stopped.wait()


main()
