"""The ranks of a prefill worker in a process of their own: one JSON line in, one out."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import numpy as np
import pool_process
from pool_process import LIMIT_S, Gate, Maker, TestedPool

from dynamoc.runtime.kv.cuda.device import runtime
from dynamoc.runtime.kv.layout import KvLayout
from dynamoc.runtime.kv.pool import HostPool
from dynamoc.runtime.kv.transfer.pairs import BlockPairs
from dynamoc.runtime.kv.transfer.shards import Crossing, crossings, heads_of
from dynamoc.runtime.transports.protocol import Transport

BLOCKS = 12
LAYERS, PARTS, TOKENS, RUN_BYTES = 3, 2, 4, 32


def layout_of(heads: int, tokens: int = TOKENS) -> KvLayout:
    return KvLayout(LAYERS, heads, RUN_BYTES // 2, tokens, "bytes", 2, PARTS)


def share(total: int, ranks: int, rank: int, tokens: int) -> np.ndarray:
    """What a rank holds of the model's random KV: [block][layer][part][head][token][byte]."""
    shape = (BLOCKS, LAYERS, PARTS, total, tokens, RUN_BYTES)
    held = heads_of(total, ranks, rank)
    data = np.random.default_rng(total).integers(0, 256, shape, np.uint8)
    return np.ascontiguousarray(data[:, :, :, held.first : held.first + held.count])


def make_pool(name: str, total: int, ranks: int, rank: int, tokens: int) -> TestedPool:
    held = heads_of(total, ranks, rank)
    return pool_process.make_pool(name, layout_of(held.count, tokens), BLOCKS, 0, held)


def store(pool: TestedPool, data: np.ndarray) -> None:
    if isinstance(pool, HostPool):
        np.frombuffer(pool.data, np.uint8)[:] = data.reshape(-1)
    else:
        runtime.memcpy(pool.address, data.ctypes.data, data.size, 1)


async def pushed(ask: dict[str, Any], maker: Maker) -> list[dict[str, Any]]:
    """Every crossing of a case, all at once."""
    ranks: dict[int, tuple[TestedPool, Transport]] = {}
    found = crossings(ask["total"], ask["x"], ask["y"])
    for source in {crossing.source for crossing in found}:
        pool = make_pool(ask["name"], ask["total"], ask["x"], source, ask["tokens"])
        store(pool, share(ask["total"], ask["x"], source, ask["tokens"]))
        ranks[source] = pool, maker.make(ask["name"], Gate())
        ranks[source][1].register(pool)
    answers = await asyncio.gather(*(push(ask, crossing, ranks[crossing.source][1]) for crossing in found))
    for pool, transport in ranks.values():
        await transport.close()
        pool.close()
    return answers


async def push(ask: dict[str, Any], crossing: Crossing, transport: Transport) -> dict[str, Any]:
    """What came of one crossing."""
    peer = await transport.connect(bytes.fromhex(ask["metadata"][crossing.target]), LIMIT_S)
    layers = range(*ask["layers"]) if ask["layers"] else None
    done = await transport.write(peer, BlockPairs.of(*ask["pairs"]), LIMIT_S, ask["tag"], layers).wait()
    said = {"outcome": done.outcome, "reason": done.reason, "moved_bytes": done.moved_bytes}
    return {**said, **crossing._asdict(), "heads": len(crossing.heads), "sums": done.checksums.tobytes().hex()}


def main() -> None:
    maker = Maker()
    for line in sys.stdin:
        print("@" + json.dumps(asyncio.run(pushed(json.loads(line), maker))), flush=True)


if __name__ == "__main__":
    main()
