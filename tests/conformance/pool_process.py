"""One end of a transport in a process of its own: commands as JSON lines in, one answer each out."""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import xxhash
from stand_in import StandIn

from dynamoc.runtime.kv.cuda.device import DeviceError, on_device, require_devices, runtime
from dynamoc.runtime.kv.cuda.pool import DevicePool
from dynamoc.runtime.kv.layout import Heads, KvLayout
from dynamoc.runtime.kv.pool import HostPool
from dynamoc.runtime.kv.transfer.checksums import digest
from dynamoc.runtime.kv.transfer.pairs import BlockPairs, Indices
from dynamoc.runtime.kv.transfer.rows import Rows
from dynamoc.runtime.transports import nixl_host
from dynamoc.runtime.transports.nixl import NixlTransport, packer_for
from dynamoc.runtime.transports.nixl_agent import PACKAGES, Agent, interface_towards
from dynamoc.runtime.transports.nixl_device import DeviceMemory, DevicePacker
from dynamoc.runtime.transports.nixl_end import End
from dynamoc.runtime.transports.nixl_host import HostMemory
from dynamoc.runtime.transports.nixl_packer import Packer
from dynamoc.runtime.transports.nixl_staging import Memory
from dynamoc.runtime.transports.nvlink import NvlinkTransport
from dynamoc.runtime.transports.protocol import Peer, Transport, TransportError
from dynamoc.runtime.transports.shm import ShmTransport
from dynamoc.runtime.transports.tcp import TcpTransport
from dynamoc.runtime.transports.transfer import Digest

KEY = b"the key of this run"
HOST = "127.0.0.1"
VARIANTS = ("nixl", "nixl_gpu", "nixl_stand_in", "nvlink", "shm", "tcp")
"""Transports, and beside nixl between memory of hosts: between GPUs, and that without any."""
ON_GPU = ("nixl_gpu", "nvlink")
LIMIT_S = 30.0
"""For what takes no time, unless the machine is busy with something else."""
TestedPool = HostPool | DevicePool


class Gate:
    """The checksum of a unit, which takes its time while the gate is shut: so a transfer can be met half way."""

    FREE = 20
    """Units of `LONG_BLOCK` that pass at once: more than fill the first slots of nixl."""

    def __init__(self) -> None:
        self.pace_s = 1.0
        self.half_way = threading.Event()
        self._is_open = threading.Event()
        self._is_open.set()

    def shut(self) -> None:
        self._passed = itertools.count(1)
        self.half_way.clear()
        self._is_open.clear()

    def open(self) -> None:
        self._is_open.set()

    def __call__(self, data: Rows) -> int:
        if not self._is_open.is_set() and next(self._passed) > self.FREE:
            self.half_way.set()
            self._is_open.wait(self.pace_s)
        return digest(data)


