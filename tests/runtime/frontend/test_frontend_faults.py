"""Workers, the router and clients that go away: one continuous answer or a clear error, and nothing hangs."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import time
from pathlib import Path

import httpx
import orjson
import pytest
from peers import MODEL, EchoWorker, Stack, events, running

from dynamoc.runtime.kv.hashing import unpack_tokens

PROMPT = "hello the quick brown fox. "


async def until(condition: object, limit_s: float = 5.0) -> None:
    """Wait for something another process does."""
    assert callable(condition)
    async with asyncio.timeout(limit_s):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("fault", ["drop", "retryable"])
@pytest.mark.parametrize("after", [0, 3])
def test_another_worker_goes_on_where_one_failed(tmp_path: Path, fault: str, after: int) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as stack:
            for worker in stack.workers:
                worker.pace_s = 0.002
            first = stack.workers[1]  # the router's first choice
            first.fault, first.fault_after = fault, after
            response = await stack.complete(PROMPT, max_tokens=30, stream=True, stream_options={"include_usage": True})

            chunks = events(response)
            assert "".join(c["choices"][0]["text"] for c in chunks if c["choices"]) == stack.echo(PROMPT, 30)
            assert chunks[-1]["usage"]["completion_tokens"] == 30
            (replay,) = stack.workers[0].generates
            (original,) = first.generates
            assert replay.generated == after
            assert (
                unpack_tokens(replay.tokens)
                == (unpack_tokens(original.tokens) * 9)[: len(original.tokens) // 4 + after]
            )
            assert replay.sampling == original.sampling
            assert stack.router.asked[1].avoid == ("w1@0",)
            assert stack.router.asked[1].max_tokens == 30 - after
            await until(lambda: len(stack.router.ended) == 2)
            exposition = (await stack.client.get("/metrics")).text
            cause = "connection" if fault == "drop" else "error"
            assert re.search(rf'replays_total\{{after="{cause}"\}} 1\.0', exposition)

    asyncio.run(scenario())


def test_a_worker_that_cannot_be_reached_is_avoided(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as stack:
            server = stack.workers[1].server
            assert server is not None
            address = stack.workers[1].address
            await server.close()
            stack.workers[1].__class__ = type("Gone", (EchoWorker,), {"address": address})

            assert (await stack.complete(PROMPT)).json()["choices"][0]["text"] == stack.echo(PROMPT, 8)
            assert stack.router.asked[-1].avoid == ("w1@0",)

    asyncio.run(scenario())


def test_a_worker_of_another_life_is_not_used(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as stack:
            stack.workers[1].incarnation = 5  # it was started, and answers, as 0

            assert (await stack.complete(PROMPT)).status_code == 200
            assert stack.router.asked[-1].avoid == ("w1@5",)
            assert not stack.workers[1].generates

    asyncio.run(scenario())


def test_three_failures_are_the_end(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, workers=4) as stack:
            for worker in stack.workers:
                worker.fault, worker.fault_after = "retryable", 2
            response = await stack.complete(PROMPT)
            for worker in stack.workers:
                worker.fault, worker.fault_after = "retryable", 2
            streamed = events(await stack.complete(PROMPT, stream=True))

            assert response.status_code == 503
            assert "3 workers failed" in response.json()["error"]["message"]
            assert "engine on fire" in response.json()["error"]["message"]
            assert int(response.headers["retry-after"]) > 0
            assert streamed[-1]["error"]["code"] == "workers_failed"

    asyncio.run(scenario())


def test_an_error_that_would_come_again_is_not_retried(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as stack:
            stack.workers[1].fault = "fatal"
            response = await stack.complete(PROMPT, max_tokens=20)

            assert response.status_code == 500
            assert response.json()["error"] == {
                "message": "engine on fire", "type": "server_error", "param": None, "code": "internal_error",
            }  # fmt: skip
            assert not stack.workers[0].generates

    asyncio.run(scenario())


def test_a_lost_router_delays_requests_but_not_streams(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, router_wait_s=5.0) as stack:
            for worker in stack.workers:
                worker.pace_s = 0.02
            stream = asyncio.create_task(stack.complete(PROMPT, max_tokens=50, stream=True))
            await until(lambda: stack.router.computed)
            await stack.router.stop()
            waiting = asyncio.create_task(stack.complete(PROMPT))
            await asyncio.sleep(0.3)

            assert (await stack.client.get("/health")).status_code == 503
            assert not waiting.done()
            await stack.router.start()
            assert (await waiting).json()["choices"][0]["text"] == stack.echo(PROMPT, 8)
            assert "".join(c["choices"][0]["text"] for c in events(await stream)) == stack.echo(PROMPT, 50)
            assert (await stack.client.get("/health")).status_code == 200

    asyncio.run(scenario())


def test_a_request_in_the_router_s_hands_is_asked_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as stack:
            stack.router.delay_s = 3600
            request = asyncio.create_task(stack.complete(PROMPT))
            await until(lambda: stack.router.asked)
            await stack.router.stop()
            stack.router.delay_s = 0
            await stack.router.start()

            assert (await request).status_code == 200
            assert len({asked.request_id for asked in stack.router.asked}) == 1

    asyncio.run(scenario())


def test_without_a_router_requests_end_soon(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, router=False, router_wait_s=0.5) as stack:
            await reachable(stack)
            began = time.monotonic()
            response = await stack.complete(PROMPT)

            assert 0.4 < time.monotonic() - began < 4.5, "half a second was declared, 5 s is usual"
            assert response.status_code == 503
            assert response.json()["error"]["code"] == "no_router"
            assert (await stack.client.get("/live")).status_code == 200
            assert (await stack.client.get("/health")).status_code == 503
            await stack.router.start()
            assert await stack.notice() == {"event": "ready"}
            assert (await stack.complete(PROMPT)).status_code == 200

    asyncio.run(scenario())


async def reachable(stack: Stack) -> None:
    for _ in range(200):
        try:
            await stack.client.get("/live")
        except httpx.ConnectError:
            await asyncio.sleep(0.05)
        else:
            return
    raise AssertionError("the frontend does not listen")


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_cancels_its_request(tmp_path: Path, stream: bool) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as stack:
            for worker in stack.workers:
                worker.pace_s = 0.02
            request = asyncio.create_task(stack.complete(PROMPT, max_tokens=2000, n=2, stream=stream))
            await until(lambda: len(stack.router.computed) == 2)
            request.cancel()

            await until(lambda: sum(len(worker.cancelled) for worker in stack.workers) == 2)
            await until(lambda: len(stack.router.ended) == 2)
            exposition = (await stack.client.get("/metrics")).text
            assert "dynamoc_frontend_disconnects_total 1.0" in exposition
            assert 'status="499"' in exposition
            assert "dynamoc_frontend_inflight_requests 0.0" in exposition

    asyncio.run(scenario())


def test_a_client_that_leaves_the_router_s_queue_is_taken_out(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as stack:
            stack.router.delay_s = 3600
            request = asyncio.create_task(stack.complete(PROMPT))
            await until(lambda: stack.router.asked)
            request.cancel()

            await until(lambda: stack.router.ended == [stack.router.asked[0].request_id])

    asyncio.run(scenario())


@pytest.mark.parametrize("stream", [True, False])
def test_the_deadline_ends_a_request_that_hangs(tmp_path: Path, stream: bool) -> None:
    async def scenario() -> None:
        async with running(tmp_path, workers=1, request_timeout_s=0.7) as stack:
            stack.workers[0].fault = "hang"
            response = await stack.complete(PROMPT, stream=stream)

            if stream:
                assert events(response)[-1]["error"]["code"] == "deadline_exceeded"
            else:
                assert response.status_code == 504
            assert 0 < stack.workers[0].generates[0].deadline_s <= 0.7
            await until(lambda: stack.workers[0].cancelled)

    asyncio.run(scenario())


async def ask_and_do_not_read(stack: Stack, tokens: int) -> socket.socket:
    """A client whose buffers are as small as the system allows, and which never reads."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", stack.port))
    body = orjson.dumps({"model": MODEL, "prompt": PROMPT, "max_tokens": tokens, "stream": True})
    sock.sendall(
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
        % (len(body), body)
    )
    return sock


