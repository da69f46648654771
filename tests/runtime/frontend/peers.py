"""A real frontend process, and peers for it that speak the real planes: a router and workers that echo prompts."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from free_ports import free_port
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from dynamoc.runtime.kv.hashing import unpack_tokens
from dynamoc.runtime.manifest import (
    MANIFEST_VERSION,
    FrontendSettings,
    KvSettings,
    Manifest,
    ModelRef,
    ProcessSpec,
    Role,
    WorkerSettings,
    encode_manifest,
)
from dynamoc.runtime.plane.connection import Connection, Identity, PlaneServer, listen
from dynamoc.runtime.plane.messages import (
    Cancel,
    Generate,
    Message,
    PromptComputed,
    RequestEnded,
    Routed,
    RouteRefused,
    RouteRequest,
    StepOutputs,
    TokenLogprob,
    TokenOutput,
    WorkerAddress,
    WorkerInfo,
    Workers,
    WorkersWanted,
)

KEY = b"k" * 32
MODEL = "tiny"
CONTEXT = 4096
TEMPLATE = (
    "{% for m in messages %}{% if m.role not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('no such role') }}{% endif %}<bos>{{ m.content }}<eos>{% endfor %}"
)
TEXT = "the quick brown fox jumps over the lazy dog. héllo wörld, 日本 🎉! hello hello "


def write_model(folder: Path) -> Tokenizer:
    """A small byte-level tokenizer and a chat template."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<unk>", "<bos>", "<eos>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([TEXT] * 4, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"bos_token": "<bos>", "eos_token": {"content": "<eos>"}, "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return tokenizer


@dataclass
class EchoWorker:
    """Answers with the prompt's tokens, over and over; token `i` is the prompt's `i`-th, whoever produces it.

    Faults happen once, after `fault_after` tokens of a request: `drop` cuts the connection, `retryable` and
    `fatal` report an error, `hang` says nothing more. `endless` ignores `max_tokens`, to fill any buffer.
    """

    name: str
    incarnation: int = 0
    pace_s: float = 0.0
    tokens_per_step: int = 1
    fault: str | None = None
    fault_after: int = 3
    endless: bool = False
    generates: list[Generate] = field(default_factory=list)
    cancelled: list[int] = field(default_factory=list)
    tasks: dict[tuple[Connection, int], asyncio.Task[None]] = field(default_factory=dict)
    server: PlaneServer | None = None

    async def start(self) -> None:
        self.server = await listen("127.0.0.1", 0, Identity(self.name, "decode", self.incarnation), KEY, self)

    @property
    def address(self) -> WorkerAddress:
        assert self.server is not None
        return WorkerAddress(self.name, self.incarnation, "127.0.0.1", self.server.port)

    def opened(self, connection: Connection) -> None:
        pass

    def received(self, connection: Connection, message: Message) -> None:
        match message:
            case Generate(request_id=request_id):
                self.generates.append(message)
                self.tasks[connection, request_id] = asyncio.create_task(self.answer(connection, message))
            case Cancel(request_id=request_id):
                self.cancelled.append(request_id)
                if (connection, request_id) in self.tasks:
                    self.tasks.pop((connection, request_id)).cancel()

    def closed(self, connection: Connection, reason: str) -> None:
        for owner, request_id in list(self.tasks):
            if owner is connection:
                self.tasks.pop((owner, request_id)).cancel()

    async def answer(self, connection: Connection, request: Generate) -> None:
        tokens = unpack_tokens(request.tokens)
        prompt = tokens[: len(tokens) - request.generated]
        index = request.generated
        while True:
            if self.pace_s:
                await asyncio.sleep(self.pace_s)
            if self.fault is not None and index - request.generated >= self.fault_after:
                fault, self.fault = self.fault, None
                await self.fail(connection, request.request_id, fault)
                return
            limit = 10**9 if self.endless else request.sampling.max_tokens
            end = min(index + self.tokens_per_step, limit)
            step = tuple(prompt[i % len(prompt)] for i in range(index, end))
            finish = "length" if end == limit else None
            if set(step) & set(request.sampling.stop_token_ids):
                finish = "stop"
            connection.send(StepOutputs((self.output(request, step, finish, first=index == request.generated),)))
            if finish:
                return
            index = end
            if not self.pace_s:
                await asyncio.sleep(0)

    def output(self, request: Generate, step: tuple[int, ...], finish: Any, *, first: bool) -> TokenOutput:
        logprobs: tuple[TokenLogprob, ...] = ()
        if request.sampling.logprobs >= 0:
            alternatives = tuple((5 + k, -1.0 - k) for k in range(request.sampling.logprobs))
            logprobs = tuple(TokenLogprob(-0.25, alternatives) for _ in step)
        return TokenOutput(request.request_id, step, finish, logprobs, cached_tokens=2 if first else 0)

    async def fail(self, connection: Connection, request_id: int, fault: str) -> None:
        if fault == "drop":
            connection.abort("the test cuts it")
        elif fault == "hang":
            await asyncio.sleep(3600)
        else:
            error = TokenOutput(request_id, (), "error", error="engine on fire", retryable=fault == "retryable")
            connection.send(StepOutputs((error,)))

    async def stop(self) -> None:
        for connection, _ in list(self.tasks):
            connection.abort("the test stops the worker")
        if self.server is not None:
            await self.server.close()


