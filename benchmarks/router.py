"""What a routing decision costs: time per decision, and the router's CPU per request over a real plane.

    python benchmarks/router.py [--dynamo-venv VENV] [--rounds 3]

The index holds about 10,000 blocks per worker set; half of each prompt is a prefix all workers share. Ceilings: for a
lookup, the same walk through bare dicts; for a decision, hashing the prompt; for a request, a plane that answers
without deciding. The peer's index is Dynamo's `RadixTree`, called from Python.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from random import Random
from typing import Any, cast

import uvloop

from dynamoc.runtime.kv.hashing import local_hashes, pack_tokens, sequence_hashes
from dynamoc.runtime.manifest import (
    MANIFEST_VERSION,
    KvSettings,
    Manifest,
    ModelRef,
    ProcessSpec,
    Role,
    RouterSettings,
    WorkerSettings,
    encode_manifest,
)
from dynamoc.runtime.plane import messages as m
from dynamoc.runtime.plane.connection import Connection, Identity, dial, listen
from dynamoc.runtime.router.index import PrefixIndex
from dynamoc.runtime.router.membership import Membership
from dynamoc.runtime.router.placement import Placement, Placer
from dynamoc.runtime.router.queue import Ask

RESULTS = Path(__file__).parent / "results"
BLOCK_SIZE = 16
INDEX_BLOCKS = 10_000
PROMPT_BLOCKS = 256
HOST = "127.0.0.1"
WORKERS = (4, 16, 64)
PROMPT_TOKENS = (64, 512, 4096)


# ---- what is looked up -----------------------------------------------------------------------------------


class Traffic:
    """Prompts of 256 blocks: one shared half, one of their own; each resident on one worker."""

    def __init__(self, workers: int, seed: int = 1) -> None:
        rng = Random(seed)
        shared = [rng.randrange(32_000) for _ in range(PROMPT_BLOCKS * BLOCK_SIZE // 2)]
        prompts = max(workers, INDEX_BLOCKS * 2 // PROMPT_BLOCKS)
        self.prompts = [shared + [rng.randrange(32_000) for _ in shared] for _ in range(prompts)]
        self.owners = [k % workers for k in range(prompts)]
        self.hashes = [local_hashes(pack_tokens(prompt), BLOCK_SIZE) for prompt in self.prompts]

    def events(self) -> Iterator[tuple[int, m.BlocksStored]]:
        """Who stored what."""
        for owner, hashes in zip(self.owners, self.hashes, strict=True):
            pairs = zip(sequence_hashes(hashes), hashes, strict=True)
            yield owner, m.BlocksStored(tuple(m.StoredBlock(sequence, local) for sequence, local in pairs))


def times(act: Callable[[int], object], n: int) -> tuple[float, float]:
    """Microseconds at p50 and p99 of `act(k)` for k in 0..n."""
    for k in range(min(n, 50)):
        act(k)
    took = []
    for k in range(n):
        began = time.perf_counter()
        act(k)
        took.append(time.perf_counter() - began)
    took.sort()
    return 1e6 * took[n // 2], 1e6 * took[int(n * 0.99)]


def lookup(workers: int, n: int) -> dict[str, tuple[float, float]]:
    """Our index, and a bare walk, over prompts of 256 blocks."""
    traffic, index, bare = Traffic(workers), PrefixIndex(), cast("dict[int, Any]", {})
    for k in range(workers):
        index.add_worker(f"worker-{k}")
    for owner, event in traffic.events():
        assert index.apply(f"worker-{owner}", event) == "ok"
        node = bare
        for block in event.blocks:
            node = node.setdefault(block.local_hash, {})
    prompts = traffic.hashes

    def walk(k: int) -> None:
        node = bare
        for local in prompts[k % len(prompts)]:
            node = node[local]

    return {"ours": times(lambda k: index.find(prompts[k % len(prompts)]), n), "ceiling": times(walk, n)}


PEER = """
import json, sys, time
from dynamo.llm import RadixTree
traffic = json.load(sys.stdin)
tree = RadixTree()
for number, (worker, sequence, local) in enumerate(traffic):
    blocks = [{"block_hash": s, "tokens_hash": h} for s, h in zip(sequence, local)]
    data = {"stored": {"parent_hash": None, "blocks": blocks}}
    tree.apply_event(worker, json.dumps({"event_id": number, "dp_rank": 0, "data": data}).encode())
