"""Engines' servers, asked over real HTTP: the same promises for every API."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from engine_server import Engine, Front, request, running

from dynamoc.compiler.dialect import DIALECTS, dialect
from dynamoc.runtime.plane.messages import TokenLogprob
from dynamoc.runtime.served.api import Facts
from dynamoc.runtime.served.http import Server
from dynamoc.runtime.served.registry import APIS, api_of

NAMES = sorted(APIS)


def drive(name: str, engine: Engine, work: Callable[[Front], Awaitable[Any]]) -> Any:
    """`work` on a front of this engine."""

    async def run() -> Any:
        async with running(engine) as endpoint:
            front = Front(name, endpoint)
            try:
                return await work(front)
            finally:
                await front.engine.close()

    return asyncio.run(run())


def one(name: str, engine: Engine, **more: Any) -> list[Any]:
    """All outputs of one request."""

    async def work(front: Front) -> Any:
        front.engine.add(request(**more))
        return await front.finished(1)

    found: list[Any] = drive(name, engine, work)
    return found


def test_every_engine_that_is_a_program_has_an_api() -> None:
    assert {name for name in DIALECTS if dialect(name).capabilities.external} == set(APIS)


@pytest.mark.parametrize("name", NAMES)
def test_tokens_come_once_and_the_last_says_what_was_cached(name: str) -> None:
    engine = Engine()
    outputs = one(name, engine)

    assert [token for output in outputs for token in output.tokens] == [11, 12, 13, 14]
    assert [output.finish for output in outputs] == [None, None, None, "length"]
    assert outputs[-1].cached_tokens == (5 if name == "sglang" else 32)
    assert not any(output.error for output in outputs)


def test_sglang_may_say_only_what_is_new() -> None:
    outputs = one("sglang", Engine(cumulative=False))

    assert [token for output in outputs for token in output.tokens] == [11, 12, 13, 14]


def test_logprobs_are_of_tokens_best_first() -> None:
    outputs = one("vllm", Engine(), tokens=1, logprobs=2)

    assert outputs[0].logprobs == (TokenLogprob(-0.5, ((7, -0.25), (11, -0.5))),)


def test_logprobs_that_cannot_be_told_are_refused() -> None:
    [output] = one("trtllm", Engine(), logprobs=1)

    assert (output.finish, output.retryable) == ("error", False)
    assert "logprobs" in output.error


@pytest.mark.parametrize("name", NAMES)
def test_a_replay_asks_for_what_is_left_with_another_seed(name: str) -> None:
    engine = Engine()
    outputs = one(name, engine, generated=3, max_tokens=8, temperature=1.0, seed=5)
    asked = engine.asked[0].get("sampling_params", engine.asked[0])

    assert asked.get("max_tokens", asked.get("max_new_tokens")) == 5
    assert asked.get("seed", asked.get("sampling_seed")) == 8
    assert outputs[-1].cached_tokens == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_replay_under_penalties_is_not_half_honoured(name: str) -> None:
    [output] = one(name, Engine(), generated=1, presence_penalty=0.5)

    assert (output.finish, output.retryable) == ("error", False)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("status", "retryable"), [(400, False), (429, True), (503, True)])
def test_refusals_are_errors_that_another_worker_may_cure_or_not(name: str, status: int, retryable: bool) -> None:
    [output] = one(name, Engine(status=status))

    assert (output.finish, output.retryable) == ("error", retryable)
    assert "no, thanks" in output.error


@pytest.mark.parametrize("name", NAMES)
def test_a_stream_that_breaks_is_an_error_after_its_tokens(name: str) -> None:
    outputs = one(name, Engine(cut_after=2))

    assert outputs[-1].finish == "error"
    assert outputs[-1].retryable
    assert [token for output in outputs for token in output.tokens] in ([11, 12], [11])


@pytest.mark.parametrize("name", NAMES)
def test_a_cancelled_request_leaves_the_engine(name: str) -> None:
    engine = Engine(hold=True)

    async def work(front: Front) -> None:
        front.engine.add(request())
        await front.until(1)
        front.engine.cancel(1)
        async with asyncio.timeout(5):
            await engine.left.wait()
        assert [output.finish for output in front.outputs] == [None]

    drive(name, engine, work)


def test_what_several_requests_bring_at_once_is_one_report() -> None:
    async def work(front: Front) -> None:
        for key in range(1, 21):
            front.engine.add(request(key=key))
        for key in range(1, 21):
            await front.finished(key)
        assert len(front.reports) < len(front.outputs)

    drive("vllm", Engine(), work)


def test_facts_are_the_servers_own() -> None:
    async def ask() -> list[Facts]:
        async with running(Engine()) as endpoint:
            server = Server(endpoint.host, endpoint.ports["http"])
            found = [await api_of(name).facts(server) for name in ("vllm", "sglang", "trtllm")]
            await server.close()
            return found

    assert asyncio.run(ask()) == [
        Facts(block_size=32, blocks=64, context_length=2048),
        Facts(block_size=16, blocks=100, context_length=4096, max_sequences=12),
        Facts(),
    ]


def test_counters_of_the_engine_are_its_load() -> None:
    async def work(front: Front) -> None:
        await front.until(1)
        stats = front.reports[0].stats
        assert (stats.running, stats.waiting, stats.active_blocks, stats.total_blocks) == (2, 1, 16, 64)
        assert stats.prompt_tokens == 42

    drive("vllm", Engine(), work)


# ---- prompts that another engine computes ----------------------------------------------------------------


def pair(name: str, prefill: Engine, decode: Engine, **more: Any) -> list[Any]:
    """Outputs of one request whose prompt the first engine computes."""

    async def run() -> Any:
        async with running(prefill) as there, running(decode) as here:
            front = Front(name, here, {"prefill-0": there})
            try:
                front.engine.add(request(source="prefill-0", **more))
                return await front.finished(1)
            finally:
                await front.engine.close()

    found: list[Any] = asyncio.run(run())
    return found


def test_vllm_is_told_where_the_kv_is() -> None:
    prefill, decode = Engine(), Engine()
    outputs = pair("vllm", prefill, decode, logprobs=1)

    assert prefill.asked[0]["max_tokens"] == 1
    assert prefill.asked[0]["kv_transfer_params"]["do_remote_decode"] is True
    assert decode.asked[0]["kv_transfer_params"] == {"remote_engine_id": "p", "remote_block_ids": [[1, 2]]}
    assert [token for output in outputs for token in output.tokens] == [11, 12, 13, 14]


def test_sglang_meets_in_one_room() -> None:
    prefill, decode = Engine(), Engine()
    outputs = pair("sglang", prefill, decode)
    rooms = [{key: value for key, value in e.asked[0].items() if "bootstrap" in key} for e in (prefill, decode)]

    assert rooms[0] == rooms[1]
    assert (rooms[0]["bootstrap_host"], rooms[0]["bootstrap_port"]) == ("127.0.0.1", 8998)
    assert outputs[-1].finish == "length"


def test_trtllm_goes_on_from_the_state_of_the_context() -> None:
    prefill, decode = Engine(), Engine()
    pair("trtllm", prefill, decode)

    assert prefill.asked[0]["disaggregated_params"] == {"request_type": "context_only"}
    assert decode.asked[0]["disaggregated_params"] == {"ctx_request_id": 7, "request_type": "generation_only"}


@pytest.mark.parametrize("name", ["vllm", "trtllm"])
def test_without_the_kv_an_engine_that_can_computes_the_prompt_itself(name: str) -> None:
    decode = Engine()
    outputs = pair(name, Engine(status=503), decode)

    assert outputs[-1].finish == "length"
    assert not {"kv_transfer_params", "disaggregated_params"} & set(decode.asked[0])


def test_a_room_that_one_side_does_not_enter_is_not_waited_in() -> None:
    outputs = pair("sglang", Engine(status=503), Engine(hold=True))

    assert outputs[-1].finish == "error"
    assert outputs[-1].retryable


def test_sglang_decode_workers_compute_no_prompts() -> None:
    async def run() -> Any:
        async with running(Engine()) as here:
            front = Front("sglang", here, {"prefill-0": here})
            front.engine.add(request())
            found = await front.finished(1)
            await front.engine.close()
            return found

    [output] = asyncio.run(run())
    assert "computes no prompts" in output.error
