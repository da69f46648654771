"""Real pipelines for tests: `dynamoc up` in a subprocess, its run folder, and a client for it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from free_ports import free_port_base

MODELS = Path.home() / ".cache/dynamoc/models"
SMOLLM2 = MODELS / "HuggingFaceTB/SmolLM2-135M-Instruct"


@dataclass
class Pipeline:
    """A running `dynamoc up`."""

    process: subprocess.Popen[str]
    run_dir: Path
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def processes(self) -> dict[str, dict[str, Any]]:
        """Every process of the run, over all its nodes."""
        files = self.run_dir.glob("status*.json")
        return {name: p for file in files for name, p in json.loads(file.read_text())["processes"].items()}

    def kill(self, name: str) -> int:
        """SIGKILL one process; its incarnation."""
        process = self.processes()[name]
        os.kill(process["pid"], signal.SIGKILL)
        return process["incarnation"]

    def wait_back(self, name: str, after: int, limit_s: float = 120.0) -> None:
        """Wait until a later incarnation of a process is ready."""
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            process = self.processes()[name]
            if process["incarnation"] > after and process["state"] == "ready":
                return
            time.sleep(0.1)
        raise AssertionError(f"{name} is not back: {self.processes()[name]}")

    def metric(self, process: str, name: str, **labels: str) -> float:
        """The sum of a metric's samples that carry these labels."""
        endpoint = json.loads((self.run_dir / "endpoints.json").read_text())[process]
        port = endpoint["ports"].get("metrics") or endpoint["ports"]["http"]
        text = httpx.get(f"http://{endpoint['host']}:{port}/metrics", timeout=5).text
        total = 0.0
        for line in text.splitlines():
            found = re.fullmatch(rf"{name}(?:\{{(.*)\}})? (\S+)", line)
            if found and all(f'{key}="{value}"' in (found[1] or "") for key, value in labels.items()):
                total += float(found[2])
        return total

    def stop(self) -> int:
        """Ctrl-C; the exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(30)


@contextlib.contextmanager
def serving(spec: str, folder: Path, *, cluster: str | None = None, ready_s: float = 240.0) -> Iterator[Pipeline]:
    """Start a spec (its frontend port is replaced by a free one) and wait until every process is ready."""
    base = free_port_base()
    spec_file = folder / "spec.yaml"
    spec_file.write_text(re.sub(r"port: \d+", f"port: {base}", spec))
    command = [sys.executable, "-m", "dynamoc", "up", str(spec_file), "--runs-dir", str(folder / "runs")]
    command += ["--port-base", str(base + 8)]
    if cluster is not None:
        (folder / "cluster.yaml").write_text(cluster)
        command += ["--cluster", str(folder / "cluster.yaml")]
    log = (folder / "up.log").open("w")
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, text=True)
    try:
        yield _wait_ready(process, folder, base, ready_s)
    except Exception as error:
        for path in [folder / "up.log", *sorted(folder.glob("runs/*-*/logs/*.log"))]:
            error.add_note(f"--- {path.name}\n{path.read_text(errors='replace')[-2000:]}")
        raise
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        log.close()


def _wait_ready(process: subprocess.Popen[str], folder: Path, port: int, ready_s: float) -> Pipeline:
    deadline = time.monotonic() + ready_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise AssertionError(f"`dynamoc up` ended with {process.returncode}:\n{(folder / 'up.log').read_text()}")
        for status in (folder / "runs").glob("*/status.json"):
            if status.parent.is_symlink():
                continue
            pipeline = Pipeline(process, status.parent, port)
            processes = pipeline.processes()
            planned = len(json.loads((status.parent / "plan.json").read_text())["processes"])
            announced = "\nready " in (folder / "up.log").read_text()
            if announced and len(processes) == planned and {p["state"] for p in processes.values()} == {"ready"}:
                return pipeline
        time.sleep(0.1)
    raise AssertionError(f"not ready within {ready_s} s:\n{(folder / 'up.log').read_text()}")


@dataclass
class Stream:
    """What one streamed request brought."""

    text: str = ""
    error: str | None = None
    tokens: int = 0
    first_at: float | None = None
    last_at: float = 0.0
    finish: str | None = None
    usage: dict[str, Any] = field(default_factory=dict)


async def _events(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    async for line in response.aiter_lines():
        if line.startswith("data: ") and line != "data: [DONE]":
            yield json.loads(line[6:])


async def stream(client: httpx.AsyncClient, url: str, body: dict[str, Any], into: Stream | None = None) -> Stream:
    """One streamed chat request; an HTTP error or an error event ends up in `error`."""
    result = into if into is not None else Stream()
    result.last_at = time.monotonic()
    try:
        async with client.stream("POST", f"{url}/v1/chat/completions", json={**body, "stream": True}) as response:
            if response.status_code != 200:
                result.error = (await response.aread()).decode()
                return result
            async for event in _events(response):
                _take(event, result)
    except httpx.HTTPError as error:
        result.error = f"transport: {error!r}"
    return result


def _take(event: dict[str, Any], result: Stream) -> None:
    result.last_at = time.monotonic()
    if "error" in event:
        result.error = json.dumps(event["error"])
    result.usage = event.get("usage") or result.usage
    for choice in event.get("choices", []):
        if choice["delta"].get("content"):
            result.first_at = result.first_at or result.last_at
            result.text += choice["delta"]["content"]
            result.tokens += 1
        result.finish = choice["finish_reason"] or result.finish


async def streams(url: str, bodies: list[dict[str, Any]], into: list[Stream] | None = None) -> list[Stream]:
    """All requests at once."""
    limits = httpx.Limits(max_connections=None)
    results = into if into is not None else [Stream() for _ in bodies]
    async with httpx.AsyncClient(limits=limits, timeout=httpx.Timeout(120)) as client:
        pairs = zip(bodies, results, strict=True)
        return list(await asyncio.gather(*(stream(client, url, body, result) for body, result in pairs)))
