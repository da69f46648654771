"""nixl between pools on GPUs, with host memory and numpy in the GPU's place: what is waited for, and what fails."""

from __future__ import annotations

import asyncio
import re
import secrets
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from pool_process import HOST, KEY, LIMIT_S, fill, layout_of, missing
from stand_in import StandIn

from dynamoc.runtime.kv.pool import HostPool
from dynamoc.runtime.kv.transfer.checksums import Checksum
from dynamoc.runtime.kv.transfer.pairs import BlockPairs
from dynamoc.runtime.transports import nixl_device
from dynamoc.runtime.transports.nixl import NixlTransport
from dynamoc.runtime.transports.nixl_agent import Agent, interface_towards
from dynamoc.runtime.transports.nixl_device import DevicePacker
from dynamoc.runtime.transports.nixl_end import End
from dynamoc.runtime.transports.nixl_host import HostMemory
from dynamoc.runtime.transports.nixl_staging import Slots
from dynamoc.runtime.transports.protocol import Outcome, Peer, TransportError

BLOCK = 64 << 10
BLOCKS = 64
SLOTS = Slots(3, 8 * BLOCK)
EVENT = 77

pytestmark = pytest.mark.skipif(bool(missing("nixl")), reason=missing("nixl") or "NIXL is installed")


@dataclass
class Side:
    """One end: its own GPU, so to say."""

    gpu: StandIn
    end: End


@dataclass
class Pair:
    writer: Side
    owner: Side

    def run(self, test: Callable[[NixlTransport, NixlTransport, Peer], Awaitable[None]]) -> None:
        """With transports over pools of random bytes; what `test` writes is expected under tag 1."""

        async def inside() -> None:
            pools = [HostPool(layout_of(BLOCK), BLOCKS) for _ in range(2)]
            transports = [made(side) for side in (self.writer, self.owner)]
            for seed, (transport, pool) in enumerate(zip(transports, pools, strict=True)):
                fill(pool, seed)
                transport.register(pool)
                await transport.start(HOST, 0)
            transports[1].expect(1, range(BLOCKS))
            peer = await transports[0].connect(transports[1].metadata(), LIMIT_S)
            try:
                async with asyncio.timeout(LIMIT_S):
                    await test(transports[0], transports[1], peer)
            finally:
                for transport in transports:
                    await transport.close()
                for pool in pools:
                    pool.close()

        asyncio.run(inside())


def made(side: Side) -> NixlTransport:
    def packer(pool: object, digest: object) -> DevicePacker:
        del digest
        found = DevicePacker(pool, side.gpu)  # type: ignore[arg-type]
        found.slots = SLOTS
        return found

    return NixlTransport(KEY, end=side.end, packers=packer)


@pytest.fixture(scope="module")
def sides() -> tuple[Side, Side]:
    gpus = [StandIn() for _ in range(2)]
    found = [Side(gpu, End(Agent(secrets.token_hex(4), interface_towards(HOST)), gpu)) for gpu in gpus]
    return found[0], found[1]


@pytest.fixture
def pair(sides: tuple[Side, Side]) -> Iterator[Pair]:
    yield Pair(*sides)
    for side in sides:
        side.gpu.fails, side.gpu.pace = False, len


ALL = BlockPairs(np.arange(BLOCKS), np.arange(BLOCKS)[::-1].copy())


def test_more_than_all_slots_hold_arrives_with_a_pair_of_sums_a_block(pair: Pair) -> None:
    async def test(writer: NixlTransport, owner: NixlTransport, peer: Peer) -> None:
        done = await writer.write(peer, ALL, LIMIT_S, 1).wait()

        assert (done.outcome, done.moved_bytes) == (Outcome.SUCCESS, BLOCKS * BLOCK), done.reason
        assert (writer.checksum, done.checksums.shape) == (Checksum.SUMS, (BLOCKS, 2))
        assert (await owner.mismatches(ALL.destinations, done.checksums.tobytes())).size == 0
        done.checksums[5, 1] += np.uint64(1)
        assert (await owner.mismatches(ALL.destinations, done.checksums.tobytes())).tolist() == [BLOCKS - 6]

    pair.run(test)


