"""Workers killed with SIGKILL come back to their KV: what they find is right, and what a peer may still write waits."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from memory_owners import end_owners, owners
from worker_rig import BLOCK_SIZE, Frontend, Run, make_run, running, until, worker_settings

from dynamoc.runtime.kv.pool import PAGE_BYTES
from dynamoc.runtime.plane.messages import BlocksStored

D, P = "decode-0", "prefill-0"
PROMPT = list(range(3000, 3100))
FULL = len(PROMPT) // BLOCK_SIZE
BLOCKS = 64
RECOVERED = "dynamoc_kv_recovered_blocks_total"


@pytest.fixture(autouse=True)
def nothing_stays(tmp_path: Path) -> Iterator[None]:
    yield
    end_owners(tmp_path)


def alone(folder: Path, **changes: object) -> Run:
    return make_run(folder, decode_0=worker_settings("mocker", None, kv="kept", **changes))


def pair(folder: Path) -> Run:
    slow = {"prefill_us_per_token": 20_000.0}
    kept = worker_settings("mocker", "shm", kv="kept")
    return make_run(folder, "shm", prefill_0=worker_settings("mocker", "shm", **slow), decode_0=kept)


async def life(run: Run, name: str, number: int) -> None:
    environ = {"DYNAMOC_RUN_DIR": str(run.folder), "DYNAMOC_PROCESS": name} if name == D else {}
    await run.start(name, number, **environ)


async def kill(run: Run, name: str) -> None:
    run.workers[name].process.kill()
    run.workers[name].process.wait(20)
    await until(lambda: name not in run.router.workers, "the router saw the end")


async def answer(frontend: Frontend, request: int, prompt: list[int], run: Run | None = None) -> tuple[list[int], int]:
    """Tokens, and how many of the prompt were in the cache."""
    peer = {} if run is None else {"prefill": run.address(P)}
    frontend.generate(request, prompt, max_tokens=6, **peer)
    last = await frontend.answer(request)
    assert last.finish == "length", last
    return frontend.tokens(request), sum(output.cached_tokens for output in frontend.outputs[request])


def resident(run: Run) -> int:
    """Blocks that the worker's present life has told the router of."""
    return sum(len(event.blocks) for event in run.router.events(D) if isinstance(event, BlocksStored))


