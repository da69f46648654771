"""Stages to which something may still be written: kept apart as long as that is so, and no longer."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from pool_process import HOST, KEY, LIMIT_S, PoolProcess, layout_of, missing

from dynamoc.runtime.kv.pool import HostPool
from dynamoc.runtime.transports import nixl_leases, nixl_owner, nixl_staging
from dynamoc.runtime.transports.nixl import NixlTransport
from dynamoc.runtime.transports.nixl_agent import Agent, interface_towards
from dynamoc.runtime.transports.nixl_end import End
from dynamoc.runtime.transports.nixl_host import HostMemory, HostStage
from dynamoc.runtime.transports.nixl_leases import Leases
from dynamoc.runtime.transports.nixl_staging import MAX_STAGES, Slots, Stages
from dynamoc.runtime.transports.process import Process, this_process
from dynamoc.runtime.transports.protocol import TransportError

SLOT = Slots(2, 4096)
BLOCK = 1 << 20
BLOCKS = 48
SPEAK = "from dynamoc.runtime.transports.process import this_process; print(this_process().encode().hex(), flush=True)"

pytestmark = pytest.mark.skipif(bool(missing("nixl")), reason=missing("nixl") or "NIXL is installed")


@pytest.fixture(scope="module")
def agent() -> Agent:
    return Agent("owner", interface_towards(HOST))


@pytest.fixture
def leases(agent: Agent) -> Leases:
    return Leases(agent, Stages(agent, HostMemory()))


@pytest.fixture
def others() -> Iterator[list[PoolProcess]]:
    made: list[PoolProcess] = []
    yield made
    for one in made:
        one.end()


def ended_process() -> Process:
    done = subprocess.run([sys.executable, "-c", SPEAK], capture_output=True, check=True, text=True, timeout=LIMIT_S)
    return msgspec.msgpack.decode(bytes.fromhex(done.stdout.strip()), type=Process)


def test_a_stage_is_used_again_once_its_writer_says_that_it_is_quiet(leases: Leases) -> None:
    me = this_process()
    (one, first), (two, second) = leases.lease(SLOT, me), leases.lease(SLOT, me)
    assert first.place != second.place
    leases.end(one, quiet=True)
    leases.end(two, quiet=False)

    _, again = leases.lease(SLOT, me)
    _, other = leases.lease(SLOT, me)
    assert again is first
    assert other is not second, "something may still be written there"
    assert leases.lease(SLOT, replace(me, pid=1), quiet=[two])[1] is not second, "another writer cannot know"
    _, freed = leases.lease(SLOT, me, quiet=[two])
    assert freed is second
    assert isinstance(freed, HostStage)
    assert freed.rows(1, 2, 8).shape == (2, 8)
    with pytest.raises(KeyError):
        leases.end(two, quiet=True)


def test_a_writer_may_say_that_it_is_quiet_before_its_connection_is_seen_to_end(leases: Leases) -> None:
    one, first = leases.lease(SLOT, this_process())
    leases.lease(SLOT, this_process(), quiet=[one])
    leases.end(one, quiet=False)

    assert leases.lease(SLOT, this_process())[1] is first


def test_writers_that_end_one_after_another_leave_every_stage(leases: Leases, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nixl_leases, "DRAINING_LOOKS", 8)
    writer = ended_process()
    for _ in range(3 * MAX_STAGES):
        number, _ = leases.lease(SLOT, writer)
        leases.end(number, quiet=False)

    numbers = [leases.lease(SLOT, this_process())[0] for _ in range(MAX_STAGES)]
    leases.end(numbers[0], quiet=False)
    with pytest.raises(TransportError, match=f"all {MAX_STAGES} stages are in use, 1 of them wait for writes"):
        leases.lease(SLOT, this_process())


def test_a_writer_on_another_host_is_gone_some_time_after_its_line_ended(
    leases: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = replace(ended_process(), boot_id="another host")
    number, stage = leases.lease(SLOT, writer)
    leases.end(number, quiet=False)
    assert leases.lease(SLOT, writer)[1] is not stage

    leases.line_ended(writer)
    assert leases.lease(SLOT, writer)[1] is not stage, "its bytes may still be on their way"
    monkeypatch.setattr(nixl_leases, "LATE_S", 0.0)
    time.sleep(0.001)
    assert leases.lease(SLOT, writer)[1] is stage


def test_stages_of_killed_writers_come_back_and_those_of_stopped_ones_do_not(
    agent: Agent, monkeypatch: pytest.MonkeyPatch, others: list[PoolProcess]
) -> None:
    monkeypatch.setattr(nixl_staging, "MAX_STAGES", 2)
    half_written(agent, others, kills=1)


def test_so_they_do_where_only_a_line_tells_of_the_end(
    agent: Agent, monkeypatch: pytest.MonkeyPatch, others: list[PoolProcess]
) -> None:
    monkeypatch.setattr(nixl_staging, "MAX_STAGES", 2)
    monkeypatch.setattr(nixl_leases, "LATE_S", 0.01)
    for module in (nixl_leases, nixl_owner):
        monkeypatch.setattr(module, "is_in_sight", lambda process: process.pid == this_process().pid)
    half_written(agent, others, kills=0)


def half_written(agent: Agent, others: list[PoolProcess], *, kills: int) -> None:
    """Writers, each with all the connections that there may be, are killed while they write, the last one stopped."""

    async def test() -> None:
        pool, owner = HostPool(layout_of(BLOCK), BLOCKS), NixlTransport(KEY, end=End(agent, HostMemory()))
        owner.register(pool)
        await owner.start(HOST, 0)
        for tag in range(kills + 1):
            writer = PoolProcess()
            others.append(writer)
            said = await begin(owner, writer, tag)
            assert said == "", "every stage that the killed had is there again"
            writer.send_signal(signal.SIGKILL if tag < kills else signal.SIGSTOP)
            await owner.revoke(tag)
        last = PoolProcess()
        others.append(last)
        last.open("nixl", BLOCK, BLOCKS)
        refusal = await asyncio.to_thread(last.ask, "connect", metadata=owner.metadata().hex())
        assert "all 2 stages are in use, 2 of them wait for writes that were given up" in refusal
        others[-2].send_signal(signal.SIGKILL)
        async with asyncio.timeout(LIMIT_S):
            while await asyncio.to_thread(last.ask, "connect", metadata=owner.metadata().hex()):
                await asyncio.sleep(0.01)
        await owner.close()
        pool.close()

    asyncio.run(test())


async def begin(owner: NixlTransport, writer: PoolProcess, tag: int) -> str:
    """Until some of a write of all blocks has been sent; why it could not be begun."""
    writer.open("nixl", BLOCK, BLOCKS, seed=tag)
    owner.expect(tag, range(BLOCKS))
    async with asyncio.timeout(LIMIT_S):
        while said := await asyncio.to_thread(writer.ask, "connect", metadata=owner.metadata().hex()):
            if "in use" not in said:
                return said
            await asyncio.sleep(0.01)
    writer.ask("shut")
    words: dict[str, Any] = {"sources": list(range(BLOCKS)), "destinations": list(range(BLOCKS)), "layers": None}
    writer.tell("write", **words, deadline_s=LIMIT_S, tag=tag)
    await asyncio.sleep(0.3)
    return ""
