"""The built-in load tool: one event loop, closed loop by concurrency or open loop by rate."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import uvloop

import dynamoc
from dynamoc.launcher.load.generator import Measured
from dynamoc.launcher.load.http import Connection, HttpError
from dynamoc.launcher.load.point import LoadPoint, RequestRecord, Target
from dynamoc.launcher.load.prompts import Prompts

PATH = "/v1/completions"
DONE = b"[DONE]"
NOTHING = b"null"
MILLI = 1000.0
BUSY = 0.9
"""Share of a core from which on the tool itself may be what limits the load."""


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

    def run(self, point: LoadPoint, target: Target, folder: Path, deadline_s: float) -> Measured:  # noqa: ARG002
        """Warm up, then measure; no files of its own."""
        return uvloop.run(_measure(point, target, deadline_s))


async def _measure(point: LoadPoint, target: Target, deadline_s: float) -> Measured:
    deadline = time.perf_counter() + deadline_s
    prompts = Prompts(point, target.tokenizer)
    warmup = _Batch(point, target, prompts.make("warmup", point.warmup_requests), deadline)
    if warmup.prompts:
        await warmup.run()
    batch = _Batch(point, target, prompts.make("main", point.requests), deadline)
    started, cpu, begin = time.time(), time.process_time(), time.perf_counter()
    complete = await batch.run()
    duration = time.perf_counter() - begin
    busy = (time.process_time() - cpu) / duration
    records = tuple(sorted(batch.records, key=lambda record: record.index))
    return Measured(records, started, started + duration, complete, client_limited=busy > BUSY)


class _Batch:
    """Requests in flight together, and what came of each."""

    def __init__(self, point: LoadPoint, target: Target, prompts: Sequence[str], deadline: float) -> None:
        place = urlsplit(target.url)
        assert place.hostname is not None
        self.prompts = prompts
        self.records: list[RequestRecord] = []
        self._point = point
        self._model = target.model
        self._place = (place.hostname, place.port or 80)
        self._deadline = deadline
        self._connections: list[Connection] = []

    async def run(self) -> bool:
        """Whether every request was answered, well or not, before the deadline."""
        drive = self._closed_loop if self._point.rate is None else self._open_loop
        try:
            async with asyncio.timeout(max(0.0, self._deadline - time.perf_counter())):
                await drive()
        except TimeoutError:
            return False
        finally:
            for connection in self._connections:
                connection.close()
        return True

    async def _closed_loop(self) -> None:
        """As many in flight as there may be; the next follows an answer."""
        waiting = iter(enumerate(self.prompts))
        width = min(self._point.concurrency or len(self.prompts), len(self.prompts))
        async with asyncio.TaskGroup() as group:
            for _ in range(width):
                group.create_task(self._in_turn(waiting))

    async def _in_turn(self, waiting: Iterator[tuple[int, str]]) -> None:
        for index, prompt in waiting:
            await self._request(index, prompt, time.perf_counter())

    async def _open_loop(self) -> None:
        """Arrivals of a Poisson process; where as many are in flight as may be, an arrival waits and its clock runs."""
        assert self._point.rate is not None
        dice = random.Random(f"{self._point.seed}/{self._point.id}/arrivals")  # noqa: S311  # not a secret
        gaps = (dice.expovariate(self._point.rate) for _ in self.prompts)
        begin = time.perf_counter()
        free = asyncio.Semaphore(self._point.concurrency or len(self.prompts))
        async with asyncio.TaskGroup() as group:
            for (index, prompt), offset in zip(enumerate(self.prompts), itertools.accumulate(gaps), strict=True):
                await asyncio.sleep(begin + offset - time.perf_counter())
                group.create_task(self._when_free(free, index, prompt, begin + offset))

    async def _when_free(self, free: asyncio.Semaphore, index: int, prompt: str, due: float) -> None:
        async with free:
            await self._request(index, prompt, due)

    async def _request(self, index: int, prompt: str, due: float) -> None:
        """One request on a connection that is free; `due` is when its clock starts."""
        connection = self._connections.pop() if self._connections else Connection(*self._place)
        answer = _Answer()
        error = None
        try:
            async with contextlib.aclosing(connection.events(PATH, self._body(prompt))) as events:
                async for now, data in events:
                    answer.take(now, data)
            error = answer.fault(self._point.osl)
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

    def _body(self, prompt: str) -> bytes:
        return msgspec.json.encode(
            {
                "model": self._model,
                "prompt": prompt,
                "max_tokens": self._point.osl,
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