def test_a_killed_worker_is_back_with_its_cache(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(alone(tmp_path)) as run:
            await life(run, D, 0)
            first, cached = await answer(await run.frontend(D), 1, PROMPT)
            assert cached == 0
            (owner,) = owners(tmp_path)
            await kill(run, D)
            await life(run, D, 1)

            await until(lambda: resident(run) == FULL, "the router is told of what was found")
            assert run.metric(D, RECOVERED, outcome="verified") == FULL
            assert run.metric(D, RECOVERED) == FULL
            assert run.metric(D, "dynamoc_kv_pool_kept") == 1
            assert await answer(await run.frontend(D), 1, PROMPT) == (first, FULL * BLOCK_SIZE)
            assert owners(tmp_path) == [owner]

    asyncio.run(test())


def test_killed_under_load_again_and_again(tmp_path: Path) -> None:
    """The mocker checks every page that it reads: a wrong block would end it."""

    async def test() -> None:
        prompts = [[100 * n % 700 + t for t in range(20 + 13 * n)] for n in range(12)]
        async with running(alone(tmp_path, blocks=40, decode_step_ms=1.0)) as run:
            await life(run, D, 0)
            expected: dict[int, list[int]] = {}
            for number in range(4):
                frontend = await run.frontend(D)
                for request, prompt in enumerate(prompts):
                    frontend.generate(request, prompt, max_tokens=40)
                await until(lambda f=frontend: len(f.outputs) > 3, "some are under way")
                await kill(run, D)
                await life(run, D, number + 1)
                for request in frontend.outputs:
                    done = frontend.tokens(request)
                    known = expected.setdefault(request, done)
                    assert known[: len(done)] == done[: len(known)]
                    expected[request] = max(known, done, key=len)
                assert run.metric(D, RECOVERED, outcome="verified") > 0
                assert run.metric(D, RECOVERED, outcome="wrong") == 0
            frontend = await run.frontend(D)
            for request, prompt in enumerate(prompts):
                frontend.generate(request, prompt, max_tokens=40)
            for request in range(len(prompts)):
                assert (await frontend.answer(request)).finish == "length"
                known = expected.get(request, [])
                assert frontend.tokens(request)[: len(known)] == known

    asyncio.run(test())


def test_a_block_that_changed_meanwhile_is_computed_again(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(alone(tmp_path)) as run:
            await life(run, D, 0)
            first, _ = await answer(await run.frontend(D), 1, PROMPT)
            await kill(run, D)
            flip(tmp_path, block=2)
            await life(run, D, 1)

            assert run.metric(D, RECOVERED, outcome="wrong") == 1
            assert run.metric(D, RECOVERED, outcome="verified") == 2
            assert run.metric(D, RECOVERED, outcome="orphaned") == FULL - 3
            assert await answer(await run.frontend(D), 1, PROMPT) == (first, 2 * BLOCK_SIZE)

    asyncio.run(test())


def flip(folder: Path, block: int) -> None:
    """A bit of the pool becomes another one, while its worker is dead."""
    (owner,) = owners(folder)
    page = 8 * BLOCK_SIZE
    held = [Path(f"/proc/{owner}/fd/{name}") for name in os.listdir(f"/proc/{owner}/fd")]
    kept = [fd for fd in held if fd.is_file() and "memfd:dynamoc-kv" in os.readlink(fd)]
    (pool,) = [fd for fd in kept if fd.stat().st_size == PAGE_BYTES + BLOCKS * page]
    with pool.open("r+b", buffering=0) as memory:
        memory.seek(PAGE_BYTES + block * page + 5)
        (byte,) = memory.read(1)
        memory.seek(-1, os.SEEK_CUR)
        memory.write(bytes([byte ^ 4]))


def test_what_a_stopped_peer_may_still_write_waits_for_it(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(pair(tmp_path), P) as run:
            await life(run, D, 0)
            frontend = await run.frontend(D)
            first, _ = await answer(frontend, 1, PROMPT[:40], run)
            frontend.generate(2, list(range(500, 900)), max_tokens=2, prefill=run.address(P))
            await until(lambda: blocks(run, "active") == 25, "blocks are lent")
            run.workers[P].process.send_signal(signal.SIGSTOP)
            await kill(run, D)
            await life(run, D, 1)

            assert run.metric(D, RECOVERED, outcome="verified") == (40 + 5) // BLOCK_SIZE
            await until(lambda: blocks(run, "quarantined") == 25, "what was lent waits")
            assert await answer(await run.frontend(D), 1, PROMPT[:40]) == (first, 32)
            await asyncio.sleep(0.6)
            assert blocks(run, "quarantined") == 25, "nobody has said that it stopped"
            run.workers[P].process.send_signal(signal.SIGCONT)
            await until(
                lambda: blocks(run, "quarantined") == 0, "it attached anew, and so has ended what it was asked for"
            )

    asyncio.run(test())


def test_what_was_lent_to_a_peer_that_is_gone_is_in_use_at_once(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(pair(tmp_path), P) as run:
            await life(run, D, 0)
            frontend = await run.frontend(D)
            await answer(frontend, 1, PROMPT[:40], run)
            frontend.generate(2, list(range(500, 900)), max_tokens=2, prefill=run.address(P))
            await until(lambda: blocks(run, "active") == 25, "blocks are lent")
            await kill(run, P)
            await kill(run, D)
            await life(run, D, 1)

            await until(lambda: blocks(run, "quarantined") == 0, "its writer has ended")
            _, cached = await answer(await run.frontend(D), 1, PROMPT[:40])
            assert cached == 32

    asyncio.run(test())


def test_without_its_service_a_worker_goes_on_and_says_so(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(alone(tmp_path)) as run:
            await life(run, D, 0)
            frontend = await run.frontend(D)
            first, _ = await answer(frontend, 1, PROMPT)
            os.kill(owners(tmp_path)[0], signal.SIGKILL)
            await until(lambda: run.metric(D, "dynamoc_kv_pool_kept") == 0, "the worker noticed")

            assert await answer(frontend, 2, PROMPT) == (first, FULL * BLOCK_SIZE)
            assert "nobody keeps this KV pool" in run.workers[D].log.read_text()
            await kill(run, D)
            await life(run, D, 1)
            assert run.metric(D, RECOVERED) == 0
            assert await answer(await run.frontend(D), 1, PROMPT) == (first, 0)

    asyncio.run(test())


def blocks(run: Run, state: str) -> float:
    return run.metric(D, "dynamoc_worker_blocks", state=state)
