"""Half of a prompt from the decode worker's own disk, half from a prefill worker, at once; each may fail or dawdle."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import uvloop
from fake_prefill import FIRST_TOKEN
from reservation_rig import (
    IN_TIERS,
    PEER_BLOCKS,
    PROMPT,
    TIER_BLOCKS,
    WAIT_S,
    Decode,
    decoding,
)
from worker_rig import until

from dynamoc.runtime.kv.tiers import onboard
from dynamoc.runtime.plane import connection
from dynamoc.runtime.worker import prefill_peer

ALL = TIER_BLOCKS + PEER_BLOCKS


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long a test holds reads up, a load that is not meant to be late is not given up."""
    monkeypatch.setattr(onboard, "SHORTEST_DEADLINE_S", 2 * WAIT_S)


def played(folder: Path, test: Callable[[Decode], Awaitable[None]], transport: str = "shm") -> None:
    """Play a test, then see that no block is lost, shared, or other than its owner believes."""

    async def play() -> None:
        async with decoding(folder, transport) as decode:
            await test(decode)
            decode.reads.go.set()
            await decode.idle()
            for request_id in range(800, 806):
                await decode.answer(request_id, [request_id, *range(8 * 16)])
            await decode.idle()

    asyncio.run(play())


async def taken_on(decode: Decode, request_id: int = 1) -> None:
    """The answer begins with the prefill worker's token; the mocker found every page right."""
    assert (await decode.frontend.answer(request_id)).finish == "length"
    assert decode.frontend.tokens(request_id)[0] == FIRST_TOKEN
    assert len(decode.frontend.tokens(request_id)) == 6


async def computed_here(decode: Decode, reason: str) -> None:
    assert (await decode.frontend.answer(1)).finish == "length"
    assert FIRST_TOKEN not in decode.frontend.tokens(1)
    assert decode.local_prefills(reason) == 1


def verified(decode: Decode) -> float:
    return decode.metric("dynamoc_kv_received_blocks_total")


@pytest.mark.parametrize("transport", ["shm", "tcp"])
def test_the_prefill_worker_is_asked_while_the_tiers_load(tmp_path: Path, transport: str) -> None:
    async def test(decode: Decode) -> None:
        decode.reads.go.clear()
        decode.ask()
        await decode.asked()
        (asked,) = decode.prefill.asked
        await decode.prefilled()
        await until(lambda: verified(decode) == PEER_BLOCKS, "all that was asked for is there")
        await asyncio.sleep(0.05)

        assert (asked.first_block, len(asked.blocks)) == (TIER_BLOCKS, PEER_BLOCKS)
        assert not decode.frontend.outputs.get(1), "half of the prompt is on disk"
        decode.reads.go.set()
        await taken_on(decode)
        assert decode.metric("dynamoc_kv_tier_hit_blocks_total", tier="G3") == TIER_BLOCKS
        assert decode.metric("dynamoc_kv_tier_exposed_seconds_count") == 1
        assert decode.metric("dynamoc_kv_tier_exposed_seconds_sum") > 0.05
        assert decode.metric("dynamoc_kv_asked_again_total") == 0

    played(tmp_path, test, transport)


def test_prompts_that_begin_alike_do_not_wait_for_each_other(tmp_path: Path) -> None:
    async def test(decode: Decode) -> None:
        decode.reads.go.clear()
        prompts = {key: [*PROMPT[:-1], key] for key in (1, 2, 3)}
        for key, prompt in prompts.items():
            decode.ask(key, prompt)
        await decode.asked(3)
        assert {asked.first_block for asked in decode.prefill.asked} == {TIER_BLOCKS}
        for number in range(3):
            await decode.prefilled(number)
        decode.reads.go.set()
        for key in prompts:
            await taken_on(decode, key)

    played(tmp_path, test)


def test_prompts_that_are_all_in_the_tiers_load_once(tmp_path: Path) -> None:
    async def test(decode: Decode) -> None:
        decode.reads.go.clear()
        for key in (1, 2, 3):
            decode.ask(key, IN_TIERS)
        assert await asyncio.to_thread(decode.reads.began.wait, WAIT_S)
        decode.reads.go.set()
        for key in (1, 2, 3):
            assert (await decode.frontend.answer(key)).finish == "length"
        assert decode.metric("dynamoc_kv_tier_hit_blocks_total", tier="G3") == TIER_BLOCKS
        assert not decode.prefill.asked

    played(tmp_path, test)


