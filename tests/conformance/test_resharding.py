"""A prefill worker of tensor-parallel size x fills a decode worker of size y, through real transports and processes."""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pool_process import HOST, KEY, ON_GPU, Gate, missing
from shard_writer import BLOCKS, LAYERS, PARTS, RUN_BYTES, TOKENS, layout_of, make_pool, share, store
from transport_rig import Processes

from dynamoc.runtime.kv.cuda.device import runtime
from dynamoc.runtime.kv.layout import Heads
from dynamoc.runtime.kv.pool import HostPool
from dynamoc.runtime.kv.transfer.checksums import UNIT_BYTES
from dynamoc.runtime.kv.transfer.pairs import indices_of
from dynamoc.runtime.kv.transfer.shards import heads_of
from dynamoc.runtime.transports import nixl_host
from dynamoc.runtime.transports.nixl_staging import Slots
from dynamoc.runtime.transports.protocol import TransportError
from dynamoc.runtime.transports.registry import make_transport

SIZES = (1, 2, 4, 8)
POISON = 0xA5
HOST_MEMORY = ("shm", "tcp", "nixl", "nixl_stand_in")
Writer = Callable[[dict[str, Any]], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def writer() -> Iterator[Writer]:
    words = [sys.executable, str(Path(__file__).with_name("shard_writer.py"))]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(question: dict[str, Any]) -> list[dict[str, Any]]:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(question) + "\n")
        process.stdin.flush()
        line = next(line for line in process.stdout if line.startswith("@"))
        found: list[dict[str, Any]] = json.loads(line[1:])
        return found

    yield ask
    process.communicate(timeout=30)


def contents(pool: Any) -> np.ndarray:
    data = np.empty(pool.data_bytes, np.uint8)
    if isinstance(pool, HostPool):
        data[:] = np.frombuffer(pool.data, np.uint8)
    else:
        runtime.memcpy(data.ctypes.data, pool.address, data.size, 2)
    return data.reshape(BLOCKS, LAYERS, PARTS, pool.layout.heads, pool.layout.block_size, RUN_BYTES)


async def case(
    name: str,
    total: int,
    sizes: tuple[int, int],
    layers: range | None,
    ask: Writer,
    processes: Processes,
    tokens: int = TOKENS,
) -> None:
    """All ranks of the target here; what arrived is compared with what numpy would put there."""
    x, y = sizes
    random = np.random.default_rng(x * 8 + y)
    sources, destinations = (random.permutation(BLOCKS)[:7] for _ in range(2))
    ranks = []
    for rank in range(y):
        pool = make_pool(name, total, y, rank, tokens)
        store(pool, np.full(pool.data_bytes, POISON, np.uint8))
        transport = await processes.here.start(name, pool, Gate())
        transport.expect(1, destinations.tolist())
        ranks.append((pool, transport))
    question = {
        "name": name, "total": total, "x": x, "y": y, "tokens": tokens, "tag": 1,
        "layers": [layers.start, layers.stop] if layers else None,
        "metadata": [transport.metadata().hex() for _, transport in ranks],
        "pairs": [sources.tolist(), destinations.tolist()],
    }  # fmt: skip
    answers = await asyncio.to_thread(ask, question)

    span = layers or range(LAYERS)
    for rank, (pool, _) in enumerate(ranks):
        want = np.full(contents(pool).shape, POISON, np.uint8)
        want[destinations, span.start : span.stop] = share(total, y, rank, tokens)[sources, span.start : span.stop]
        assert np.array_equal(contents(pool), want)
    for answer in answers:
        assert answer["outcome"] == "success", answer["reason"]
        run_bytes = PARTS * tokens * RUN_BYTES
        assert answer["moved_bytes"] == sources.size * len(span) * answer["heads"] * run_bytes
        await check_sums(ranks[answer["target"]], heads_of(total, x, answer["source"]), answer, destinations, layers)
    for pool, transport in ranks:
        await transport.close()
        pool.close()


