"""The router as its peers see it: every test talks to a served router over the real plane."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable

import pytest
from router_kit import Bench, free_port, plan, router_context, serving, stored_event, stored_events, worker_info

from dynamoc.runtime.manifest import Role, RouterSettings
from dynamoc.runtime.plane.messages import (
    BlocksCleared,
    BlocksRemoved,
    Draining,
    KvEvents,
    LoadReport,
    PromptComputed,
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

AGG, PREFILL, DECODE = Role.AGGREGATED, Role.PREFILL, Role.DECODE
PROMPT = list(range(32))
OTHER = list(range(1000, 1032))


def names(answer: Routed | RouteRefused) -> tuple[str, str | None]:
    assert isinstance(answer, Routed), answer
    return answer.worker.name, answer.prefill.name if answer.prefill else None


def refusal(answer: Routed | RouteRefused) -> str:
    assert isinstance(answer, RouteRefused), answer
    assert answer.reason
    return answer.code


def scenario(*roles: Role, **settings: object) -> Callable[[Callable[[Bench], Awaitable[None]]], Callable[[], None]]:
    """Make a test of a coroutine that is given a router with that plan."""

    def decorate(body: Callable[[Bench], Awaitable[None]]) -> Callable[[], None]:
        async def main() -> None:
            async with serving(*roles, **settings) as bench:
                await body(bench)

        def test() -> None:
            asyncio.run(main())

        return test

    return decorate


# ---- placing ---------------------------------------------------------------------------------------------


@scenario(AGG, AGG)
async def test_a_prompt_goes_where_its_prefix_is(bench: Bench) -> None:
    first, second = await bench.worker("aggregated-0"), await bench.worker("aggregated-1")
    first.send(stored_events(0, PROMPT))
    second.send(stored_events(0, OTHER))
    await bench.metric('dynamoc_router_index_blocks{worker="aggregated-0"}', 8)
    await bench.metric('dynamoc_router_index_blocks{worker="aggregated-1"}', 8)
    frontend = await bench.frontend()
    for request_id in range(6):
        prompt, holder = (PROMPT, "aggregated-0") if request_id % 2 else (OTHER, "aggregated-1")
        answer = await frontend.route(request_id, prompt)
        assert names(answer) == (holder, None)
        assert isinstance(answer, Routed)
        assert answer.overlap_blocks == 8
        frontend.send(RequestEnded(request_id))
    await bench.metric('dynamoc_router_requests_total{outcome="aggregated"}', 6)
    metrics = await bench.metrics()
    assert metrics["dynamoc_router_overlap_blocks_total"] == 48
    assert metrics["dynamoc_router_prompt_blocks_total"] == 48
    assert metrics["dynamoc_router_decision_seconds_count"] == 6


@scenario(AGG, AGG)
async def test_evicted_and_cleared_blocks_attract_nothing(bench: Bench) -> None:
    worker, _ = await bench.worker("aggregated-0"), await bench.worker("aggregated-1")
    event = stored_event(PROMPT)
    head, tail = event.blocks[:3], event.blocks[3:]
    worker.send(KvEvents(7, (event, BlocksRemoved(tuple(block.sequence_hash for block in tail)))))
    await bench.metric('dynamoc_router_index_blocks{worker="aggregated-0"}', len(head))
    frontend = await bench.frontend()
    answer = await frontend.route(1, PROMPT)
    assert isinstance(answer, Routed)
    assert (answer.worker.name, answer.overlap_blocks) == ("aggregated-0", 3)
    frontend.send(RequestEnded(1))
    worker.send(KvEvents(9, (BlocksCleared(),)))
    await bench.metric('dynamoc_router_index_blocks{worker="aggregated-0"}', 0)
    answer = await frontend.route(2, PROMPT)
    assert isinstance(answer, Routed)
    assert answer.overlap_blocks == 0


@scenario(AGG, AGG)
async def test_load_is_shared_and_taken_back(bench: Bench) -> None:
    await bench.worker("aggregated-0")
    await bench.worker("aggregated-1")
    frontend = await bench.frontend()
    first = names(await frontend.route(1, PROMPT))[0]
    second = names(await frontend.route(2, OTHER))[0]
    assert {first, second} == {"aggregated-0", "aggregated-1"}
    frontend.send(RequestEnded(1))
    assert names(await frontend.route(3, PROMPT))[0] == first
    frontend.send(PromptComputed(2))  # only its blocks are load now, while request 3 has its whole prompt ahead
    assert names(await frontend.route(4, OTHER))[0] == second


@scenario(AGG, AGG)
async def test_the_load_of_a_lost_frontend_is_gone(bench: Bench) -> None:
    await bench.worker("aggregated-0")
    await bench.worker("aggregated-1")
    doomed, other = await bench.frontend("frontend-0"), await bench.frontend("frontend-1")
    busy = names(await doomed.route(1, PROMPT))[0]
    for request_id in range(3):
        assert names(await other.route(request_id, OTHER))[0] != busy
        other.send(RequestEnded(request_id))
    assert names(await other.route(9, OTHER))[0] != busy
    doomed.connection.abort("crash")
    await doomed.lost()
    await asyncio.sleep(0.1)
    assert names(await other.route(10, OTHER))[0] == busy


@scenario(PREFILL, PREFILL, DECODE, DECODE)
async def test_prefill_follows_the_prefix_and_decode_the_load(bench: Bench) -> None:
    workers = [await bench.worker(name) for name in ("prefill-0", "prefill-1", "decode-0", "decode-1")]
    workers[1].send(stored_events(0, PROMPT))
    await bench.metric('dynamoc_router_index_blocks{worker="prefill-1"}', 8)
    frontend = await bench.frontend()
    answers = [await frontend.route(request_id, PROMPT) for request_id in (1, 2)]
    assert {names(answer)[1] for answer in answers} == {"prefill-1"}
    assert {names(answer)[0] for answer in answers} == {"decode-0", "decode-1"}
    assert [answer.overlap_blocks for answer in answers if isinstance(answer, Routed)] == [8, 8]
    await bench.metric('dynamoc_router_requests_total{outcome="disaggregated"}', 2)


@scenario(PREFILL, DECODE, DECODE, prefill_load_scale=10.0)
async def test_a_prompt_computed_elsewhere_is_no_work_for_decode(bench: Bench) -> None:
    await bench.worker("prefill-0")
    holder = await bench.worker("decode-0")
    await bench.worker("decode-1")
    holder.send(stored_events(0, PROMPT))
    holder.send(LoadReport(running=1, waiting=0, active_blocks=20, cached_blocks=8))
    await bench.metric('dynamoc_router_index_blocks{worker="decode-0"}', 8)
    frontend = await bench.frontend()
    assert names(await frontend.route(1, PROMPT)) == ("decode-1", "prefill-0")


@scenario(PREFILL, DECODE, bypass_below_tokens=9)
async def test_a_prompt_nearly_cached_on_decode_needs_no_prefill_worker(bench: Bench) -> None:
    await bench.worker("prefill-0")
    decode = await bench.worker("decode-0")
    decode.send(stored_events(0, PROMPT))
    await bench.metric('dynamoc_router_index_blocks{worker="decode-0"}', 8)
    frontend = await bench.frontend()
    assert names(await frontend.route(1, PROMPT + [1] * 8)) == ("decode-0", None)
    assert names(await frontend.route(2, PROMPT + [1] * 9)) == ("decode-0", "prefill-0")
    await bench.metric('dynamoc_router_requests_total{outcome="bypassed"}', 1)


@scenario(PREFILL, DECODE)
async def test_decode_computes_prompts_when_no_prefill_worker_is_left(bench: Bench) -> None:
    prefill = await bench.worker("prefill-0")
    await bench.worker("decode-0")
    frontend = await bench.frontend()
    assert names(await frontend.route(1, PROMPT)) == ("decode-0", "prefill-0")
    assert names(await frontend.route(2, PROMPT, avoid=("prefill-0@0",))) == ("decode-0", None)
    prefill.connection.abort("crash")
    await bench.metric('dynamoc_router_workers{role="prefill"}', 0)
    assert names(await frontend.route(3, PROMPT)) == ("decode-0", None)
    await bench.metric('dynamoc_router_requests_total{outcome="no_prefill"}', 2)


@scenario(AGG, AGG, AGG, policy="round_robin")
async def test_round_robin_takes_turns(bench: Bench) -> None:
    for replica in range(3):
        await bench.worker(f"aggregated-{replica}")
    frontend = await bench.frontend()
    chosen = [names(await frontend.route(request_id, PROMPT))[0] for request_id in range(6)]
    assert chosen == [f"aggregated-{replica}" for replica in (0, 1, 2, 0, 1, 2)]


@scenario(AGG, AGG, policy="least_loaded")
async def test_least_loaded_counts_requests_and_believes_reports(bench: Bench) -> None:
    reporting = await bench.worker("aggregated-0")
    await bench.worker("aggregated-1")
    reporting.send(LoadReport(running=2, waiting=1, active_blocks=9, cached_blocks=0))
    frontend = await bench.frontend()
    await asyncio.sleep(0.05)
    chosen = [names(await frontend.route(request_id, PROMPT))[0] for request_id in range(3)]
    assert chosen == ["aggregated-1"] * 3


@scenario(AGG, AGG, policy="random")
async def test_random_reaches_everybody(bench: Bench) -> None:
    await bench.worker("aggregated-0")
    await bench.worker("aggregated-1")
    frontend = await bench.frontend()
    chosen = set()
    for request_id in range(60):
        chosen.add(names(await frontend.route(request_id, PROMPT))[0])
        frontend.send(RequestEnded(request_id))
    assert len(chosen) == 2


# ---- waiting ---------------------------------------------------------------------------------------------


@scenario(AGG)
async def test_a_request_waits_for_the_first_worker(bench: Bench) -> None:
    frontend = await bench.frontend()
    frontend.ask(1, PROMPT)
    await bench.metric("dynamoc_router_queued_requests", 1)
    await bench.worker("aggregated-0")
    assert names(await frontend.hear(Routed)) == ("aggregated-0", None)
    assert (await bench.metrics())["dynamoc_router_queued_requests"] == 0


@scenario(AGG, queue_timeout_s=0.2)
async def test_without_a_worker_the_deadline_ends_the_wait(bench: Bench) -> None:
    frontend = await bench.frontend()
    for request_id in (1, 2, 3):
        frontend.ask(request_id, PROMPT)
    answers = [await frontend.hear(RouteRefused) for _ in range(3)]
    assert [(answer.request_id, answer.code) for answer in answers] == [(k, "no_worker") for k in (1, 2, 3)]
    await bench.metric('dynamoc_router_requests_total{outcome="no_worker"}', 3)


@scenario(AGG, queue_timeout_s=1.5, queue_capacity=2)
async def test_saturation_queues_then_refuses_then_times_out(bench: Bench) -> None:
    await bench.worker("aggregated-0")  # runs 2 at a time: 2 more may wait there, then 2 here
    frontend = await bench.frontend()
    for request_id in range(4):
        assert names(await frontend.route(request_id, PROMPT))
    frontend.ask(4, PROMPT)
    frontend.ask(5, PROMPT)
    assert refusal(await frontend.route(6, PROMPT)) == "overloaded"
    frontend.send(RequestEnded(0))
    assert (await frontend.hear(Routed)).request_id == 4
    late = await frontend.hear(RouteRefused)
    assert (late.request_id, late.code) == (5, "timeout")


@scenario(AGG, queue_timeout_s=1.5)
async def test_what_waited_for_a_worker_that_is_too_small_is_told_so(bench: Bench) -> None:
    frontend = await bench.frontend()
    frontend.ask(1, [0] * 126)
    await bench.metric("dynamoc_router_queued_requests", 1)
    await bench.worker("aggregated-0")
    assert (await frontend.hear(RouteRefused)).code == "too_long"


@scenario(AGG)
async def test_a_worker_that_reports_less_work_gets_what_waits(bench: Bench) -> None:
    worker = await bench.worker("aggregated-0")
    worker.send(LoadReport(running=2, waiting=2, active_blocks=4, cached_blocks=0))  # of a router before this one
    await asyncio.sleep(0.05)
    frontend = await bench.frontend()
    frontend.ask(1, PROMPT)
    await bench.metric("dynamoc_router_queued_requests", 1)
    worker.send(LoadReport(running=2, waiting=1, active_blocks=4, cached_blocks=0))
    assert (await frontend.hear(Routed)).request_id == 1


@scenario(AGG)
async def test_a_backlog_of_prompt_tokens_saturates(bench: Bench) -> None:
    await bench.worker("aggregated-0", max_sequences=1000, max_batched_tokens=4)
    frontend = await bench.frontend()
    for request_id in range(3):  # 3 * 32 tokens are more than 16 batches of 4
        assert names(await frontend.route(request_id, PROMPT))
    frontend.ask(3, PROMPT)
    await bench.metric("dynamoc_router_queued_requests", 1)
    frontend.send(PromptComputed(0))
    assert (await frontend.hear(Routed)).request_id == 3


@scenario(PREFILL, DECODE)
async def test_busy_prefill_workers_make_requests_wait(bench: Bench) -> None:
    await bench.worker("prefill-0")
    await bench.worker("decode-0", max_sequences=100)
    frontend = await bench.frontend()
    for request_id in range(4):
        assert names(await frontend.route(request_id, PROMPT))[1] == "prefill-0"
    frontend.ask(4, PROMPT)
    await bench.metric("dynamoc_router_queued_requests", 1)
    frontend.send(PromptComputed(2))
    assert names(await frontend.hear(Routed)) == ("decode-0", "prefill-0")


@scenario(AGG)
async def test_a_request_that_ended_leaves_the_queue(bench: Bench) -> None:
    frontend = await bench.frontend()
    frontend.ask(1, PROMPT)
    frontend.ask(2, PROMPT)
    frontend.send(RequestEnded(1))
    await bench.metric('dynamoc_router_requests_total{outcome="cancelled"}', 1)
    await bench.worker("aggregated-0")
    assert (await frontend.hear(Routed)).request_id == 2


@scenario(AGG)
async def test_a_lost_frontend_leaves_the_queue(bench: Bench) -> None:
    doomed = await bench.frontend()
    doomed.ask(1, PROMPT)
    await bench.metric("dynamoc_router_queued_requests", 1)
    doomed.connection.abort("crash")
    await bench.metric("dynamoc_router_queued_requests", 0)


@scenario(AGG, AGG)
async def test_what_fits_no_worker_is_refused_at_once(bench: Bench) -> None:
    await bench.worker("aggregated-0")
    await bench.worker("aggregated-1", context_length=256, blocks=8)  # 32 tokens of cache
    frontend = await bench.frontend()
    assert refusal(await frontend.route(1, [0] * 100, max_tokens=29)) == "too_long"
    assert names(await frontend.route(2, [0] * 100, max_tokens=28))[0] == "aggregated-0"
    assert names(await frontend.route(3, [0] * 32, max_tokens=200))[0] == "aggregated-1"


@scenario(AGG, AGG)
async def test_a_request_for_a_busy_large_worker_lets_small_ones_pass(bench: Bench) -> None:
    await bench.worker("aggregated-0", context_length=64, max_sequences=1)
    await bench.worker("aggregated-1", context_length=128, max_sequences=1)
    frontend = await bench.frontend()
    large, small = [0] * 100, [0] * 8
    for request_id in (1, 2):
        assert names(await frontend.route(request_id, large))[0] == "aggregated-1"
    frontend.ask(3, large)
    for request_id in (4, 5):
        assert names(await frontend.route(request_id, small))[0] == "aggregated-0"
    frontend.ask(6, small)
    await bench.metric("dynamoc_router_queued_requests", 2)
    frontend.send(RequestEnded(4))
    assert (await frontend.hear(Routed)).request_id == 6
    frontend.send(RequestEnded(1))
    assert (await frontend.hear(Routed)).request_id == 3


@scenario(AGG)
async def test_a_request_asked_again_is_charged_once(bench: Bench) -> None:
    await bench.worker("aggregated-0")  # takes 4 requests
    frontend = await bench.frontend()
    for _ in range(10):
        assert names(await frontend.route(1, PROMPT))
    for request_id in (2, 3, 4):
        assert names(await frontend.route(request_id, PROMPT))


@scenario(AGG, AGG)
async def test_a_new_life_of_an_avoided_worker_comes_after_the_others(bench: Bench) -> None:
    await bench.worker("aggregated-0", incarnation=1)
    other = await bench.worker("aggregated-1")
    other.send(LoadReport(running=3, waiting=0, active_blocks=60, cached_blocks=0))
    frontend = await bench.frontend()
    await asyncio.sleep(0.05)
    assert names(await frontend.route(1, PROMPT, avoid=("aggregated-0@0",)))[0] == "aggregated-1"
    assert names(await frontend.route(2, PROMPT))[0] == "aggregated-0"


@scenario(AGG, AGG)
async def test_avoided_workers_get_the_request_only_in_a_new_life(bench: Bench) -> None:
    first, _ = await bench.worker("aggregated-0"), await bench.worker("aggregated-1")
    frontend = await bench.frontend()
    assert names(await frontend.route(1, PROMPT, avoid=("aggregated-0@0",)))[0] == "aggregated-1"
    frontend.ask(1, PROMPT, avoid=("aggregated-0@0", "aggregated-1@0"))
    await bench.metric("dynamoc_router_queued_requests", 1)
    assert names(await frontend.route(2, PROMPT))  # others pass
    first.connection.abort("crash")
    await bench.worker("aggregated-0", incarnation=1)
    answer = await frontend.hear(Routed)
    assert (answer.request_id, answer.worker.name, answer.worker.incarnation) == (1, "aggregated-0", 1)


# ---- membership ------------------------------------------------------------------------------------------


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
