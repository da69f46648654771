"""One end of a transport in a process of its own: commands as JSON lines in, one answer each out."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import xxhash

from dynamoc.runtime.kv.layout import KvLayout
from dynamoc.runtime.kv.pool import HostPool
from dynamoc.runtime.kv.transfer.pairs import BlockPairs
from dynamoc.runtime.transports.protocol import Peer, TransportError
from dynamoc.runtime.transports.registry import make_transport

KEY = b"the key of this run"


def layout_of(block_bytes: int, layers: int = 1) -> KvLayout:
    return KvLayout(layers, heads=1, head_dim=block_bytes // 32 // layers, block_size=16, dtype="uint8", item_bytes=1)


def fill(pool: HostPool, seed: int) -> None:
    """Random bytes, no two blocks alike."""
    blocks = np.frombuffer(pool.data, np.uint8).reshape(pool.blocks, pool.layout.block_bytes)
    blocks[:] = np.random.default_rng(seed).integers(0, 256, pool.layout.block_bytes, np.uint8)
    blocks[:, :4] = np.arange(pool.blocks, dtype=np.uint32).view(np.uint8).reshape(-1, 4)


def digests(pool: HostPool, blocks: Sequence[int]) -> list[int]:
    return [xxhash.xxh3_64_intdigest(pool.block(block)) for block in blocks]


class PoolProcess:
    """The tests' handle on such a process. Used from one coroutine at a time."""

    def __init__(self, transport: str, block_bytes: int, blocks: int, seed: int = 0, layers: int = 1) -> None:
        words = [sys.executable, __file__, transport, *map(str, (block_bytes, blocks, seed, layers))]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        first = self._answer()
        self.metadata = bytes.fromhex(first["metadata"])
        self.writer = bytes.fromhex(first["writer"])

    def tell(self, do: str, **fields: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **fields}) + "\n")
        self._process.stdin.flush()

    def ask(self, do: str, **fields: Any) -> Any:
        self.tell(do, **fields)
        return self._answer()["result"]

    def send_signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)
        if number is signal.SIGKILL:
            self._process.wait(10)

    def end(self) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()
        self._process.kill()
        self._process.wait(10)

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the process ended"
        return json.loads(line)


class _End:
    def __init__(self, transport: str, block_bytes: int, blocks: int, seed: int, layers: int) -> None:
        self.pool = HostPool(layout_of(block_bytes, layers), blocks)
        fill(self.pool, seed)
        self.transport = make_transport(transport, KEY)
        self.transport.register(self.pool)
        self.peer: Peer | None = None

    async def expect(self, tag: int, blocks: list[int]) -> None:
        self.transport.expect(tag, blocks)

    async def revoke(self, tag: int) -> bool:
        return await self.transport.revoke(tag)

    async def fill(self, seed: int) -> None:
        fill(self.pool, seed)

    async def digests(self, blocks: list[int]) -> list[int]:
        return digests(self.pool, blocks)

    async def flip(self, block: int) -> None:
        self.pool.block(block)[0] ^= 1

    async def connect(self, metadata: str) -> str:
        try:
            self.peer = await self.transport.connect(bytes.fromhex(metadata), 5)
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


async def _main(transport: str, *numbers: str) -> None:
    end = _End(transport, *map(int, numbers))
    await end.transport.start("127.0.0.1", 0)
    print(json.dumps({"metadata": end.transport.metadata().hex(), "writer": end.transport.writer().hex()}), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        fields = json.loads(line)
        result = await getattr(end, fields.pop("do"))(**fields)
        print(json.dumps({"result": result}), flush=True)
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
