"""How long a decode worker waits for the KV of a prompt that is all there: in one write, and in parts.

    python benchmarks/handoff_cpu.py [--mib 8 64 256] [--rounds 15] [--transports shm tcp] [--output FILE]

A prefill process pushes a prompt's blocks onto shuffled blocks of a decode process, with what workers push and verify
with: `Pushes` and `Arrivals`, and messages over a plane connection. Exposed is the time from the first write until the
decode process has verified every byte; both processes read one clock. Before each round the destination is poisoned;
after it both ends hash all blocks. Modes take turns; the ceiling is the time of the writes alone, in one piece.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import uvloop
import xxhash

from dynamoc.runtime.engines.protocol import Written
from dynamoc.runtime.kv.layout import KvLayout
from dynamoc.runtime.kv.pool import HostPool
from dynamoc.runtime.metrics import Metrics
from dynamoc.runtime.plane.connection import Connection, Identity, dial, listen
from dynamoc.runtime.plane.messages import (
    AttachPool,
    Message,
    PrefillAborted,
    PrefillDone,
    PrefillRequest,
    PrefillWritten,
    Sampling,
    TokenOutput,
    WrittenLayers,
)
from dynamoc.runtime.transports.protocol import Peer, Transport
from dynamoc.runtime.transports.registry import make_transport
from dynamoc.runtime.worker.arrivals import Arrivals
from dynamoc.runtime.worker.pushes import Pace, Pushes
from dynamoc.runtime.worker.telemetry import Telemetry

HOST, KEY, LIMIT_S = "127.0.0.1", b"benchmark" * 4, 60.0
LAYOUT = KvLayout(layers=32, heads=8, head_dim=64, block_size=16, dtype="bfloat16", item_bytes=2)
"""1 MiB a block."""
POISON = 0xA5
MODES = ("one write", "parts")
OUTPUT = TokenOutput(0, (1,))


def order(blocks: int, seed: int) -> tuple[int, ...]:
    """Blocks of the prompt at one end."""
    return tuple(np.random.default_rng(seed).permutation(blocks).tolist())


def hash_of(pool: HostPool, blocks: tuple[int, ...]) -> bytes:
    """Of the blocks in this order."""
    digest = xxhash.xxh3_64()
    for block in blocks:
        digest.update(pool.block(block))
    return digest.digest()


class Decode:
    """The destination, and the connection to it: told what was written, it answers when all of that is right."""

    def __init__(self, transport: Transport, pool: HostPool) -> None:
        self.transport, self.pool, self.blocks = transport, pool, order(pool.blocks, 2)
        self.gone = asyncio.Event()
        self._arrivals = Arrivals(transport, self.blocks, LAYOUT.layers)

    def opened(self, connection: Connection) -> None:
        """Offer the pool."""
        connection.send(AttachPool(self.transport.name, self.transport.metadata(), ""))

    def received(self, connection: Connection, message: Message) -> None:
        """A round begins, part of it was written, all of it was."""
        if isinstance(message, PrefillRequest):
            np.frombuffer(self.pool.data, np.uint8)[:] = POISON
            self.transport.expect(message.generation, self.blocks)
            self._arrivals = Arrivals(self.transport, self.blocks, LAYOUT.layers)
            connection.send(PrefillAborted(1, message.generation))
        elif isinstance(message, PrefillWritten):
            self._arrivals.add(message.written)
        elif isinstance(message, PrefillDone):
            asyncio.get_running_loop().create_task(self._verify(connection, message))

    def closed(self, connection: Connection, reason: str) -> None:
        """The benchmark is over."""
        del connection, reason
        self.gone.set()

    async def _verify(self, connection: Connection, done: PrefillDone) -> None:
        wrong, verified_at = await self._arrivals.wrong(), time.monotonic()
        checksum = f"{wrong} {hash_of(self.pool, self.blocks).hex()}"
        connection.send(PrefillDone(1, done.generation, OUTPUT, checksum, "", 0, 0.0, verified_at, 0.0))


async def decode(name: str, port: int, blocks: int) -> None:
    """Own the destination until the other end hangs up."""
    pool, transport = HostPool(LAYOUT, blocks), make_transport(name, KEY)
    transport.register(pool)
    await transport.prepare(HOST)
    await transport.start(HOST, 0)
    end = Decode(transport, pool)
    await dial(HOST, port, Identity("decode", "decode"), KEY, end)
    await end.gone.wait()
    await transport.close()


class Prefill:
    """The source."""

    def __init__(self, name: str, blocks: int) -> None:
        self.pool, self.transport, self.blocks = HostPool(LAYOUT, blocks), make_transport(name, KEY), order(blocks, 1)
        self.pool.data[:] = np.random.default_rng(3).bytes(self.pool.data_bytes)
        self.hash = hash_of(self.pool, self.blocks).hex()
        self.transport.register(self.pool)
        self.connection: Connection | None = None
        self.part_bytes = self.transport.part_bytes
        self.peer: Peer | None = None
        self._heard: asyncio.Queue[Message] = asyncio.Queue()
        self._tags = iter(range(1, 1_000_000))
        self._pace, self._telemetry = Pace(), Telemetry(Metrics(), name)

    def opened(self, connection: Connection) -> None:
        """The decode process is there."""
        self.connection = connection

    def received(self, connection: Connection, message: Message) -> None:
        """An offer or an answer."""
        del connection
        self._heard.put_nowait(message)

    def closed(self, connection: Connection, reason: str) -> None:
        """The round that waits meets its limit."""

    async def hear(self) -> Message:
        """The next message."""
        return await asyncio.wait_for(self._heard.get(), LIMIT_S)

    async def attach(self) -> None:
        """Connect to the pool that is offered."""
        offer = await self.hear()
        assert isinstance(offer, AttachPool)
        self.peer = await self.transport.connect(offer.metadata, LIMIT_S)

    async def round(self, mode: str) -> dict[str, float]:
        """Push all of it; seconds until it is written and until it is verified."""
        assert self.connection is not None
        tag, say = next(self._tags), self.connection.send
        request = PrefillRequest(1, tag, b"", Sampling(max_tokens=1), 0, order(self.pool.blocks, 2), LIMIT_S)
        say(request)
        await self.hear()
        self.transport.part_bytes = 1 << 60 if mode == "one write" else self.part_bytes
        expires_at = time.monotonic() + LIMIT_S
        pushes = Pushes(self.transport, LAYOUT, request, lambda: self.peer, expires_at, self._pace, self._telemetry)
        pushes.on_arrived = told(say, tag)
        began = time.monotonic()
        pushes.written(Written(1, 0, self.blocks, range(LAYOUT.layers), None))
        await pushes.settle()
        written_at = time.monotonic()
        say(PrefillDone(1, tag, OUTPUT, "", "", 0, 0.0, 0.0, 0.0))
        answer = await self.hear()
        assert isinstance(answer, PrefillDone)
        assert answer.checksum == f"0 {self.hash}", f"{pushes.failure}: wrong blocks, hash: {answer.checksum}"
        return {"exposed": answer.age_s - began, "written": written_at - began}


def told(say: Callable[[Message], None], tag: int) -> Callable[[WrittenLayers], None]:
    """What a worker says of each part."""
    return lambda part: say(PrefillWritten(1, tag, (part,)))


async def measure(name: str, mib: int, rounds: int) -> dict[str, dict[str, float]]:
    """Medians in ms, and the least time exposed, by mode."""
    prefill = Prefill(name, mib)
    await prefill.transport.prepare(HOST)
    server = await listen(HOST, 0, Identity("prefill", "prefill"), KEY, prefill)
    words = [sys.executable, __file__, "--decode", name, str(server.port), str(mib)]
    other = await asyncio.create_subprocess_exec(*words)
    await prefill.attach()
    found: dict[str, dict[str, list[float]]] = {mode: {"exposed": [], "written": []} for mode in MODES}
    for turn in range(rounds + 2):
        for mode in MODES:
            for what, seconds in (await prefill.round(mode)).items():
                if turn > 1:  # the first two warm up
                    found[mode][what].append(1e3 * seconds)
    assert prefill.connection is not None
    prefill.connection.close()
    await prefill.transport.close()
    await server.close()
    await asyncio.wait_for(other.wait(), LIMIT_S)
    medians = {mode: {w: round(statistics.median(ms), 2) for w, ms in times.items()} for mode, times in found.items()}
    return {mode: {**medians[mode], "fastest": round(min(found[mode]["exposed"]), 2)} for mode in MODES}


def figures(name: str, mib: int, found: dict[str, dict[str, float]], rounds: int) -> list[dict[str, Any]]:
    """One object a mode."""
    return [
        {
            "figure": f"hand-over of {mib} MiB that are all there over {name}, {mode}",
            "ours": times["exposed"],
            "ceiling": found["one write"]["written"],
            "peer": None,
            "unit": "ms",
            "fastest": times["fastest"],
            "written_ms": times["written"],
            "n": rounds,
            "hardware": f"{platform.machine()}, {os.cpu_count()} CPUs",
            "versions": {"python": platform.python_version(), "numpy": np.__version__},
            "command": f"python benchmarks/handoff_cpu.py --mib {mib} --rounds {rounds}",
        }
        for mode, times in found.items()
    ]


def main() -> None:
    """Measure, print, write `results/handoff_cpu.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, nargs="+", default=[8, 64, 256])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--transports", nargs="+", default=["shm", "tcp"], choices=["shm", "tcp", "nixl"])
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("results") / "handoff_cpu.json")
    options = parser.parse_args()
    made = []
    print(f"{'path':5} {'MiB':>4} {'one write':>24} {'parts':>24}   ms exposed: median, fastest (written)")
    for name in options.transports:
        for mib in options.mib:
            words = [sys.executable, __file__, "--measure", name, str(mib), str(options.rounds)]
            found = json.loads(subprocess.check_output(words, text=True))
            made += figures(name, mib, found, options.rounds)
            rows = [found[mode] for mode in MODES]
            cells = [f"{row['exposed']:8.2f} {row['fastest']:6.2f} ({row['written']:6.2f})" for row in rows]
            print(f"{name:5} {mib:4} {cells[0]:>24} {cells[1]:>24}", flush=True)
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(json.dumps(made, indent=2) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--decode"]:
        uvloop.run(decode(sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
    elif sys.argv[1:2] == ["--measure"]:
        print(json.dumps(uvloop.run(measure(sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))))
    else:
        main()
