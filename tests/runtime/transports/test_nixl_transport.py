"""What nixl alone promises: its way is tried before it is used, and a worker that waits for nobody takes no core."""

from __future__ import annotations

import asyncio
import mmap
import os
import time

import numpy as np
import pytest
from pool_process import HOST, KEY, fill, layout_of, missing

from dynamoc.runtime.kv.pool import HostPool
from dynamoc.runtime.kv.transfer.pairs import BlockPairs
from dynamoc.runtime.transports.nixl import NixlTransport
from dynamoc.runtime.transports.nixl_agent import DEVICES, Agent, Place, interface_towards
from dynamoc.runtime.transports.nixl_probe import probe
from dynamoc.runtime.transports.protocol import Outcome, TransportError

BLOCK = 4096

pytestmark = pytest.mark.skipif(bool(missing("nixl")), reason=missing("nixl") or "NIXL is installed")


@pytest.fixture(scope="module")
def agents() -> tuple[Agent, Agent]:
    first, second = (Agent(name, interface_towards(HOST)) for name in ("first", "second"))
    return first, second


def memory(size: int) -> tuple[mmap.mmap, Place]:
    made = mmap.mmap(-1, size)
    return made, Place(int(np.frombuffer(made, np.uint8).ctypes.data), None)


def test_a_way_that_does_not_work_is_said_before_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DEVICES, "none0")

    with pytest.raises(TransportError, match=r"^nixl over none0: nixl cannot use UCX on none0: "):
        asyncio.run(probe("none0"))


def test_a_probe_that_does_not_answer_in_time_is_given_up() -> None:
    with pytest.raises(TransportError, match="no answer from the probe"):
        asyncio.run(probe(interface_towards(HOST), limit_s=0.01))


def test_a_transport_that_is_given_no_agent_tries_the_way_and_makes_one() -> None:
    async def test() -> None:
        pools = [HostPool(layout_of(BLOCK), 16) for _ in range(2)]
        owner, writer = (NixlTransport(KEY) for _ in pools)
        for transport, pool in zip((owner, writer), pools, strict=True):
            fill(pool, pool.fd)
            transport.register(pool)
        await owner.start(HOST, 0)
        owner.expect(1, [3])
        peer = await writer.connect(owner.metadata(), 30)
        done = await writer.write(peer, BlockPairs.of([5], [3]), 30, 1).wait()

        assert done.outcome is Outcome.SUCCESS, done.reason
        assert pools[0].block(3) == pools[1].block(5)
        assert writer.end is not None
        assert owner.end is not None
        assert writer.end.agent.name != owner.end.agent.name
        for transport, pool in zip((writer, owner), pools[::-1], strict=True):
            await transport.close()
            pool.close()

    asyncio.run(test())


def test_agents_that_wait_for_nobody_take_no_core(agents: tuple[Agent, Agent]) -> None:
    assert len(agents) == 2

    def busy() -> float:
        used, began = time.process_time(), time.monotonic()
        time.sleep(0.1)
        return (time.process_time() - used) / (time.monotonic() - began)

    assert min(busy() for _ in range(5)) < 0.1


def test_a_write_that_its_owner_does_not_move_on_is_under_way_until_it_does(agents: tuple[Agent, Agent]) -> None:
    writer, owner = agents
    (ours, from_), (theirs, to) = memory(BLOCK), memory(BLOCK)
    ours[:] = os.urandom(BLOCK)
    writer.register(from_, BLOCK)
    writer.add(owner.register(to, BLOCK))
    write = writer.write(from_, BLOCK, owner.name, to)
    assert not any(write.is_done() for _ in range(100))  # the two have never met, and the owner does not look

    deadline = time.monotonic() + 30
    while not write.is_done():
        assert time.monotonic() < deadline
        owner.progress()

    assert theirs[:] == ours[:]
