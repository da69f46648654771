"""A small run with real worker processes; the router, the frontend and, where wanted, a worker are the test's."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from free_ports import free_ports
from prometheus_client.parser import text_string_to_metric_families

from dynamoc.runtime.kv.hashing import pack_tokens
from dynamoc.runtime.manifest import (
    Edge,
    KvSettings,
    Manifest,
    ModelRef,
    ProcessSpec,
    Role,
    WorkerSettings,
    encode_manifest,
)
from dynamoc.runtime.plane.connection import Connection, Identity, PlaneError, PlaneServer, dial, listen
from dynamoc.runtime.plane.messages import (
    Cancel,
    Generate,
    KvEvent,
    KvEvents,
    LoadReport,
    Message,
    Registered,
    RegisterWorker,
    Sampling,
    StepOutputs,
    TokenOutput,
    WorkerAddress,
    WorkerInfo,
)

KEY = b"k" * 32
HOST = "127.0.0.1"
BLOCK_SIZE = 16
LIMIT_S = 90.0


async def until(condition: Callable[[], object], what: str, limit_s: float = LIMIT_S) -> None:
    """Wait for something another process does; fails by name."""
    try:
        async with asyncio.timeout(limit_s):
            while not condition():
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"not within {limit_s} s: {what}") from None


class Router:
    """Takes every registration and writes down what it hears."""

    def __init__(self, accepts: bool = True) -> None:
        self.accepts = accepts
        self.workers: dict[str, WorkerInfo] = {}
        self.registrations: list[WorkerInfo] = []
        self.heard: dict[str, list[Message]] = {}
        self.connections: dict[str, Connection] = {}

    def opened(self, connection: Connection) -> None:
        self.heard[connection.peer.name] = []
        self.connections[connection.peer.name] = connection

    def received(self, connection: Connection, message: Message) -> None:
        self.heard[connection.peer.name].append(message)
        if isinstance(message, RegisterWorker):
            self.registrations.append(message.worker)
            if self.accepts:
                self.workers[connection.peer.name] = message.worker
            connection.send(Registered(self.accepts, "" if self.accepts else "this test takes nobody"))

    def closed(self, connection: Connection, reason: str) -> None:
        del reason
        self.workers.pop(connection.peer.name, None)

    def events(self, name: str) -> list[KvEvent]:
        batches = [message for message in self.heard.get(name, []) if isinstance(message, KvEvents)]
        due = 0
        for batch in batches:
            assert batch.first_id == due
            due += len(batch.events)
        return [event for batch in batches for event in batch.events]

    def load(self, name: str) -> LoadReport | None:
        loads = [message for message in self.heard.get(name, []) if isinstance(message, LoadReport)]
        return loads[-1] if loads else None


class Frontend:
    """One connection to a worker; keeps every output."""

    def __init__(self) -> None:
        self.outputs: dict[int, list[TokenOutput]] = {}
        self.frames: list[StepOutputs] = []
        self.connection: Connection | None = None
        self.is_closed = False

    def opened(self, connection: Connection) -> None:
        self.connection = connection

    def received(self, connection: Connection, message: Message) -> None:
        del connection
        assert isinstance(message, StepOutputs)
        self.frames.append(message)
        for output in message.outputs:
            self.outputs.setdefault(output.request_id, []).append(output)

    def closed(self, connection: Connection, reason: str) -> None:
        del connection, reason
        self.is_closed = True

    def send(self, message: Message) -> None:
        assert self.connection is not None
        self.connection.send(message)

    def generate(self, request_id: int, tokens: list[int], max_tokens: int = 8, **fields: Any) -> None:
        sampling = Sampling(max_tokens=max_tokens, temperature=0.0)
        self.send(Generate(request_id, pack_tokens(tokens), sampling, **fields))

    def cancel(self, request_id: int) -> None:
        self.send(Cancel(request_id))

    def tokens(self, request_id: int) -> list[int]:
        return [token for output in self.outputs.get(request_id, []) for token in output.tokens]

    def finish(self, request_id: int) -> TokenOutput | None:
        last = self.outputs.get(request_id, [])[-1:]
        return last[0] if last and last[0].finish is not None else None

    async def answer(self, request_id: int, limit_s: float = LIMIT_S) -> TokenOutput:
        """The last output of a request."""
        await until(lambda: self.finish(request_id), f"request {request_id} finished", limit_s)
        last = self.finish(request_id)
        assert last is not None
        return last


@dataclass
class WorkerProcess:
    """A worker under test."""

    process: subprocess.Popen[bytes]
    notify: socket.socket
    log: Path
    heard: bytes = b""

    def notes(self) -> list[dict[str, Any]]:
        self.notify.setblocking(False)
        with contextlib.suppress(BlockingIOError, ConnectionResetError):
            while data := self.notify.recv(65536):
                self.heard += data
        return [json.loads(line) for line in self.heard.splitlines()]

    def is_ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        return any(note["event"] == "ready" for note in self.notes())

    async def exit_status(self, limit_s: float = LIMIT_S) -> int:
        await until(lambda: self.process.poll() is not None, "the worker exited", limit_s)
        return int(self.process.returncode)


@dataclass
class Run:
    """A run folder, and what runs in it."""

    folder: Path
    manifest: Manifest
    router: Router
    ports: dict[str, dict[str, int]]
    workers: dict[str, WorkerProcess] = field(default_factory=dict)
    frontends: list[Frontend] = field(default_factory=list)
    server: PlaneServer | None = None

    async def start(self, name: str, incarnation: int = 0, **environ: str) -> WorkerProcess:
        """Start a worker and wait until it is ready."""
        worker = self.spawn(name, incarnation, **environ)
        await until(worker.is_ready, f"{name} ready")
        return worker

    def spawn(self, name: str, incarnation: int = 0, **environ: str) -> WorkerProcess:
        if name in self.workers:
            self.workers[name].notify.close()
        ours, theirs = socket.socketpair()
        log = self.folder / f"{name}.{incarnation}.log"
        own = {"DYNAMOC_INCARNATION": str(incarnation), "DYNAMOC_NOTIFY_FD": str(theirs.fileno())}
        words = [sys.executable, "-m", "dynamoc.runtime", "worker", "--run-dir", str(self.folder), "--name", name]
        with theirs, log.open("wb") as output:
            process = subprocess.Popen(
                words, stderr=output, stdout=output, pass_fds=[theirs.fileno()], env={**os.environ, **own, **environ}
            )
        self.workers[name] = WorkerProcess(process, ours, log)
        return self.workers[name]

    async def listen(self) -> None:
        """Be the router."""
        port = self.ports["router-0"]["plane"]
        self.server = await listen(HOST, port, Identity("router-0", Role.ROUTER), KEY, self.router)

    async def stop_router(self) -> None:
        assert self.server is not None
        await self.server.close()
        for connection in self.router.connections.values():
            connection.abort("the router was killed")

    async def frontend(self, worker: str) -> Frontend:
        made = Frontend()
        self.frontends.append(made)
        identity = Identity(f"frontend-{len(self.frontends)}", Role.FRONTEND)
        await dial(HOST, self.ports[worker]["plane"], identity, KEY, made)
        return made

    def address(self, name: str, incarnation: int = 0) -> WorkerAddress:
        return WorkerAddress(name, incarnation, HOST, self.ports[name]["plane"])

    def metric(self, worker: str, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        url = f"http://{HOST}:{self.ports[worker]['metrics']}/metrics"
        with urllib.request.urlopen(url, timeout=5) as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
        samples = [sample for family in families for sample in family.samples if sample.name == name]
        return sum(s.value for s in samples if labels.items() <= s.labels.items())

    def report(self, name: str) -> dict[str, Any]:
        path = self.folder / "reports" / f"{name}.json"
        return dict(json.loads(path.read_bytes())) if path.exists() else {}

    async def end(self) -> None:
        for frontend in self.frontends:
            if frontend.connection is not None:
                frontend.connection.abort("the test is over")
        for worker in self.workers.values():
            if worker.process.poll() is None:
                worker.process.send_signal(signal.SIGCONT)
                worker.process.kill()
            worker.process.wait(10)
            worker.notify.close()
        if self.server is not None:
            with contextlib.suppress(PlaneError):
                await self.stop_router()
        await asyncio.sleep(0.01)  # lets aborted connections close their sockets


def worker_settings(engine: str, transport: str | None, **changes: Any) -> WorkerSettings:
    kv = KvSettings(block_size=changes.pop("block_size", BLOCK_SIZE), blocks=changes.pop("blocks", 64), dtype="uint8")
    return WorkerSettings(
        engine=engine,
        device="cpu",
        dtype="float32",
        kv=kv,
        context_length=changes.pop("context_length", 512),
        max_batched_tokens=256,
        max_sequences=8,
        transport=transport,
        args=changes,
    )


def make_run(folder: Path, transport: str | None = None, **settings: WorkerSettings) -> Run:
    """A run of one router and a worker for each setting, called `role_replica`; prefill sends KV to decode."""
    names = ["router-0", *(name.replace("_", "-") for name in settings)]
    numbers = iter(free_ports(3 * len(names)))
    ports = {name: {purpose: next(numbers) for purpose in ("plane", "kv", "metrics")} for name in names}
    processes = [_process("router-0", Role.ROUTER, ports["router-0"], None)]
    for name, worker in settings.items():
        plain = name.replace("_", "-")
        processes.append(_process(plain, Role(name.partition("_")[0]), ports[plain], worker))
    edges = [Edge(source="prefill", target="decode", kind="kv", transport=transport)] if transport else []
    manifest = Manifest(
        version=1,
        name="test",
        plan_hash="0",
        model=ModelRef(ref="tiny", served_name="tiny"),
        nodes=1,
        processes=tuple(processes),
        edges=tuple(edges),
    )
    (folder / "plan.json").write_text(encode_manifest(manifest))
    endpoints = {name: {"host": HOST, "ports": ports[name]} for name in names}
    (folder / "endpoints.json").write_bytes(msgspec.json.encode(endpoints))
    (folder / "key").write_bytes(KEY)
    (folder / "key").chmod(0o600)
    return Run(folder, manifest, Router(), ports)


def _process(name: str, role: Role, ports: dict[str, int], worker: WorkerSettings | None) -> ProcessSpec:
    return ProcessSpec(
        name=name,
        component=str(role),
        role=role,
        replica=int(name.rpartition("-")[2]),
        node=0,
        argv=("-m", "dynamoc.runtime"),
        ports=ports,
        drain_timeout_s=2.0,
        worker=worker,
        gpus=(0,) if worker else (),
        ranks=(0,) if worker else (),
    )


@contextlib.asynccontextmanager
async def running(run: Run, *names: str) -> AsyncIterator[Run]:
    """The router listens and the named workers are ready."""
    try:
        await run.listen()
        for name in names:
            run.spawn(name)
        for name in names:
            await until(run.workers[name].is_ready, f"{name} ready")
        yield run
    finally:
        await run.end()
