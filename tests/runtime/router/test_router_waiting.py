"""What waits at a served router, and what it is refused with."""

from __future__ import annotations

import asyncio

from router_kit import (
    AGG,
    DECODE,
    PREFILL,
    PROMPT,
    Bench,
    names,
    refusal,
    scenario,
)

from dynamoc.runtime.plane.messages import (
    LoadReport,
    PromptComputed,
    RequestEnded,
    Routed,
    RouteRefused,
)


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
