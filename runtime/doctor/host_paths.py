"""Host memory: numpy's copies, and the transports over pools of host memory, both ends in this process."""

from __future__ import annotations

import asyncio
import importlib.util
import secrets
from collections.abc import Iterator

from dynamoc.runtime.doctor.timing import (
    RUN_BYTES,
    check_arrived,
    poisoned_pool,
    random_pool,
    rows,
    sample,
    sample_async,
    shuffled,
)
from dynamoc.runtime.kv.layout import Span
from dynamoc.runtime.kv.transfer.measured import Missing, Place, Sample, Way
from dynamoc.runtime.kv.transfer.pairs import BlockPairs
from dynamoc.runtime.kv.transfer.rows import pick, put, rows_of
from dynamoc.runtime.transports.protocol import Outcome, TransportError
from dynamoc.runtime.transports.registry import make_transport

DEADLINE_S = 20.0
LIMIT_S = 60.0
TRANSPORTS = {"shm": Way.SHM, "tcp": Way.TCP}


def measure_host(total: int) -> Iterator[Sample | Missing]:
    """Every way of it, one after another."""
    for run_bytes in RUN_BYTES:
        yield _memcpy(run_bytes, total)
    for name, way in TRANSPORTS.items():
        for run_bytes in RUN_BYTES:
            try:
                yield asyncio.run(asyncio.wait_for(_transport(name, way, run_bytes, total), LIMIT_S))
            except (TransportError, OSError) as error:
                yield Missing(Place.HOST, Place.REMOTE, way, str(error) or f"not measured within {LIMIT_S:g} s")
                break
    installed = any(importlib.util.find_spec(name) for name in ("nixl_cu13", "nixl_cu12"))
    reason = "not measured yet: it wants two processes" if installed else "the package is not installed"
    yield Missing(Place.HOST, Place.REMOTE, Way.NIXL, reason)


def _memcpy(run_bytes: int, total: int) -> Sample:
    between = (Place.HOST, Place.HOST, Way.MEMCPY)
    source, target = random_pool(run_bytes, total), poisoned_pool(run_bytes, total)
    sources, destinations = shuffled(source.blocks)
    whole = Span(0, run_bytes)
    from_, to = (rows_of(pool.data, run_bytes, whole) for pool in (source, target))
    found = sample(between, run_bytes, total, lambda: put(to, destinations, pick(from_, sources)))
    check_arrived(between, rows(target)[destinations], rows(source)[sources])
    return found


async def _transport(name: str, way: Way, run_bytes: int, total: int) -> Sample:
    """Writes of one transport into the pool of another."""
    between = (Place.HOST, Place.REMOTE, way)
    source, target = random_pool(run_bytes, total), poisoned_pool(run_bytes, total)
    key = secrets.token_bytes(32)
    writer, owner = make_transport(name, key), make_transport(name, key)
    pairs, tag = BlockPairs(*shuffled(source.blocks)), 0

    async def write() -> None:
        nonlocal tag
        tag += 1
        owner.expect(tag, pairs.destinations.tolist())
        done = await writer.write(peer, pairs, DEADLINE_S, tag).wait()
        if done.outcome is not Outcome.SUCCESS:
            raise TransportError(done.reason)

    try:
        for transport, pool in ((writer, source), (owner, target)):
            transport.register(pool)
            await transport.start("127.0.0.1", 0)
        peer = await writer.connect(owner.metadata(), DEADLINE_S)
        found = await sample_async(between, run_bytes, total, write)
    finally:
        await writer.close()
        await owner.close()
    check_arrived(between, rows(target)[pairs.destinations], rows(source)[pairs.sources])
    return found