@dataclass
class FairRouter:
    """Takes workers in turn, those in `avoid` never; `refusal` refuses everything with that code."""

    workers: list[EchoWorker]
    port: int
    refusal: str | None = None
    delay_s: float = 0.0
    asked: list[RouteRequest] = field(default_factory=list)
    computed: list[int] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)
    connections: list[Connection] = field(default_factory=list)
    server: PlaneServer | None = None

    async def start(self) -> None:
        self.server = await listen("127.0.0.1", self.port, Identity("router-0", "router"), KEY, self)

    def opened(self, connection: Connection) -> None:
        self.connections.append(connection)

    def received(self, connection: Connection, message: Message) -> None:
        match message:
            case RouteRequest():
                self.asked.append(message)
                asyncio.get_running_loop().call_later(self.delay_s, self.route, connection, message)
            case PromptComputed(request_id=request_id):
                self.computed.append(request_id)
            case RequestEnded(request_id=request_id):
                self.ended.append(request_id)
            case WorkersWanted():
                connection.send(Workers(tuple(self.info(worker) for worker in self.workers)))

    def closed(self, connection: Connection, reason: str) -> None:
        self.connections.remove(connection)

    def route(self, connection: Connection, request: RouteRequest) -> None:
        if not connection.is_open:
            return
        able = [w for w in self.workers if f"{w.name}@{w.incarnation}" not in request.avoid]
        if self.refusal or not able:
            connection.send(RouteRefused(request.request_id, self.refusal or "no_worker", "the test refuses"))
        else:
            connection.send(Routed(request.request_id, able[len(self.asked) % len(able)].address))

    def info(self, worker: EchoWorker) -> WorkerInfo:
        return WorkerInfo(
            worker.address, "decode", "aggregated", MODEL, "echo", 16, 1024, CONTEXT, 2048, 64, layout_digest="d"
        )

    async def stop(self) -> None:
        if self.server is not None:
            await self.server.close()
        for connection in list(self.connections):
            connection.abort("the test stops the router")
        await asyncio.sleep(0)