def test_a_client_that_reads_too_slowly_is_cut_off(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, workers=1, max_unread_tokens=64) as stack:
            worker = stack.workers[0]
            worker.endless = True
            sock = await ask_and_do_not_read(stack, 4000)
            await until(lambda: worker.cancelled, 20)

            sock.settimeout(5)
            received = await asyncio.to_thread(read_all, sock)
            assert b'"code":"slow_client"' in received
            assert b"data: [DONE]" in received
            worker.endless = False
            assert (await stack.complete(PROMPT, max_tokens=1)).status_code == 200

    asyncio.run(scenario())


def read_all(sock: socket.socket) -> bytes:
    received = b""
    with sock:
        while b"[DONE]" not in received:
            piece = sock.recv(65536)
            if not piece:
                break
            received += piece
    return received


def test_a_client_that_stops_reading_is_disconnected_in_time(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, workers=1, stalled_client_s=1.0, max_unread_tokens=1_000_000) as stack:
            worker = stack.workers[0]
            worker.endless = True
            with await ask_and_do_not_read(stack, 4000):
                await until(lambda: worker.cancelled, 20)

            exposition = (await stack.client.get("/metrics")).text
            assert "dynamoc_frontend_disconnects_total 1.0" in exposition

    asyncio.run(scenario())


def test_sigterm_lets_streams_finish_and_refuses_new_ones(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as stack:
            for worker in stack.workers:
                worker.pace_s = 0.02
            stream = asyncio.create_task(stack.complete(PROMPT, max_tokens=50, stream=True))
            await until(lambda: stack.router.computed)
            stack.process.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.2)

            with pytest.raises(httpx.ConnectError):
                await stack.client.get("/live")
            assert "".join(c["choices"][0]["text"] for c in events(await stream)) == stack.echo(PROMPT, 50)
            assert await asyncio.wait_for(stack.process.wait(), 30) == 0

    asyncio.run(scenario())


def test_what_outlives_the_drain_time_is_ended_with_an_error(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as stack:
            for worker in stack.workers:
                worker.pace_s = 0.02
            stream = asyncio.create_task(stack.complete(PROMPT, max_tokens=4000, stream=True))
            await until(lambda: stack.router.computed)
            began = time.monotonic()
            stack.process.send_signal(signal.SIGTERM)

            assert events(await stream)[-1]["error"]["code"] == "stopping"
            assert await asyncio.wait_for(stack.process.wait(), 30) == 0
            assert 1.5 < time.monotonic() - began < 30, "the stream would take 80 s"

    asyncio.run(scenario())
