"""What a point asks for, request by request: made before the load, or as a trace is read."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass

from dynamoc.launcher.load.point import LoadPoint, Trace
from dynamoc.launcher.load.prompts import Prompts, drawn
from dynamoc.launcher.load.trace import read_trace

MILLI = 1000.0
BATCH = 32
"""Requests of a trace made at once, while as many before them are sent."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request, due `at_s` after the load begins, or at 0 as soon as there is room for it."""

    prompt: str
    osl: int
    at_s: float = 0.0


def asks_of(point: LoadPoint, prompts: Prompts, kind: str, count: int) -> Iterator[Ask]:
    """As many as are asked for of the point's lengths, arriving as a Poisson process where it has a rate."""
    dice = random.Random(f"{point.seed}/{point.id}/{kind}/osl")  # noqa: S311  # not a secret
    lengths = (drawn(dice, point.osl, point.osl_stddev) for _ in range(count))
    return (
        Ask(prompt, osl, at_s)
        for prompt, osl, at_s in zip(prompts.make(kind, count), lengths, _arrivals(point), strict=False)
    )


def asks_of_trace(point: LoadPoint, trace: Trace, prompts: Prompts) -> Iterator[Ask]:
    """One for each line, as it is read; the first is due at once. LoadError."""
    first = None
    for line in read_trace(point, trace):
        first = line.timestamp if first is None else first
        prompt = prompts.of_blocks(line.hash_ids, line.input_length, trace.block_tokens)
        yield Ask(prompt, line.output_length, (line.timestamp - first) / MILLI / trace.speedup)


async def ahead(asks: Iterator[Ask]) -> AsyncGenerator[Ask, None]:
    """The same, made by another thread a batch ahead: long prompts cost time, and whoever sends must not wait."""
    coming = asyncio.create_task(asyncio.to_thread(_batch, asks))
    try:
        while batch := await coming:
            coming = asyncio.create_task(asyncio.to_thread(_batch, asks))
            for ask in batch:
                yield ask
    finally:
        coming.cancel()


def _batch(asks: Iterator[Ask]) -> list[Ask]:
    return list(itertools.islice(asks, BATCH))


def _arrivals(point: LoadPoint) -> Iterator[float]:
    if point.rate is None:
        return itertools.repeat(0.0)
    dice = random.Random(f"{point.seed}/{point.id}/arrivals")  # noqa: S311  # not a secret
    return itertools.accumulate(dice.expovariate(point.rate) for _ in itertools.count())
