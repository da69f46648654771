"""What the frontend costs: CPU per streamed token and per short request, beside a bare server and Dynamo's frontend.

    python benchmarks/frontend.py [--dynamo-venv VENV] [--rounds 3] [--model FOLDER]

Starts frontend, router and two mocker workers, drives them from a process of its own over raw sockets, and reads
user and system time of the frontend's process. The ceiling is uvicorn sending prepared bytes at the same pace.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import secrets
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import uvicorn
import uvloop

from dynamoc.runtime.manifest import (
    MANIFEST_VERSION,
    FrontendSettings,
    KvSettings,
    Manifest,
    ModelRef,
    ProcessSpec,
    Role,
    RouterSettings,
    WorkerSettings,
    encode_manifest,
)

STEP_MS = 9.0
WORKERS = 2
MODEL_NAME = "bench"
MODEL_FOLDER = Path.home() / ".cache/dynamoc/models/HuggingFaceTB/SmolLM2-135M-Instruct"
RESULTS = Path(__file__).parent / "results"
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":%d}}\n\ndata: [DONE]\n\n'
CHUNK = (
    b'data: {"id":"chatcmpl-000000000000000000000000","object":"chat.completion.chunk","created":1700000000,'
    b'"model":"bench","choices":[{"index":0,"delta":{"content":" word"},"logprobs":null,"finish_reason":null}]}\n\n'
)


@dataclass(frozen=True)
class Load:
    """`requests` requests of `tokens` tokens each, `concurrency` at a time."""

    name: str
    requests: int
    concurrency: int
    tokens: int


STREAMS = Load("64 streams x 200 tokens", 64, 64, 200)
SHORT = Load("1024 requests x 1 token", 1024, 64, 1)


# ---- the client: a process of its own --------------------------------------------------------------------


async def one_request(port: int, body: bytes, tokens: int, took: list[tuple[int, float]]) -> None:
    """A raw-socket request; counts the events with text, and wants every token accounted for."""
    began = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n"
    writer.write(head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
    events, first, tail = 0, 0.0, b""
    while piece := await reader.read(65536):
        count = piece.count(b'"content":"') - piece.count(b'"content":""')
        if count and not first:
            first = time.perf_counter() - began
        events += count
        tail = (tail + piece)[-1024:]
    writer.close()
    if b"data: [DONE]" not in tail or b'"completion_tokens":%d' % tokens not in tail:
        raise RuntimeError(f"a stream did not end as it should: {tail!r}")
    took.append((events, first))


async def client(port: int, load: Load) -> dict[str, float]:
    """Drive the load once."""
    took: list[tuple[int, float]] = []
    gate = asyncio.Semaphore(load.concurrency)

    async def go(number: int) -> None:
        content = f"question {number} {secrets.token_hex(8)}"
        fields = {"model": MODEL_NAME, "messages": [{"role": "user", "content": content}]}
        options = {"max_tokens": load.tokens, "stream": True, "ignore_eos": True}
        usage = {"stream_options": {"include_usage": True}}
        async with gate:
            await one_request(port, json.dumps(fields | options | usage).encode(), load.tokens, took)

    began = time.perf_counter()
    await asyncio.gather(*(go(number) for number in range(load.requests)))
    wall = time.perf_counter() - began
    firsts = sorted(first for _, first in took)
    return {
        "wall_s": wall,
        "events": sum(events for events, _ in took),
        "ttft_p50_ms": 1e3 * firsts[len(firsts) // 2],
        "ttft_p99_ms": 1e3 * firsts[int(len(firsts) * 0.99)],
    }


# ---- the ceiling: a bare server ---------------------------------------------------------------------------


async def bare_app(_scope: Any, receive: Any, send: Any) -> None:
    """As many prepared chunks as the request asks for, all streams at the same beat."""
    body = (await receive())["body"]
    tokens = json.loads(body)["max_tokens"]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    loop = asyncio.get_running_loop()
    step = STEP_MS / 1e3
    for _ in range(tokens - 1):
        await asyncio.sleep(step - loop.time() % step)
        await send({"type": "http.response.body", "body": CHUNK, "more_body": True})
    await asyncio.sleep(step - loop.time() % step)
    await send({"type": "http.response.body", "body": CHUNK + USAGE % tokens})


def serve_bare(port: int) -> None:
    """The ceiling's process."""
    uvicorn.run(
        bare_app,
        host="127.0.0.1",
        port=port,
        http="httptools",
        loop="uvloop",
        lifespan="off",
        log_level="warning",
        proxy_headers=False,
    )


# ---- what is measured --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """A server under load: where it listens, and whose CPU time counts."""

    name: str
    port: int
    pid: int


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(target: Target, load: Load) -> dict[str, float]:
    """One round of a load against a target."""
    command = [sys.executable, __file__, "--client", str(target.port), json.dumps(load.__dict__)]
    before = cpu_seconds(target.pid)
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    spent = cpu_seconds(target.pid) - before
    result: dict[str, float] = json.loads(done.stdout)
    return {
        **result,
        "us_per_token": 1e6 * spent / (load.requests * load.tokens),
        "ms_per_request": 1e3 * spent / load.requests,
    }