@dataclass
class Stack:
    """Everything of one test."""

    router: FairRouter
    workers: list[EchoWorker]
    process: asyncio.subprocess.Process
    port: int
    client: httpx.AsyncClient
    tokenizer: Tokenizer
    notices: asyncio.StreamReader

    async def notice(self) -> dict[str, Any]:
        """The next thing the frontend tells its agent."""
        async with asyncio.timeout(20):
            notice: dict[str, Any] = json.loads(await self.notices.readline())
            return notice

    async def chat(self, content: str = "hello the fox", **fields: Any) -> httpx.Response:
        body = {"model": MODEL, "messages": [{"role": "user", "content": content}], "max_tokens": 8, **fields}
        return await self.client.post("/v1/chat/completions", json=body)

    async def complete(self, prompt: Any = "hello the fox", **fields: Any) -> httpx.Response:
        return await self.client.post(
            "/v1/completions", json={"model": MODEL, "prompt": prompt, "max_tokens": 8, **fields}
        )

    def echo(self, prompt: str, tokens: int) -> str:
        """The text that `tokens` tokens of an answer to a completion prompt make."""
        ids = self.tokenizer.encode(prompt).ids
        return self.tokenizer.decode([ids[i % len(ids)] for i in range(tokens)])


def events(response: httpx.Response) -> list[dict[str, Any]]:
    """The JSON of every event of a stream that ended as it must."""
    parts = response.text.split("\n\n")
    assert parts[-2:] == ["data: [DONE]", ""], parts[-3:]
    return [json.loads(part.removeprefix("data: ")) for part in parts[:-2]]


def write_run(folder: Path, settings: FrontendSettings, ports: dict[str, int], workers: int, model: Path) -> None:
    """A run folder with one frontend, one router and aggregated workers."""
    worker = WorkerSettings("echo", "cpu", "float32", KvSettings(16, 1024, "float32"), CONTEXT, 2048, 64)
    manifest = Manifest(
        version=MANIFEST_VERSION,
        name="frontend-test",
        plan_hash="0",
        model=ModelRef("tiny/tiny", MODEL, path=str(model)),
        nodes=1,
        processes=(
            ProcessSpec("frontend-0", "frontend", Role.FRONTEND, 0, 0, (), frontend=settings, drain_timeout_s=3.0),
            ProcessSpec("router-0", "router", Role.ROUTER, 0, 0, ()),
            *(ProcessSpec(f"w{k}", "decode", Role.AGGREGATED, k, 0, (), worker=worker) for k in range(workers)),
        ),
    )
    (folder / "plan.json").write_text(encode_manifest(manifest))
    endpoints = {
        "frontend-0": {"host": "127.0.0.1", "ports": {"http": ports["http"]}},
        "router-0": {"host": "127.0.0.1", "ports": {"plane": ports["router"]}},
    }
    (folder / "endpoints.json").write_text(json.dumps(endpoints))
    key = folder / "key"
    key.write_bytes(KEY)
    key.chmod(0o600)


@contextlib.asynccontextmanager
async def running(
    folder: Path, *, workers: int = 2, router: bool = True, limit_s: float = 60.0, **settings: Any
) -> AsyncIterator[Stack]:
    """The whole stack, until the block ends; the frontend must then end with status 0."""
    tokenizer = write_model(folder / "model")
    ports = {"http": free_port(), "router": free_port()}
    write_run(folder, FrontendSettings(**settings), ports, workers, folder / "model")
    peers = [EchoWorker(f"w{k}") for k in range(workers)]
    for peer in peers:
        await peer.start()
    fair = FairRouter(peers, ports["router"])
    if router:
        await fair.start()
    ours, theirs = socket.socketpair()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "dynamoc.runtime", "frontend", "--run-dir", str(folder), "--name", "frontend-0",
        env={**os.environ, "DYNAMOC_NOTIFY_FD": str(theirs.fileno())}, pass_fds=[theirs.fileno()],
    )  # fmt: skip
    theirs.close()
    notices, line = await asyncio.open_connection(sock=ours)
    limits = httpx.Limits(max_connections=None)
    base_url = f"http://127.0.0.1:{ports['http']}"
    try:
        async with asyncio.timeout(limit_s), httpx.AsyncClient(base_url=base_url, limits=limits, timeout=20) as client:
            stack = Stack(fair, peers, process, ports["http"], client, tokenizer, notices)
            if router:
                assert await stack.notice() == {"event": "ready"}
            yield stack
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), 10) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        line.close()
        await fair.stop()
        for peer in peers:
            await peer.stop()