def test_blocks_are_not_read_before_their_event(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    passed, packed = threading.Event(), threading.Event()
    monkeypatch.setattr(nixl_device, "has_passed", lambda event: event == EVENT and passed.is_set())
    pair.writer.gpu.pace = lambda row: packed.set()

    async def test(writer: NixlTransport, owner: NixlTransport, peer: Peer) -> None:
        transfer = writer.write(peer, ALL, LIMIT_S, 1, after=EVENT)
        await asyncio.sleep(0.2)
        assert not packed.is_set()
        seen = time.monotonic()
        passed.set()
        done = await transfer.wait()

        assert done.outcome is Outcome.SUCCESS, done.reason
        assert done.seconds <= time.monotonic() - seen, "time counts from the event"

    pair.run(test)


def test_a_write_whose_event_does_not_pass_ends_at_its_deadline(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nixl_device, "has_passed", lambda event: False)

    async def test(writer: NixlTransport, owner: NixlTransport, peer: Peer) -> None:
        done = await writer.write(peer, ALL, 0.1, 1, after=EVENT).wait()

        assert (done.outcome, done.reason) == (Outcome.FAILURE, "not finished within 0.100 s")

    pair.run(test)


@pytest.mark.parametrize("at", ["writer", "owner"])
def test_a_device_that_fails_is_a_failure_at_either_end(pair: Pair, at: str) -> None:
    gpu = getattr(pair, at).gpu

    async def test(writer: NixlTransport, owner: NixlTransport, peer: Peer) -> None:
        gpu.fails = True
        done = await writer.write(peer, ALL, LIMIT_S, 1).wait()
        assert done.outcome is Outcome.FAILURE
        # The owner hangs up, perhaps in the middle of what the writer sends.
        reasons = {
            "writer": "cannot be gathered: the device failed",
            "owner": "closed the data connection|reset by peer",
        }
        assert re.search(reasons[at], done.reason)
        if at == "owner":
            with pytest.raises(TransportError, match="cannot be verified: the device failed"):
                await owner.mismatches(ALL.destinations, bytes(16 * BLOCKS))

        gpu.fails = False
        assert (await writer.write(peer, ALL, LIMIT_S, 1).wait()).outcome is Outcome.SUCCESS

    pair.run(test)


def test_a_cancelled_write_ends_only_when_no_kernel_reads_blocks_any_more(pair: Pair) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def pace(row: object) -> None:
        begun.set()
        go_on.wait(LIMIT_S)

    async def test(writer: NixlTransport, owner: NixlTransport, peer: Peer) -> None:
        pair.writer.gpu.pace = pace
        transfer = writer.write(peer, ALL, LIMIT_S, 1)
        assert await asyncio.to_thread(begun.wait, LIMIT_S)
        transfer.cancel()
        waiting = asyncio.ensure_future(transfer.wait())
        await asyncio.sleep(0.2)
        assert not waiting.done(), "a kernel still reads blocks"
        go_on.set()

        assert (await waiting).outcome is Outcome.CANCELLED

    pair.run(test)


def test_a_pool_of_the_host_and_one_of_a_gpu_are_not_joined(pair: Pair) -> None:
    async def test(writer: NixlTransport, owner: NixlTransport, peer: Peer) -> None:
        host = NixlTransport(KEY, end=End(pair.owner.end.agent, HostMemory()))
        pool = HostPool(layout_of(BLOCK), BLOCKS)
        host.register(pool)
        await host.start(HOST, 0)
        with pytest.raises(TransportError, match="the peer's pool is memory of a GPU, mine of the host"):
            await host.connect(owner.metadata(), LIMIT_S)
        with pytest.raises(TransportError, match="the peer's pool is memory of the host, mine of a GPU"):
            await writer.connect(host.metadata(), LIMIT_S)
        await host.close()
        pool.close()

    pair.run(test)