@contextlib.contextmanager
def child(*command: str, env: dict[str, str] | None = None, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with the block."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, env={**os.environ, **(env or {})}, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(url: str, is_ready: Any, folder: Path, limit_s: float = 60.0) -> None:
    """Poll until the answer is right; the logs tell why not."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, urllib.error.HTTPError), urllib.request.urlopen(url, timeout=2) as response:
            if is_ready(response.read().decode()):
                return
        time.sleep(0.1)
    logs = "\n".join(f"--- {log.name}\n{log.read_text()[-2000:]}" for log in sorted(folder.glob("*.log")))
    raise RuntimeError(f"{url} is not ready after {limit_s} s\n{logs}")


def free_ports(count: int) -> list[int]:
    """Ports that are free now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]


@contextlib.contextmanager
def dynamoc(folder: Path, model: Path) -> Iterator[Target]:
    """Frontend, KV router and mocker workers, as an agent would start them."""
    names = ["frontend-0", "router-0", *(f"worker-{k}" for k in range(WORKERS))]
    http, *ports = free_ports(1 + 2 * len(names))
    endpoints = {
        name: {"host": "127.0.0.1", "ports": {"plane": ports[2 * k], "metrics": ports[2 * k + 1], "http": http}}
        for k, name in enumerate(names)
    }
    folder.mkdir()
    (folder / "plan.json").write_text(encode_manifest(plan(model, endpoints)))
    (folder / "endpoints.json").write_text(json.dumps(endpoints))
    (folder / "key").write_bytes(secrets.token_bytes(32))
    (folder / "key").chmod(0o600)
    processes = []
    with contextlib.ExitStack() as stack:
        for name in reversed(names):
            command = [
                sys.executable,
                "-m",
                "dynamoc.runtime",
                name.split("-")[0],
                "--run-dir",
                str(folder),
                "--name",
                name,
            ]
            processes.append(stack.enter_context(child(*command, log=folder / f"{name}.log")))
        wait_for(f"http://127.0.0.1:{http}/health", lambda text: '"status":"ready"' in text, folder)
        yield Target("dynamoc", http, processes[-1].pid)


def plan(model: Path, endpoints: dict[str, Any]) -> Manifest:
    """The manifest of the run."""
    arguments = {"decode_step_ms": STEP_MS, "decode_us_per_sequence": 0, "decode_us_per_block": 0, "vocab_size": 40_000}
    worker = WorkerSettings(
        "mocker", "cpu", "float32", KvSettings(16, 8192, "float32"), 8192, 8192, 256, args=arguments
    )
    settings: dict[str, Any] = {
        "frontend": {"frontend": FrontendSettings()},
        "router": {"router": RouterSettings()},
        "worker": {"worker": worker},
    }
    roles = {"frontend": Role.FRONTEND, "router": Role.ROUTER, "worker": Role.AGGREGATED}
    processes = []
    for name in endpoints:
        kind, replica = name.split("-")
        ports = endpoints[name]["ports"]
        processes.append(ProcessSpec(name, kind, roles[kind], int(replica), 0, (), ports=ports, **settings[kind]))
    return Manifest(
        version=MANIFEST_VERSION,
        name="frontend-benchmark",
        plan_hash="0",
        model=ModelRef("bench", MODEL_NAME, path=str(model)),
        nodes=1,
        processes=tuple(processes),
    )


@contextlib.contextmanager
def bare(folder: Path) -> Iterator[Target]:
    """The ceiling."""
    folder.mkdir()
    (port,) = free_ports(1)
    with child(sys.executable, __file__, "--bare", str(port), log=folder / "bare.log") as process:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.1)
        yield Target("uvicorn, prepared bytes", port, process.pid)


@contextlib.contextmanager
def dynamo(folder: Path, venv: Path, model: Path) -> Iterator[Target]:
    """Dynamo's frontend with its KV router and mockers, without etcd and NATS."""
    folder.mkdir()
    (port,) = free_ports(1)
    python = str(venv / "bin/python")
    local = {f"DYN_{name}_HOST": "127.0.0.1" for name in ("TCP_RPC", "TCP_RESPONSE_STREAM", "EVENT_PLANE")}
    env = {
        **local, "DYN_DISCOVERY_BACKEND": "file", "DYN_FILE_KV": str(folder / "kv"), "DYN_REQUEST_PLANE": "tcp",
        "DYN_EVENT_PLANE": "zmq", "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    mocker = [
        python, "-m", "dynamo.mocker", "--model-path", str(model), "--model-name", MODEL_NAME, "--block-size", "16",
        "--num-gpu-blocks-override", "8192", "--speedup-ratio", "1.0",
    ]  # fmt: skip
    frontend = [
        python,
        "-m",
        "dynamo.frontend",
        "--http-host",
        "127.0.0.1",
        "--http-port",
        str(port),
        "--router-mode",
        "kv",
    ]
    with contextlib.ExitStack() as stack:
        process = stack.enter_context(child(*frontend, env=env, log=folder / "frontend.log"))
        for number in range(WORKERS):
            stack.enter_context(child(*mocker, env=env, log=folder / f"mocker-{number}.log"))
        wait_for(f"http://127.0.0.1:{port}/health", lambda text: text.count('"endpoint":"generate"') == WORKERS, folder)
        wait_for(f"http://127.0.0.1:{port}/v1/models", lambda text: MODEL_NAME in text, folder)
        yield Target("dynamo", port, process.pid)


