"""Prefill and decode workers together: the KV moves by the declared path, and the tokens are the same as without."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest
from worker_rig import BLOCK_SIZE, Run, make_run, running, until, worker_settings

from dynamoc.runtime.manifest import WorkerSettings

P, D = "prefill-0", "decode-0"
PROMPT = list(range(3000, 3100))
BLOCKS = -(-len(PROMPT) // BLOCK_SIZE)
TRANSPORTS = ("shm", "tcp", "nixl")


def pair(folder: Path, transport: str = "shm", engine: str = "mocker", slow: bool = False) -> Run:
    prompt_time = {"prefill_us_per_token": 20_000.0} if slow else {}
    return make_run(
        folder,
        transport,
        prefill_0=worker_settings(engine, transport, **prompt_time),
        decode_0=worker_settings(engine, transport),
    )


async def attached(run: Run) -> None:
    """A first prompt went through: the workers have found each other."""
    frontend = await run.frontend(D)
    frontend.generate(1, list(range(50)), max_tokens=1, prefill=run.address(P))
    assert (await frontend.answer(1)).finish == "length"
    await until(lambda: run.metric(P, "dynamoc_kv_transfer_blocks_total") > 0, "the first transfer was counted")


async def computing(run: Run) -> None:
    """D waits for its first prompt, and P is in the middle of it: P reports its load only after a step."""
    await until(lambda: (load := run.router.load(D)) and load.waiting, "D waits for P")
    await asyncio.sleep(0.2)


def local_prefills(run: Run, **labels: str) -> float:
    return run.metric(D, "dynamoc_kv_local_prefills_total", **labels)


def quarantined(run: Run) -> float:
    return run.metric(D, "dynamoc_worker_blocks", state="quarantined")


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_tokens_are_those_of_one_worker_and_the_path_is_the_declared_one(tmp_path: Path, transport: str) -> None:
    async def test() -> None:
        async with running(pair(tmp_path, transport), P, D) as run:
            frontend, alone = await run.frontend(D), await run.frontend(P)
            for request_id in range(24):
                prompt = [9000 + request_id, *PROMPT[: 5 * request_id]]
                frontend.generate(request_id, prompt, max_tokens=12, prefill=run.address(P))
                alone.generate(request_id, prompt, max_tokens=12)
            for request_id in range(24):
                assert (await frontend.answer(request_id)).finish == "length"
                await alone.answer(request_id)
                assert frontend.tokens(request_id) == alone.tokens(request_id)

            label = {"transport": transport, "src": "G1", "dst": "G1", "op": "push"}
            blocks = run.metric(P, "dynamoc_kv_transfer_blocks_total")
            assert blocks == run.metric(P, "dynamoc_kv_transfer_blocks_total", **label) > 0
            assert run.metric(P, "dynamoc_kv_transfer_bytes_total", **label) == blocks * BLOCK_SIZE * 8
            assert run.metric(D, "dynamoc_kv_received_blocks_total", transport=transport) == blocks
            exposed = run.metric(P, "dynamoc_kv_transfer_exposed_seconds_count", transport=transport)
            assert exposed == 24 - local_prefills(run), "one figure a prompt"
            assert run.metric(P, "dynamoc_kv_transfer_seconds_count", transport=transport) >= exposed
            for waited in ("dynamoc_kv_transfer_verified_seconds", "dynamoc_kv_transfer_delay_seconds"):
                assert run.metric(D, f"{waited}_count", transport=transport) == exposed
                assert 0 < run.metric(D, f"{waited}_sum", transport=transport) < 60 * exposed
            assert local_prefills(run) == local_prefills(run, reason="resident") < 24
            await until(lambda: run.metric(P, "dynamoc_worker_blocks", state="active") == 0, "P holds nothing")
            await until(lambda: run.metric(D, "dynamoc_worker_blocks", state="active") == 0, "D holds nothing")

    asyncio.run(test())


def test_what_is_resident_is_not_moved_again(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(pair(tmp_path), P, D) as run:
            frontend = await run.frontend(D)
            moved = []
            for request_id, prompt in enumerate([PROMPT, PROMPT, PROMPT + list(range(40))]):
                before = run.metric(P, "dynamoc_kv_transfer_blocks_total")
                frontend.generate(request_id, prompt, max_tokens=2, prefill=run.address(P))
                await frontend.answer(request_id)
                moved.append(run.metric(P, "dynamoc_kv_transfer_blocks_total") - before)

            full = len(PROMPT) // BLOCK_SIZE
            assert moved == [BLOCKS, 0, -(-(len(PROMPT) + 40) // BLOCK_SIZE) - full]
            assert local_prefills(run) == local_prefills(run, reason="resident") == 1

    asyncio.run(test())


def test_one_token_is_enough(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(pair(tmp_path), P, D) as run:
            frontend = await run.frontend(D)
            frontend.generate(1, PROMPT, max_tokens=1, prefill=run.address(P))

            assert (await frontend.answer(1)).finish == "length"
            assert len(frontend.tokens(1)) == 1
            await until(lambda: run.metric(D, "dynamoc_worker_blocks", state="active") == 0, "D holds nothing")
            assert run.metric(D, "dynamoc_worker_blocks", state="cached") == len(PROMPT) // BLOCK_SIZE

    asyncio.run(test())


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_killed_prefill_worker_costs_time_but_no_token(tmp_path: Path, transport: str) -> None:
    async def test() -> None:
        async with running(pair(tmp_path, transport, slow=True), P, D) as run:
            await attached(run)
            frontend = await run.frontend(D)
            frontend.generate(1, PROMPT, max_tokens=12, prefill=run.address(P))
            await computing(run)
            run.workers[P].process.kill()

            assert (await frontend.answer(1, 5)).finish == "length"
            assert local_prefills(run, reason="lost") == 1
            await until(lambda: quarantined(run) == 0, "no block stays in quarantine")

            frontend.generate(2, PROMPT + PROMPT, max_tokens=12)
            await frontend.answer(2)
            run.workers[P].process.wait()
            await run.start(P, incarnation=1)
            before = local_prefills(run)
            other = [4, *PROMPT]
            frontend.generate(3, other[:40], max_tokens=3, prefill=run.address(P, 1))
            assert (await frontend.answer(3)).finish == "length"
            assert local_prefills(run) == before
            assert run.metric(P, "dynamoc_kv_transfer_blocks_total", transport=transport) == 3

    asyncio.run(test())


def test_a_prefill_worker_that_never_was_is_waited_for_then_done_without(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(pair(tmp_path), D) as run:
            frontend = await run.frontend(D)
            frontend.generate(1, PROMPT, max_tokens=4, prefill=run.address(P))

            assert (await frontend.answer(1, 6)).finish == "length"
            assert local_prefills(run, reason="not_attached") == 1

    asyncio.run(test())


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_cancelled_request_stops_the_prefill_and_frees_both_sides(tmp_path: Path, transport: str) -> None:
    async def test() -> None:
        async with running(pair(tmp_path, transport, slow=True), P, D) as run:
            await attached(run)
            frontend = await run.frontend(D)
            frontend.generate(1, PROMPT, max_tokens=12, prefill=run.address(P))
            await computing(run)
            frontend.cancel(1)

            await until(lambda: run.metric(P, "dynamoc_worker_blocks", state="active") == 0, "P holds nothing")
            await until(lambda: run.metric(D, "dynamoc_worker_blocks", state="active") == 0, "D holds nothing")
            await until(lambda: quarantined(run) == 0, "no block stays in quarantine")
            assert not frontend.outputs

    asyncio.run(test())


def test_a_lost_decode_worker_frees_the_prefill_worker(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(pair(tmp_path, slow=True), P, D) as run:
            await attached(run)
            frontend = await run.frontend(D)
            frontend.generate(1, PROMPT, max_tokens=12, prefill=run.address(P))
            await computing(run)
            run.workers[D].process.kill()

            await until(lambda: run.metric(P, "dynamoc_worker_blocks", state="active") == 0, "P holds nothing", 5)

    asyncio.run(test())


def test_a_stopped_prefill_worker_is_survived(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(pair(tmp_path, slow=True), P, D) as run:
            await attached(run)
            frontend = await run.frontend(D)
            frontend.generate(1, PROMPT, max_tokens=12, prefill=run.address(P))
            await computing(run)
            run.workers[P].process.send_signal(signal.SIGSTOP)

            assert (await frontend.answer(1, 20)).finish == "length"
            assert local_prefills(run, reason="silent") == 1
            await until(lambda: quarantined(run) == BLOCKS, "the blocks it may write to are out of use")
            run.workers[P].process.send_signal(signal.SIGCONT)
            await until(lambda: quarantined(run) == 0, "it is back, and writes no more")

    asyncio.run(test())


@pytest.mark.parametrize(
    ("prefill", "message"),
    [
        (worker_settings("mocker", "shm", block_size=32), "KV layout"),
        (worker_settings("mocker", "tcp"), "transport `shm` was offered, the plan gave me `tcp`"),
    ],
)
def test_a_refused_pool_is_an_error_and_never_a_fallback(tmp_path: Path, prefill: WorkerSettings, message: str) -> None:
    async def test() -> None:
        decode = worker_settings("mocker", "shm")
        async with running(make_run(tmp_path, "shm", prefill_0=prefill, decode_0=decode), P, D) as run:
            frontend = await run.frontend(D)
            frontend.generate(1, PROMPT, max_tokens=4, prefill=run.address(P))
            output = await frontend.answer(1)

            assert output.finish == "error"
            assert message in (output.error or "")
            assert local_prefills(run) == 0

    asyncio.run(test())


def test_a_draining_prefill_worker_finishes_what_it_has(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(pair(tmp_path, slow=True), P, D) as run:
            await attached(run)
            frontend = await run.frontend(D)
            frontend.generate(1, PROMPT[:60], max_tokens=4, prefill=run.address(P))
            await computing(run)
            run.workers[P].process.send_signal(signal.SIGTERM)

            assert (await frontend.answer(1)).finish == "length"
            assert local_prefills(run) == 0
            assert await run.workers[P].exit_status(5) == 0

    asyncio.run(test())


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_echo_reports_name_the_peers_that_are_there(tmp_path: Path, transport: str) -> None:
    async def test() -> None:
        async with running(pair(tmp_path, transport, "echo"), P, D) as run:
            await until(lambda: run.report(D).get("prefill_workers") == [P], "D names P")
            await until(lambda: run.report(P).get("decode_workers") == [D], "P names D")
            bound = {"plane", "metrics"} | ({"kv"} if transport in ("tcp", "nixl") else set())
            assert run.report(D)["ports"] == {purpose: run.ports[D][purpose] for purpose in bound}

            run.workers[D].process.kill()
            await until(lambda: run.report(P).get("decode_workers") == [], "P saw D go")

    asyncio.run(test())
