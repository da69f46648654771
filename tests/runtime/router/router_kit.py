"""A router under test: a hand-made plan, a router served in this process, peers that speak the real plane."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from free_ports import free_port

from dynamoc.runtime.kv.hashing import local_hashes, pack_tokens, sequence_hashes
from dynamoc.runtime.manifest import (
    KvSettings,
    Manifest,
    ModelRef,
    ProcessSpec,
    Role,
    RouterSettings,
    WorkerSettings,
)
from dynamoc.runtime.plane.connection import Connection, Identity, dial
from dynamoc.runtime.plane.messages import (
    BlocksStored,
    KvEvents,
    Message,
    Registered,
    RegisterWorker,
    Routed,
    RouteRefused,
    RouteRequest,
    StoredBlock,
    WorkerAddress,
    WorkerInfo,
)
from dynamoc.runtime.process import Context, Endpoint, Notifier
from dynamoc.runtime.router import app

KEY = b"k" * 32
BLOCK = 4
M = TypeVar("M", bound=Message)


def plan(ports: dict[str, int], settings: RouterSettings, roles: Sequence[Role]) -> Manifest:
    """A router, a frontend, and one worker per entry of `roles`, named `<role>-<k>`."""
    processes = [
        ProcessSpec(name="router-0", component="router", role=Role.ROUTER, replica=0, node=0,
                    argv=("-m", "dynamoc.runtime", "router"), ports=ports, router=settings),
        ProcessSpec(name="frontend-0", component="frontend", role=Role.FRONTEND, replica=0, node=0, argv=()),
    ]  # fmt: skip
    for role in roles:
        replica = sum(process.role is role for process in processes)
        worker = WorkerSettings(
            engine="echo", device="cpu", dtype="float32", kv=KvSettings(block_size=BLOCK, blocks=64, dtype="float32"),
            context_length=128, max_batched_tokens=64, max_sequences=2,
        )  # fmt: skip
        processes.append(
            ProcessSpec(name=f"{role}-{replica}", component=role, role=role, replica=replica, node=0, argv=(),
                        worker=worker)
        )  # fmt: skip
    return Manifest(version=1, name="t", plan_hash="0", model=ModelRef(ref="m", served_name="m"), nodes=1,
                    processes=tuple(processes))  # fmt: skip


def worker_info(name: str, incarnation: int = 0, **changes: Any) -> WorkerInfo:
    role = name.rpartition("-")[0]
    facts: dict[str, Any] = {
        "address": WorkerAddress(name, incarnation, "127.0.0.1", 1), "component": role, "role": role, "model": "m",
        "engine": "echo", "block_size": BLOCK, "blocks": 64, "context_length": 128, "max_batched_tokens": 64,
        "max_sequences": 2, "layout_digest": "d",
    }  # fmt: skip
    return WorkerInfo(**facts | changes)


def stored_events(first_id: int, tokens: Sequence[int], tier: str = "G1") -> KvEvents:
    """All full blocks of a prompt, as one event."""
    return KvEvents(first_id, (stored_event(tokens, tier),))


def stored_event(tokens: Sequence[int], tier: str = "G1") -> BlocksStored:
    local = local_hashes(pack_tokens(tokens), BLOCK)
    blocks = (StoredBlock(s, h) for s, h in zip(sequence_hashes(local), local, strict=True))
    return BlocksStored(tuple(blocks), None, tier)


class Peer:
    """A process that talks to the router; keeps what it hears."""

    def __init__(self) -> None:
        self.inbox: asyncio.Queue[Message] = asyncio.Queue()
        self.gone: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.connection: Connection

    def opened(self, connection: Connection) -> None: ...

    def received(self, connection: Connection, message: Message) -> None:
        self.inbox.put_nowait(message)

    def closed(self, connection: Connection, reason: str) -> None:
        self.gone.set_result(reason)

    def send(self, message: Message) -> None:
        self.connection.send(message)

    async def hear(self, expected: type[M], within_s: float = 20.0) -> M:
        message = await asyncio.wait_for(self.inbox.get(), within_s)
        assert isinstance(message, expected), message
        return message

    async def lost(self, within_s: float = 20.0) -> str:
        return await asyncio.wait_for(asyncio.shield(self.gone), within_s)

    async def route(self, request_id: int, tokens: Sequence[int], **more: Any) -> Routed | RouteRefused:
        self.ask(request_id, tokens, **more)
        answer = await asyncio.wait_for(self.inbox.get(), 20.0)
        assert isinstance(answer, Routed | RouteRefused)
        assert answer.request_id == request_id
        return answer

    def ask(self, request_id: int, tokens: Sequence[int], max_tokens: int = 8, avoid: tuple[str, ...] = ()) -> None:
        self.send(RouteRequest(request_id, pack_tokens(tokens), max_tokens, avoid))


class Bench:
    """A running router and the peers a test connects to it."""

    def __init__(self, ports: dict[str, int]) -> None:
        self.ports = ports
        self._peers: list[Peer] = []

    async def peer(self, name: str, role: str, incarnation: int = 0) -> Peer:
        peer = Peer()
        self._peers.append(peer)
        identity = Identity(name, role, incarnation)
        peer.connection = await dial("127.0.0.1", self.ports["plane"], identity, KEY, peer)
        return peer

    async def frontend(self, name: str = "frontend-0") -> Peer:
        return await self.peer(name, Role.FRONTEND)

    async def worker(self, name: str, incarnation: int = 0, **changes: Any) -> Peer:
        """A registered worker."""
        peer, answer = await self.applicant(name, incarnation, **changes)
        assert answer.accepted, answer.reason
        return peer

    async def applicant(self, name: str, incarnation: int = 0, **changes: Any) -> tuple[Peer, Registered]:
        peer = await self.peer(name, name.rpartition("-")[0], incarnation)
        peer.send(RegisterWorker(worker_info(name, incarnation, **changes)))
        return peer, await peer.hear(Registered)

    async def metrics(self) -> dict[str, float]:
        """What GET /metrics answers, by the metric's name with its labels."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.ports["metrics"])
        writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
        text = (await reader.read()).decode().partition("\r\n\r\n")[2]
        writer.close()
        await writer.wait_closed()
        lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, _, value in lines}

    async def metric(self, name: str, value: float, within_s: float = 20.0) -> None:
        """Wait until a metric has that value."""
        async with asyncio.timeout(within_s):
            while (await self.metrics()).get(name) != value:
                await asyncio.sleep(0.01)

    async def close(self) -> None:
        for peer in self._peers:
            peer.connection.abort("the test is over")
        for peer in self._peers:
            with contextlib.suppress(TimeoutError):
                await peer.lost(1.0)