def test_what_was_loaded_before_the_answer_is_not_waited_for(tmp_path: Path) -> None:
    async def test(decode: Decode) -> None:
        decode.ask()
        await decode.asked()
        await until(decode.stack.idle, "the tiers are done")
        assert not decode.frontend.outputs.get(1)
        await decode.prefilled()
        await taken_on(decode)
        await decode.idle()
        decode.ask(2)
        await until(lambda: decode.frontend.finish(2), "the second time, all of it is on the device")

        assert decode.metric("dynamoc_kv_tier_exposed_seconds_count") == 1
        assert len(decode.prefill.asked) == 1

    played(tmp_path, test)


@pytest.mark.parametrize("right", [0, 4])
@pytest.mark.parametrize("wrong", ["lacks", "damages"])
@pytest.mark.parametrize("first", ["tiers", "peer"])
def test_what_the_tiers_do_not_bring_is_asked_for_too(tmp_path: Path, right: int, wrong: str, first: str) -> None:
    async def test(decode: Decode) -> None:
        setattr(decode.reads, wrong, right)
        decode.reads.go.clear()
        decode.ask()
        await decode.asked()
        if first == "tiers":
            decode.reads.go.set()
            await until(decode.stack.idle, "the tiers are done")
        await decode.prefilled()
        await until(lambda: verified(decode) == PEER_BLOCKS, "all that was asked for is there")
        decode.reads.go.set()
        await decode.asked(2)
        again = decode.prefill.asked[1]
        assert (again.first_block, len(again.blocks)) == (right, ALL - right)
        assert again.generation != decode.prefill.asked[0].generation
        decode.prefill.say_done(decode.prefill.asked[0])  # means nothing any more
        await decode.prefilled(1)

        await taken_on(decode)
        assert decode.metric("dynamoc_kv_asked_again_total") == 1
        assert verified(decode) == PEER_BLOCKS + ALL - right
        assert decode.metric("dynamoc_kv_tier_corrupt_blocks_total") == (wrong == "damages")

    played(tmp_path, test)


def test_a_tier_that_hangs_is_not_waited_for_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onboard, "SHORTEST_DEADLINE_S", 0.1)

    async def test(decode: Decode) -> None:
        decode.reads.go.clear()
        decode.ask()
        await decode.asked()
        await decode.prefilled()
        await decode.asked(2)
        decode.reads.go.set()  # what it read comes too late, and is not written any more
        await decode.prefilled(1)
        await taken_on(decode)

    played(tmp_path, test)


def test_a_prefill_worker_that_fails_leaves_what_the_tiers_bring(tmp_path: Path) -> None:
    async def test(decode: Decode) -> None:
        decode.reads.go.clear()
        decode.ask()
        await decode.asked()
        decode.prefill.say_failed(decode.prefill.asked[0], "out of luck", retryable=True)
        await until(lambda: decode.local_prefills("failed") == 1, "it is computed here")
        decode.reads.go.set()
        await computed_here(decode, "failed")
        assert decode.frontend.outputs[1][0].cached_tokens == len(IN_TIERS) - 1

    played(tmp_path, test)


def test_a_prefill_worker_that_is_lost_while_the_tiers_load(tmp_path: Path) -> None:
    async def test(decode: Decode) -> None:
        decode.reads.go.clear()
        decode.ask()
        await decode.asked()
        await decode.prefill.hang_up()
        await until(lambda: decode.scheduler.blocks.quarantined, "the blocks it may write to are out of use")
        decode.reads.go.set()
        await computed_here(decode, "lost")
        await decode.prefill.push(decode.prefill.asked[0])  # it lives, and harms nobody
        await decode.answer(2, PROMPT)
        await decode.prefill.listen()
        await until(lambda: decode.prefill.attached == 2, "the pool was offered again")

    played(tmp_path, test)


def test_a_prefill_worker_that_is_lost_before_it_is_asked_again(tmp_path: Path) -> None:
    async def test(decode: Decode) -> None:
        decode.reads.lacks = 2
        decode.reads.go.clear()
        decode.ask()
        await decode.asked()
        await decode.prefilled()
        await until(lambda: verified(decode) == PEER_BLOCKS, "all that was asked for is there")
        await decode.prefill.hang_up()
        await until(lambda: not decode.peer.is_attached, "it is gone")
        decode.reads.go.set()
        await computed_here(decode, "not_attached")

    played(tmp_path, test)


