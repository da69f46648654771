"""One worker alone: requests in, tokens out, and what the router hears of it."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest
from worker_rig import BLOCK_SIZE, Router, Run, make_run, running, until, worker_settings

from dynamoc.runtime.plane.messages import AttachPool, BlocksStored, Draining, Generate, RegisterWorker, Sampling

NAME = "aggregated-0"
PROMPT = list(range(2000, 2040))


def aggregated(folder: Path, engine: str = "echo", **changes: object) -> Run:
    return make_run(folder, aggregated_0=worker_settings(engine, None, **changes))


def test_tokens_come_back_and_the_end_is_said(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(aggregated(tmp_path), NAME) as run:
            frontend = await run.frontend(NAME)
            frontend.generate(7, PROMPT, max_tokens=10)
            frontend.generate(8, PROMPT[:3], max_tokens=10)

            assert (await frontend.answer(7)).finish == "length"
            assert (await frontend.answer(8)).finish == "stop"
            assert frontend.tokens(7) == PROMPT[:10]
            assert frontend.tokens(8)[:3] == PROMPT[:3]

    asyncio.run(test())


def test_outputs_of_one_step_share_a_frame(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(aggregated(tmp_path, "mocker"), NAME) as run:
            frontend = await run.frontend(NAME)
            for request_id in range(6):
                frontend.generate(request_id, PROMPT, max_tokens=20)
            for request_id in range(6):
                await frontend.answer(request_id)

            together = [frame for frame in frontend.frames if len(frame.outputs) == 6]
            assert len(together) >= 10
            assert all(len({o.request_id for o in frame.outputs}) == len(frame.outputs) for frame in frontend.frames)

    asyncio.run(test())


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (b"", "0 bytes are not a prompt"),
        (b"12345", "5 bytes are not a prompt"),
        (b"1234" * 512, "512 tokens leave no room"),
    ],
)
def test_a_prompt_that_cannot_run_is_an_error_at_once(tmp_path: Path, tokens: bytes, message: str) -> None:
    async def test() -> None:
        async with running(aggregated(tmp_path), NAME) as run:
            frontend = await run.frontend(NAME)
            frontend.send(Generate(1, tokens, Sampling(max_tokens=4)))
            output = await frontend.answer(1)

            assert output.finish == "error"
            assert message in (output.error or "")
            assert not output.retryable

    asyncio.run(test())


def test_a_duplicate_id_and_an_unknown_prefill_worker_are_errors(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(aggregated(tmp_path, "mocker"), NAME) as run:
            first, second = await run.frontend(NAME), await run.frontend(NAME)
            first.generate(1, PROMPT, max_tokens=200)
            await until(lambda: first.tokens(1), "the first token")
            second.generate(1, PROMPT, max_tokens=2)  # another connection's ids are its own
            assert (await second.answer(1)).finish == "length"
            second.generate(2, PROMPT, prefill=run.address(NAME))
            assert "has no KV edge" in ((await second.answer(2)).error or "")

            first.generate(1, PROMPT)
            await until(lambda: any(output.error for output in first.outputs[1]), "the duplicate was refused")
            assert "request id 1 is in use" in next(output.error for output in first.outputs[1] if output.error)

    asyncio.run(test())


def test_a_deadline_ends_a_request(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(aggregated(tmp_path, "mocker"), NAME) as run:
            frontend = await run.frontend(NAME)
            frontend.generate(1, PROMPT, max_tokens=400, deadline_s=0.2)
            output = await frontend.answer(1, 2)

            assert output.error == "not finished within 0.2 s"
            assert not output.retryable
            await until(lambda: run.metric(NAME, "dynamoc_worker_blocks", state="active") == 0, "blocks are free")

    asyncio.run(test())


@pytest.mark.parametrize("how", ["cancel", "disconnect"])
def test_who_leaves_frees_the_blocks(tmp_path: Path, how: str) -> None:
    async def test() -> None:
        async with running(aggregated(tmp_path, "mocker"), NAME) as run:
            frontend = await run.frontend(NAME)
            frontend.generate(1, PROMPT, max_tokens=400)
            await until(lambda: frontend.tokens(1), "the first token")
            if how == "cancel":
                frontend.cancel(1)
            else:
                assert frontend.connection is not None
                frontend.connection.abort("gone")

            await until(lambda: (load := run.router.load(NAME)) and not load.running, "the router heard of it")
            load = run.router.load(NAME)
            assert load is not None
            assert (load.active_blocks, load.waiting) == (0, 0)
            assert frontend.finish(1) is None

    asyncio.run(test())


def test_the_router_hears_what_is_resident_and_again_when_it_is_new(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(aggregated(tmp_path), NAME) as run:
            frontend = await run.frontend(NAME)
            frontend.generate(1, PROMPT, max_tokens=4)
            await frontend.answer(1)
            await until(lambda: run.router.events(NAME), "the router heard of blocks")
            before = stored(run.router)
            assert len(before) == len(PROMPT) // BLOCK_SIZE

            await run.stop_router()
            run.router = Router()
            await asyncio.sleep(0.2)
            await run.listen()
            await until(lambda: NAME in run.router.workers, "the worker registered again", 5)
            await until(lambda: run.router.events(NAME), "the router heard of blocks")

            assert isinstance(run.router.heard[NAME][0], RegisterWorker)
            assert stored(run.router) == before
            frontend.generate(2, PROMPT, max_tokens=2)
            assert (await frontend.answer(2)).finish == "length"

    asyncio.run(test())


def stored(router: Router) -> set[int]:
    events = [event for event in router.events(NAME) if isinstance(event, BlocksStored)]
    return {block.sequence_hash for event in events for block in event.blocks}


def test_a_refused_registration_is_final(tmp_path: Path) -> None:
    async def test() -> None:
        run = aggregated(tmp_path)
        run.router.accepts = False
        try:
            await run.listen()
            worker = run.spawn(NAME)

            assert await worker.exit_status() == 1
            assert worker.notes()[-1]["event"] == "failed"
            assert "this test takes nobody" in worker.notes()[-1]["reason"]
            assert not any(note["event"] == "ready" for note in worker.notes())
        finally:
            await run.end()

    asyncio.run(test())


def test_a_drain_finishes_what_runs_and_takes_nothing_new(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(aggregated(tmp_path, "mocker"), NAME) as run:
            frontend = await run.frontend(NAME)
            frontend.generate(1, PROMPT, max_tokens=100)
            await until(lambda: frontend.tokens(1), "the first token")
            worker = run.workers[NAME]
            worker.process.send_signal(signal.SIGTERM)
            await until(lambda: any(isinstance(m, Draining) for m in run.router.heard[NAME]), "the router was told")
            frontend.generate(2, PROMPT)

            late = await frontend.answer(2)
            assert (late.finish, late.retryable) == ("error", True)
            assert (await frontend.answer(1)).finish == "length"
            assert len(frontend.tokens(1)) == 100
            assert await worker.exit_status(5) == 0

    asyncio.run(test())


def test_what_outlasts_a_drain_may_be_retried_elsewhere(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(aggregated(tmp_path, "mocker", decode_step_ms=50.0), NAME) as run:
            frontend = await run.frontend(NAME)
            frontend.generate(1, PROMPT, max_tokens=400)
            await until(lambda: frontend.tokens(1), "the first token")
            worker = run.workers[NAME]
            worker.process.send_signal(signal.SIGTERM)

            last = await frontend.answer(1, 5)
            assert (last.finish, last.retryable) == ("error", True)
            assert await worker.exit_status(5) == 0

    asyncio.run(test())


def test_a_failed_engine_fails_its_requests_and_the_process(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(aggregated(tmp_path, "mocker"), NAME) as run:
            frontend = await run.frontend(NAME)
            frontend.generate(1, PROMPT, max_tokens=400)
            await until(lambda: frontend.tokens(1), "the first token")
            worker = run.workers[NAME]
            spoil_pool(worker.process.pid)

            last = await frontend.answer(1, 5)
            assert (last.finish, last.retryable) == ("error", True)
            assert "PageError" in (last.error or "")
            assert await worker.exit_status(5) == 1
            assert worker.notes()[-1]["event"] == "failed"

    asyncio.run(test())


def spoil_pool(pid: int) -> None:
    """Overwrite every block of a worker's pool, as a stray writer would."""
    for link in Path(f"/proc/{pid}/fd").iterdir():
        if "memfd:dynamoc-kv" in str(link.readlink()):
            with link.open("r+b") as pool:
                size = pool.seek(0, 2)
                pool.seek(4096)
                pool.write(b"\xa5" * (size - 4096))
            return
    raise AssertionError("the worker has no pool")


