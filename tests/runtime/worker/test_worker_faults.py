"""A decode worker against a prefill worker that lies, dawdles and dies: no wrong token, no block lost or shared."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from fake_prefill import FIRST_TOKEN, FakePrefill
from worker_rig import BLOCK_SIZE, Frontend, Run, make_run, running, until, worker_settings

P, D = "prefill-0", "decode-0"
PROMPT = list(range(3000, 3100))
BLOCKS = -(-len(PROMPT) // BLOCK_SIZE)
POOL = 16
TRANSPORTS = ("shm", "tcp")


@asynccontextmanager
async def scene(folder: Path, transport: str, refusal: str = "") -> AsyncIterator[tuple[Run, FakePrefill, Frontend]]:
    """A real decode worker, attached to a fake prefill worker, and a frontend."""
    settings = worker_settings("mocker", transport, blocks=POOL)
    run = make_run(folder, transport, prefill_0=settings, decode_0=settings)
    async with running(run, D):
        fake = FakePrefill(run, P, transport, refusal)
        await fake.listen()
        try:
            await until(lambda: fake.attached, "the pool was offered")
            yield run, fake, await run.frontend(D)
        finally:
            await fake.close()


async def ask(run: Run, fake: FakePrefill, frontend: Frontend, request_id: int = 1, **fields: object) -> None:
    """A request reaches the prefill worker."""
    before = len(fake.asked)
    frontend.generate(request_id, PROMPT, max_tokens=6, prefill=run.address(P), **fields)
    await until(lambda: len(fake.asked) > before, "the prefill worker was asked")


async def use_the_rest(frontend: Frontend, first_id: int = 100) -> None:
    """Other requests fill every block that is free, several times over; the mocker checks each of them."""
    for request_id in range(first_id, first_id + 12):
        frontend.generate(request_id, [request_id, *range(60)], max_tokens=20)
    for request_id in range(first_id, first_id + 12):
        assert (await frontend.answer(request_id)).finish == "length"


def blocks(run: Run, state: str) -> float:
    return run.metric(D, "dynamoc_worker_blocks", state=state)


def local_prefills(run: Run, reason: str) -> float:
    return run.metric(D, "dynamoc_kv_local_prefills_total", reason=reason)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_first_token_is_the_prefill_workers(tmp_path: Path, transport: str) -> None:
    async def test() -> None:
        async with scene(tmp_path, transport) as (run, fake, frontend):
            await ask(run, fake, frontend)
            await fake.push(fake.asked[0])
            fake.say_done(fake.asked[0])

            assert (await frontend.answer(1)).finish == "length"
            assert frontend.tokens(1)[0] == FIRST_TOKEN
            assert len(frontend.tokens(1)) == 6

    asyncio.run(test())


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("wrong", [{"flip": 3}, {"count": BLOCKS - 1}], ids=["flipped bit", "missing block"])
def test_blocks_that_are_not_what_was_sent_are_never_used(
    tmp_path: Path, transport: str, wrong: dict[str, int]
) -> None:
    async def test() -> None:
        async with scene(tmp_path, transport) as (run, fake, frontend):
            await ask(run, fake, frontend)
            await fake.push(fake.asked[0], **wrong)
            fake.say_done(fake.asked[0])

            assert (await frontend.answer(1)).finish == "length"
            assert frontend.tokens(1)[0] != FIRST_TOKEN
            assert run.metric(D, "dynamoc_kv_checksum_failures_total") == BLOCKS  # they share a checksum
            assert local_prefills(run, "checksum") == 1
            await use_the_rest(frontend)

    asyncio.run(test())


def test_shm_blocks_of_a_cancelled_request_wait_for_the_writers_word(tmp_path: Path) -> None:
    async def test() -> None:
        async with scene(tmp_path, "shm") as (run, fake, frontend):
            await ask(run, fake, frontend)
            frontend.cancel(1)
            await until(lambda: fake.aborted, "the prefill worker was told")
            await until(lambda: blocks(run, "quarantined") == BLOCKS, "the blocks are out of use")

            assert fake.aborted[0].generation == fake.asked[0].generation
            await use_the_rest(frontend, 100)
            await fake.push(fake.asked[0])  # the writer is late, and harms nobody
            await use_the_rest(frontend, 200)
            assert blocks(run, "quarantined") == BLOCKS
            fake.say_aborted(fake.asked[0])
            await until(lambda: blocks(run, "quarantined") == 0, "the blocks are back")
            await use_the_rest(frontend, 300)

    asyncio.run(test())


def test_tcp_refuses_what_comes_late_so_blocks_are_back_at_once(tmp_path: Path) -> None:
    async def test() -> None:
        async with scene(tmp_path, "tcp") as (run, fake, frontend):
            await ask(run, fake, frontend)
            frontend.cancel(1)
            await until(lambda: fake.aborted, "the prefill worker was told")
            await until(lambda: blocks(run, "active") == 0, "the blocks are back")
            for request_id in range(2, 8):
                frontend.generate(request_id, [request_id, *range(25)], max_tokens=200)
            await until(lambda: all(frontend.tokens(i) for i in range(2, 8)), "every block has a new user")

            late = await fake.push(fake.asked[0])

            assert late.outcome == "failure"
            assert "is not expected" in late.reason
            for request_id in range(2, 8):
                assert (await frontend.answer(request_id)).finish == "length"
            assert blocks(run, "quarantined") == 0

    asyncio.run(test())


def test_a_lost_connection_does_not_end_a_quarantine_but_its_return_does(tmp_path: Path) -> None:
    async def test() -> None:
        async with scene(tmp_path, "shm") as (run, fake, frontend):
            await ask(run, fake, frontend)
            request = fake.asked[0]
            await fake.hang_up()

            assert (await frontend.answer(1)).finish == "length"  # computed here, in other blocks
            assert local_prefills(run, "lost") == 1
            assert blocks(run, "quarantined") == BLOCKS
            await fake.push(request)  # this process lives and can still write
            await use_the_rest(frontend)
            await fake.listen(incarnation=1)
            await until(lambda: fake.attached == 2, "the pool was offered again")
            await asyncio.sleep(0.6)
            assert blocks(run, "quarantined") == BLOCKS  # another life says nothing about this one
            await fake.hang_up()
            await fake.listen(incarnation=0)
            await until(lambda: blocks(run, "quarantined") == 0, "the same life came back and has nothing to write")

    asyncio.run(test())


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_failed_prefill_is_computed_here(tmp_path: Path, transport: str) -> None:
    async def test() -> None:
        async with scene(tmp_path, transport) as (run, fake, frontend):
            await ask(run, fake, frontend)
            fake.say_failed(fake.asked[0], "out of luck", retryable=True)

            assert (await frontend.answer(1)).finish == "length"
            assert local_prefills(run, "failed") == 1
            assert blocks(run, "quarantined") == 0

    asyncio.run(test())


def test_a_final_failure_reaches_the_frontend(tmp_path: Path) -> None:
    async def test() -> None:
        async with scene(tmp_path, "shm") as (run, fake, frontend):
            await ask(run, fake, frontend)
            fake.say_failed(fake.asked[0], "no such prompt", retryable=False)

            assert (await frontend.answer(1)).error == "no such prompt"
            await until(lambda: blocks(run, "active") == 0, "the blocks are back")

    asyncio.run(test())


def test_answers_of_earlier_generations_mean_nothing(tmp_path: Path) -> None:
    async def test() -> None:
        async with scene(tmp_path, "shm") as (run, fake, frontend):
            await ask(run, fake, frontend, 1)
            fake.say_failed(fake.asked[0], "try again", retryable=True)
            await frontend.answer(1)
            frontend.generate(9, [1, 2, 3], max_tokens=1)
            await frontend.answer(9)
            prompt = [5, *PROMPT]
            frontend.generate(2, prompt, max_tokens=6, prefill=run.address(P))
            await until(lambda: len(fake.asked) == 2, "the prefill worker was asked")

            fake.say_done(fake.asked[0])
            fake.say_aborted(fake.asked[0])
            await asyncio.sleep(0.2)
            assert not frontend.tokens(2)
            await fake.push(fake.asked[1])
            fake.say_done(fake.asked[1])
            assert (await frontend.answer(2)).finish == "length"

    asyncio.run(test())


def test_a_deadline_does_not_wait_for_the_prefill_worker(tmp_path: Path) -> None:
    async def test() -> None:
        async with scene(tmp_path, "shm") as (run, fake, frontend):
            await ask(run, fake, frontend, deadline_s=0.3)

            assert (await frontend.answer(1, 2)).error == "not finished within 0.3 s"
            await until(lambda: fake.aborted, "the prefill worker was told")
            assert fake.asked[0].deadline_s < 0.301

    asyncio.run(test())


def test_a_refusal_names_its_reason(tmp_path: Path) -> None:
    async def test() -> None:
        async with scene(tmp_path, "shm", refusal="wrong moon") as (run, _, frontend):
            frontend.generate(1, PROMPT, prefill=run.address(P))

            assert (await frontend.answer(1)).error == f"{P} refused this worker's KV pool: wrong moon"
            await until(lambda: blocks(run, "active") == 0, "the blocks are back")

    asyncio.run(test())
