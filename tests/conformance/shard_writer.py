"""The ranks of a prefill worker in a process of their own: one JSON line in, one out."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import numpy as np

from dynamoc.runtime.kv.cuda.device import runtime
from dynamoc.runtime.kv.cuda.pool import DevicePool
from dynamoc.runtime.kv.layout import KvLayout
from dynamoc.runtime.kv.pool import HostPool
from dynamoc.runtime.kv.transfer.pairs import BlockPairs
from dynamoc.runtime.kv.transfer.shards import crossings, heads_of
from dynamoc.runtime.transports.protocol import Transport
from dynamoc.runtime.transports.registry import make_transport

BLOCKS = 12
LAYERS, PARTS, TOKENS, RUN_BYTES = 3, 2, 4, 32
KEY = b"the key of this run"


def layout_of(heads: int) -> KvLayout:
    return KvLayout(LAYERS, heads, RUN_BYTES // 2, TOKENS, "bytes", 2, PARTS)


def share(total: int, ranks: int, rank: int) -> np.ndarray:
    """What a rank holds of the model's random KV: [block][layer][part][head][token][byte]."""
    shape = (BLOCKS, LAYERS, PARTS, total, TOKENS, RUN_BYTES)
    held = heads_of(total, ranks, rank)
    data = np.random.default_rng(total).integers(0, 256, shape, np.uint8)
    return np.ascontiguousarray(data[:, :, :, held.first : held.first + held.count])


def make_pool(name: str, total: int, ranks: int, rank: int) -> HostPool | DevicePool:
    held = heads_of(total, ranks, rank)
    if name == "nvlink":
        return DevicePool(layout_of(held.count), BLOCKS, 0, held)
    return HostPool(layout_of(held.count), BLOCKS, heads=held)


def store(pool: HostPool | DevicePool, data: np.ndarray) -> None:
    if isinstance(pool, HostPool):
        np.frombuffer(pool.data, np.uint8)[:] = data.reshape(-1)
    else:
        runtime.memcpy(pool.address, data.ctypes.data, data.size, 1)


async def pushed(ask: dict[str, Any]) -> list[dict[str, Any]]:
    """Every crossing of a case, one after another."""
    answers, ranks = [], {}
    for crossing in crossings(ask["total"], ask["x"], ask["y"]):
        transport: Transport
        if crossing.source not in ranks:
            pool = make_pool(ask["name"], ask["total"], ask["x"], crossing.source)
            store(pool, share(ask["total"], ask["x"], crossing.source))
            ranks[crossing.source] = pool, make_transport(ask["name"], KEY)
            ranks[crossing.source][1].register(pool)
        pool, transport = ranks[crossing.source]
        peer = await transport.connect(bytes.fromhex(ask["metadata"][crossing.target]), 30)
        layers = range(*ask["layers"]) if ask["layers"] else None
        done = await transport.write(peer, BlockPairs.of(*ask["pairs"]), 30, 1, layers).wait()
        said = {"outcome": done.outcome, "reason": done.reason, "moved_bytes": done.moved_bytes}
        answers.append(
            {**said, "source": crossing.source, "target": crossing.target, "sums": done.checksums.tobytes().hex()}
        )
    for pool, transport in ranks.values():
        await transport.close()
        pool.close()
    return answers


def main() -> None:
    for line in sys.stdin:
        print("@" + json.dumps(asyncio.run(pushed(json.loads(line)))), flush=True)


if __name__ == "__main__":
    main()
