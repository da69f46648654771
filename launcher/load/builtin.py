"""The built-in load tool: one event loop, closed loop by concurrency or open loop by rate."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import uvloop

import dynamoc
from dynamoc.launcher.load.asks import Ask, ahead, asks_of, asks_of_trace
from dynamoc.launcher.load.client_limit import client_limit
from dynamoc.launcher.load.core_time import core_time_s
from dynamoc.launcher.load.generator import IsUnwanted, Measured, never
from dynamoc.launcher.load.http import Connection, HttpError
from dynamoc.launcher.load.point import LoadError, LoadPoint, RequestRecord, Target
from dynamoc.launcher.load.prompts import Prompts
from dynamoc.launcher.load.trace import count_requests

PATH = "/v1/completions"
DONE = b"[DONE]"
NOTHING = b"null"
MILLI = 1000.0
POLL_S = 0.2


class _Choice(msgspec.Struct):
    text: str = ""


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int


class _Chunk(msgspec.Struct):
    choices: tuple[_Choice, ...] = ()
    usage: _Usage | None = None
    error: msgspec.Raw = msgspec.Raw(NOTHING)


class Builtin:
    """Asks for exactly `osl` tokens each time; an answer of another length is an error of its record."""

    name = "builtin"
    version = dynamoc.__version__

    def run(
        self,
        point: LoadPoint,
        target: Target,
        folder: Path,  # noqa: ARG002
        deadline_s: float,
        is_unwanted: IsUnwanted = never,
    ) -> Measured:
        """Warm up, then measure; no files of its own."""
        return uvloop.run(_measure(point, target, deadline_s, is_unwanted))


async def _measure(point: LoadPoint, target: Target, deadline_s: float, is_unwanted: IsUnwanted) -> Measured:
    end = _End(deadline_s, is_unwanted)
    requests = count_requests(point, point.trace) if point.trace else point.requests
    assert requests is not None
    prompts = Prompts(point, target.tokenizer)
    warmup = _Batch(point, target, end)
    await warmup.closed_loop(list(asks_of(point, prompts, "warmup", point.warmup_requests)))
    batch = _Batch(point, target, end)
    asks = (
        asks_of_trace(point, point.trace, prompts)
        if point.trace
        else iter([*asks_of(point, prompts, "main", requests)])
    )
    drive = batch.closed_loop if point.rate is None and point.trace is None else batch.open_loop
    started, before, begin = time.time(), core_time_s(), time.perf_counter()
    complete = await drive(asks)
    duration = time.perf_counter() - begin
    busy = (core_time_s() - before) / duration
    records = tuple(sorted(batch.records, key=lambda record: record.index))
    found = client_limit(point, records, batch.late_s, busy)
    return Measured(records, started, started + duration, complete, found, requests)


class _End:
    """When requests are cut off."""

    def __init__(self, deadline_s: float, is_unwanted: IsUnwanted) -> None:
        self._is_unwanted = is_unwanted
        self._deadline = time.perf_counter() + deadline_s

    @contextlib.asynccontextmanager
    async def watched(self) -> AsyncGenerator[asyncio.Timeout, None]:
        """A block that ends then."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, self._deadline - time.perf_counter())) as timeout:
                watch = asyncio.create_task(self._watch(timeout))
                try:
                    yield timeout
                finally:
                    watch.cancel()

    async def _watch(self, block: asyncio.Timeout) -> None:
        while not self._is_unwanted():  # noqa: ASYNC110  # it may be asked for from anywhere, also by a file
            await asyncio.sleep(POLL_S)
        block.reschedule(asyncio.get_running_loop().time())