# ---- the report -------------------------------------------------------------------------------------------

Rounds = dict[str, dict[str, list[dict[str, float]]]]


def run_rounds(targets: Sequence[Target], rounds: int) -> Rounds:
    """Loads on targets, in turn, so that a busy moment of the machine meets all alike. The first round warms up."""
    results: Rounds = {target.name: {STREAMS.name: [], SHORT.name: []} for target in targets}
    for number in range(rounds + 1):
        for load in (STREAMS, SHORT):
            for target in targets:
                result = measure(target, load)
                if number:
                    results[target.name][load.name].append(result)
    return results


def median(results: Rounds, target: str, load: Load, field: str) -> float | None:
    """Of one field over the rounds; None if the target was not measured."""
    return statistics.median(r[field] for r in results[target][load.name]) if target in results else None


def print_table(results: Rounds) -> None:
    """One line per target and load."""
    print(
        f"{'':26}{'load':26}{'events':>8}{'us/token':>10}{'ms/request':>12}{'TTFT p50':>10}{'p99 ms':>9}{'wall s':>8}"
    )
    for target, loads in results.items():
        for load in (STREAMS, SHORT):
            fields = ("events", "us_per_token", "ms_per_request", "ttft_p50_ms", "ttft_p99_ms", "wall_s")
            cells = [statistics.median(r[field] for r in loads[load.name]) for field in fields]
            numbers = "{:8.0f}{:10.1f}{:12.3f}{:10.1f}{:9.1f}{:8.2f}".format(*cells)
            print(f"{target:26}{load.name:26}{numbers}")


def figures(results: Rounds, rounds: int, peer_version: str | None) -> list[dict[str, Any]]:
    """One JSON object per figure."""
    made = []
    for name, load, field, unit in (
        ("frontend CPU per streamed token", STREAMS, "us_per_token", "us"),
        ("frontend CPU per short request", SHORT, "ms_per_request", "ms"),
    ):
        ours, ceiling, peer = (
            median(results, target, load, field) for target in ("dynamoc", "uvicorn, prepared bytes", "dynamo")
        )
        assert ours is not None
        assert ceiling is not None
        made.append({
            "figure": name, "load": load.name, "ours": round(ours, 3), "ceiling": round(ceiling, 3),
            "peer": None if peer is None else round(peer, 3), "unit": unit, "ratio": round(ours / ceiling, 2),
            "n": rounds, "hardware": f"{platform.machine()}, {os.cpu_count()} CPUs",
            "versions": {
                "python": platform.python_version(), "uvicorn": version("uvicorn"), "tokenizers": version("tokenizers"),
                "dynamo": peer_version,
            },
            "command": "python benchmarks/frontend.py" + (" --dynamo-venv VENV" if peer_version else ""),
        })  # fmt: skip
    return made


def version_of_dynamo(venv: Path) -> str:
    """As its distribution says."""
    code = "from importlib.metadata import version; print(version('ai-dynamo'))"
    return subprocess.run([venv / "bin/python", "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def main() -> None:
    """Measure, print, write `results/frontend.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", type=Path, default=MODEL_FOLDER, help="folder with tokenizer.json and a chat template"
    )
    parser.add_argument("--dynamo-venv", type=Path, help="a virtual environment with ai-dynamo, to measure beside ours")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        folder = Path(scratch)
        targets = [
            stack.enter_context(dynamoc(folder / "dynamoc", options.model)),
            stack.enter_context(bare(folder / "bare")),
        ]
        if options.dynamo_venv is not None:
            targets.append(stack.enter_context(dynamo(folder / "dynamo", options.dynamo_venv, options.model)))
        results = run_rounds(targets, options.rounds)
    print_table(results)
    peer_version = None if options.dynamo_venv is None else version_of_dynamo(options.dynamo_venv)
    made = figures(results, options.rounds, peer_version)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "frontend.json").write_text(json.dumps(made, indent=2) + "\n")
    for figure in made:
        print(json.dumps(figure))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--client"]:
        print(json.dumps(uvloop.run(client(int(sys.argv[2]), Load(**json.loads(sys.argv[3]))))))
    elif sys.argv[1:2] == ["--bare"]:
        serve_bare(int(sys.argv[2]))
    else:
        main()
