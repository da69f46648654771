"""Which workers a served router chooses, seen over the real plane."""

from __future__ import annotations

import asyncio

from router_kit import (
    AGG,
    DECODE,
    OTHER,
    PREFILL,
    PROMPT,
    Bench,
    names,
    scenario,
    stored_event,
    stored_events,
)

from dynamoc.runtime.plane.messages import (
    BlocksCleared,
    BlocksRemoved,
    KvEvents,
    LoadReport,
    PromptComputed,
    RequestEnded,
    Routed,
)


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
