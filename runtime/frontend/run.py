"""One request on its way: a generation per choice, and what becomes of their tokens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

from dynamoc.runtime.frontend.answers import DONE, Answer, Finished, Usage
from dynamoc.runtime.frontend.choice import Choice, Entry, Piece
from dynamoc.runtime.frontend.detokenize import Detokenizer
from dynamoc.runtime.frontend.generation import Backend, Generation
from dynamoc.runtime.frontend.http import EventStream
from dynamoc.runtime.frontend.instruments import Instruments
from dynamoc.runtime.frontend.job import Job
from dynamoc.runtime.frontend.tokenizer import Tokenizer
from dynamoc.runtime.plane.messages import Sampling

Show = Callable[[int, Piece], bytes]
"""Takes a piece of the choice with that index; what is to be written now, often nothing."""

Write = Callable[[bytes], Awaitable[None]]


class Run:
    """Runs a job once, by `whole` or by `stream`. `began` and `deadline` are on the monotonic clock."""

    def __init__(
        self,
        job: Job,
        answer: Answer,
        tokenizer: Tokenizer,
        backend: Backend,
        instruments: Instruments,
        *,
        began: float,
        deadline: float,
    ) -> None:
        self._job = job
        self._answer = answer
        self._tokenizer = tokenizer
        self._backend = backend
        self._instruments = instruments
        self._began = began
        self._deadline = deadline
        self._choices: list[Choice] = []

    async def whole(self) -> bytes:
        """The body, when everything is there."""
        collected = _Collected(self._job.count)
        await self._generate_all(collected.show, _write_nothing)
        return self._answer.whole(collected.finished(), self._usage())

    async def stream(self, stream: EventStream) -> None:
        """Events as the tokens come; what ends the stream goes with the last of them, in one write."""
        options = self._job.stream_options
        events = _Events(self._answer, self._job.count, self._usage_of if options.continuous_usage_stats else _untold)
        await self._generate_all(events.show, stream.write)
        usage = self._answer.usage(self._usage()) if options.include_usage else b""
        await stream.end(events.last + usage + DONE)

    def _generate_all(self, show: Show, write: Write) -> Awaitable[None]:
        runs = [
            self._generate(index, prompt, sampling, show, write)
            for index, (prompt, sampling) in enumerate(self._job.choices())
        ]
        return runs[0] if len(runs) == 1 else _all_or_error(runs)

    async def _generate(
        self,
        index: int,
        prompt: Sequence[int],
        sampling: Sampling,
        show: Show,
        write: Write,
    ) -> None:
        choice = Choice(Detokenizer(self._tokenizer, prompt), self._job.stops, sampling.stop_token_ids)
        generation = Generation(self._backend, prompt, sampling, self._deadline)
        self._choices.append(choice)
        self._instruments.prompt_tokens.inc(len(prompt))
        seen, before = 0, self._began
        try:
            while True:
                piece = choice.push(await generation.next())
                now = time.monotonic()
                new = choice.completion_tokens - seen
                if not seen:
                    self._instruments.first_token_seconds.observe(now - before)
                elif new:
                    self._instruments.gap_seconds.observe((now - before) / new, new)
                seen, before = seen + new, now
                if data := show(index, piece):
                    await write(data)
                if piece.finish is not None:
                    return
        finally:
            generation.close()
            self._instruments.output_tokens.inc(choice.completion_tokens)
            self._instruments.cached_tokens.inc(choice.cached_tokens)

    def _usage(self) -> Usage:
        # Choices of one prompt share it: it is counted once, and so is what of it was cached.
        return Usage(
            sum(map(len, self._job.prompts)),
            sum(choice.completion_tokens for choice in self._choices),
            sum(choice.cached_tokens for choice in self._choices[:: self._job.n]),
        )

    def _usage_of(self, index: int) -> Usage:
        """Of one choice, until now."""
        choice = self._choices[index]
        return Usage(len(self._job.prompts[index // self._job.n]), choice.completion_tokens, choice.cached_tokens)


class _Collected:
    """Choices until they are whole."""

    def __init__(self, count: int) -> None:
        self._texts: list[list[str]] = [[] for _ in range(count)]
        self._entries: list[list[Entry]] = [[] for _ in range(count)]
        self._finishes = [""] * count

    def show(self, index: int, piece: Piece) -> bytes:
        """Keep it; nothing is to be written yet."""
        self._texts[index].append(piece.text)
        self._entries[index] += piece.entries
        if piece.finish is not None:
            self._finishes[index] = piece.finish
        return b""

    def finished(self) -> list[Finished]:
        """All choices, in order."""
        return [
            Finished(index, "".join(self._texts[index]), self._entries[index], finish)
            for index, finish in enumerate(self._finishes)
        ]


class _Events:
    """Spells pieces as events, each with `usage_of` its choice. `last` are those that end the last choice."""

    def __init__(self, answer: Answer, count: int, usage_of: Callable[[int], Usage | None]) -> None:
        self.last = b""
        self._answer = answer
        self._usage_of = usage_of
        self._unopened = set(range(count))
        self._unfinished = count

    def show(self, index: int, piece: Piece) -> bytes:
        """The events of a piece."""
        events, usage = b"", self._usage_of(index)
        if index in self._unopened:
            self._unopened.remove(index)
            events = self._answer.opening(index, usage and replace(usage, completion_tokens=0))
        if piece.text or piece.entries:
            events += self._answer.delta(index, piece.text, piece.entries, usage)
        if piece.finish is not None:
            events += self._answer.closing(index, piece.finish, usage)
            self._unfinished -= 1
            if not self._unfinished:
                self.last = events
                return b""
        return events


def _untold(_: int) -> None:
    """The usage of pieces whose client did not ask for it."""


async def _write_nothing(_: bytes) -> None:
    """Where a whole answer's pieces go."""


async def _all_or_error(runs: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Run all at once; the first error ends the others and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            for run in runs:
                group.create_task(run)
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