def test_nobody_without_a_kv_edge_may_offer_a_pool(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(aggregated(tmp_path), NAME) as run:
            frontend = await run.frontend(NAME)
            frontend.send(AttachPool("shm", b"", ""))

            await until(lambda: frontend.is_closed, "the worker hung up")

    asyncio.run(test())


def test_wrong_settings_fail_with_a_reason_and_no_traceback(tmp_path: Path) -> None:
    async def test() -> None:
        run = aggregated(tmp_path, "ecco")
        worker = run.spawn(NAME)
        try:
            assert await worker.exit_status() == 1
            assert "no engine `ecco`" in worker.notes()[-1]["reason"]
            assert "Traceback" not in worker.log.read_text()
        finally:
            await run.end()

    asyncio.run(test())


def test_the_echo_report_says_what_is(tmp_path: Path) -> None:
    async def test() -> None:
        run = aggregated(tmp_path)
        await run.listen()
        try:
            worker = await run.start(NAME, incarnation=3, CUDA_VISIBLE_DEVICES="5")
            await until(lambda: run.report(NAME).get("router_registered"), "the report is complete")
            report = run.report(NAME)

            ports = {purpose: run.ports[NAME][purpose] for purpose in ("plane", "metrics")}
            assert report["ports"] == ports
            assert (report["name"], report["role"], report["gpus"]) == (NAME, "aggregated", "5")
            assert (report["pid"], report["incarnation"]) == (worker.process.pid, 3)
            assert run.metric(NAME, "dynamoc_info", process=NAME, incarnation="3") == 1
        finally:
            await run.end()

    asyncio.run(test())