took = []
for k in range(int(sys.argv[1])):
    prompt = traffic[k % len(traffic)][2]
    began = time.perf_counter()
    found = tree.find_matches(prompt)
    took.append(time.perf_counter() - began)
    assert max(found.scores.values()) == len(prompt), found.scores
took.sort()
print(json.dumps([1e6 * took[len(took) // 2], 1e6 * took[int(len(took) * 0.99)]]))
"""


def peer_lookup(venv: Path, workers: int, n: int) -> tuple[float, float]:
    """The same lookups in Dynamo's index."""
    traffic = Traffic(workers)
    rows = [
        (owner, [block.sequence_hash for block in event.blocks], [block.local_hash for block in event.blocks])
        for owner, event in traffic.events()
    ]
    done = subprocess.run(
        [venv / "bin/python", "-c", PEER, str(n)], input=json.dumps(rows), check=True, capture_output=True,
        text=True, timeout=120,
    )  # fmt: skip
    p50, p99 = json.loads(done.stdout)
    return p50, p99


# ---- a decision ------------------------------------------------------------------------------------------


def info(name: str) -> m.WorkerInfo:
    """A worker with room for all that is asked of it."""
    return m.WorkerInfo(
        address=m.WorkerAddress(name, 0, HOST, 1), component="aggregated", role=Role.AGGREGATED, model="m",
        engine="mocker",
        block_size=BLOCK_SIZE, blocks=100_000, context_length=131_072, max_batched_tokens=8192, max_sequences=4096,
        layout_digest="d",
    )  # fmt: skip


def decision(workers: int, tokens: int, n: int) -> dict[str, tuple[float, float]]:
    """From the tokens of a request to its placement; and hashing alone. Every worker has some load."""
    traffic, rng = Traffic(workers), Random(2)
    members = Membership(plan(workers, {}))
    for k in range(workers):
        worker = members.add(info(f"aggregated-{k}"), cast("Connection", None))
        worker.load.blocks, worker.load.requests = rng.randrange(1000), rng.randrange(100)
    for owner, event in traffic.events():
        members.index.apply(f"aggregated-{owner}", event)
    placer = Placer(members, RouterSettings(), rng)
    prompts = [pack_tokens(prompt[:tokens]) for prompt in traffic.prompts]

    def decide(k: int) -> None:
        ask = Ask(cast("Connection", None), k, prompts[k % len(prompts)], 128)
        assert placer.too_long(ask) is None
        assert isinstance(placer.place(ask), Placement)

    return {
        "ours": times(decide, n),
        "ceiling": times(lambda k: local_hashes(prompts[k % len(prompts)], BLOCK_SIZE), n),
    }


# ---- over the plane --------------------------------------------------------------------------------------


def plan(workers: int, ports: dict[str, int]) -> Manifest:
    """A router and its workers."""
    settings = WorkerSettings(
        engine="mocker", device="cpu", dtype="float32",
        kv=KvSettings(block_size=BLOCK_SIZE, blocks=100_000, dtype="float32"),
        context_length=131_072, max_batched_tokens=8192, max_sequences=4096,
    )  # fmt: skip
    router = ProcessSpec(
        name="router-0", component="router", role=Role.ROUTER, replica=0, node=0, argv=(), ports=ports,
        router=RouterSettings(),
    )  # fmt: skip
    pool = (
        ProcessSpec(
            name=f"aggregated-{k}", component="aggregated", role=Role.AGGREGATED, replica=k, node=0, argv=(),
            worker=settings,
        )
        for k in range(workers)
    )  # fmt: skip
    return Manifest(
        version=MANIFEST_VERSION, name="bench", plan_hash="0", model=ModelRef(ref="m", served_name="m"), nodes=1,
        processes=(router, *pool),
    )  # fmt: skip


@contextmanager
def served(workers: int, *, bare: bool) -> Iterator[tuple[int, bytes, int]]:
    """A router's process (or the bare plane): its port, its key and its pid."""
    with tempfile.TemporaryDirectory() as scratch:
        folder, key = Path(scratch), secrets.token_bytes(32)
        with socket.create_server((HOST, 0)) as probe:
            port = int(probe.getsockname()[1])
        (folder / "plan.json").write_text(encode_manifest(plan(workers, {"plane": port})))
        (folder / "endpoints.json").write_text(json.dumps({"router-0": {"host": HOST, "ports": {"plane": port}}}))
        (folder / "key").touch(mode=0o600)
        (folder / "key").write_bytes(key)
        words = ["-m", "dynamoc.runtime", "router", "--run-dir", str(folder), "--name", "router-0"]
        if bare:
            words = [__file__, "--bare", str(port), key.hex()]
        with (folder / "log").open("wb") as log, subprocess.Popen([sys.executable, *words], stderr=log) as process:
            try:
                yield port, key, process.pid
            finally:
                process.terminate()


class Bare:
    """Answers without deciding."""

    answer = m.WorkerAddress("aggregated-0", 0, HOST, 1)

    def opened(self, connection: Connection) -> None: ...

    def closed(self, connection: Connection, reason: str) -> None: ...

    def received(self, connection: Connection, message: m.Message) -> None:
        """One answer a request."""
        if isinstance(message, m.RouteRequest):
            connection.send(m.Routed(message.request_id, self.answer))


async def serve_bare(port: int, key: bytes) -> None:
    """The ceiling's process."""
    await listen(HOST, port, Identity("router-0", "router"), key, Bare())
    await asyncio.Event().wait()


class Client:
    """A frontend that keeps `concurrency` requests in flight, each ended as soon as it is routed."""

    def __init__(self, prompts: Sequence[bytes], requests: int, concurrency: int) -> None:
        self.prompts, self.requests, self.concurrency = prompts, requests, concurrency
        self.sent, self.began, self.took = 0, [0.0] * requests, [0.0] * requests
        self.left, self.done = requests, asyncio.Event()

    def opened(self, connection: Connection) -> None: ...

    def closed(self, connection: Connection, reason: str) -> None: ...

    def received(self, connection: Connection, message: m.Message) -> None:
        """An answer: the request is over, the next one goes."""
        if not isinstance(message, m.Routed):
            raise TypeError(message)
        self.took[message.request_id] = time.perf_counter() - self.began[message.request_id]
        connection.send(m.RequestEnded(message.request_id))
        self.ask(connection)
        self.left -= 1
        if not self.left:
            self.done.set()

    def ask(self, connection: Connection) -> None:
        """Send one more request, if any is left."""
        number = self.sent
        if number < self.requests:
            self.sent += 1
            self.began[number] = time.perf_counter()
            connection.send(m.RouteRequest(number, self.prompts[number % len(self.prompts)], 128))


class Resident:
    """A worker that says what it holds, and has nothing to hear but that it is registered."""

    def opened(self, connection: Connection) -> None: ...

    def closed(self, connection: Connection, reason: str) -> None: ...

    def received(self, connection: Connection, message: m.Message) -> None:
        """A refusal would spoil the figures."""
        if message != m.Registered(accepted=True):
            raise ValueError(f"{connection.peer.name} answered {message}")


async def reach(port: int, name: str, role: str, key: bytes, handler: Any) -> Connection:
    """Dial until the process listens."""
    while True:
        try:
            return await dial(HOST, port, Identity(name, role), key, handler)
        except ConnectionError:
            await asyncio.sleep(0.05)


async def drive(port: int, key: bytes, pid: int, workers: int, tokens: int, requests: int) -> dict[str, float]:
    """Requests over the plane: CPU of the other process, and time to an answer."""
    traffic = Traffic(workers)
    client = Client([pack_tokens(prompt[:tokens]) for prompt in traffic.prompts], requests, 64)
    async with asyncio.timeout(120):
        frontend = await reach(port, "frontend-0", Role.FRONTEND, key, client)
        members = []
        for k in range(workers):
            members.append(await reach(port, f"aggregated-{k}", Role.AGGREGATED, key, Resident()))
            members[-1].send(m.RegisterWorker(info(f"aggregated-{k}")))
        for number, (owner, event) in enumerate(traffic.events()):
            members[owner].send(m.KvEvents(number // workers, (event,)))
        await asyncio.sleep(1.0)
        before, began = cpu_seconds(pid), time.perf_counter()
        for _ in range(client.concurrency):
            client.ask(frontend)
        await client.done.wait()
        wall, spent = time.perf_counter() - began, cpu_seconds(pid) - before
    took = sorted(client.took)
    return {
        "us": 1e6 * spent / requests,
        "per_second": requests / wall,
        "p50_ms": 1e3 * took[requests // 2],
        "p99_ms": 1e3 * took[int(requests * 0.99)],
    }


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# ---- the report ------------------------------------------------------------------------------------------


def figure(
    name: str, load: str, ours: float, ceiling: float, peer: float | None, n: int, **more: object
) -> dict[str, Any]:
    """One figure, with what it was measured on."""
    peer_version = more.pop("peer_version", None)
    return {
        "figure": name, "load": load, "ours": round(ours, 1), "ceiling": round(ceiling, 1),
        "peer": None if peer is None else round(peer, 1), "unit": "us", "ratio": round(ours / ceiling, 2), "n": n,
        "hardware": f"{platform.machine()}, {os.cpu_count()} CPUs",
        "versions": {
            "python": platform.python_version(), "xxhash": version("xxhash"), "uvloop": version("uvloop"),
            "dynamo": peer_version,
        },
        "command": "python benchmarks/router.py" + (" --dynamo-venv VENV" if peer_version else ""), **more,
    }  # fmt: skip


def best(rounds: int, measure: Callable[[], Any], key: Callable[[Any], float]) -> Any:
    """The round least disturbed by other work on the machine."""
    return min((measure() for _ in range(rounds)), key=key)


def micro(rounds: int, venv: Path | None, peer_version: str | None) -> Iterator[dict[str, Any]]:
    """Lookups and decisions, in this process."""
    n = 1000
    for workers in WORKERS:
        made = best(rounds, lambda w=workers: lookup(w, n), lambda made: made["ours"][0])
        peer = best(rounds, lambda w=workers: peer_lookup(venv, w, n), lambda made: made[0]) if venv else (None, None)
        for quantile, name in enumerate(("p50", "p99")):
            yield figure(
                f"index lookup, {name}", f"{workers} workers, {PROMPT_BLOCKS} blocks", made["ours"][quantile],
                made["ceiling"][quantile], peer[quantile], n, peer_version=peer_version,
            )  # fmt: skip
    for workers in WORKERS:
        for tokens in PROMPT_TOKENS:
            made = best(rounds, lambda w=workers, t=tokens: decision(w, t, n), lambda made: made["ours"][0])
            for quantile, name in enumerate(("p50", "p99")):
                load = f"{workers} workers, {tokens} tokens"
                yield figure(
                    f"routing decision, {name}", load, made["ours"][quantile], made["ceiling"][quantile], None, n
                )


def over_the_plane(rounds: int) -> Iterator[dict[str, Any]]:
    """Requests against a router's process."""
    for workers, tokens, requests in ((4, 64, 8000), (64, 64, 8000), (4, 4096, 2000)):
        made = {}
        for bare in (False, True):

            def once(w: int = workers, t: int = tokens, r: int = requests, bare: bool = bare) -> dict[str, float]:
                with served(w, bare=bare) as (port, key, pid):
                    return uvloop.run(drive(port, key, pid, w, t, r))

            made[bare] = best(rounds, once, lambda made: made["us"])
        ours = made[False]
        yield figure(
            "router CPU per request", f"{workers} workers, {tokens} tokens, 64 in flight", ours["us"],
            made[True]["us"], None, requests, per_second=round(ours["per_second"]),
            p50_ms=round(ours["p50_ms"], 2), p99_ms=round(ours["p99_ms"], 2),
        )  # fmt: skip


def main() -> None:
    """Measure, print, write `results/router.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dynamo-venv", type=Path, help="a virtual environment with ai-dynamo-runtime")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    peer_version = None
    if options.dynamo_venv is not None:
        ask = "from importlib.metadata import version; print(version('ai-dynamo-runtime'))"
        peer_version = subprocess.check_output([options.dynamo_venv / "bin/python", "-c", ask], text=True).strip()
    made = []
    for source in (micro(options.rounds, options.dynamo_venv, peer_version), over_the_plane(options.rounds)):
        for one in source:
            print(json.dumps(one), flush=True)
            made.append(one)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "router.json").write_text(json.dumps(made, indent=2) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--bare"]:
        uvloop.run(serve_bare(int(sys.argv[2]), bytes.fromhex(sys.argv[3])))
    else:
        main()