class _Batch:
    """Requests in flight together, and what came of each."""

    def __init__(self, point: LoadPoint, target: Target, end: _End) -> None:
        place = urlsplit(target.url)
        assert place.hostname is not None
        self.records: list[RequestRecord] = []
        self.late_s: list[float] = []
        """How long after their time requests of an open loop were sent."""
        self._point = point
        self._model = target.model
        self._place = (place.hostname, place.port or 80)
        self._end = end
        self._connections: list[Connection] = []

    async def closed_loop(self, asks: Iterable[Ask]) -> bool:
        """As many in flight as there may be, the next follows an answer; whether all were answered in time."""
        async with self._in_time() as timeout, asyncio.TaskGroup() as group:
            waiting = enumerate(asks)
            for first in itertools.islice(waiting, self._point.concurrency):
                group.create_task(self._in_turn(itertools.chain([first], waiting)))
        return not timeout.expired()

    async def open_loop(self, asks: Iterator[Ask]) -> bool:
        """Each when it is due; where as many are in flight as may be, it waits and its clock runs. As above."""
        free = asyncio.Semaphore(self._point.concurrency or sys.maxsize)
        begin = math.inf
        async with self._in_time() as timeout, asyncio.TaskGroup() as group, contextlib.aclosing(ahead(asks)) as coming:
            index = 0
            async for ask in coming:
                begin = min(begin, time.perf_counter())
                due = begin + ask.at_s
                await asyncio.sleep(due - time.perf_counter())
                self.late_s.append(time.perf_counter() - due)
                group.create_task(self._when_free(free, index, ask, due))
                index += 1
        return not timeout.expired()

    @contextlib.asynccontextmanager
    async def _in_time(self) -> AsyncGenerator[asyncio.Timeout, None]:
        """Cut off at the end; connections are closed."""
        try:
            async with self._end.watched() as timeout:
                yield timeout
        finally:
            for connection in self._connections:
                connection.close()

    async def _in_turn(self, waiting: Iterator[tuple[int, Ask]]) -> None:
        for index, ask in waiting:
            await self._request(index, ask, time.perf_counter())

    async def _when_free(self, free: asyncio.Semaphore, index: int, ask: Ask, due: float) -> None:
        async with free:
            await self._request(index, ask, due)

    async def _request(self, index: int, ask: Ask, due: float) -> None:
        """One request on a connection that is free; `due` is when its clock starts."""
        connection = self._connections.pop() if self._connections else Connection(*self._place)
        answer = _Answer()
        error = None
        try:
            async with contextlib.aclosing(connection.events(PATH, self._body(ask))) as events:
                async for now, data in events:
                    answer.take(now, data)
            error = answer.fault(ask.osl)
        except (OSError, HttpError, msgspec.MsgspecError) as failure:
            error = str(failure) or type(failure).__name__
        except asyncio.CancelledError:
            self._keep(index, due, answer, "not answered before the deadline of the load point")
            raise
        finally:
            self._connections.append(connection)
        self._keep(index, due, answer, error)

    def _keep(self, index: int, due: float, answer: _Answer, error: str | None) -> None:
        now = time.perf_counter()
        times = tuple(round((at - due) * MILLI, 3) for at in answer.times)
        usage = answer.usage
        self.records.append(
            RequestRecord(
                index=index,
                started=round(time.time() - (now - due), 6),
                e2e_ms=times[-1] if times and error is None else round((now - due) * MILLI, 3),
                input_tokens=usage.prompt_tokens if usage else 0,
                output_tokens=usage.completion_tokens if usage else 0,
                ttft_ms=times[0] if times else None,
                token_ms=times,
                error=error,
            )
        )

    def _body(self, ask: Ask) -> bytes:
        return msgspec.json.encode(
            {
                "model": self._model,
                "prompt": ask.prompt,
                "max_tokens": ask.osl,
                "ignore_eos": True,
                "temperature": 0.0,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
        )


class _Answer:
    """The stream of one request, as far as it came."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.usage: _Usage | None = None
        self._ended = False

    def take(self, now: float, data: bytes) -> None:
        """One event; HttpError where it is the server's word for a failure."""
        if data == DONE:
            self._ended = True
            return
        chunk = _decode(data)
        if bytes(chunk.error) != NOTHING:
            raise HttpError(bytes(chunk.error).decode(errors="replace"))
        self.usage = chunk.usage or self.usage
        if any(choice.text for choice in chunk.choices):
            self.times.append(now)

    def fault(self, osl: int) -> str | None:
        """What is wrong with the whole; None if it is as it was asked for."""
        if not self._ended or self.usage is None:
            return "the stream ended before its end"
        if self.usage.completion_tokens != osl:
            return f"{self.usage.completion_tokens} tokens, {osl} were asked for"
        return None if self.times else "no text"


_decode: Callable[[bytes], _Chunk] = msgspec.json.Decoder(_Chunk).decode

GENERATOR = Builtin()


def generator(program: str | None) -> Builtin:
    """It is part of this package; LoadError where another program is named."""
    if program is not None:
        raise LoadError(f"the built-in load tool is no program of its own; {program} is another")
    return GENERATOR
