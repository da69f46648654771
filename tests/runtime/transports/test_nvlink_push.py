"""Pushes without their device: what is begun, waited for and said, when writes are cancelled, late or fail half way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from dynamoc.runtime.kv.cuda.copier import Copier, Copy, Runs
from dynamoc.runtime.kv.cuda.device import DeviceError
from dynamoc.runtime.kv.cuda.pool import DevicePool
from dynamoc.runtime.kv.layout import KvLayout
from dynamoc.runtime.kv.transfer.checksums import Table
from dynamoc.runtime.kv.transfer.pairs import BlockPairs
from dynamoc.runtime.transports import nvlink_push
from dynamoc.runtime.transports.nvlink_line import Line
from dynamoc.runtime.transports.nvlink_peer import NvlinkPeer
from dynamoc.runtime.transports.nvlink_push import Push
from dynamoc.runtime.transports.protocol import Completion, Outcome
from dynamoc.runtime.transports.transfer import Stopped, ThreadedTransfer

LAYOUT = KvLayout(layers=2, heads=1, head_dim=1 << 22, block_size=16, dtype="uint8", item_bytes=1)
"""256 MiB a block: four to a batch."""
BLOCKS = 20
LIMIT_S = 20.0


class Batches(Copier):
    """Stands where a device would be: batches are done when the test says so."""

    def __init__(self) -> None:
        self.started: list[list[int]] = []
        self.events: list[int] = []
        self.done = 0
        self.fails_at = -1

    def copy(
        self,
        source: Runs,
        destination: Runs,
        run_bytes: int,
        *,
        sums: bool = False,
        into: Table | None = None,
        deadline_s: float = 10,
    ) -> Copy:
        assert (run_bytes, sums, deadline_s >= 0) == (LAYOUT.block_bytes, True, True)
        assert (source.base, destination.base) == (1 << 40, 2 << 40)
        self.started.append(destination.indices.tolist())
        assert into is not None
        return OneBatch(self, len(self.started), into, np.stack([source.indices, destination.indices], axis=1))

    def after(self, event: int) -> None:
        self.events.append(event)


class OneBatch(Copy):
    def __init__(self, device: Batches, number: int, into: Table, sums: Table) -> None:
        super().__init__(into)
        self._device, self._number, self._made = device, number, sums

    def is_done(self) -> bool:
        if self._number == self._device.fails_at:
            raise DeviceError("the device failed")
        if self._number <= self._device.done and self.sums is not None:
            self.sums[:] = self._made
        return self._number <= self._device.done


class Peer:
    address = 2 << 40
    blocks = BLOCKS

    def __init__(self) -> None:
        self.has_ended = False

    def check(self) -> None:
        if self.has_ended:
            raise Stopped(Outcome.FAILURE, "the peer's process has ended")


class Rig:
    """A push of all blocks, and what it goes by."""

    def __init__(self, deadline_s: float = LIMIT_S, after: int | None = None) -> None:
        self.device, self.peer, self.line = Batches(), Peer(), Line()
        pool = cast(DevicePool, SimpleNamespace(address=1 << 40, layout=LAYOUT, device=0))
        pairs = BlockPairs.of(range(BLOCKS), range(BLOCKS - 1, -1, -1))
        self.transfer = ThreadedTransfer(pairs, np.zeros((BLOCKS, 2), np.uint64), deadline_s)
        peer = cast(NvlinkPeer, self.peer)
        push = Push(self.transfer, self.device, pool, peer, LAYOUT.span(None), None, after)
        self.transfer.follow([self.line.add(push)])

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(LIMIT_S):
            while not condition():
                await asyncio.sleep(0.001)

    async def completion(self) -> Completion:
        found = await asyncio.wait_for(self.transfer.wait(), LIMIT_S)
        await asyncio.to_thread(self.line.close)
        return found


def test_two_batches_at_a_time_and_every_sum_in_its_place() -> None:
    async def test() -> None:
        rig = Rig()
        for batch in range(5):
            await rig.until(lambda batch=batch: len(rig.device.started) == min(batch + 2, 5))
            rig.device.done = batch + 1
        found = await rig.completion()

        assert (found.outcome, found.moved_bytes) == (Outcome.SUCCESS, BLOCKS * LAYOUT.block_bytes)
        assert [block for batch in rig.device.started for block in batch] == list(range(BLOCKS - 1, -1, -1))
        assert found.checksums.tolist() == [[block, BLOCKS - 1 - block] for block in range(BLOCKS)]

    asyncio.run(test())


@pytest.mark.parametrize("why", ["cancelled", "late", "gone"])
def test_what_is_not_wanted_begins_nothing_more_and_ends_with_the_device(why: str) -> None:
    async def test() -> None:
        rig = Rig(deadline_s=0.2 if why == "late" else LIMIT_S)
        await rig.until(lambda: len(rig.device.started) == 2)
        if why == "cancelled":
            rig.transfer.cancel()
        rig.peer.has_ended = why == "gone"
        if why == "gone":
            rig.device.done = 1
        await asyncio.sleep(0.4)

        assert len(rig.device.started) == 2
        waiting = asyncio.ensure_future(rig.transfer.wait())
        await asyncio.sleep(0)
        assert not waiting.done(), "the device may still write"
        rig.device.done = 2
        found = await rig.completion()
        expected = {"cancelled": "cancelled", "late": "not finished within 0.200 s", "gone": "process has ended"}[why]
        assert found.outcome is (Outcome.CANCELLED if why == "cancelled" else Outcome.FAILURE)
        assert expected in found.reason
        await waiting

    asyncio.run(test())


def test_a_device_that_fails_ends_the_push() -> None:
    async def test() -> None:
        rig = Rig()
        rig.device.fails_at = 2
        rig.device.done = 1
        found = await rig.completion()

        assert (found.outcome, found.reason) == (Outcome.FAILURE, "the device failed")
        assert found.checksums.size == 0

    asyncio.run(test())


def test_time_counts_from_the_event_that_the_bytes_come_after(monkeypatch: pytest.MonkeyPatch) -> None:
    passed: list[int] = []
    monkeypatch.setattr(nvlink_push, "has_passed", lambda event: event in passed)

    async def test() -> None:
        began = time.monotonic()
        rig = Rig(after=77)
        await rig.until(lambda: len(rig.device.started) == 2)
        await asyncio.sleep(0.3)
        passed.append(77)
        rig.device.done = 5
        found = await rig.completion()

        assert rig.device.events == [77], "once, before the first batch"
        assert found.outcome is Outcome.SUCCESS
        assert found.seconds <= time.monotonic() - began - 0.3

    asyncio.run(test())