def layout_of(block_bytes: int, layers: int = 1) -> KvLayout:
    if block_bytes % (32 * layers):
        return KvLayout(1, heads=1, head_dim=block_bytes, block_size=1, dtype="uint8", item_bytes=1, parts=1)
    return KvLayout(layers, heads=1, head_dim=block_bytes // 32 // layers, block_size=16, dtype="uint8", item_bytes=1)


def missing(variant: str) -> str:
    """Why this machine cannot run it; empty if it can."""
    if variant.startswith("nixl") and not any(importlib.util.find_spec(name) for name in PACKAGES):
        return "NIXL is not installed"
    if variant not in ON_GPU:
        return ""
    try:
        return "" if require_devices() else "this process sees no GPU"
    except DeviceError as error:
        return str(error)


def make_pool(variant: str, layout: KvLayout, blocks: int, device: int, heads: Heads | None = None) -> TestedPool:
    if variant in ON_GPU:
        return DevicePool(layout, blocks, device, heads)
    return HostPool(layout, blocks, heads=heads)


class Maker:
    """Makes transports. All of nixl share one agent: making one, and trying the way before, take longer than a test."""

    def __init__(self) -> None:
        self._ends: dict[str, End] = {}
        self._memories: dict[str, Memory] = {}

    def make(self, name: str, gate: Gate, device: int = 0) -> Transport:
        """A transport without a pool; one without a gate gets a small share of the device."""
        if name.startswith("nixl"):
            return self._nixl(name, gate, device)
        if name == "nvlink":
            return NvlinkTransport(KEY, ctas=1)
        return TcpTransport(KEY, gate) if name == "tcp" else ShmTransport(KEY, gate)

    def _nixl(self, name: str, gate: Gate, device: int) -> NixlTransport:
        if name not in self._ends:
            made = {"nixl": HostMemory, "nixl_stand_in": StandIn, "nixl_gpu": lambda: DeviceMemory(device, ctas=1)}
            self._memories[name] = memory = made[name]()
            memory.use()
            self._ends[name] = End(Agent(secrets.token_hex(8), interface_towards(HOST)), memory)
        memory = self._memories[name]
        if isinstance(memory, StandIn):
            memory.pace = gate
            gate.pace_s = 0.1  # nothing stops what a device has begun: a slot takes some units of this

        def packer(pool: Any, digest: Digest) -> Packer:
            if not isinstance(memory, DeviceMemory):
                return packer_for(pool, digest)
            made = DevicePacker(pool, memory)
            made.slots = nixl_host.SLOTS  # small ones: more of them
            return made

        return NixlTransport(KEY, gate, self._ends[name], packer)

    async def start(self, name: str, pool: TestedPool, gate: Gate) -> Transport:
        """A transport over this pool that listens."""
        made = self.make(name, gate, pool.device or 0)
        made.register(pool)
        await made.start(HOST, 0)
        return made


def read(pool: TestedPool) -> np.ndarray:
    """A copy of the blocks, one a row."""
    if isinstance(pool, HostPool):
        data = np.frombuffer(pool.data, np.uint8).copy()
    else:
        data = np.empty(pool.data_bytes, np.uint8)
        with on_device(pool.device, "read"):
            runtime.memcpy(data.ctypes.data, pool.address, data.size, 2)
    return data.reshape(pool.blocks, pool.layout.block_bytes)


def write(pool: TestedPool, blocks: np.ndarray) -> None:
    """Make these rows the blocks."""
    if isinstance(pool, HostPool):
        np.frombuffer(pool.data, np.uint8).reshape(blocks.shape)[:] = blocks
    else:
        with on_device(pool.device, "write"):
            runtime.memcpy(pool.address, blocks.ctypes.data, blocks.size, 1)


def fill(pool: TestedPool, seed: int) -> None:
    """Random bytes, no two blocks alike."""
    blocks = np.empty((pool.blocks, pool.layout.block_bytes), np.uint8)
    blocks[:] = np.random.default_rng(seed).integers(0, 256, pool.layout.block_bytes, np.uint8)
    blocks[:, :4] = np.arange(pool.blocks, dtype=np.uint32).view(np.uint8).reshape(-1, 4)
    write(pool, blocks)


def flip(pool: TestedPool, block: int, offset: int) -> None:
    """Change one bit."""
    blocks = read(pool)
    blocks[block, offset] ^= 0x10
    write(pool, blocks)


def digests(pool: TestedPool, blocks: Sequence[int] | Indices) -> list[int]:
    rows = read(pool)
    return [xxhash.xxh3_64_intdigest(rows[block]) for block in blocks]


class PoolProcess:
    """The tests' handle on such a process. Used from one coroutine at a time."""

    def __init__(self) -> None:
        words = [sys.executable, __file__]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._unanswered = 0
        self.was_signalled = False
        self.metadata = self.writer = b""

    @property
    def is_usable(self) -> bool:
        """Whether another test may have it."""
        return not self.was_signalled and not self._unanswered and self._process.poll() is None

    def open(self, transport: str, block_bytes: int, blocks: int, seed: int = 0, layers: int = 1) -> None:
        """Have a pool and a transport over it, instead of those before."""
        numbers = {"block_bytes": block_bytes, "blocks": blocks, "seed": seed, "layers": layers}
        opened = self.ask("open", transport=transport, **numbers)
        self.metadata = bytes.fromhex(opened["metadata"])
        self.writer = bytes.fromhex(opened["writer"])

    def tell(self, do: str, **fields: Any) -> None:
        assert self._process.stdin is not None
        self._unanswered += 1
        self._process.stdin.write(json.dumps({"do": do, **fields}) + "\n")
        self._process.stdin.flush()

    def ask(self, do: str, **fields: Any) -> Any:
        self.tell(do, **fields)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the process ended"
        self._unanswered -= 1
        return json.loads(line)["result"]

    def send_signal(self, number: signal.Signals) -> None:
        self.was_signalled = True
        self._process.send_signal(number)
        if number is signal.SIGKILL:
            self._process.wait(LIMIT_S)

    def end(self) -> None:
        self._process.kill()
        self._process.wait(LIMIT_S)
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            try:
                stream.close()
            except BrokenPipeError:  # what was not flushed to a process that has been killed
                continue


class _End:
    def __init__(self) -> None:
        self._maker = Maker()
        self._gate = Gate()
        self.pool: TestedPool
        self.transport: Transport
        self.peer: Peer | None = None

    async def open(self, transport: str, block_bytes: int, blocks: int, seed: int, layers: int) -> dict[str, str]:
        device = require_devices() - 1 if transport in ON_GPU else 0
        self.pool = make_pool(transport, layout_of(block_bytes, layers), blocks, device)
        fill(self.pool, seed)
        self._gate.open()
        self.transport = await self._maker.start(transport, self.pool, self._gate)
        return {"metadata": self.transport.metadata().hex(), "writer": self.transport.writer().hex()}

    async def close(self) -> None:
        await self.transport.close()
        self.pool.close()

    async def expect(self, tag: int, blocks: list[int]) -> None:
        self.transport.expect(tag, blocks)

    async def revoke(self, tag: int) -> bool:
        return await self.transport.revoke(tag)

    async def fill(self, seed: int) -> None:
        fill(self.pool, seed)

    async def digests(self, blocks: list[int]) -> list[int]:
        return digests(self.pool, blocks)

    async def shut(self) -> None:
        self._gate.shut()

    async def connect(self, metadata: str) -> str:
        try:
            self.peer = await self.transport.connect(bytes.fromhex(metadata), LIMIT_S)
        except TransportError as error:
            return str(error)
        return ""

    async def write(
        self, sources: list[int], destinations: list[int], layers: list[int] | None, deadline_s: float, tag: int
    ) -> dict[str, Any]:
        assert self.peer is not None
        some = None if layers is None else range(*layers)
        done = await self.transport.write(self.peer, BlockPairs.of(sources, destinations), deadline_s, tag, some).wait()
        facts = {name: getattr(done, name) for name in ("outcome", "reason", "moved_bytes")}
        return {**facts, "checksums": done.checksums.tobytes().hex()}


async def _main() -> None:
    end = _End()
    while line := await asyncio.to_thread(sys.stdin.readline):
        fields = json.loads(line)
        result = await getattr(end, fields.pop("do"))(**fields)
        print(json.dumps({"result": result}), flush=True)
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(_main())