async def check_sums(
    rank: tuple[Any, Any], heads: Heads, answer: dict[str, Any], blocks: np.ndarray, layers: range | None
) -> None:
    """What the writer sent is what is here; a flipped bit of it is noticed."""
    pool, transport = rank
    sums = bytes.fromhex(answer["sums"])
    assert (await transport.mismatches(indices_of(blocks), sums, layers, heads)).size == 0
    assert (await transport.mismatches(indices_of(blocks), sums[:-8], layers, heads)).size == blocks.size
    data = contents(pool)
    mine, span = pool.heads, layers or range(LAYERS)
    data[blocks[3], span.start, 0, max(heads.first, mine.first) - mine.first, 1, 5] ^= 0x10
    store(pool, data)
    assert blocks[3] in await transport.mismatches(indices_of(blocks), sums, layers, heads)
    data[blocks[3], span.start, 0, max(heads.first, mine.first) - mine.first, 1, 5] ^= 0x10
    store(pool, data)


@pytest.mark.parametrize("name", HOST_MEMORY)
@pytest.mark.parametrize("total", [1, 2, 8], ids=["one latent", "GQA that repeats", "heads that are cut"])
@pytest.mark.parametrize(("x", "y"), [*itertools.product(SIZES, repeat=2)])
def test_any_size_fills_any_other(writer: Writer, processes: Processes, name: str, total: int, x: int, y: int) -> None:
    if reason := missing(name):
        pytest.skip(reason)
    asyncio.run(case(name, total, (x, y), None if x <= y else range(1, 3), writer, processes))


@pytest.mark.parametrize("name", HOST_MEMORY)
@pytest.mark.parametrize(("x", "y", "tokens"), [(2, 1, 512), (1, 2, 512), (4, 2, 512), (2, 1, 2048)])
def test_slices_that_take_many_turns_and_several_streams(
    writer: Writer, processes: Processes, monkeypatch: pytest.MonkeyPatch, name: str, x: int, y: int, tokens: int
) -> None:
    if reason := missing(name):
        pytest.skip(reason)
    monkeypatch.setattr(nixl_host, "SLOTS", Slots(2, UNIT_BYTES))
    asyncio.run(case(name, 8, (x, y), None, writer, processes, tokens))


@pytest.mark.parametrize("name", ON_GPU)
@pytest.mark.parametrize(("x", "y"), [(2, 1), (1, 2)])
def test_between_gpus(writer: Writer, processes: Processes, name: str, x: int, y: int) -> None:
    if reason := missing(name):
        pytest.skip(reason)
    asyncio.run(case(name, 4, (x, y), range(1, 3), writer, processes))


@pytest.mark.parametrize(
    ("layout", "heads"),
    [
        (layout_of(2), Heads(0, 2, 8)),
        (layout_of(2), Heads(0, 2, 4)),
        (layout_of(2), Heads(6, 2, 8)),
        (layout_of(2), Heads(0, 3, 8)),
    ],
    ids=["no head in common", "another model", "other heads", "a pool that contradicts itself"],
)
@pytest.mark.parametrize("name", ["shm", "tcp"])
def test_pools_with_nothing_in_common_are_not_connected(name: str, layout: Any, heads: Heads) -> None:
    async def test() -> None:
        mine = HostPool(layout_of(2), BLOCKS, heads=Heads(2, 2, 8))
        theirs = HostPool(layout, BLOCKS, heads=heads)
        transports = [make_transport(name, KEY) for _ in range(2)]
        for transport, pool in zip(transports, (mine, theirs), strict=True):
            transport.register(pool)
            await transport.start(HOST, 0)
        with pytest.raises(TransportError, match=r"nothing in common|contradicts itself"):
            await transports[0].connect(transports[1].metadata(), 5)
        for transport, pool in zip(transports, (mine, theirs), strict=True):
            await transport.close()
            pool.close()

    asyncio.run(test())


@pytest.mark.parametrize("name", ["shm", "tcp", "nixl"])
@pytest.mark.parametrize(
    ("heads", "why"), [(Heads(6, 2, 8), "sends me anything"), (Heads(2, 2, 16), "has another model")]
)
def test_a_writer_that_has_none_of_my_heads_sent_nothing(name: str, heads: Heads, why: str) -> None:
    pool = HostPool(layout_of(2), BLOCKS, heads=Heads(2, 2, 8))
    transport = make_transport(name, KEY)
    transport.register(pool)

    with pytest.raises(TransportError, match=why):
        asyncio.run(transport.mismatches(indices_of([1]), bytes(8), None, heads))

    asyncio.run(transport.close())
    pool.close()