@pytest.mark.parametrize("transport", ["shm", "tcp"])
@pytest.mark.parametrize("when", ["asked", "verified", "asked again"])
def test_a_client_that_goes_leaves_no_block_behind(tmp_path: Path, when: str, transport: str) -> None:
    async def test(decode: Decode) -> None:
        decode.reads.lacks = 3
        decode.reads.go.clear()
        decode.ask()
        await decode.asked()
        if when != "asked":
            await decode.prefilled()
            await until(lambda: verified(decode) == PEER_BLOCKS, "all that was asked for is there")
        if when == "asked again":
            decode.reads.go.set()
            await decode.asked(2)
        decode.frontend.cancel(1)
        if when != "verified":
            await until(lambda: decode.prefill.aborted, "the prefill worker was told")
            assert decode.prefill.aborted[0].generation == decode.prefill.asked[-1].generation
            assert decode.scheduler.blocks.quarantined or transport == "tcp"
            decode.prefill.say_aborted(decode.prefill.asked[-1])
        await decode.idle()
        assert not decode.frontend.outputs.get(1)

    played(tmp_path, test, transport)


def test_a_deadline_does_not_wait_for_the_tiers(tmp_path: Path) -> None:
    async def test(decode: Decode) -> None:
        decode.reads.go.clear()
        decode.ask(deadline_s=0.5)
        await until(lambda: decode.prefill.asked or decode.frontend.finish(1), "the prefill worker was asked")
        if decode.prefill.asked:  # on a machine that is very busy, time may be up before
            await decode.prefilled()
        assert (await decode.frontend.answer(1)).error == "not finished within 0.5 s"

    played(tmp_path, test)


def test_a_prompt_that_is_all_in_the_tiers_is_nobody_elses(tmp_path: Path) -> None:
    async def test(decode: Decode) -> None:
        decode.ask(prompt=IN_TIERS)
        await computed_here(decode, "resident")
        assert not decode.prefill.asked

    played(tmp_path, test)


def test_a_prompt_that_should_have_been_in_the_tiers_is_asked_for(tmp_path: Path) -> None:
    async def test(decode: Decode) -> None:
        decode.reads.lacks = 1
        decode.ask(prompt=IN_TIERS)
        await decode.asked()
        assert (decode.prefill.asked[0].first_block, len(decode.prefill.asked[0].blocks)) == (1, TIER_BLOCKS)
        await decode.prefilled()
        await taken_on(decode)

    played(tmp_path, test)


def test_what_a_prefill_worker_has_written_sooner_is_not_loaded(tmp_path: Path) -> None:
    async def test(decode: Decode) -> None:
        decode.peer.speed.seconds_per_token = 1e-9
        decode.ask()
        await decode.asked()
        assert (decode.prefill.asked[0].first_block, len(decode.prefill.asked[0].blocks)) == (0, ALL)
        await decode.prefilled()
        await taken_on(decode)
        assert decode.metric("dynamoc_kv_tier_hit_blocks_total", tier="G3") == 0
        assert decode.metric("dynamoc_kv_tier_recomputed_blocks_total") == TIER_BLOCKS
        assert decode.peer.speed.seconds_per_token > 1e-6, "it was slower than foreseen"

    played(tmp_path, test)


def test_a_pause_of_this_process_is_not_taken_for_the_peers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefill_peer, "SILENT_S", 0.5)
    monkeypatch.setattr(connection, "HEARTBEAT_S", 0.05)

    async def play() -> None:
        async with decoding(tmp_path) as decode:
            decode.ask()
            await decode.asked()
            for _ in range(3):
                time.sleep(0.6)  # noqa: ASYNC251  (both ends are in this process: what one says waits to be read)
                await asyncio.sleep(0.3)
                assert not decode.peer.is_silent
            await decode.prefilled()
            await taken_on(decode)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(play())


def test_a_silent_prefill_worker_is_done_without_until_it_is_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefill_peer, "SILENT_S", 1.5)
    monkeypatch.setattr(connection, "SILENCE_LIMIT_S", 10 * WAIT_S)

    async def test(decode: Decode) -> None:
        assert decode.prefill.connection is not None
        beat = decode.prefill.connection._timer
        assert beat is not None
        beat.cancel()
        decode.ask()
        await decode.asked()
        await computed_here(decode, "silent")
        decode.ask(2, list(range(100)))
        await until(lambda: decode.frontend.finish(2), "the next one is not even asked for")
        assert decode.local_prefills("silent") == 2
        assert len(decode.prefill.asked) == 1
        assert decode.prefill.aborted, "it is told, for when it goes on"
        decode.prefill.connection._beat()
        await until(lambda: not decode.peer.is_silent, "it is heard again", WAIT_S)
        decode.prefill.say_aborted(decode.prefill.asked[0])
        decode.ask(3, list(range(200, 300)))
        await decode.asked(2)
        await decode.prefilled(1)
        await taken_on(decode, 3)

    played(tmp_path, test)