async def reachable(port: int, within_s: float = 20.0) -> None:
    """Wait until something accepts on the port."""
    give_up = time.monotonic() + within_s
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            assert time.monotonic() < give_up, "the router does not listen"
            await asyncio.sleep(0.01)
        else:
            writer.close()
            await writer.wait_closed()
            return


def router_context(manifest: Manifest, ports: dict[str, int], notifier: Notifier | None = None) -> Context:
    return Context(
        manifest=manifest, spec=manifest.process("router-0"), run_dir=Path(), incarnation=0, key=KEY,
        endpoints={"router-0": Endpoint("127.0.0.1", ports)}, notifier=notifier or Notifier(None),
    )  # fmt: skip


@contextlib.asynccontextmanager
async def serving(*roles: Role, **settings: Any) -> AsyncIterator[Bench]:
    """A router in this process, with `roles` as the workers of its plan; ended as a real one is, by SIGTERM."""
    ports = {"plane": free_port(), "metrics": free_port()}
    manifest = plan(ports, RouterSettings(**settings), roles)
    router = asyncio.create_task(app.run(router_context(manifest, ports)))
    bench = Bench(ports)
    try:
        await reachable(ports["plane"])
        yield bench
    finally:
        await bench.close()
        if not router.done():
            os.kill(os.getpid(), signal.SIGTERM)
        assert await asyncio.wait_for(router, 20.0) == 0


AGG, PREFILL, DECODE = Role.AGGREGATED, Role.PREFILL, Role.DECODE
PROMPT = list(range(32))
OTHER = list(range(1000, 1032))


def names(answer: Routed | RouteRefused) -> tuple[str, str | None]:
    assert isinstance(answer, Routed), answer
    return answer.worker.name, answer.prefill.name if answer.prefill else None


def refusal(answer: Routed | RouteRefused) -> str:
    assert isinstance(answer, RouteRefused), answer
    assert answer.reason
    return answer.code


def scenario(*roles: Role, **settings: object) -> Callable[[Callable[[Bench], Awaitable[None]]], Callable[[], None]]:
    """Make a test of a coroutine that is given a router with that plan."""

    def decorate(body: Callable[[Bench], Awaitable[None]]) -> Callable[[], None]:
        async def main() -> None:
            async with serving(*roles, **settings) as bench:
                await body(bench)

        def test() -> None:
            asyncio.run(main())

        return test

    return decorate
