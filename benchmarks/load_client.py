"""How many events a second load tools read before they are the limit: the built-in one, and AIPerf where installed.

    python benchmarks/load_client.py [--rates 100 200 ...] [--seconds 8] [--tools builtin aiperf]

A stand-in of a server, a process of its own, answers each request at a fixed pace: 200 ms to the first of 16 events,
50 ms between. What TTFT is more than 200 ms, and what is missing from the rate, is the client's (and the machine's).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import cast

import uvloop

from dynamoc.launcher.load.generator import load_generator
from dynamoc.launcher.load.point import LoadError, LoadPoint, Target
from dynamoc.launcher.load.run import row_of
from dynamoc.launcher.results.verdict import judge

TTFT_S = 0.2
ITL_S = 0.05
EVENTS = 16
RATES = (50, 100, 200, 300, 400, 600, 800)
MODEL_FOLDER = Path.home() / ".cache/dynamoc/models/HuggingFaceTB/SmolLM2-135M-Instruct"
RESULT = Path(__file__).parent / "results" / "load_client.json"
TOKEN = b'data: {"object":"text_completion","choices":[{"index":0,"text":" word","finish_reason":null}]}\n\n'
END = (
    b'data: {"object":"text_completion","choices":[],"usage":{"prompt_tokens":32,"completion_tokens":%d}}\n\n'
    b"data: [DONE]\n\n" % EVENTS
)
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Paced(asyncio.Protocol):
    """One connection; answers by timers, so that it costs little."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._data = b""

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, found, body = self._data.partition(b"\r\n\r\n")
        if not found:
            return
        length = int((head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0] or b"0").strip())
        if len(body) >= length:
            self._data = body[length:]
            loop = asyncio.get_running_loop()
            loop.call_later(TTFT_S, self._send, HEAD + chunk(TOKEN), 1, loop.time() + TTFT_S)

    def _send(self, data: bytes, sent: int, due: float) -> None:
        if self._transport.is_closing():
            return
        if sent == EVENTS:
            self._transport.write(data + chunk(END) + b"0\r\n\r\n")
            return
        self._transport.write(data)
        due += ITL_S
        asyncio.get_running_loop().call_at(due, self._send, chunk(TOKEN), sent + 1, due)


async def serve() -> None:
    server = await asyncio.get_running_loop().create_server(Paced, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def measure(tool: str, rate: float, seconds: float, url: str) -> dict[str, object]:
    point = LoadPoint(
        id=f"r{rate:g}",
        isl=32,
        osl=EVENTS,
        requests=max(1, round(rate * seconds)),
        warmup_requests=8,
        concurrency=None,
        rate=rate,
        shared_prefix=0.0,
        seed=1,
        deadline_s=120.0,
    )
    generator = load_generator(tool)
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        measured = generator.run(point, Target(url, "bench", MODEL_FOLDER), Path(folder), point.deadline_s)
    facts = {"run": "bench", "model": "bench", "tool": generator.name, "tool_version": generator.version}
    row = row_of(point, measured, facts)
    ttft = row.ttft_ms
    return {
        "tool": f"{generator.name} {generator.version}",
        "asked_per_s": rate,
        "got_per_s": round(row.requests_per_s, 1),
        "events_per_s": round(row.requests_per_s * EVENTS),
        "failed": row.failed,
        "ttft_ms_avg": None if ttft is None else round(ttft.avg, 1),
        "ttft_ms_p99": None if ttft is None or ttft.p99 is None else round(ttft.p99, 1),
        "client_limit": row.client_limit,
        "verdict": str(judge(row).standing),
        "load_average_before": round(load_before, 1),
    }


def write(rows: list[dict[str, object]]) -> None:
    cores, at = len(os.sched_getaffinity(0)), time.strftime("%Y-%m-%d")
    machine = {"cores": cores, "python": platform.python_version(), "at": at}
    RESULT.write_text(json.dumps({"machine": machine, "events_of_a_request": EVENTS, "rows": rows}, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--rates", type=float, nargs="+", default=RATES)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--tools", nargs="+", default=["builtin", "aiperf"])
    options = parser.parse_args()
    if options.serve:
        uvloop.run(serve())
        return
    server = subprocess.Popen([sys.executable, __file__, "--serve"], stdout=subprocess.PIPE, text=True)
    rows: list[dict[str, object]] = []
    try:
        assert server.stdout is not None
        url = f"http://127.0.0.1:{int(server.stdout.readline())}"
        for tool in options.tools:
            for rate in options.rates:
                try:
                    rows.append(measure(tool, rate, options.seconds, url))
                except LoadError as error:
                    rows.append({"tool": tool, "asked_per_s": rate, "error": str(error)})
                print(json.dumps(rows[-1]), flush=True)
                write(rows)
    finally:
        server.kill()
        server.wait()


if __name__ == "__main__":
    main()
