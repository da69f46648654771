"""Who a served router knows, and how it behaves to those who do not behave."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest
from free_ports import free_port
from router_kit import (
    AGG,
    OTHER,
    PROMPT,
    Bench,
    names,
    plan,
    router_context,
    scenario,
    stored_event,
    stored_events,
    worker_info,
)

from dynamoc.runtime.manifest import RouterSettings
from dynamoc.runtime.plane.messages import (
    BlocksRemoved,
    Draining,
    KvEvents,
    LoadReport,
    Registered,
    RegisterWorker,
    RequestEnded,
    Routed,
    RouteRefused,
    RouteRequest,
    StepOutputs,
    Workers,
    WorkersWanted,
)
from dynamoc.runtime.router import app


@scenario(AGG, AGG)
async def test_a_draining_worker_gets_nothing_and_is_not_listed(bench: Bench) -> None:
    first, _ = await bench.worker("aggregated-0"), await bench.worker("aggregated-1", max_sequences=100)
    first.send(stored_events(0, PROMPT))
    first.send(Draining())
    frontend = await bench.frontend()
    await bench.metric('dynamoc_router_index_blocks{worker="aggregated-0"}', 8)
    await asyncio.sleep(0.05)
    assert {names(await frontend.route(k, PROMPT))[0] for k in range(5)} == {"aggregated-1"}
    frontend.send(WorkersWanted())
    listed = await frontend.hear(Workers)
    assert [worker.address.name for worker in listed.workers] == ["aggregated-1"]


@scenario(AGG)
async def test_a_dead_worker_takes_its_blocks_along(bench: Bench) -> None:
    worker = await bench.worker("aggregated-0")
    worker.send(stored_events(0, PROMPT))
    gauge = 'dynamoc_router_index_blocks{worker="aggregated-0"}'
    await bench.metric(gauge, 8)
    worker.connection.abort("crash")
    await bench.metric('dynamoc_router_workers{role="aggregated"}', 0)
    assert gauge not in await bench.metrics()
    await bench.worker("aggregated-0", incarnation=1)
    frontend = await bench.frontend()
    answer = await frontend.route(1, PROMPT)
    assert isinstance(answer, Routed)
    assert (answer.worker.incarnation, answer.overlap_blocks) == (1, 0)


@scenario(AGG)
async def test_a_higher_incarnation_replaces_and_a_stale_one_is_refused(bench: Bench) -> None:
    old = await bench.worker("aggregated-0", incarnation=3)
    new = await bench.worker("aggregated-0", incarnation=4)
    await old.lost()
    stale, answer = await bench.applicant("aggregated-0", incarnation=3)
    assert not answer.accepted
    assert "stale" in answer.reason
    await stale.lost()
    new.connection.abort("crash")
    _, answer = await bench.applicant("aggregated-0", incarnation=3)
    assert not answer.accepted
    frontend = await bench.frontend()
    await bench.worker("aggregated-0", incarnation=4)  # the same life dials again
    routed = await frontend.route(1, PROMPT)
    assert isinstance(routed, Routed)
    assert routed.worker.incarnation == 4


@scenario(AGG)
async def test_a_new_life_may_have_another_layout(bench: Bench) -> None:
    old = await bench.worker("aggregated-0")
    await bench.worker("aggregated-0", incarnation=1, layout_digest="x")
    await old.lost()


@scenario(AGG, AGG)
async def test_a_worker_that_dials_again_keeps_its_load(bench: Bench) -> None:
    for name in ("aggregated-0", "aggregated-1"):
        await bench.worker(name)
    frontend = await bench.frontend()
    busy = names(await frontend.route(1, PROMPT))[0]
    await bench.worker(busy)  # the same life, on a new connection
    assert names(await frontend.route(2, OTHER))[0] != busy


@scenario(AGG, AGG)
async def test_another_layout_or_block_size_is_refused_while_the_first_is_there(bench: Bench) -> None:
    first = await bench.worker("aggregated-0")
    for change in ({"layout_digest": "x"}, {"block_size": 8}):
        peer, answer = await bench.applicant("aggregated-1", **change)
        assert not answer.accepted
        assert "aggregated-0" in answer.reason
        await peer.lost()
    first.connection.abort("crash")
    await bench.metric('dynamoc_router_workers{role="aggregated"}', 0)
    await bench.worker("aggregated-1", layout_digest="x", block_size=8)


@scenario(AGG)
async def test_impostors_and_strangers_are_refused(bench: Bench) -> None:
    _, answer = await bench.applicant("aggregated-7")
    assert not answer.accepted
    assert "not a worker of this plan" in answer.reason
    _, answer = await bench.applicant("aggregated-0", component="other")
    assert not answer.accepted
    peer = await bench.peer("aggregated-9", "aggregated")
    peer.send(RegisterWorker(worker_info("aggregated-0")))
    answer = await peer.hear(Registered)
    assert not answer.accepted
    assert "cannot register for" in answer.reason


@scenario(AGG)
async def test_lost_events_end_the_connection_and_a_fresh_registration_heals(bench: Bench) -> None:
    worker = await bench.worker("aggregated-0")
    worker.send(stored_events(5, PROMPT))
    await bench.metric('dynamoc_router_index_blocks{worker="aggregated-0"}', 8)
    frontend = await bench.frontend()
    await frontend.route(1, OTHER)
    worker.send(stored_events(7, OTHER))  # 6 was due
    await worker.lost()
    await bench.metric('dynamoc_router_workers{role="aggregated"}', 0)
    await bench.metric('dynamoc_router_kv_events_total{status="gap",type="unknown"}', 1)
    again = await bench.worker("aggregated-0")
    again.send(stored_events(8, PROMPT + OTHER))
    await bench.metric('dynamoc_router_index_blocks{worker="aggregated-0"}', 16)
    answer = await frontend.route(2, PROMPT + OTHER)
    assert isinstance(answer, Routed)
    assert answer.overlap_blocks == 16


@scenario(AGG)
async def test_events_that_cannot_be_applied_are_counted(bench: Bench) -> None:
    worker = await bench.worker("aggregated-0")
    orphan = stored_event(PROMPT)
    worker.send(KvEvents(0, (type(orphan)(orphan.blocks, parent=99), BlocksRemoved((5,)))))
    await bench.metric('dynamoc_router_kv_events_total{status="parent_not_found",type="stored"}', 1)
    await bench.metric('dynamoc_router_kv_events_total{status="block_not_found",type="removed"}', 1)


# ---- conduct ---------------------------------------------------------------------------------------------


@scenario(AGG)
async def test_who_sends_what_it_may_not_is_cut_off(bench: Bench) -> None:
    unregistered = await bench.peer("aggregated-0", "aggregated")
    unregistered.send(LoadReport(0, 0, 0, 0))
    await unregistered.lost()
    frontend = await bench.frontend()
    frontend.send(StepOutputs(()))
    await frontend.lost()
    ragged = await bench.frontend()
    ragged.send(RouteRequest(1, b"12345", 1))
    await ragged.lost()
    worker = await bench.worker("aggregated-0")
    worker.send(RequestEnded(1))
    await worker.lost()
    await bench.worker("aggregated-0")
    assert names(await (await bench.frontend()).route(1, PROMPT))  # the others are still served


@scenario(AGG)
async def test_sigterm_refuses_what_waits_and_closes(bench: Bench) -> None:
    frontend = await bench.frontend()
    frontend.ask(1, PROMPT)
    await bench.metric("dynamoc_router_queued_requests", 1)
    os.kill(os.getpid(), signal.SIGTERM)
    refused = await frontend.hear(RouteRefused)
    assert (refused.request_id, refused.code) == (1, "no_worker")
    await frontend.lost()


@pytest.mark.parametrize("taken", ["plane", "metrics"])
def test_a_port_in_use_is_said_and_ends_the_start(taken: str) -> None:
    async def main() -> None:
        ports = {"plane": free_port(), "metrics": free_port()}
        squatter = await asyncio.start_server(lambda _, w: w.close(), "127.0.0.1", ports[taken])
        context = router_context(plan(ports, RouterSettings(), [AGG]), ports)
        assert await asyncio.wait_for(app.run(context), 5) == 1
        squatter.close()
        await squatter.wait_closed()

    asyncio.run(main())


def test_an_unknown_policy_ends_the_start() -> None:
    ports = {"plane": free_port()}
    context = router_context(plan(ports, RouterSettings(policy="best"), [AGG]), ports)
    assert asyncio.run(app.run(context)) == 1
