"""Workers killed with SIGKILL come back to their KV: what they find is right, and what a peer may still write waits."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from worker_rig import BLOCK_SIZE, Frontend, Run, make_run, running, until, worker_settings

from dynamoc.runtime.kv.memory_service.place import Place
from dynamoc.runtime.kv.pool import PAGE_BYTES
from dynamoc.runtime.plane.messages import BlocksStored

D, P = "decode-0", "prefill-0"
PROMPT = list(range(3000, 3100))
FULL = len(PROMPT) // BLOCK_SIZE
RECOVERED = "dynamoc_kv_recovered_blocks_total"


@pytest.fixture(autouse=True)
def nothing_stays(tmp_path: Path) -> Iterator[None]:
    yield
    for pid in owners(tmp_path):
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + 20
    while owners(tmp_path):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def owners(folder: Path) -> list[int]:
    path = Place(folder, "cpu", None).path()
    found = subprocess.run(["pgrep", "-f", f"memory_service --socket {path}"], capture_output=True, check=False)
    return [int(pid) for pid in found.stdout.split()]


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
            flip(tmp_path, run, block=2)
            await life(run, D, 1)

            assert run.metric(D, RECOVERED, outcome="wrong") == 1
            assert run.metric(D, RECOVERED, outcome="verified") == 2
            assert run.metric(D, RECOVERED, outcome="orphaned") == FULL - 3
            assert await answer(await run.frontend(D), 1, PROMPT) == (first, 2 * BLOCK_SIZE)

    asyncio.run(test())


def flip(folder: Path, run: Run, block: int) -> None:
    """A bit of the pool, while its worker is dead."""
    blocks, page = 64, 8 * BLOCK_SIZE
    with wire_session(folder) as (pool, _):
        where = PAGE_BYTES + block * page + 5
        (byte,) = os.pread(pool, 1, where)
        os.pwrite(pool, bytes([byte ^ 4]), where)
        assert os.fstat(pool).st_size == PAGE_BYTES + blocks * page
    del run


class wire_session:  # noqa: N801
    """The pool as whoever keeps it gets it, whatever it is called."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> tuple[int, int]:
        (owner,) = owners(self._folder)
        found = [
            os.open(f"/proc/{owner}/fd/{name}", os.O_RDWR)
            for name in sorted(os.listdir(f"/proc/{owner}/fd"), key=int)
            if "memfd:dynamoc-kv" in os.readlink(f"/proc/{owner}/fd/{name}")
        ]
        self.fds = (found[0], found[1])
        return self.fds

    def __exit__(self, *_: object) -> None:
        for fd in self.fds:
            os.close(fd)
